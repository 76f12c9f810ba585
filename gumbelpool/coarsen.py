"""Given a cluster of each node: merge nodes, merge edges, and lift features back."""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool.validation import (
    check_cluster,
    check_edges,
    check_features,
    check_in,
    check_num_supernodes,
)


class MergedEdges(NamedTuple):
    """Pooled edges, and where each input edge went.

    Attributes:
        edge_index: ``[2, E']``, sorted by (row, col), no duplicates.
        edge_id: Pooled edge of each input edge, ``[E]``; E' for an edge that was dropped.
    """

    edge_index: Tensor
    edge_id: Tensor


def sum_rows(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """Sums the rows of ``values`` that share an ``index``, in float32 at least."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = torch.zeros((num_rows, *values.shape[1:]), dtype=dtype, device=values.device)
    return total.index_add(0, index, values.to(dtype))


def merge_edges(
    edge_index: Tensor, cluster: Tensor, num_supernodes: int, remove_self_loops: bool
) -> MergedEdges:
    """Relabels both ends of every edge and finds the distinct pairs."""
    row, col = cluster[edge_index[0]], cluster[edge_index[1]]
    key, edge_id = torch.unique(row * num_supernodes + col, return_inverse=True)
    pooled = torch.stack([key // num_supernodes, key % num_supernodes])
    if remove_self_loops:
        keep = pooled[0] != pooled[1]
        pooled = pooled[:, keep]
        rank = torch.where(keep, keep.cumsum(0) - 1, pooled.size(1))
        edge_id = rank[edge_id]
    return MergedEdges(pooled, edge_id)


def sum_edges(values: Tensor, merged: MergedEdges) -> Tensor:
    """Sums edge values ``[E, ...]`` over the edges that were merged, ``[E', ...]``."""
    num_edges = merged.edge_index.size(1)
    return sum_rows(values, merged.edge_id, num_edges + 1)[:num_edges]


def coarsen_edges(
    edge_index: Tensor,
    cluster: Tensor,
    num_supernodes: int,
    edge_weight: Tensor | None = None,
    edge_attr: Tensor | None = None,
    *,
    remove_self_loops: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Relabels both ends of every edge and merges duplicates: :math:`A' = S^\top A S`.

    The pooled edges are the image of the input's, so there are never more of them. Differentiable
    with respect to ``edge_weight`` and ``edge_attr``.

    Args:
        edge_index: Directed edges, ``[2, E]``, int64.
        cluster: Supernode of each node, ``[N]``, int64, in ``[0, num_supernodes)``.
        num_supernodes: K', the number of supernodes, at most 3,037,000,499 (whose square still
            is an int64).
        edge_weight: ``[E]``. (default: every edge weighs one)
        edge_attr: Edge features, ``[E, D]``. (default: none)
        remove_self_loops: Drops the edges that lie inside a supernode. (default: ``False``)

    Returns:
        The pooled ``edge_index`` ``[2, E']``, sorted by (row, col) without duplicates; the sums
        of the merged ``edge_weight`` ``[E']`` (in torch's default dtype where none were given);
        and of the merged ``edge_attr`` ``[E', D]`` or ``None``.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, or an id lies outside its range.
    """
    check_num_supernodes(num_supernodes)
    check_cluster(cluster, num_supernodes)
    check_edges(edge_index, edge_weight, edge_attr, cluster.size(0))
    if edge_weight is None:
        edge_weight = torch.ones(edge_index.size(1), device=edge_index.device)
    merged = merge_edges(edge_index, cluster, num_supernodes, remove_self_loops)
    if edge_attr is not None:
        edge_attr = sum_edges(edge_attr, merged).to(edge_attr.dtype)
    return merged.edge_index, sum_edges(edge_weight, merged).to(edge_weight.dtype), edge_attr


def coarsen_nodes(x: Tensor, cluster: Tensor, num_supernodes: int, aggr: str = "sum") -> Tensor:
    r"""Merges the features of each supernode's members: :math:`X' = S^\top X`, or their mean.

    Args:
        x: Node features, ``[N, F]``.
        cluster: Supernode of each node, ``[N]``, int64, in ``[0, num_supernodes)``.
        num_supernodes: K', the number of supernodes.
        aggr: ``"sum"`` or ``"mean"``. (default: ``"sum"``)

    Returns:
        ``[K', F]`` in the dtype of ``x``; zeros for a supernode without members.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ``aggr`` is unknown, or an id lies outside its range.
    """
    check_features("x", x)
    check_cluster(cluster, num_supernodes, num_nodes=x.size(0))
    check_in("aggr", aggr, ("sum", "mean"))
    pooled = sum_rows(x, cluster, num_supernodes)
    if aggr == "mean":
        size = torch.bincount(cluster, minlength=num_supernodes)
        pooled = pooled / size.clamp(min=1).unsqueeze(1)
    return pooled.to(x.dtype)


def unpool(x: Tensor, cluster: Tensor) -> Tensor:
    """Gives each node the row of its supernode: S x.

    Args:
        x: Rows per supernode, ``[K', ...]``.
        cluster: Supernode of each node, ``[N]``, int64, in ``[0, K')``.

    Returns:
        ``[N, ...]``.

    Raises:
        TypeError: If ``cluster`` is not int64.
        ValueError: If ``cluster`` is not a vector, or an id lies outside ``[0, K')``.
    """
    check_cluster(cluster, x.size(0))
    return x[cluster]
