"""The measurements of the theory run, and agree with it."""

import subprocess
import sys

import pytest
import torch

from benchmarks.common import ROOT
from benchmarks.theory import clusters
from examples.node_clustering.graphs import NodeGraph


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


def test_clusters_are_trained_by_every_recipe(monkeypatch):
    both = torch.tensor([[0, 0, 1, 3, 3, 4, 2], [1, 2, 2, 4, 5, 5, 3]])  # two triangles, joined
    edge_index = torch.cat([both, both.flip(0)], dim=1)
    graph = NodeGraph("triangles", torch.eye(6), edge_index, torch.tensor([0, 0, 0, 1, 1, 1]))
    monkeypatch.setattr(clusters, "LEARNING_RATE", 0.05)
    monkeypatch.setattr(clusters, "STEPS", 100)
    results = {name: clusters.train(graph, of, seed=0) for name, of in clusters.RECIPES.items()}
    assert results["`modularity`, `balance`"] == pytest.approx((1, 6 / 7 - 0.5, 2))
    for shared, quality, used in results.values():
        assert -1e-6 <= shared <= 1 + 1e-6
        assert -0.5 <= quality <= 0.3572
        assert used in (1, 2)


def test_the_terms_of_other_work_are_theirs():
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    sure = torch.tensor([[99.0, 0.0], [99.0, 0.0], [0.0, 99.0]])
    assert float(clusters.cut(sure, edge_index)) == pytest.approx(-(2 / 3 + 0 / 1) / 2)
    assert float(clusters.collapse(torch.zeros(8, 4))) == pytest.approx(0, abs=1e-6)
    assert float(clusters.collapse(sure[[0, 0, 0]])) == pytest.approx(2**0.5 - 1)
