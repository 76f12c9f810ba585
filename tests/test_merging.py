"""Merging edges: buckets and sorted keys agree with a dictionary, in bounded memory."""

import subprocess
import sys
from collections import Counter

import pytest
import torch
from conftest import assert_close, generator, rand
from hypothesis import given
from hypothesis import strategies as st

from gumbelpool import coarsen_edges, rows


def by_dictionary(edge_index, cluster, weight):
    total = Counter()
    for (i, j), w in zip(edge_index.T.tolist(), weight.tolist(), strict=True):
        total[int(cluster[i]), int(cluster[j])] += w
    pairs = sorted(total)
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2).T, torch.tensor(
        [total[pair] for pair in pairs], dtype=torch.float64
    )


@pytest.mark.parametrize("way", ["buckets", "one sort", "two sorts"])
@given(
    nodes=st.integers(1, 20),
    edges=st.integers(0, 60),
    supernodes=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_merging_equals_a_dictionary(way, nodes, edges, supernodes, seed):
    random = generator(seed)
    edge_index = torch.randint(0, nodes, (2, edges), generator=random)
    cluster = torch.randint(0, supernodes, (nodes,), generator=random)
    weight = rand(edges, seed=seed)
    # How many supernodes there might be decides whether edges are counted or sorted.
    bound = {"buckets": supernodes, "one sort": 40_000, "two sorts": 50_000}[way]
    pooled, summed, _ = coarsen_edges(edge_index, cluster, bound, weight)
    expected, total = by_dictionary(edge_index, cluster, weight)
    assert torch.equal(pooled, expected)
    assert_close(summed, total)


@pytest.mark.parametrize("supernodes", [30, 5_000, 100_000])
def test_merging_more_edges_than_are_looked_at_together(supernodes):
    random = generator(0)
    cluster = torch.randint(0, supernodes, (1000,), generator=random)
    edge_index = torch.randint(0, 1000, (2, 2_300_000), generator=random)
    pooled, weight, _ = coarsen_edges(edge_index, cluster, supernodes)
    source, target = cluster[edge_index]
    key, count = torch.unique(source * supernodes + target, return_counts=True)
    assert torch.equal(pooled, torch.stack([key // supernodes, key % supernodes]))
    assert torch.equal(weight, count.float())


@pytest.mark.parametrize("supernodes", [46_340, 46_341, 65_536, 2**31 - 1, 3_037_000_499])
def test_no_number_of_supernodes_overflows_a_key(supernodes):
    cluster = torch.tensor([0, supernodes - 1, supernodes - 2, supernodes // 2])
    edge_index = torch.tensor([[0, 1, 1, 2, 3, 1], [1, 1, 2, 0, 3, 1]])
    pooled, weight, _ = coarsen_edges(edge_index, cluster, supernodes, torch.ones(6).double())
    expected, total = by_dictionary(edge_index, cluster, torch.ones(6))
    assert torch.equal(pooled, expected)
    assert_close(weight, total)


def test_more_edges_than_float32_can_count_are_counted():
    # 2^24 + 3 edges into one pooled edge: a float32 count would stop at 2^24.
    edges = 2**24 + 3
    edge_index = torch.zeros(1, dtype=torch.long).expand(2, edges)
    _, count, _ = rows.of(edge_index).merge_edges(
        edge_index, *[torch.zeros(1, dtype=torch.long)] * 2, 1, 1
    )
    assert count.tolist() == [edges]


PEAK = """
import sys, torch
from pathlib import Path
from gumbelpool import coarsen_edges
def resident(field):
    line = next(l for l in open("/proc/self/status") if l.startswith(field))
    return int(line.split()[1]) * 1024
nodes, edges, supernodes, weighted = map(int, sys.argv[1:])
torch.set_num_threads(1)
warm = torch.randint(0, 100, (2, 70_000))
for k in (100, 50_000):
    coarsen_edges(warm, torch.randint(0, k, (100,)), k)
edge_index = torch.randint(0, nodes, (2, edges))
cluster = torch.randint(0, supernodes, (nodes,))
weight = torch.rand(edges) if weighted else None
given = edge_index.nbytes + cluster.nbytes + (weight.nbytes if weighted else 0)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
coarsen_edges(edge_index, cluster, supernodes, weight)
print((resident("VmHWM") - before) / given)
"""


# So many edges that the allocator returns what is freed: the high-water mark is what was in use.
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "supernodes", [1_000, 4_800, 10_000, 100_000], ids=["few", "most buckets", "int32", "int64"]
)
def test_merging_takes_at_most_two_and_a_half_times_its_input(supernodes, weighted):
    run = [sys.executable, "-W", "ignore", "-c", PEAK, "200000", "12000000", str(supernodes)]
    done = subprocess.run(
        [*run, str(int(weighted))], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(done.stdout) <= 2.5
