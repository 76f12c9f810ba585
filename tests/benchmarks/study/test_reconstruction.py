"""The autoencoder through a pooled graph: its graphs, its lift, its runs."""

import json

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import networkx as nx
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_networkx

from benchmarks.study.poolers import POOLERS
from benchmarks.study.reconstruction import GRAPHS, METHODS, lift, main, report, train
from examples.classification.poolers import PoolOptions


def test_neighbours_are_the_nearest_places():
    for name, expected in (("ring", nx.cycle_graph(64)), ("grid", nx.grid_2d_graph(8, 8))):
        position, edge_index = GRAPHS[name]()
        graph = Data(edge_index=edge_index, num_nodes=len(position))
        assert nx.is_isomorphic(to_networkx(graph, to_undirected=True), expected)
        distance = (position[:, None] - position).norm(dim=-1)
        joined = distance[edge_index[0], edge_index[1]]
        nearest = distance[distance > 1e-6].min()
        torch.testing.assert_close(joined, nearest.expand_as(joined), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["gumbel-keep-empty", "diffpool", "topk", "none"])
def test_lift_gives_each_node_the_rows_of_its_clusters(name):
    position, edge_index = GRAPHS["ring"]()
    pooler = POOLERS[name].make(2, PoolOptions(num_clusters=5))
    pooled = pooler(position, edge_index, None, edge_index.new_zeros(64), 1)
    rows = torch.randn(len(pooled.x), 3)
    lifted = lift(pooler, position, pooled, rows)
    if name == "diffpool":
        shares = torch.softmax(position @ pooler.pool.lin.weight.T + pooler.pool.lin.bias, 1)
        expected = torch.einsum("nk,kf->nf", shares, rows)
    else:
        expected = torch.zeros(64, 3)
        for node, cluster in enumerate(pooled.cluster.tolist()):
            if cluster >= 0:
                expected[node] = rows[cluster]
        assert (lifted != 0).any(1).sum() == (5 if name == "topk" else 64)
    torch.testing.assert_close(lifted, expected)


def test_a_graph_that_is_not_pooled_comes_back_nearly_whole():
    whole = train("ring", "none", seed=0, steps=150)
    dropped = train("ring", "topk", seed=0, steps=150)
    assert whole["mse"] < 0.1 * dropped["mse"]
    assert (whole["used"], dropped["used"]) == (64, 16)


def test_report_has_the_median_and_the_range():
    records = [
        {"graph": "grid", "method": "topk", "seed": seed, "steps": 9, "mse": mse, "used": 16.0}
        for seed, mse in enumerate((0.3, 0.1, 0.2))
    ]
    records.append(records[0] | {"steps": 8, "mse": 0.9})
    assert "| topk | – | – | 0.2 (0.1–0.3; 3) | 16.0 |" in report(records, steps=9)


def test_finished_trainings_are_not_run_again(tmp_path):
    def records(*more: str) -> list[dict]:
        folders = ["--out", str(tmp_path), "--docs", str(tmp_path)]
        main([*folders, "--steps", "2", "--methods", "none", "gumbel", *more])
        lines = (tmp_path / "reconstruction.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    first = records("--seeds", "1")
    assert len(first) == len(GRAPHS) * 2
    second = records("--seeds", "2")
    assert second[: len(first)] == first
    assert len(second) == len(GRAPHS) * 4
    assert records("--seeds", "3", "--report-only") == second
    text = (tmp_path / "results.md").read_text()
    assert all(f"| {method} | " in text for method in METHODS)
