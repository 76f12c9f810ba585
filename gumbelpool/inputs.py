"""The arguments of a pooling layer's call, checked and in one canonical form."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from gumbelpool import rows
from gumbelpool.adjacency import to_edges
from gumbelpool.graph_validation import (
    check_batch_order,
    check_batch_shape,
    check_edge_ends,
    check_edge_shapes,
    check_num_graphs,
    check_within_graphs,
)
from gumbelpool.switch import data_checks_enabled
from gumbelpool.validation import (
    check_devices,
    check_features,
    check_finite,
    check_length,
    check_logits,
    check_not_negative,
)


class Inputs(NamedTuple):
    """What goes into a pooling layer, and into the operator behind ``GumbelPool``.

    Attributes:
        x: ``[N, F]``.
        edge_index: ``[2, E]``.
        edge_weight: ``[E]``, or ``None`` for ones.
        edge_attr: ``[E, D]``, or ``None``.
        batch: Graph of each node, ``[N]``, sorted.
        num_nodes: Nodes of each graph, ``[B]``, int64.
        source: What is scored, ``[N, C]``, or the scores, ``[N, K]``; ``None`` for x itself.
        weight: Of the linear head, ``[K, C]``; ``None`` where ``source`` are the scores.
        bias: Of the head, ``[K]``, or ``None``.
        limit: Clusters that each graph may use, ``[B]``, or ``None`` for K everywhere.
        uniform: One uniform per node, ``[N]`` float64; ``None`` takes the largest score.
        seed: Of the estimator's noise, 0-dimensional, int64.
    """

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    batch: Tensor
    num_nodes: Tensor
    source: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    limit: Tensor | None = None
    uniform: Tensor | None = None
    seed: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        """B."""
        return self.num_nodes.size(0)

    @property
    def scored(self) -> Tensor:
        """What is scored, or the scores."""
        return self.x if self.source is None else self.source

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is computed in."""
        dtype = torch.float32
        for tensor in (self.x, self.edge_weight, self.edge_attr, self.source, self.weight):
            if tensor is not None and tensor.dtype != dtype:
                dtype = torch.promote_types(dtype, tensor.dtype)
        return dtype


def read_inputs(
    x: Tensor,
    edges: tuple[Adj, Tensor | None, Tensor | None],
    batch: Tensor | None,
    batch_size: int | None,
    logits: Tensor | None,
    assign_x: Tensor | None,
    in_channels: int | None,
    num_clusters: int,
) -> Inputs:
    """Checks types and shapes of the arguments of a call, and brings them to one form.

    ``edges`` are ``edge_index``, ``edge_weight`` and ``edge_attr``. What the tensors hold is
    checked by :func:`check_data`.
    """
    if logits is not None and assign_x is not None:
        raise ValueError("logits and assign_x must not both be given: logits replace its scores")
    scored_x = logits is None and assign_x is None
    channels = None if in_channels == -1 else in_channels
    hint = f" (lin scores x, or assign_x where given, and takes in_channels, {in_channels}, of it)"
    check_features("x", x, channels if scored_x else None, hint=hint)
    num_nodes = x.size(0)
    if assign_x is not None:
        check_features("assign_x", assign_x, channels, hint=hint)
        check_length("assign_x", assign_x, "x", num_nodes)
    if logits is not None:
        check_logits(logits, num_clusters)
        check_length("logits", logits, "x", num_nodes)
    check_batch_shape(batch, batch_size, num_nodes)

    edge_index, edge_weight, edge_attr = to_edges(*edges, num_nodes)
    check_edge_shapes(edge_index, edge_weight, edge_attr)
    check_devices(
        x, edge_index=edge_index, edge_weight=edge_weight, batch=batch, edge_attr=edge_attr,
        logits=logits, assign_x=assign_x,
    )  # fmt: skip

    if batch is None:
        batch, num_graphs = torch.zeros(num_nodes, dtype=torch.int64, device=x.device), 1
    elif batch_size is not None:
        num_graphs = batch_size
    else:
        num_graphs = max(int(batch[-1]) + 1, 0) if num_nodes > 0 else 0
    check_num_graphs(num_graphs, num_clusters)
    graphs = torch.arange(num_graphs + 1, device=x.device)
    return Inputs(
        x=x,
        edge_index=edge_index,
        edge_weight=edge_weight,
        edge_attr=edge_attr,
        batch=batch,
        num_nodes=torch.searchsorted(batch, graphs).diff(),
        source=assign_x if logits is None else logits,
    )


def check_data(inputs: Inputs, losses: Sequence[str]) -> None:
    """Checks what the tensors hold, unless :class:`~gumbelpool.data_checks` are off."""
    graphs = inputs.edge_index, inputs.batch, inputs.num_graphs
    if data_checks_enabled() and not rows.of(inputs.x).check_graphs(*graphs):
        check_batch_order(inputs.batch, inputs.num_graphs)
        check_edge_ends(inputs.edge_index, inputs.x.size(0))
        check_within_graphs(inputs.edge_index, inputs.batch)
    check_finite("edge_weight", inputs.edge_weight)
    if "modularity" in losses:
        check_not_negative("edge_weight", inputs.edge_weight, " where losses has 'modularity'")


def cluster_limit(num_nodes: Tensor, ratio: float | None, num_clusters: int) -> Tensor | None:
    """K_g = min(K, max(1, ⌈ratio · n_g⌉)) of each graph, ``[B]``; ``None`` without a ratio."""
    if ratio is None:
        return None
    return (num_nodes.double() * ratio).ceil().long().clamp_(min=1, max=num_clusters)
