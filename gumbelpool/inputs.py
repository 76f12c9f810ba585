"""The arguments of a pooling layer's call, checked and in one canonical form."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from gumbelpool.adjacency import to_edges
from gumbelpool.coarsen import count_rows
from gumbelpool.validation import (
    check_batch,
    check_devices,
    check_edges,
    check_features,
    check_length,
    check_logits,
    check_within_graphs,
)


class PoolInputs(NamedTuple):
    """What a pooling layer works on.

    Attributes:
        x: ``[N, F]``.
        assign_x: ``[N, C]``, what the assignment is computed from.
        edge_index: ``[2, E]``.
        edge_weight: ``[E]``, or ``None`` for ones.
        edge_attr: ``[E, D]``, or ``None``.
        batch: ``[N]``, sorted.
        num_graphs: B.
        num_nodes: Nodes of each graph, ``[B]``, int64.
    """

    x: Tensor
    assign_x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    batch: Tensor
    num_graphs: int
    num_nodes: Tensor


def read_inputs(
    x: Tensor,
    edge_index: Adj,
    edge_weight: Tensor | None,
    batch: Tensor | None,
    edge_attr: Tensor | None,
    logits: Tensor | None,
    assign_x: Tensor | None,
    batch_size: int | None,
    in_channels: int,
    num_clusters: int,
) -> PoolInputs:
    """Checks the arguments of a call and brings them to the form of :class:`PoolInputs`."""
    if logits is not None and assign_x is not None:
        raise ValueError("logits and assign_x must not both be given: logits replace its scores")
    scored_x = logits is None and assign_x is None
    check_features("x", x, in_channels if scored_x else None)
    num_nodes = x.size(0)
    if assign_x is not None:
        check_features("assign_x", assign_x, in_channels)
        check_length("assign_x", assign_x, "x", num_nodes)
    if logits is not None:
        check_logits(logits, num_clusters)
        check_length("logits", logits, "x", num_nodes)
    check_batch(batch, batch_size, num_nodes)

    edges = to_edges(edge_index, edge_weight, edge_attr, num_nodes)
    check_edges(*edges, num_nodes)
    check_devices(
        x, edge_index=edges.edge_index, edge_weight=edges.edge_weight, batch=batch,
        edge_attr=edges.edge_attr, logits=logits, assign_x=assign_x,
    )  # fmt: skip

    if batch is None:
        batch, num_graphs = torch.zeros(num_nodes, dtype=torch.int64, device=x.device), 1
    else:
        check_within_graphs(edges.edge_index, batch)
        num_graphs = int(batch[-1]) + 1 if batch_size is None and num_nodes > 0 else batch_size or 0
    return PoolInputs(
        x=x,
        assign_x=x if assign_x is None else assign_x,
        edge_index=edges.edge_index,
        edge_weight=edges.edge_weight,
        edge_attr=edges.edge_attr,
        batch=batch,
        num_graphs=num_graphs,
        num_nodes=count_rows(batch, num_graphs),
    )


def cluster_limit(inputs: PoolInputs, ratio: float | None, num_clusters: int) -> Tensor | None:
    """K_g = min(K, max(1, ⌈ratio · n_g⌉)) of each graph, ``[B]``; ``None`` without a ratio."""
    if ratio is None:
        return None
    limit = (inputs.num_nodes.double() * ratio).ceil().long()
    return limit.clamp(min=1, max=num_clusters)
