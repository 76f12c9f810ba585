"""What a sharded step sends, counted in real processes and by the formula of docs/results.md."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import make_batch
from sharded import LOSSES, edges_of, nodes_of, shares, spawn

from benchmarks.speed import sharded
from gumbelpool import GumbelPool
from gumbelpool.distributed import ShardedGraph, pool_sharded

N, K, F, D = 23, 6, 3, 2


def step(weighted: bool, rank: int, world: int) -> tuple[dict, dict]:
    """The bytes that were counted in one step, and those of the formula."""
    batch = make_batch((N,), weighted="positive", attr=D, loops=True)
    own = nodes_of(shares("uneven", world), rank)
    edges = edges_of(batch.edge_index, own)
    edge_index = batch.edge_index[:, edges]
    graph = ShardedGraph(edge_index, len(own))
    losses = LOSSES if weighted else sharded.LOSSES
    given = {}
    if weighted:
        given = {"edge_weight": batch.edge_weight[edges], "edge_attr": batch.edge_attr[edges]}
        given = {name: each.requires_grad_() for name, each in given.items()}
    x = batch.x[own.start : own.stop].requires_grad_()
    pool = GumbelPool(F, K, losses=losses).double()
    with sharded.counted() as sent:
        out = pool_sharded(pool, x, graph, **given)
        outputs = [out.x, out.edge_weight] + [out.edge_attr] * weighted
        (sum(each.sum() for each in outputs) + out.loss).backward()

    counts = shares("uneven", world)
    owner = torch.arange(world).repeat_interleave(torch.tensor(counts))
    first = [r * K // world for r in range(world + 1)]
    of_row = torch.arange(world).repeat_interleave(torch.tensor(first).diff())
    cluster = graph.collect(out.cluster)
    pairs = {(int(cluster[i]), int(cluster[j])) for i, j in edge_index.t().tolist()}
    neighbours = {
        (int(end), int(owner[other]))
        for i, j in batch.edge_index.t().tolist()
        for end, other in ((i, j), (j, i))
        if end in own and owner[other] != rank
    }
    summed = [int((of_row[out.edge_index[0]] == r).sum()) for r in range(world)]
    size = sharded.Sizes(
        processes=world, clusters=K, channels=F,
        halo=len(neighbours), cut=int((owner[edge_index[1]] != rank).sum()),
        apart=sum(int(of_row[row]) != rank for row, _ in pairs),
        most=max(summed), pooled=out.edge_index.size(1), losses=losses, weighted=weighted,
        edge_channels=D * weighted, width=8,
    )  # fmt: skip
    return sent, sharded.bytes_sent(size, first=rank == 0)


def both(rank: int, world: int) -> list:
    return [step(weighted, rank, world) for weighted in (False, True)]


def test_a_step_sends_what_the_formula_says_to_the_byte(tmp_path):
    for result in spawn(both, 3, tmp_path):
        for sent, formula in result:
            assert sum(sent.values()) == pytest.approx(sum(formula.values()), rel=1e-12)
            assert min(formula.values()) >= 0
            assert sent["all_to_all_single"] > 0


def test_the_benchmark_measures_and_writes_its_table(tmp_path, capsys, monkeypatch):
    arguments = ["--nodes", "300", "--clusters", "8", "--steps", "1", "--processes", "1"]
    monkeypatch.setattr("sys.argv", ["sharded", *arguments, "--docs", str(tmp_path)])
    sharded.main()
    text = Path(tmp_path / "results.md").read_text()
    assert "300 nodes and 3,000 edges per process" in text
    assert text.count("| 1 | ") == 2
    assert not dist.is_initialized()
