"""The study runs, continues after a kill, and says why what failed has failed."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.common import ROOT
from benchmarks.study.generated import generate
from benchmarks.study.run import run

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
COMMON = ["--only", "temperature", "--datasets", "hierarchy", "--folds", "1", "--epochs", "1"]


def command(out: Path, *arguments: object) -> list[str]:
    module = [sys.executable, "-m", "benchmarks.study"]
    return [*module, "--out", str(out), "--docs", str(out), *map(str, arguments)]


def records(out: Path) -> list[dict]:
    lines = (out / "study.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@linux
def test_killed_and_started_again_no_run_is_lost_or_repeated(tmp_path):
    study = subprocess.Popen(
        command(tmp_path, *COMMON, "--jobs", 1), cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / "study.jsonl").exists() or len(records(tmp_path)) < 2:
        assert time.monotonic() < deadline
        assert study.poll() is None
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-s", str(os.getsid(study.pid))], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) > 1
    study.send_signal(signal.SIGKILL)
    study.wait()
    first = records(tmp_path)

    # The run that was going on follows the study, so it cannot disturb the next one.
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    with (tmp_path / "study.jsonl").open("a") as file:
        file.write('{"key": "half a li')  # as a kill in the middle of a write leaves it
    subprocess.run(
        command(tmp_path, *COMMON, "--jobs", 1), cwd=ROOT, check=True, capture_output=True
    )
    second = records(tmp_path)
    assert second[: len(first)] == first
    assert len(second) == len({record["key"] for record in second}) == 6
    assert not any("failed" in record for record in second)

    text = (tmp_path / "results.md").read_text()
    assert "**hierarchy**, 1 fold\n" in text
    for schedule in ("0.3", "0.5", "1", "2", "2 → 0.5", "1 → 0.1"):
        assert f"| {schedule} | " in text
    for record in second:
        assert abs(record["parameters"] / record["reference"] - 1) <= 0.05
        assert [point["epoch"] for point in record["trace"]] == [0, 1]
        assert set(record["sampled"]) == {"1", "2", "4", "8", "16"}
        assert f"| {100 * record['test_accuracy']:.1f} |" in text

    subprocess.run(
        command(tmp_path, *COMMON, "--budget-minutes", 0, "--jobs", 1),
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    assert records(tmp_path) == second


@linux
def test_a_failed_run_is_a_result_that_says_why_and_can_be_asked_for_again(tmp_path):
    asked = ["--only", "temperature", "--datasets", "ENZYMES", "--folds", 1, "--jobs", 1]
    asked += ["--root", tmp_path / "nowhere", "--splits", tmp_path]

    def study(*more: object) -> list[dict]:
        subprocess.run(command(tmp_path, *asked, *more), cwd=ROOT, check=True, capture_output=True)
        return records(tmp_path)

    first = study()
    assert len(first) == 6
    assert all("nowhere" in record["failed"] for record in first)
    assert study() == first
    assert len(study("--retry-failed")) == 12


@linux
def test_a_second_study_leaves_the_first_one_s_file_alone(tmp_path):
    (tmp_path / "study.jsonl").write_text('{"key": "on its w')
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command(tmp_path, *COMMON), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "another study" in done.stderr
    assert (tmp_path / "study.jsonl").read_text() == '{"key": "on its w'


def test_real_datasets_are_not_run_on_folds_of_our_own(tmp_path):
    for flags, wanted in (([], "--root"), (["--root", tmp_path], "--splits")):
        done = subprocess.run(
            command(tmp_path, "--only", "temperature", *flags), capture_output=True, text=True
        )
        assert done.returncode == 2
        assert f"ENZYMES needs {wanted}" in done.stderr


@linux
@pytest.mark.parametrize("pool", ["gumbel-positions", "none-positions"])
def test_a_generated_dataset_is_made_from_the_seed_and_run_in_its_own_parts(pool):
    flags = ["--dataset", "two-cycles", "--pool", pool, "--num-clusters", "6", "2"]
    flags += ["--num-graphs", "40", "--hidden", "32", "--epochs", "1", "--seed", "7"]
    result = run({"flags": [*flags, "--fine-path"], "fold": 7, "root": None, "splits": None})
    graphs = generate("two-cycles", 40, seed=7)[0].graphs[28:]
    assert result["nodes"][0] == pytest.approx(sum(g.num_nodes for g in graphs) / 12, abs=0.01)
    assert (12 * result["test_accuracy"]) == pytest.approx(round(12 * result["test_accuracy"]))
    assert abs(result["parameters"] / result["reference"] - 1) <= 0.05
