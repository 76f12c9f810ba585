"""The classifier in two processes: equal to one, killed, continued. Under torchrun and Fabric."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from classifier import ROOT, SMALL, command, environment, one_line_error, results
from train_each import BASE, CASES, train_each

from examples.classification.command import main
from examples.classification.options import parser
from examples.classification.processes import make_fabric

# torchrun; --standalone takes any port that is free.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
FLAGS = [*SMALL, "--estimator", "straight_through", "--precision", "64-true"]
FLAGS += ["--epochs", "8", "--patience", "8", "--batch-size", "7"]


def torchrun(*arguments: object) -> list[str]:
    return [*TORCHRUN, "-m", "examples.classification", *map(str, arguments)]


def fabric_launch(*arguments: object) -> list[str]:
    return command("--devices", "2", *arguments)


def assert_same(found: Path, expected: Path) -> None:
    """The results of two runs of fold 0, and the parameters of their models, to rounding."""
    (line,), (wanted,) = results(found), results(expected)
    for key in wanted.keys() - {"seconds", "dataset", "pool"}:
        assert line[key] == pytest.approx(wanted[key], rel=1e-6), key
    model, wanted = (torch.load(out / "fold-0.pt", weights_only=True) for out in (found, expected))
    assert model.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(model[name], wanted[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    """Trained by one process without a break."""
    out = tmp_path_factory.mktemp("one")
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Every case, trained by two processes and by one."""
    folder = tmp_path_factory.mktemp("each")
    script = [*TORCHRUN, Path(__file__).with_name("train_each.py"), folder / "two"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        list(map(str, script)), env=environment() | {"PYTHONPATH": path}, capture_output=True,
        text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train_each(make_fabric(parser().parse_args(BASE)), folder / "one")
    return folder / "two", folder / "one"


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case, both):
    two, one = both
    assert_same(two / case, one / case)


def test_devices_other_than_what_torchrun_started_are_refused(monkeypatch, capsys):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    error = one_line_error(capsys, "--devices", "3")
    assert error == "error: leave out --devices 3: torchrun started 2"


def test_the_readme_names_both_ways_to_start_two_processes():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "torchrun --nproc_per_node=2 -m examples.classification " in readme
    assert "--devices 2\n" in readme


def children(process: subprocess.Popen) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=False)
    return list(map(int, listed.stdout.split()))


def kill_one_of_two(arguments: list[str], out: Path, main_process: bool = False) -> str:
    """Kill after an epoch of this run; all of it must end, with an error. Returns what it said."""
    before = (out / "fold-0.ckpt").stat().st_mtime_ns if (out / "fold-0.ckpt").exists() else 0
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        while process.poll() is None and not (
            (out / "fold-0.ckpt").exists() and (out / "fold-0.ckpt").stat().st_mtime_ns > before
        ):
            time.sleep(0.01)
        os.kill(process.pid if main_process else children(process)[-1], signal.SIGKILL)
        # The output ends when the last of the processes that write to it has ended.
        said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (out / "results.jsonl").exists(), said
    return said


@pytest.mark.parametrize("launched", [torchrun, fabric_launch])
def test_with_one_of_two_processes_killed_the_run_ends_and_resumes(launched, one_process, tmp_path):
    arguments = launched(*FLAGS, "--out", tmp_path)
    kill_one_of_two(arguments, tmp_path)
    if launched is fabric_launch:
        kill_one_of_two(arguments, tmp_path, main_process=True)
    reached = torch.load(tmp_path / "fold-0.ckpt", weights_only=True)["epoch"]
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"epoch {reached + 1} of 8" in done.stdout
    assert f"epoch {reached} of 8" not in done.stdout
    assert done.stdout.count("picture of the learned hierarchy") == 1
    assert_same(tmp_path, one_process)
