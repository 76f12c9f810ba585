"""The measurements of the theory run, and agree with it."""

import subprocess
import sys

from benchmarks.common import ROOT


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-m", f"benchmarks.theory.{script}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=600
    )
    return done.stdout


def test_estimators_are_tabulated(tmp_path):
    printed = run("estimators", "--graphs", 2, "--repeats", 2, "--docs", tmp_path)
    linear = printed.split("**A convolution")[0]
    row = next(line for line in linear.splitlines() if line.startswith("| straight_through | 1.0"))
    bias, cosine = (float(cell) for cell in row.split("|")[3:5])
    assert bias == 0  # Theorem 5, for a function linear in the pooled features
    assert cosine == 1


def test_convergence_is_measured_within_its_bounds(tmp_path):
    printed = run("convergence", "--sizes", 10, 30, "--repeats", 3, "--docs", tmp_path)
    rows = [line for line in printed.splitlines() if line.startswith(("| 10 ", "| 30 "))]
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip().replace(",", "") for cell in row.split("|")[1:-1]]
        hoeffding, mcdiarmid, bernstein, measured = map(int, cells[2:6])
        assert 1 < measured < min(hoeffding, mcdiarmid, bernstein)
    assert (tmp_path / "convergence.svg").exists()
