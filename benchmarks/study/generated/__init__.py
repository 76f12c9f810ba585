"""Datasets that were thought up for pooling, generated here: a name, a seed, and nothing else.

Each module has one family and says whose idea it is and what is different here. A dataset is
drawn anew for every seed, and comes with its own parts to train, to choose and to test on.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch_geometric.data import Data

from examples.classification.datasets import GraphDataset, Split

from .colours import colour_grid
from .cycles import cycles, two_cycles
from .multipartite import PARTS, multipartite


class Family(NamedTuple):
    """What makes graphs under a name."""

    make: Callable[[int, int], list[Data]]  # number of graphs, seed
    num_classes: int
    num_attributes: int = 0  # continuous leading columns of x


GENERATED: dict[str, Family] = {
    "two-cycles": Family(two_cycles, 2),
    "cycles": Family(cycles, 2),
    "colour-grid": Family(colour_grid, 2),
    "multipartite": Family(multipartite, PARTS, num_attributes=3),
}
TRAINED_ON, CHOSEN_ON = 0.6, 0.1  # shares of the graphs; the rest is for the test


def generate(name: str, num_graphs: int, seed: int) -> tuple[GraphDataset, Split]:
    """A dataset, and its parts: graph i is of class i modulo the number of classes."""
    family = GENERATED[name]
    dataset = GraphDataset(
        name, family.make(num_graphs, seed), family.num_classes, family.num_attributes
    )
    # Graphs do not depend on each other, so that any part is as good as another.
    first, second = round(TRAINED_ON * num_graphs), round((TRAINED_ON + CHOSEN_ON) * num_graphs)
    order = list(range(num_graphs))
    return dataset, Split(order[:first], order[first:second], order[second:])
