"""One cycle or two of the same total size: the smallest question that needs the whole graph.

That every node of either graph has two neighbours, so that message passing sees the same at every
node, is as old as the Weisfeiler-Leman test; as a dataset "one large cycle or two" is that of Horn
et al., "Topological Graph Neural Networks" (ICLR 2022, CYCLES). Sizes, features and the even split
of `two_cycles` are choices made here.
"""

import numpy as np
from torch_geometric.data import Data

from .undirected import undirected

NODES = (10, 20)  # in total, both ends included
SHORTEST = 3  # nodes of a cycle
COLOURS = 4


def two_cycles(num_graphs: int, seed: int) -> list[Data]:
    """Class 0: one cycle of n nodes, n even; class 1: two cycles of n/2. All nodes look alike.

    The one feature, [n, 1], is a random number, the same at all nodes of a graph. (Were it the same
    in all graphs, batch norm would divide by a deviation of zero.) No network whose layers treat
    nodes alike by their neighbours can tell the classes apart: whatever it computes is the same at
    every node of both. It takes random choices, or positions.
    """
    return [_two_cycles(i % 2, np.random.default_rng((seed, i))) for i in range(num_graphs)]


def cycles(num_graphs: int, seed: int) -> list[Data]:
    """Class 0: one cycle of n nodes; class 1: two of any sizes. Features: a random colour of four.

    Colours, [n, 4], one-hot, are drawn for each node by itself and say nothing of the class, but
    tell nodes apart, so that message passing can follow a cycle, and scores can differ.
    """
    return [_cycles(i % 2, np.random.default_rng((seed, i))) for i in range(num_graphs)]


def _two_cycles(label: int, rng: np.random.Generator) -> Data:
    num_nodes = 2 * int(rng.integers(NODES[0] // 2, NODES[1] // 2, endpoint=True))
    sizes = [num_nodes // 2] * 2 if label else [num_nodes]
    features = np.full((num_nodes, 1), rng.normal())
    return undirected(_joined(sizes), features, label, rng)


def _cycles(label: int, rng: np.random.Generator) -> Data:
    num_nodes = int(rng.integers(*NODES, endpoint=True))
    first = int(rng.integers(SHORTEST, num_nodes - SHORTEST, endpoint=True))
    colours = np.eye(COLOURS)[rng.integers(COLOURS, size=num_nodes)]
    return undirected(
        _joined([first, num_nodes - first] if label else [num_nodes]), colours, label, rng
    )


def _joined(sizes: list[int]) -> np.ndarray:
    """Edges [E, 2] of disjoint cycles."""
    starts = np.cumsum([0, *sizes])
    return np.concatenate(
        [
            start + np.stack([np.arange(size), (np.arange(size) + 1) % size], axis=1)
            for start, size in zip(starts, sizes, strict=False)
        ]
    )
