"""Colour connectivity: do the coloured nodes form one island, or two?

After Rampášek and Wolf, "Hierarchical Graph Neural Nets can Capture Long-Range Interactions"
(2021): there two walks colour half of a large grid or road network; here two islands grow node by
node until a third of a small grid is coloured, and colourings are drawn until there is one with as
many islands as the class asks for. Both classes start from two nodes, so that one island is two
that have met.
"""

import numpy as np
from torch_geometric.data import Data

from .undirected import undirected

SIDE = 8
SHARE = 3  # one node in three is coloured


def colour_grid(num_graphs: int, seed: int) -> list[Data]:
    """Grids of 8 by 8 nodes; features, [64, 2], are one-hot: coloured or not."""
    pairs = _grid()
    neighbours: list[list[int]] = [[] for _ in range(SIDE**2)]
    for u, v in pairs.tolist():
        neighbours[u].append(v)
        neighbours[v].append(u)
    graphs = []
    for i in range(num_graphs):
        rng = np.random.default_rng((seed, i))
        coloured: set[int] = set()
        while _islands(neighbours, coloured) != 1 + i % 2:
            coloured = _grown(neighbours, SIDE**2 // SHARE, rng)
        features = np.eye(2)[[int(node in coloured) for node in range(SIDE**2)]]
        graphs.append(undirected(pairs, features, i % 2, rng))
    return graphs


def _grid() -> np.ndarray:
    node = np.arange(SIDE**2).reshape(SIDE, SIDE)
    right = np.stack([node[:, :-1].ravel(), node[:, 1:].ravel()], axis=1)
    down = np.stack([node[:-1].ravel(), node[1:].ravel()], axis=1)
    return np.concatenate([right, down])


def _grown(neighbours: list[list[int]], count: int, rng: np.random.Generator) -> set[int]:
    """`count` nodes, grown from two of them by taking a random neighbour of what there is."""
    coloured: set[int] = set()
    for start in rng.choice(len(neighbours), size=2, replace=False).tolist():
        coloured.add(start)
    edge = [node for start in coloured for node in neighbours[start]]
    # Drawn together, since a draw at a time is slow; a node is taken from the edge but once for
    # each of its neighbours.
    for choice in rng.random(4 * len(neighbours)):
        if len(coloured) == count:
            break
        node = edge.pop(int(choice * len(edge)))
        if node not in coloured:
            coloured.add(node)
            edge += neighbours[node]
    return coloured


def _islands(neighbours: list[list[int]], coloured: set[int]) -> int:
    """Connected components of the coloured nodes."""
    left, count = set(coloured), 0
    while left:
        count += 1
        reached = [left.pop()]
        while reached:
            for node in neighbours[reached.pop()]:
                if node in left:
                    left.remove(node)
                    reached.append(node)
    return count
