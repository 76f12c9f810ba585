"""The network that learns a clustering: a file to copy from.

Graph convolutions give every node a vector, one linear head scores the clusters, and the loss needs
no labels: how much better than chance the edges stay inside, and that all clusters are used.
"""

import warnings

import torch
from torch import Tensor, nn
from torch_geometric.nn import DMoNPooling, GCNConv, dense_mincut_pool
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_dense_adj

from gumbelpool import GumbelPool

from .graphs import NodeGraph


def propagation(edge_index: Tensor, num_nodes: int) -> Tensor:
    """D^−½ (A + I) D^−½ of an undirected graph, ``[N, N]`` in CSR form.

    With it a convolution is one sparse product, where a list of edges would make a message, all
    channels of it, for each. It is symmetric, so it is what PyG calls `adj_t` too.
    """
    edge_index, weight = gcn_norm(edge_index, num_nodes=num_nodes)
    order = (edge_index[0] * num_nodes + edge_index[1]).argsort()
    column = edge_index[1, order].int()
    row = torch.zeros(num_nodes + 1, dtype=torch.int32)
    row[1:] = torch.bincount(edge_index[0], minlength=num_nodes).cumsum(0)
    with warnings.catch_warnings():  # "in beta state"
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(row, column, weight[order], (num_nodes, num_nodes))


class Encoder(nn.Module):
    """Graph convolutions, each with batch norm where it is asked for, and ReLU."""

    def __init__(self, in_channels: int, hidden: int, layers: int, batch_norm: bool) -> None:
        super().__init__()
        channels = [in_channels] + [hidden] * (layers - 1)
        self.convs = nn.ModuleList(GCNConv(c, hidden, normalize=False) for c in channels)
        # The whole graph is one batch, so its own statistics are always at hand.
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden, track_running_stats=False) if batch_norm else nn.Identity()
            for _ in channels
        )

    def forward(self, x: Tensor, adj_t: Tensor) -> Tensor:
        """The nodes' vectors, ``[N, hidden]``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, adj_t)).relu()
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
        return self.pool(x, graph.edge_index).losses

    def clusters(self, x: Tensor, graph: NodeGraph) -> Tensor:
        """The likeliest cluster of each node, ``[N]``: in ``eval()`` nothing is drawn."""
        return self.pool(x, graph.edge_index).cluster


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

    def forward(self, graph: NodeGraph, adj_t: Tensor) -> dict[str, Tensor]:
        """The losses by name."""
        return self.clusterer.losses(self.encoder(graph.x, adj_t), graph)

    @torch.no_grad()
    def clusters(self, graph: NodeGraph, adj_t: Tensor) -> Tensor:
        """The cluster of each node, ``[N]``."""
        self.eval()
        return self.clusterer.clusters(self.encoder(graph.x, adj_t), graph)
