"""The graphs of the benchmark: real ones from a folder of TU datasets, or generated ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.datasets import TUDataset
from torch_geometric.utils import coalesce, to_undirected

NUM_FEATURES = 64
SEED = 0


@dataclass
class Graphs:
    """A batch of graphs: ``edge_index`` [2, E] and ``batch`` [N], or one graph of N nodes."""

    edge_index: Tensor
    num_nodes: int
    num_graphs: int
    batch: Tensor | None
    source: str

    def features(self) -> Tensor:
        """Node features [N, 64] as a layer before the pooling would give them."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(self.num_nodes, NUM_FEATURES, generator=generator).requires_grad_()


@dataclass(frozen=True)
class Case:
    """One row of the benchmark.

    Attributes:
        num_clusters: K.
        build: Makes the graphs; its argument is the folder of TU datasets, if there is one.
        what: In words.
        used: Whether the pooled edge weights are used downstream, so that they carry gradient.
    """

    num_clusters: int
    build: Callable[[Path | None], Graphs]
    what: str
    used: bool = True


def _batch(sizes: list[int], degree: float, source: str) -> Graphs:
    """Undirected graphs: a ring of each, and random chords up to the mean degree."""
    generator = torch.Generator().manual_seed(SEED)
    edges, start = [], 0
    for size in sizes:
        node = torch.arange(size)
        chords = round(size * (degree / 2 - 1))
        ends = torch.randint(size, (2, max(chords, 0)), generator=generator)
        ends = ends[:, ends[0] != ends[1]]
        ring = torch.stack([node[:-1], node[1:]])
        edges.append(to_undirected(torch.cat([ring, ends], dim=1), num_nodes=size) + start)
        start += size
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return Graphs(torch.cat(edges, dim=1), start, len(sizes), batch, source)


def _lognormal_sizes(count: int, mean: float, std: float, largest: int) -> list[int]:
    generator = torch.Generator().manual_seed(SEED)
    spread = math.sqrt(math.log(1 + (std / mean) ** 2))
    noise = torch.randn(count, generator=generator)
    sizes = torch.exp(math.log(mean) - spread**2 / 2 + spread * noise)
    return sizes.round().long().clamp_(4, largest).tolist()


def _tu(
    name: str, count: int, mean: float, std: float, largest: int, degree: float
) -> Callable[[Path | None], Graphs]:
    def build(root: Path | None) -> Graphs:
        if root is None or not (root / name / "raw").exists():
            sizes = _lognormal_sizes(count, mean, std, largest)
            return _batch(sizes, degree, f"generated, with the size statistics of {name}")
        data = TUDataset(str(root), name)
        generator = torch.Generator().manual_seed(SEED)
        chosen = torch.randperm(len(data), generator=generator)[:count].tolist()
        edges, sizes = [], []
        for index in chosen:
            edges.append(data[index].edge_index + sum(sizes))
            sizes.append(data[index].num_nodes)
        batch = torch.arange(count).repeat_interleave(torch.tensor(sizes))
        return Graphs(torch.cat(edges, dim=1), sum(sizes), count, batch, name)

    return build


def _molecules(root: Path | None) -> Graphs:
    generator = torch.Generator().manual_seed(SEED)
    sizes = torch.randint(9, 28, (2048,), generator=generator).tolist()
    return _batch(sizes, 2.2, "generated")


def _skewed(root: Path | None) -> Graphs:
    sizes = torch.logspace(math.log10(5), math.log10(200), 31).round().long().tolist()
    return _batch([*sizes, 4000], 4.0, "generated")


def random_graph(num_nodes: int, num_edges: int) -> Graphs:
    """One directed random graph, its edges sorted as PyG's ``coalesce`` leaves them."""
    generator = torch.Generator().manual_seed(SEED)
    ends = torch.randint(num_nodes, (2, num_edges), generator=generator)
    return Graphs(coalesce(ends, num_nodes=num_nodes), num_nodes, 1, None, "generated")


def _products(root: Path | None) -> Graphs:
    """As many nodes and edges as ogbn-products, both directions listed, power-law degrees."""
    num_nodes, num_edges, chunk = 2_449_029, 123_718_280, 1 << 22
    generator = torch.Generator().manual_seed(SEED)
    edge_index = torch.empty(2, num_edges, dtype=torch.int64)
    half = num_edges // 2
    for start in range(0, half, chunk):
        stop = min(start + chunk, half)
        # A node's expected degree falls as its rank to the power −1/2.
        rank = torch.rand(2, stop - start, generator=generator).square_()
        ends = rank.mul_(num_nodes).long().clamp_(max=num_nodes - 1)
        edge_index[:, start:stop] = ends
        edge_index[:, half + start : half + stop] = ends.flip(0)
    return Graphs(edge_index, num_nodes, 1, None, "generated")


def _growth(num_nodes: int, num_edges: int) -> Callable[[Path | None], Graphs]:
    return lambda root: random_graph(num_nodes, num_edges)


GROWTH_NODES = (1_000, 3_162, 10_000, 31_623, 100_000, 316_228, 1_000_000)
GROWTH_CLUSTERS = (10, 32, 100, 316, 1_000, 3_162, 10_000)

CASES: dict[str, Case] = {
    "proteins": Case(20, _tu("PROTEINS", 128, 39.1, 45.8, 620, 3.73), "128 graphs of PROTEINS"),
    "dd": Case(20, _tu("DD", 20, 284.3, 272, 5748, 5.03), "20 graphs of DD"),
    "dd-128": Case(20, _tu("DD", 128, 284.3, 272, 5748, 5.03), "128 graphs of DD"),
    "many-small": Case(8, _molecules, "2,048 molecule-sized graphs"),
    "skewed": Case(20, _skewed, "32 graphs of 5 to 4,000 nodes"),
    "wide": Case(1_000, _growth(100_000, 1_000_000), "one graph, N=10⁵, E=10⁶"),
    "wide-unused": Case(
        1_000, _growth(100_000, 1_000_000), "the same, pooled edge weights not used", used=False
    ),
    "wider": Case(10_000, _growth(100_000, 1_000_000), "one graph, N=10⁵, E=10⁶"),
    "wider-unused": Case(
        10_000, _growth(100_000, 1_000_000), "the same, pooled edge weights not used", used=False
    ),
    "products": Case(1_000, _products, "one graph of the size of ogbn-products", used=False),
    **{
        f"growth-n{nodes}": Case(100, _growth(nodes, 10 * nodes), "growth in N", used=False)
        for nodes in GROWTH_NODES
    },
    **{
        f"growth-k{clusters}": Case(
            clusters, _growth(100_000, 1_000_000), "growth in K", used=False
        )
        for clusters in GROWTH_CLUSTERS
    },
}
