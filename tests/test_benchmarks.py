"""The benchmark scripts run, continue where they stopped, and write what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script, *arguments, check=True):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        capture_output=True, text=True, check=check, timeout=600,
    )  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_bench_measures_once_and_reports(tmp_path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    common = ["--cases", "growth-n1000", "--threads", 1, "--out", out, "--docs", docs]
    run("bench.py", *common, "--rounds", 1, "--peers", "gumbelpool", "floor")
    first = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["peer"] for line in first] == ["gumbelpool", "floor"]
    for record in map(json.loads, first):
        assert record["forward"] > 0
        assert record["steps"] > 1
    ours = json.loads(first[0])
    assert ours["peak_bytes"] > ours["input_bytes"] > 0
    assert 0 < ours["pooled_edges"] <= 10_000

    # Half a line, as a kill leaves it: that measurement is made again, the others are not.
    (out / "results.jsonl").write_text(first[0] + "\n" + first[1][:20])
    run("bench.py", *common, "--rounds", 1, "--peers", "gumbelpool", "floor")
    second = (out / "results.jsonl").read_text().splitlines()
    assert second[0] == first[0]
    assert [json.loads(line)["peer"] for line in second] == ["gumbelpool", "floor"]

    text = (docs / "results.md").read_text()
    assert "| case | against | bar | measured | |" in text
    assert (docs / "growth.svg").exists()
    before = text.replace("# Results", "# Results\n\nWords of an author.")
    (docs / "results.md").write_text(before)
    run("bench.py", *common, "--report-only")
    assert (docs / "results.md").read_text() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_peer_that_fails_is_reported_and_not_repeated(tmp_path):
    common = ["--cases", "growth-n10000", "--threads", 1, "--out", tmp_path, "--docs", tmp_path]
    common += ["--peers", "composition", "--limit-gib", 0.01]
    run("bench.py", *common, "--rounds", 2)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert "GiB" in json.loads(lines[0])["failed"]


def test_stages_of_a_step(tmp_path):
    done = run("stages.py", "--cases", "growth-n1000", "--steps", 1, "--docs", tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines]
    rows = {name: cell.replace(",", "") for name, cell in cells if name}
    assert float(rows["forward"]) > 0
    assert float(rows["merge edges"]) > 0
    assert all(float(cell) > 0 for cell in rows.values())  # no stage has lost its function
    assert int(rows["gumbelpool"]) > int(rows["composition"]) > 50
    assert "merge edges" in (tmp_path / "results.md").read_text()


def test_estimators_are_tabulated(tmp_path):
    done = run("estimators.py", "--graphs", 2, "--repeats", 2, "--docs", tmp_path)
    linear = done.stdout.split("**A convolution")[0]
    row = next(line for line in linear.splitlines() if line.startswith("| straight_through | 1.0"))
    bias, cosine = (float(cell) for cell in row.split("|")[3:5])
    assert bias == 0  # Theorem 5, for a function linear in the pooled features
    assert cosine == 1


def test_convergence_is_measured_within_its_bounds(tmp_path):
    done = run("convergence.py", "--sizes", 10, 30, "--repeats", 3, "--docs", tmp_path)
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| 10 ", "| 30 "))]
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip().replace(",", "") for cell in row.split("|")[1:-1]]
        hoeffding, mcdiarmid, bernstein, measured = map(int, cells[2:6])
        assert 1 < measured < min(hoeffding, mcdiarmid, bernstein)
    assert (tmp_path / "convergence.svg").exists()
