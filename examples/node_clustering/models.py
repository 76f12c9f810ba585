"""The network that learns a clustering: a file to copy from.

Graph convolutions give every node a vector, one linear head scores the clusters, and the loss needs
no labels: how much better than chance the edges stay inside, and that all clusters are used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import DMoNPooling, dense_mincut_pool
from torch_geometric.utils import to_dense_adj

from gumbelpool import GumbelPool

from .graphs import Averaging, NodeGraph


class Encoder(nn.Module):
    """Graph convolutions that average over a node and its neighbours, with SELU between them.

    Clusters are found from what it gives before it has learned anything, so it must not lose what
    the features say: maps are orthogonal at first, and no activation follows the last.
    """

    def __init__(self, in_channels: int, hidden: int, layers: int, batch_norm: bool) -> None:
        super().__init__()
        channels = [in_channels] + [hidden] * (layers - 1)
        self.convs = nn.ModuleList(nn.Linear(c, hidden) for c in channels)
        for conv in self.convs:
            nn.init.orthogonal_(conv.weight)
            nn.init.zeros_(conv.bias)
        # The whole graph is one batch, so its own statistics are always at hand.
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden, track_running_stats=False) if batch_norm else nn.Identity()
            for _ in channels
        )

    def forward(self, graph: NodeGraph, mean: Averaging) -> Tensor:
        """The nodes' vectors, ``[N, hidden]``; `mean` is the graph's ``averaging()``."""
        x = graph.x
        # In place: neither a convolution nor the norm needs its own output again.
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = x if number == 0 else F.selu(x, inplace=True)
            x = graph.normalize(norm, mean(conv(graph.with_neighbors(x))))
        return x


class Gumbel(nn.Module):
    """`GumbelPool`: nothing of size N×K or N×N is held."""

    def __init__(
        self, hidden: int, num_clusters: int, losses: tuple[str, ...], estimator: str
    ) -> None:
        super().__init__()
        self.pool = GumbelPool(hidden, num_clusters, losses=losses, estimator=estimator)

    @property
    def head(self) -> nn.Linear:
        """The scores of the clusters."""
        return self.pool.lin

    def losses(self, x: Tensor, graph: NodeGraph) -> dict[str, Tensor]:
        """By name; their sum is to be made small."""
        return graph.pool(self.pool, x).losses

    def clusters(self, x: Tensor, graph: NodeGraph) -> Tensor:
        """The likeliest cluster of each node, ``[N]``: in ``eval()`` nothing is drawn."""
        return graph.pool(self.pool, x).cluster


class Dense(nn.Module):
    """PyG's dense poolers: soft assignments ``[N, K]``, and the graph as a matrix ``[N, N]``."""

    def __init__(self, graph: NodeGraph) -> None:
        super().__init__()
        adjacency = to_dense_adj(graph.edge_index, max_num_nodes=graph.num_nodes)
        self.register_buffer("adjacency", adjacency, persistent=False)

    def clusters(self, x: Tensor, graph: NodeGraph) -> Tensor:
        """The likeliest cluster of each node, ``[N]``."""
        return self.head(x).argmax(1)


class DMoN(Dense):
    """PyG's `DMoNPooling`, all three of its losses."""

    def __init__(self, hidden: int, num_clusters: int, graph: NodeGraph) -> None:
        super().__init__(graph)
        self.pool = DMoNPooling(hidden, num_clusters)

    @property
    def head(self) -> nn.Linear:
        """The scores of the clusters."""
        return self.pool.mlp.lins[0]

    def losses(self, x: Tensor, graph: NodeGraph) -> dict[str, Tensor]:
        """By name; their sum is to be made small."""
        *_, spectral, orthogonality, cluster = self.pool(x, self.adjacency)
        return {"spectral": spectral, "orthogonality": orthogonality, "cluster": cluster}


class MinCut(Dense):
    """PyG's `dense_mincut_pool`, both of its losses."""

    def __init__(self, hidden: int, num_clusters: int, graph: NodeGraph) -> None:
        super().__init__(graph)
        self.head = nn.Linear(hidden, num_clusters)

    def losses(self, x: Tensor, graph: NodeGraph) -> dict[str, Tensor]:
        """By name; their sum is to be made small."""
        *_, cut, orthogonality = dense_mincut_pool(x, self.adjacency, self.head(x))
        return {"cut": cut, "orthogonality": orthogonality}


class ClusteringNet(nn.Module):
    """An encoder and what makes clusters of its vectors."""

    def __init__(self, encoder: Encoder, clusterer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.clusterer = encoder, clusterer

    def forward(self, graph: NodeGraph, mean: Averaging) -> dict[str, Tensor]:
        """The losses by name."""
        return self.clusterer.losses(self.encoder(graph, mean), graph)

    @torch.no_grad()
    def clusters(self, graph: NodeGraph, mean: Averaging) -> Tensor:
        """The cluster of each node, ``[N]``."""
        self.eval()
        return self.clusterer.clusters(self.encoder(graph, mean), graph)
