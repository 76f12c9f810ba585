"""The graphs that are clustered, and the budget that every method has on each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from examples.node_clustering.graphs import NodeGraph, load
from examples.node_clustering.planted import Planted, planted_partition

from ..speed.cases import CASES as SPEED


@dataclass(frozen=True)
class Budget:
    """The network and its training, the same for every method that learns."""

    epochs: int
    lr: float = 0.01
    layers: int = 4
    batch_norm: bool = True
    hidden: int = 64


@dataclass(frozen=True)
class Case:
    """A graph.

    Attributes:
        num_clusters: K.
        build: Makes it; the argument is the folder of Planetoid's graphs, if there is one.
        what: In words.
        budget: Of training.
    """

    num_clusters: int
    build: Callable[[Path | None], NodeGraph]
    what: str
    budget: Budget


UNSEEN = 1  # seed of the planted graphs; network, budget and rate were found on those of seed 0


def _planted(num_nodes: int, num_clusters: int, epochs: int) -> Case:
    planted = Planted(num_nodes, num_clusters, mean_degree=10, mixing=0.2, signal=0.1)
    return Case(
        num_clusters,
        lambda _: NodeGraph("planted", *planted_partition(planted, UNSEEN)),
        "planted partition, power-law degrees",
        Budget(epochs),
    )


def _products(_: Path | None) -> NodeGraph:
    """The generated graph of the size of ogbn-products: for time and memory, without classes."""
    drawn = SPEED["products"].build(None)
    key, _ = (drawn.edge_index[0] * drawn.num_nodes + drawn.edge_index[1]).sort()
    key = torch.unique_consecutive(key)
    edge_index = torch.stack([key // drawn.num_nodes, key % drawn.num_nodes])
    del drawn.edge_index, key
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    x = torch.randn(drawn.num_nodes, 64, generator=torch.Generator().manual_seed(0))
    return NodeGraph("products", x, edge_index, torch.zeros(drawn.num_nodes, dtype=torch.int64))


CITATIONS = Budget(epochs=300, lr=3e-3, layers=2, batch_norm=False)

CASES: dict[str, Case] = {
    "sbm": Case(
        8, lambda _: load("sbm", None), "`sbm` of the example", Budget(epochs=100, layers=2)
    ),
    "cora": Case(7, lambda root: load("Cora", root), "Cora", CITATIONS),
    "citeseer": Case(6, lambda root: load("CiteSeer", root), "CiteSeer", CITATIONS),
    "pubmed": Case(3, lambda root: load("PubMed", root), "PubMed", CITATIONS),
    "1e3-k10": _planted(1_000, 10, 30),
    "1e4-k10": _planted(10_000, 10, 30),
    "1e4-k100": _planted(10_000, 100, 30),
    "1e5-k100": _planted(100_000, 100, 20),
    "1e5-k1000": _planted(100_000, 1_000, 20),
    "1e6-k100": _planted(1_000_000, 100, 20),
    "1e6-k1000": _planted(1_000_000, 1_000, 20),
    "products": Case(
        1000, _products, "generated, of the size of ogbn-products", Budget(epochs=2, layers=2)
    ),
}
