"""The row functions that look at edges and sum rows, in plain torch: part of the reference."""

import torch
from torch import Tensor

CHUNK = 1 << 20  # edges, or entries of a temporary, that are looked at together on a CPU
SMALL = 1 << 16  # buckets that cost nothing worth a sort


def check_graphs(edge_index: Tensor, batch: Tensor, num_graphs: int) -> bool:
    """Whether these are graphs one after the other, without an edge that leads out of one.

    Args:
        edge_index: ``[2, E]``, int64.
        batch: Graph of each node, ``[N]``, int64.
        num_graphs: B.

    Returns:
        Whether ``batch`` ascends within [0, B), and both ends of each edge lie within [0, N) and
        in one graph; one device sync.
    """
    num_nodes = batch.size(0)
    if num_nodes == 0:
        return edge_index.size(1) == 0
    valid = (batch[1:] >= batch[:-1]).all() & (batch[0] >= 0) & (batch[-1] < num_graphs)
    for edges in torch.split(edge_index, chunk_size(edge_index), dim=1):
        nearest = edges.clamp(0, num_nodes - 1)
        source, target = batch.index_select(0, nearest.reshape(-1)).view(2, -1)
        valid &= (edges == nearest).all() & (source == target).all()
    return bool(valid)


def merge_edges(
    edge_index: Tensor,
    major: Tensor,
    minor: Tensor,
    num_major: int,
    num_minor: int,
    positions: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Finds the distinct keys (major of the source) · num_minor + (minor of the target).

    Where possible keys are few, edges are counted into a bucket for each, which sorts nothing.
    Elsewhere the keys are sorted, as the narrowest integers that hold them all. The choice depends
    on sizes alone.

    Args:
        edge_index: ``[2, E]``, int64.
        major: An id for each node as a source, ``[N]``, int64, in [0, num_major).
        minor: An id for each node as a target, ``[N]``, int64, in [0, num_minor).
        num_major: Bound of ``major``.
        num_minor: Bound of ``minor``.
        positions: Whether the position of each edge is asked for.

    Returns:
        The distinct pairs that the keys are made of, ``[2, E']`` int64, ascending; how many edges
        have each, ``[E']``; and the position among them of each edge, ``[E]``, or ``None``: both
        int32 where that holds them all.
    """
    num_keys, num_edges = num_major * num_minor, edge_index.size(1)
    if num_keys <= bucket_limit(num_edges):
        key, count, position = _merge_in_buckets(
            edge_index, major, minor, num_keys, num_minor, positions
        )
        return _split_keys(key, num_minor), count, position
    dtype = index_dtype(num_edges + 1)
    if index_dtype(num_keys) == torch.int32:
        key = _keys(edge_index, major.int(), minor.int(), num_minor, slice(None))
        key, order = key.sort()
        order = order.to(dtype) if positions else order[:0]
    else:
        key, order = _sort_twice(edge_index, major, minor, num_major, num_minor)
    key, count = torch.unique_consecutive(key, return_counts=True)
    count = count.to(dtype)
    if not positions:
        return _split_keys(key, num_minor), count, None
    each = torch.repeat_interleave(count, output_size=num_edges)
    position = torch.empty_like(order)
    for start in range(0, num_edges, chunk_size(key)):
        own = slice(start, start + chunk_size(key))
        position[order[own].long()] = each[own].to(dtype)
    del each, order
    return _split_keys(key, num_minor), count, position


def bucket_limit(num_edges: int) -> int:
    """How many keys may have a bucket each: twice the edges still take less memory than they."""
    return max(2 * num_edges, SMALL)


def index_dtype(bound: int) -> torch.dtype:
    """The narrowest dtype that holds the integers below ``bound`` and that indexes a tensor."""
    return torch.int32 if bound <= 2**31 else torch.int64


def _keys(
    edge_index: Tensor, major: Tensor, minor: Tensor, num_minor: int, edges: slice | Tensor
) -> Tensor:
    source, target = edge_index
    key = major.index_select(0, source[edges])
    return key.mul_(num_minor).add_(minor.index_select(0, target[edges]))


def _merge_in_buckets(
    edge_index: Tensor, major: Tensor, minor: Tensor, num_keys: int, num_minor: int, positions: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    num_edges, size = edge_index.size(1), chunk_size(edge_index)
    chunks = [slice(start, start + size) for start in range(0, num_edges, size)]
    dtype = index_dtype(max(num_keys, num_edges + 1))
    major, minor = major.to(dtype), minor.to(dtype)
    bucket = torch.zeros(num_keys, dtype=dtype, device=edge_index.device)
    one = bucket.new_ones(1)
    for edges in chunks:
        key = _keys(edge_index, major, minor, num_minor, edges)
        bucket.index_add_(0, key, one.expand(key.numel()))
    key = bucket.nonzero().squeeze(1).to(dtype)
    count = bucket.index_select(0, key)
    if not positions:
        return key, count, None
    bucket.index_copy_(0, key.long(), torch.arange(key.numel(), dtype=dtype, device=key.device))
    position = torch.empty(num_edges, dtype=dtype, device=key.device)
    for edges in chunks:
        own = _keys(edge_index, major, minor, num_minor, edges)
        torch.index_select(bucket, 0, own, out=position[edges])
    return key, count, position


def _sort_twice(
    edge_index: Tensor, major: Tensor, minor: Tensor, num_major: int, num_minor: int
) -> tuple[Tensor, Tensor]:
    """All keys in ascending order, and the edge that each is of.

    Two sorts of narrow integers, by the minor and then by the major, take less memory than one.
    """
    source, target = edge_index
    dtype = index_dtype(edge_index.size(1) + 1)
    narrow = minor.to(index_dtype(num_minor)).index_select(0, target)
    order = narrow.sort().indices.to(dtype)
    del narrow
    narrow = major.to(index_dtype(num_major)).index_select(0, source.index_select(0, order))
    order = order.index_select(0, narrow.sort(stable=True).indices)
    del narrow
    key = torch.empty(order.numel(), dtype=torch.int64, device=order.device)
    for start in range(0, order.numel(), chunk_size(key)):
        own = slice(start, start + chunk_size(key))
        key[own] = _keys(edge_index, major, minor, num_minor, order[own].long())
    return key, order


def _split_keys(key: Tensor, num_minor: int) -> Tensor:
    pairs = torch.empty(2, key.numel(), dtype=torch.int64, device=key.device)
    torch.div(key, max(num_minor, 1), rounding_mode="trunc", out=pairs[0])
    torch.add(key, pairs[0], alpha=-num_minor, out=pairs[1])
    return pairs


def sum_rows(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """Sums the rows of ``values`` that share an ``index``.

    Args:
        values: ``[M, ...]``, of any floating dtype.
        index: ``[M]``, int32 or int64, in [0, num_rows).
        num_rows: Rows of the result.

    Returns:
        ``[num_rows, ...]`` float64.
    """
    total = values.new_zeros((num_rows, *values.shape[1:]), dtype=torch.float64)
    size = chunk_size(values, values[:1].numel())
    for start in range(0, values.size(0), size):
        own = slice(start, start + size)
        total.index_add_(0, index[own], values[own].double())
    return total


def chunk_size(like: Tensor, width: int = 1) -> int:
    """How many rows of ``width`` entries a temporary may have."""
    return max(1, (CHUNK if like.is_cpu else CHUNK << 5) // max(width, 1))
