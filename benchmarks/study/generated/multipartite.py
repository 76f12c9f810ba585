"""Multipartite: which centre belongs to which part decides the class.

After the Multipartite dataset of Abate and Bianchi, "MaxCutPool" (ICLR 2025): there ten parts of
one to nineteen nodes, coordinates around the corners of a polygon, and the class is by how many
corners the parts are shifted. Here there are six parts of one to five nodes, and half of the edges
of the complete multipartite graph.
"""

import numpy as np
from torch_geometric.data import Data

from .undirected import undirected

PARTS = 6  # and classes: a shift for each
SIZE = (1, 5)  # nodes of a part, both ends included
RADIUS = 2.0  # of the circle of centres; coordinates spread around them with deviation 1
DENSITY = 0.5  # share of the pairs of nodes of different parts that are edges


def multipartite(num_graphs: int, seed: int) -> list[Data]:
    """Graphs of six parts, edges only between parts; class c shifts part p to corner p + c.

    Features, [n, 3]: two coordinates, and the number of the part. A node may lie far from its
    part's centre, so that one is not enough, and a part has no edges inside, so that neighbours
    are of no help in finding it.
    """
    return [_multipartite(i % PARTS, np.random.default_rng((seed, i))) for i in range(num_graphs)]


def corner(number: np.ndarray) -> np.ndarray:
    """Coordinates [..., 2] of corners of the polygon."""
    angle = 2 * np.pi * number / PARTS
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _multipartite(label: int, rng: np.random.Generator) -> Data:
    sizes = rng.integers(*SIZE, endpoint=True, size=PARTS)
    part = np.repeat(np.arange(PARTS), sizes)
    spread = rng.normal(size=(len(part), 2))
    low, high = np.triu_indices(len(part), 1)
    kept = (part[low] != part[high]) & (rng.random(len(low)) < DENSITY)
    position = corner((part + label) % PARTS) + spread
    features = np.concatenate([position, part[:, None]], axis=1)
    return undirected(np.stack([low[kept], high[kept]], axis=1), features, label, rng)
