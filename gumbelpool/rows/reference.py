r"""The row functions in plain torch, on any device: what the native ones are compared with.

All tensors are contiguous and on one device. Float tensors of one call share a dtype, float32 or
float64, but for sums, which are float64: a million small terms would not add up in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool.estimators import ESTIMATORS, softmax_vjp

CHUNK = 1 << 20  # edges, or entries of a temporary, that are looked at together on a CPU
SMALL = 1 << 16  # buckets that cost nothing worth a sort
TILE = 32  # rows of one graph that go into one product of a batch of products


class Estimate(NamedTuple):
    """Which estimator, its temperature, and the seed of its noise, 0-dimensional int64."""

    name: str
    tau: float
    seed: Tensor


class Table(NamedTuple):
    """A row of K entries per slot and, behind them, one per graph for its self-loops.

    Attributes:
        value: The entries, ``[T, K]``; or those that are not zero, ``[nnz]``, row by row.
        pointer: Where each row's entries begin, ``[T + 1]``, or ``None`` for all of them.
        column: Their columns, ``[nnz]``, or ``None`` for all of them.
        num_slots: B·K, the first row that is for self-loops.
    """

    value: Tensor
    pointer: Tensor | None
    column: Tensor | None
    num_slots: int


def chunk_size(like: Tensor, width: int = 1) -> int:
    """How many rows of ``width`` entries a temporary may have."""
    return max(1, (CHUNK if like.is_cpu else CHUNK << 5) // max(width, 1))


# --- the draw -----------------------------------------------------------------------------------


def sample_rows(
    logits: Tensor,
    uniform: Tensor | None,
    batch: Tensor,
    entropy: Tensor | None,
    usage: Tensor | None,
) -> Tensor:
    """Draws from each row's softmax, and adds what the losses need of it to the graphs' sums.

    The draw inverts the cumulative sum: the first cluster whose cumulative weight exceeds the
    uniform's share of the total. Since the comparison is strict, a weight of zero is never drawn.

    Args:
        logits: ``[R, K]``; may be overwritten.
        uniform: ``[R]`` in [0, 1), float64; ``None`` takes the largest logit.
        batch: Graph of each row, ``[R]``, ascending.
        entropy: Σ_i H(p_i) is added to it, ``[B]``, float64.
        usage: Σ_i p_i is added to it, ``[B, K]``, float64.

    Returns:
        ``[R]`` int64; −1 for a row that has no softmax (a NaN, +∞, or nothing but −∞).
    """
    probability = torch.softmax(logits, -1)
    bad = probability[:, 0].isnan()
    if entropy is not None:
        each = torch.special.entr(probability).sum(-1, dtype=torch.float64)
        entropy.index_add_(0, batch, each)
    if usage is not None and usage.size(0) == 1:
        usage += probability.sum(0, dtype=torch.float64)
    elif usage is not None:
        usage.index_add_(0, batch, probability.double())
    if uniform is None:
        return logits.argmax(-1).masked_fill_(bad, -1)
    cumulative = probability.cumsum(-1, dtype=torch.float64)
    # Below one by more than a rounding, so that its product with a total is below that total.
    target = uniform.clamp(max=1 - 2.0**-52).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).masked_fill_(bad, -1)


# --- merging and summing ------------------------------------------------------------------------


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
        The distinct keys, ascending, ``[E']``; how many edges have each, ``[E']``; and the position
        among them of each edge, ``[E]``, or ``None``: each int32 where that holds them all.
    """
    num_keys, num_edges = num_major * num_minor, edge_index.size(1)
    if num_keys <= bucket_limit(num_edges):
        return _merge_in_buckets(edge_index, major, minor, num_keys, num_minor, positions)
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
        return key, count, None
    each = torch.repeat_interleave(count, output_size=num_edges)
    position = torch.empty_like(order)
    for start in range(0, num_edges, chunk_size(key)):
        own = slice(start, start + chunk_size(key))
        position[order[own].long()] = each[own].to(dtype)
    return key, count, position


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


def split_keys(key: Tensor, num_minor: int) -> Tensor:
    """Keys taken apart, (major, minor), ``[2, E']`` int64."""
    pairs = torch.empty(2, key.numel(), dtype=torch.int64, device=key.device)
    torch.div(key, max(num_minor, 1), rounding_mode="floor", out=pairs[0])
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


# --- the gradient of the draw -------------------------------------------------------------------


def multiply_rows_(
    g: Tensor,
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    supernode: Tensor,
    batch: Tensor,
    num_graphs: int,
) -> None:
    r"""Writes :math:`\langle m_k, x_i \rangle + b_k` for the supernodes k of row i's graph to g.

    The graphs are cut into tiles of ``TILE`` rows, and one batched product takes them all.

    Args:
        g: ``[R, K]``, R ≥ 1; zero where a graph has no such supernode.
        x: ``[R, C]``.
        matrix: m, ``[K', C]``.
        bias: b, ``[K']``, or ``None``.
        supernode: graph · K + cluster of each row of ``matrix``, ``[K']`` int64, ascending.
        batch: Graph of each row of x, ``[R]`` int64, ascending.
        num_graphs: B.
    """
    num_rows, num_clusters = g.shape
    rows, graph = slice(None), batch
    if batch.is_cpu:  # an accelerator would have to be waited for: there it may be all graphs
        first, stop = int(batch[0]), int(batch[-1]) + 1
        ends = torch.tensor([first * num_clusters, stop * num_clusters])
        rows = slice(*torch.searchsorted(supernode, ends).tolist())
        num_graphs, graph = stop - first, batch - first
        supernode = supernode[rows] - first * num_clusters
    slots = matrix.new_zeros(num_graphs * num_clusters, matrix.size(1) + 1)
    slots[:, :-1].index_copy_(0, supernode, matrix[rows])
    if bias is not None:
        slots[:, -1].index_copy_(0, supernode, bias[rows])

    start = torch.searchsorted(graph, torch.arange(num_graphs + 1, device=g.device))
    tiles = (start.diff() + (TILE - 1)) // TILE
    last = tiles.cumsum(0)
    num_tiles = num_rows // TILE + num_graphs  # at least as many as are needed
    tile = torch.arange(num_tiles, device=g.device)
    of_tile = torch.searchsorted(last, tile, right=True).clamp_(max=num_graphs - 1)
    # A graph's last tile runs on into the next graph; what comes out there is not looked at.
    shift = start[:-1] - (last - tiles) * TILE
    node = (tile * TILE + shift.index_select(0, of_tile)).unsqueeze(1)
    node = (node + torch.arange(TILE, device=g.device)).clamp_(max=num_rows - 1)
    own = slots.view(num_graphs, num_clusters, -1).index_select(0, of_tile)
    product = torch.baddbmm(
        own[:, :, -1].unsqueeze(1),
        x.index_select(0, node.view(-1)).view(num_tiles, TILE, -1),
        own[:, :, :-1].transpose(1, 2),
    )
    position = torch.arange(num_rows, device=g.device) - shift.index_select(0, graph)
    torch.index_select(product.view(-1, num_clusters), 0, position, out=g)


def add_edges_(
    g: Tensor,
    first_row: int,
    near: Tensor,
    far: Tensor,
    value: Tensor | None,
    slot: Tensor,
    table: Table,
) -> None:
    """Adds to g, for each edge, its value times the table's row for the node at its other end.

    Args:
        g: ``[R, K]``.
        first_row: The node of its first row.
        near: The node at this end, ``[e]`` int64, in [first_row, first_row + R), in any order.
        far: The node at the other end, ``[e]`` int64.
        value: ``[e]``, or ``None`` for ones.
        slot: graph · K + cluster of all nodes, ``[N]`` int64.
        table: The rows; an edge from a node to itself takes that of its graph's self-loops.
    """
    row = slot.index_select(0, far)
    row = torch.where(near == far, table.num_slots + row // g.size(1), row)
    near = near - first_row
    if table.pointer is None or table.column is None:
        size = chunk_size(g, g.size(1))
        for start in range(0, near.numel(), size):
            own = slice(start, start + size)
            step = table.value.index_select(0, row[own])
            if value is not None:
                step *= value[own].unsqueeze(1)
            g.index_add_(0, near[own], step)
        return
    first = table.pointer.index_select(0, row)
    count = table.pointer.index_select(0, row + 1) - first
    last = count.cumsum(0)
    shift, position = first - last + count, near * g.size(1)
    total, size = int(last[-1]) if last.numel() else 0, chunk_size(g)
    for start in range(0, total, size):
        entry = torch.arange(start, min(start + size, total), device=g.device)
        edge = torch.searchsorted(last, entry, right=True)
        entry += shift.index_select(0, edge)
        step = table.value.index_select(0, entry)
        if value is not None:
            step *= value.index_select(0, edge)
        to = table.column.index_select(0, entry) + position.index_select(0, edge)
        g.view(-1).index_add_(0, to, step)


def row_gradient_(
    g: Tensor,
    logits: Tensor,
    cluster: Tensor,
    first_row: int,
    estimate: Estimate,
    batch: Tensor,
    entropy_slope: Tensor | None,
    usage_slope: Tensor | None,
) -> None:
    r"""Turns :math:`g = \partial L / \partial S` into :math:`\partial L / \partial \theta`.

    The draw's part goes by the estimator. The gradients of the statistics go through p itself:
    that of Σ H(p_i) is J(p) (−θ_i), that of Σ p_i is J(p).

    Args:
        g: ``[R, K]``; overwritten with the result.
        logits: ``[R, K]``; may be overwritten.
        cluster: The draws, ``[R]`` int64, in [0, K).
        first_row: The node of the first row, which the noise depends on.
        estimate: The estimator.
        batch: Graph of each row, ``[R]``, ascending.
        entropy_slope: Gradient of the entropies, ``[B]``, or ``None``.
        usage_slope: Gradient of the usages, ``[B, K]``, or ``None``.
    """

    def noise(sample: int) -> Tensor:
        return exponential_noise(estimate.seed, sample, first_row, logits)

    total = ESTIMATORS[estimate.name](g, logits, cluster, estimate.tau, noise)
    if entropy_slope is not None or usage_slope is not None:
        probability = torch.softmax(logits, -1)
        slope = torch.zeros_like(g)
        if usage_slope is not None:
            slope += usage_slope.index_select(0, batch)
        if entropy_slope is not None:
            # log p is θ up to a constant; p log p is zero where p is.
            each = torch.where(probability > 0, torch.log_softmax(logits, -1), 0)
            slope -= each.mul_(entropy_slope.index_select(0, batch).unsqueeze(1))
        total += softmax_vjp(probability, slope)
    g.copy_(total)


# --- noise --------------------------------------------------------------------------------------


def exponential_noise(seed: Tensor, sample: int, first_row: int, like: Tensor) -> Tensor:
    r"""Exp(1) noise in the shape and dtype of ``like``, a function of (seed, sample, row, column).

    Entry (i, j) is made of the word :math:`h_{ij} = m_i b_j \bmod 2^{32}`, with random odd
    :math:`m_i` and :math:`b_j`. Given :math:`m_i`, :math:`b_j \mapsto h_{ij}` is a bijection of the
    odd words, so that the entries of a row are independent and uniform over them: the law of a row
    is exact, up to float32's own resolution. Any two entries of different rows are independent as
    well. Never zero, so that its logarithm is finite.
    """
    num_rows, num_columns = like.shape
    rows = _odd_words(seed, 2 * sample, first_row, num_rows).unsqueeze(1)
    words = rows * _odd_words(seed, 2 * sample + 1, 0, num_columns)
    uniform = (words >> 1).bitwise_and_(2**31 - 1).to(like.dtype)
    # In (0, 1): below one by more than float32 rounds the largest words.
    return uniform.mul_(2.0**-31 * (1 - 2.0**-24)).add_(2.0**-32).log_().neg_()


def _odd_words(seed: Tensor, stream: int, first: int, count: int) -> Tensor:
    """The upper halves of SplitMix64 (Steele et al. 2014), made odd, ``[count]`` int32."""
    index = torch.arange(first, first + count, device=seed.device)
    word = seed + _int64(0xD1B54A32D192ED03 * stream) + index * _int64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ _shifted(word, shift)) * _int64(factor)
    return ((word ^ _shifted(word, 31)) >> 32).int().bitwise_or_(1)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """The word shifted right with zeros coming in, as if it were unsigned."""
    return (word >> bits) & (2 ** (64 - bits) - 1)


def _int64(value: int) -> int:
    """The int64 of the same low 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
