"""A graph classifier with any number of pooling levels: the file to copy into a project.

The poolers come from outside (poolers.py has a table of them); this file is the network around
them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm, global_max_pool, global_mean_pool
from torch_geometric.utils import remove_self_loops

from .poolers import Pooled


class Prediction(NamedTuple):
    """What the classifier says about a batch of graphs."""

    logits: Tensor  # [B, num_classes]
    loss: Tensor  # scalar: the poolers' auxiliary losses, summed over the levels
    levels: list[Pooled]  # the pooled graphs, finest first


class MessagePassing(nn.Module):
    """A few graph convolutions, each with batch norm, ReLU and dropout.

    A layer computes relu(norm(W x_i + V m_i)), where m_i is the *weighted mean* of node i's
    neighbours: pooled edges carry the summed weight of the edges merged into them, which grows
    with the clusters; the mean keeps the scale while the proportions between edges count.
    Self-loops are left out: W x_i is there already, and in a pooled graph, where most weight lies
    inside the clusters, they would drown the neighbours.

    (`torch_geometric.nn.GraphConv` with normalised weights is the same; this form takes half the
    time on a CPU, since edges without weights need no product and the mean is taken per node.)
    """

    def __init__(self, in_channels: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [in_channels] + [hidden] * (layers - 1)
        self.own = nn.ModuleList(nn.Linear(size, hidden) for size in sizes)
        self.neighbours = nn.ModuleList(nn.Linear(size, hidden, bias=False) for size in sizes)
        # A last batch may hold a single graph with a single node.
        self.norms = nn.ModuleList(BatchNorm(hidden, allow_single_element=True) for _ in sizes)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None) -> Tensor:
        """[N, in_channels] → [N, hidden]."""
        (source, target), edge_weight = remove_self_loops(edge_index, edge_weight)
        weight = x.new_ones(target.size(0)) if edge_weight is None else edge_weight
        total = x.new_zeros(x.size(0)).index_add(0, target, weight).clamp(min=1e-12)
        for own, neighbours, norm in zip(self.own, self.neighbours, self.norms, strict=True):
            message = x.index_select(0, source)
            if edge_weight is not None:
                message = message * edge_weight[:, None]
            mean = torch.zeros_like(x).index_add(0, target, message) / total[:, None]
            x = norm(own(x) + neighbours(mean)).relu()
            if self.dropout > 0:
                x = F.dropout(x, self.dropout, self.training)
        return x


class HierarchicalClassifier(nn.Module):
    """Message passing, pool, repeat; a readout after each level; an MLP on all readouts.

    Args:
        in_channels: Node features.
        num_classes: Graph classes.
        poolers: One pooling layer per level, each for `hidden` channels, called like those of
            poolers.py.
        hidden: Channels of every layer.
        layers: Message-passing layers before each pooling layer, and after the last.
        dropout: Dropout probability after each layer.
        assign_gnn: Give each pooler its own message passing to compute the assignment from,
            as DiffPool's paper does, rather than the features that it pools.
        fine_path: Let the message passing of the unpooled graph go on beside the pooled ones, with
            as many layers as they have; its readouts join theirs.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        poolers: Sequence[nn.Module],
        *,
        hidden: int = 64,
        layers: int = 2,
        dropout: float = 0.0,
        assign_gnn: bool = False,
        fine_path: bool = False,
    ) -> None:
        super().__init__()
        inputs = [in_channels] + [hidden] * len(poolers)
        self.blocks = nn.ModuleList(MessagePassing(i, hidden, layers, dropout) for i in inputs)
        self.poolers = nn.ModuleList(poolers)
        self.assigners = nn.ModuleList(
            MessagePassing(i, hidden, layers, dropout) for i in inputs[:-1] if assign_gnn
        )
        self.fine = nn.ModuleList(
            MessagePassing(hidden, hidden, layers, dropout) for _ in poolers if fine_path
        )
        self.head = nn.Sequential(
            nn.Linear(2 * hidden * (len(self.blocks) + len(self.fine)), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, batch_size: int) -> Prediction:
        """Classify the `batch_size` graphs of a PyG batch."""
        unpooled = edge_index, batch
        edge_weight: Tensor | None = None
        levels: list[Pooled] = []
        readouts: list[Tensor] = []
        loss = x.new_zeros(())
        for level, block in enumerate(self.blocks):
            hidden = block(x, edge_index, edge_weight)
            readouts += _readouts(hidden, batch, batch_size)
            if level == 0:
                fine = hidden
            if level == len(self.poolers):
                break
            assign_x = None
            if self.assigners:
                assign_x = self.assigners[level](x, edge_index, edge_weight)
            pooled = self.poolers[level](
                hidden, edge_index, edge_weight, batch, batch_size, assign_x
            )
            x, edge_index, edge_weight, batch = pooled[:4]
            loss = loss + pooled.loss
            levels.append(pooled)
        edge_index, batch = unpooled
        for block in self.fine:
            fine = block(fine, edge_index, None)
            readouts += _readouts(fine, batch, batch_size)
        return Prediction(self.head(torch.cat(readouts, dim=-1)), loss, levels)


def _readouts(x: Tensor, batch: Tensor, batch_size: int) -> list[Tensor]:
    """What is read off a level: mean and largest of each channel, [B, hidden] each."""
    return [global_mean_pool(x, batch, batch_size), global_max_pool(x, batch, batch_size)]
