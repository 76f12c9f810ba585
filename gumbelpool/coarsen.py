"""Given a cluster of each node: merge nodes, merge edges, and lift features back."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gumbelpool.adjacency import edge_list
from gumbelpool.validation import (
    check_cluster,
    check_edges,
    check_features,
    check_in,
    check_num_supernodes,
)

CHUNK = 1 << 20  # edges that are looked at together
SMALL = 1 << 16  # buckets that cost nothing worth a sort
RADIX = 1 << 15


def index_dtype(bound: int) -> torch.dtype:
    """The narrowest dtype that holds the integers below ``bound`` and that indexes a tensor."""
    return torch.int32 if bound <= 2**31 else torch.int64


def narrowest_dtype(bound: int) -> torch.dtype:
    """The narrowest dtype that holds the integers below ``bound``."""
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if bound <= torch.iinfo(dtype).max + 1:
            return dtype
    return torch.int64


def sum_rows(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """Sums the rows of ``values`` that share an ``index``, in float32 at least."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = torch.zeros((num_rows, *values.shape[1:]), dtype=dtype, device=values.device)
    return total.index_add(0, index, values.to(dtype))


def count_rows(index: Tensor, num_rows: int) -> Tensor:
    """How often each of [0, num_rows) occurs, ``[num_rows]`` int64, without a device sync."""
    count = torch.zeros(num_rows, dtype=torch.int64, device=index.device)
    return count.index_add_(0, index, count.new_ones(1).expand(index.numel()))


def stable_order(index: Tensor, bound: int) -> Tensor:
    """The positions that sort integers in [0, bound), those of equal ones in their order."""
    narrow = index.to(narrowest_dtype(bound + 1))
    if index.is_cpu and RADIX // 4 < index.numel() < RADIX:
        # torch sorts by radix from that many entries on, which is five times faster.
        narrow = torch.cat([narrow, narrow.new_full((RADIX - index.numel(),), bound)])
    return narrow.sort(stable=True).indices[: index.numel()]


class EdgeMerger:
    """Finds the distinct pairs (major of the source, minor of the target) of the edges.

    Such pairs are integer keys, major · num_minor + minor. Where they are few, edges are counted
    into one bucket per possible key, which sorts nothing. Elsewhere the keys are sorted, as the
    narrowest integers that hold them all. The choice depends on sizes alone.

    Args:
        edge_index: ``[2, E]``.
        major: An id for each node as a source, ``[N]``, in [0, num_major).
        minor: An id for each node as a target, ``[N]``, in [0, num_minor).
        num_major: Bound of ``major``.
        num_minor: Bound of ``minor``.

    Attributes:
        key: The distinct keys, ascending, ``[E']``.
        count: How many edges have each, ``[E']``.
    """

    def __init__(
        self, edge_index: Tensor, major: Tensor, minor: Tensor, num_major: int, num_minor: int
    ) -> None:
        num_keys, num_edges = num_major * num_minor, edge_index.size(1)
        self.edge_index, self.num_minor, self.num_keys = edge_index, num_minor, num_keys
        # Twice as many buckets still take less memory than the edges themselves.
        self.in_buckets = num_keys <= max(2 * num_edges, SMALL)
        self.major, self.minor = major, minor
        if self.in_buckets:
            self.major = major.to(index_dtype(num_keys))
            self.minor = minor.to(index_dtype(num_keys))
            count_dtype = index_dtype(num_edges + 1)
            buckets = torch.zeros(num_keys, dtype=count_dtype, device=edge_index.device)
            for edges in self._chunks():
                key = self._key(edges)
                buckets.index_add_(0, key, buckets.new_ones(1).expand(key.numel()))
            self.key = buckets.nonzero().squeeze(1).to(index_dtype(num_keys))
            self.count = buckets.index_select(0, self.key)
        else:
            ordered, self.order = self._sorted_keys(num_major)
            self.key, count = torch.unique_consecutive(ordered, return_counts=True)
            self.count = count.to(index_dtype(num_edges + 1))

    def _chunks(self) -> list[slice]:
        """Slices of the edges, so that what is computed for each edge takes little memory."""
        num_edges = self.edge_index.size(1)
        return [slice(start, min(start + CHUNK, num_edges)) for start in range(0, num_edges, CHUNK)]

    def _key(self, edges: slice) -> Tensor:
        source, target = self.edge_index[:, edges]
        key = self.major.index_select(0, source)
        return key.mul_(self.num_minor).add_(self.minor.index_select(0, target))

    def _sorted_keys(self, num_major: int) -> tuple[Tensor, Tensor]:
        """All keys in ascending order, and the edge that each is of."""
        dtype = index_dtype(self.edge_index.size(1))
        if index_dtype(self.num_keys) == torch.int32:
            self.major, self.minor = self.major.int(), self.minor.int()
            ordered, order = self._key(slice(None)).sort()
            return ordered, order.to(dtype)
        # Two sorts of narrow integers, by the minor and then by the major, take less memory.
        source, target = self.edge_index
        minor = self.minor.to(index_dtype(self.num_minor)).index_select(0, target)
        order = minor.sort().indices.to(dtype)
        del minor
        major = self.major.to(index_dtype(num_major)).index_select(0, source.index_select(0, order))
        order = order.index_select(0, major.sort(stable=True).indices)
        del major
        ordered = torch.empty(order.numel(), dtype=torch.int64, device=order.device)
        for edges in self._chunks():
            own = order[edges]
            torch.mul(
                self.major.index_select(0, source.index_select(0, own)), self.num_minor,
                out=ordered[edges],
            )  # fmt: skip
            ordered[edges] += self.minor.index_select(0, target.index_select(0, own))
        return ordered, order

    def pairs(self) -> Tensor:
        """``key`` taken apart, (major, minor), ``[2, E']`` int64."""
        pairs = torch.empty(2, self.key.numel(), dtype=torch.int64, device=self.key.device)
        torch.div(self.key, self.num_minor, rounding_mode="floor", out=pairs[0])
        torch.add(self.key, pairs[0], alpha=-self.num_minor, out=pairs[1])
        return pairs

    def edges(self) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """All edges, some at a time: which they are, and the position in ``key`` of each."""
        if self.in_buckets:
            position = torch.arange(self.key.numel(), dtype=torch.int32, device=self.key.device)
            of_key = torch.empty(self.num_keys, dtype=torch.int32, device=self.key.device)
            of_key.index_copy_(0, self.key.long(), position)
            for edges in self._chunks():
                yield edges, of_key.index_select(0, self._key(edges))
        else:
            each = torch.repeat_interleave(self.count, output_size=self.edge_index.size(1))
            for edges in self._chunks():
                yield self.order[edges], each[edges]

    def sum(self, values: Tensor) -> Tensor:
        """Sums edge values ``[E, ...]`` over equal keys, ``[E', ...]``, in float32 at least."""
        dtype = torch.promote_types(values.dtype, torch.float32)
        shape = (self.key.numel(), *values.shape[1:])
        total = torch.zeros(shape, dtype=dtype, device=values.device)
        for edges, position in self.edges():
            own = values[edges] if isinstance(edges, slice) else values.index_select(0, edges)
            total.index_add_(0, position, own.to(dtype))
        return total


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
    with respect to ``edge_weight`` and ``edge_attr``. The graphs of a batch stay apart if their
    supernodes do: see :func:`coarsen_nodes`.

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
    check_num_supernodes(num_supernodes)
    check_cluster(cluster, num_supernodes)
    edge_index = edge_list(edge_index)
    check_edges(edge_index, edge_weight, edge_attr, cluster.size(0))
    merger = EdgeMerger(edge_index, cluster, cluster, num_supernodes, num_supernodes)
    if edge_weight is None:
        weight = merger.count.to(torch.get_default_dtype())
    else:
        weight = merger.sum(edge_weight).to(edge_weight.dtype)
    attr = None if edge_attr is None else merger.sum(edge_attr).to(edge_attr.dtype)
    pooled = merger.pairs()
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
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [K', ...]; got {type(x).__name__}")
    check_cluster(cluster, x.size(0))
    return x[cluster]
