"""The methods: those of the example, and torch-geometric-pool's, whose adjacency is sparse."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from examples.node_clustering.baselines import BASELINES
from examples.node_clustering.graphs import NodeGraph
from examples.node_clustering.models import DMoN, Gumbel, MinCut

Make = Callable[[int, int, NodeGraph], nn.Module]


class Method(NamedTuple):
    """How a graph is clustered: by learning, or by a function."""

    make: Make | None = None
    start: str = "random"
    rate: float = 1.0  # times the case's learning rate
    function: Callable[[NodeGraph, int, int], Tensor] | None = None


class Unbatched(nn.Module):
    """A pooler of torch-geometric-pool: soft assignments ``[N, K]``, a sparse adjacency."""

    def __init__(self, name: str, hidden: int, num_clusters: int) -> None:
        super().__init__()
        from tgp.poolers import get_pooler

        self.pool = get_pooler(name, in_channels=hidden, k=num_clusters)

    @property
    def head(self) -> nn.Linear:
        """The scores of the clusters."""
        return next(
            m for m in self.pool.modules() if isinstance(getattr(m, "weight", None), Tensor)
        )

    def losses(self, x: Tensor, graph: NodeGraph) -> dict[str, Tensor]:
        """By name; their sum is to be made small."""
        return self.pool(x=x, adj=graph.edge_index).loss

    def clusters(self, x: Tensor, graph: NodeGraph) -> Tensor:
        """The likeliest cluster of each node, ``[N]``."""
        return torch.cat([self.head(rows).argmax(1) for rows in x.split(1 << 14)])


def rates_of(name: str) -> list[str]:
    """The method at every rate that it has."""
    return [other for other in METHODS if other.split(", rate ")[0] == name]


def _gumbel(hidden: int, num_clusters: int, graph: NodeGraph) -> nn.Module:
    return Gumbel(hidden, num_clusters, ("modularity", "balance"), "straight_through")


def _tgp(name: str) -> Make:
    return lambda hidden, num_clusters, graph: Unbatched(name, hidden, num_clusters)


LEARNED: dict[str, Make] = {
    "gumbel": _gumbel,
    "DMoN": DMoN,
    "MinCut": MinCut,
    "DMoN, tgp": _tgp("dmon_u"),
    "MinCut, tgp": _tgp("mincut_u"),
}
FROM_KMEANS = " from k-means"
RATES = (0.3, 3.0)  # beside the case's own, which was found with `gumbel`
METHODS: dict[str, Method] = {
    **{name: Method(make) for name, make in LEARNED.items()},
    **{name + FROM_KMEANS: Method(make, "kmeans") for name, make in LEARNED.items()},
    **{
        f"{name}{FROM_KMEANS}, rate x{rate:g}": Method(make, "kmeans", rate)
        for name, make in LEARNED.items()
        for rate in RATES
    },
    **{name: Method(function=function) for name, function in BASELINES.items()},
}
