r"""The row functions in plain torch, on any device: what the native ones are compared with.

All tensors are contiguous and on one device. Float tensors of one call share a dtype, float32 or
float64, but for sums, which are float64: a million small terms would not add up in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool.estimators import ESTIMATORS, softmax_vjp
from gumbelpool.rows.merging import check_graphs, chunk_size, merge_edges, sum_rows
from gumbelpool.rows.noise import exponential_noise

__all__ = [
    "Estimate",
    "Table",
    "add_edges_",
    "check_graphs",
    "exponential_noise",
    "merge_edges",
    "multiply_rows_",
    "row_gradient_",
    "sample_rows",
    "sum_rows",
]

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
        logits: ``[R, K]``; not written to, as they may be needed again.
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
    slots = matrix[rows]
    if bias is not None:
        slots = torch.cat([slots, bias[rows].unsqueeze(1)], dim=1)
    if slots.size(0) < num_graphs * num_clusters:
        every = slots.new_zeros(num_graphs * num_clusters, slots.size(1))
        slots = every.index_copy_(0, supernode, slots)

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
    tiled = x.index_select(0, node.view(-1)).view(num_tiles, TILE, -1)
    own = slots.view(num_graphs, num_clusters, -1).index_select(0, of_tile).transpose(1, 2)
    if bias is None:
        product = torch.bmm(tiled, own)
    else:
        product = torch.baddbmm(own[:, -1:], tiled, own[:, :-1])
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
    near = near - first_row if first_row else near
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
        logits: ``[R, K]``; not written to, as they may be needed again.
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
    if usage_slope is not None:
        total += softmax_vjp(probability, usage_slope.index_select(0, batch))
    if entropy_slope is not None:
        each = torch.special.entr(probability)  # −p log p, and zero where p is
        each.addcmul_(probability, each.sum(-1, keepdim=True), value=-1)
        total += each.mul_(entropy_slope.index_select(0, batch).unsqueeze(1))
    g.copy_(total)
