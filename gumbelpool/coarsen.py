"""Given a cluster of each node: merge nodes, merge edges, and lift features back."""

from typing import Any

import torch
from torch import Tensor

from gumbelpool import rows
from gumbelpool.adjacency import edge_list
from gumbelpool.graph_validation import check_edges
from gumbelpool.options import check_bool, check_in
from gumbelpool.validation import (
    check_cluster,
    check_features,
    check_num_supernodes,
    check_supernode_rows,
)


def count_rows(index: Tensor, num_rows: int) -> Tensor:
    """How often each of [0, num_rows) occurs, ``[num_rows]`` int64, without a device sync."""
    count = torch.zeros(num_rows, dtype=torch.int64, device=index.device)
    return count.index_add_(0, index, count.new_ones(1).expand(index.numel()))


def sum_rows(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """Sums the rows of ``values`` that share an ``index``; differentiable, in float32 at least."""
    return _SumRows.apply(values, index, num_rows)  # type: ignore[no-any-return, no-untyped-call]


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.dtype = values.dtype
        total: Tensor = rows.of(values).sum_rows(values.detach().contiguous(), index, num_rows)
        return total.to(torch.promote_types(values.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index).to(ctx.dtype), None, None


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

    The pooled edges are the image of the input's, so there are never more of them (Theorem 1).
    Differentiable with respect to ``edge_weight`` and ``edge_attr``. The graphs of a batch stay
    apart if their supernodes do: see :func:`coarsen_nodes`.

    Args:
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
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
    check_bool("remove_self_loops", remove_self_loops)
    check_num_supernodes(num_supernodes)
    check_cluster(cluster, num_supernodes)
    edge_index = edge_list(edge_index)
    check_edges(edge_index, edge_weight, edge_attr, cluster.size(0))
    needs_position = edge_weight is not None or edge_attr is not None
    pooled, count, position = rows.of(cluster).merge_edges(
        edge_index, cluster, cluster, num_supernodes, num_supernodes, needs_position
    )
    if edge_weight is None:
        weight = count.to(torch.get_default_dtype())
    else:
        weight = sum_rows(edge_weight, position, count.numel()).to(edge_weight.dtype)
    attr = None
    if edge_attr is not None:
        attr = sum_rows(edge_attr, position, count.numel()).to(edge_attr.dtype)
    if remove_self_loops:
        keep = pooled[0] != pooled[1]
        pooled, weight = pooled[:, keep], weight[keep]
        attr = None if attr is None else attr[keep]
    return pooled, weight, attr


def coarsen_nodes(x: Tensor, cluster: Tensor, num_supernodes: int, aggr: str = "sum") -> Tensor:
    r"""Merges the features of each supernode's members: :math:`X' = S^\top X`, or their mean.

    In a batch of B graphs with K clusters each, supernodes are numbered through, so that no two
    graphs share one: ``cluster = batch * K + sample_clusters(logits)``, of ``B * K``.

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
    check_num_supernodes(num_supernodes)
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
        TypeError: If ``x`` is not a tensor or ``cluster`` is not int64.
        ValueError: If ``cluster`` is not a vector, or an id lies outside ``[0, K')``.
    """
    check_supernode_rows("x", x)
    check_cluster(cluster, x.size(0))
    return x[cluster]
