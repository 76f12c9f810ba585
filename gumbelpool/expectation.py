r"""Mean and variance of what a draw gives, in closed form, and how fast an average converges.

The proofs are in ``docs/theory.md``, sections 2 to 4. All sums run over nodes and edges; no N×N
matrix is formed. The probabilities are held whole, ``[N, K]``: this is for analysis, not for
training. Those of a layer are ``pool.lin(x).softmax(-1)``; the results have all K clusters of every
graph, as the layer's have unless ``drop_empty=True``. Everything is differentiable with respect to
the floating arguments.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from gumbelpool.adjacency import edge_list
from gumbelpool.coarsen import count_rows, sum_rows
from gumbelpool.validation import (
    check_batch,
    check_devices,
    check_edges,
    check_features,
    check_in,
    check_length,
    check_not_negative,
    check_open_share,
    check_positive_int,
    check_probability,
    check_variance,
    check_within_graphs,
)

METHODS = ("hoeffding", "bernstein", "mcdiarmid")


def expected_features(
    x: Tensor, probability: Tensor, batch: Tensor | None = None, batch_size: int | None = None
) -> Tensor:
    r"""The mean of the pooled features, :math:`\mathbb{E}[S^\top X] = P^\top X` (Theorem 2).

    Args:
        x: Node features, ``[N, F]``.
        probability: P, the rows of which are the nodes' probabilities, ``[N, K]``.
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        ``[B, K, F]``.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ``batch`` is unsorted, or a row of ``probability`` is none.
    """
    check_features("x", x)
    check_features("probability", probability, symbol="K")
    check_devices(x, probability=probability)
    sizes, _ = _read_graphs(probability, x.size(0), batch, batch_size)
    dtype = torch.promote_types(x.dtype, probability.dtype)
    return _products(probability.to(dtype), x.to(dtype), sizes)


def expected_adjacency(
    edge_index: Tensor,
    probability: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""The mean of the pooled adjacency (Theorem 2).

    .. math::
        \mathbb{E}[S^\top A S] = P^\top A_0 P + \mathrm{diag}(P^\top a)

    where a are the self-loops and A₀ is the rest. Without self-loops it is DiffPool's
    :math:`P^\top A P`.

    Args:
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
        probability: P, ``[N, K]``.
        edge_weight: ``[E]``. (default: ones)
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        ``[B, K, K]``.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ``batch`` is unsorted, an edge is not inside a graph, or a
            row of ``probability`` is none.
    """
    sizes, edges = _read_edges(edge_index, probability, edge_weight, batch, batch_size)
    sent = _multiply(edges.index, edges.weight, probability)
    mean = _products(probability, sent, sizes)
    return mean + torch.diag_embed(_products(probability, edges.loops.unsqueeze(1), sizes)[..., 0])


def adjacency_variance(
    edge_index: Tensor,
    probability: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""The variance of each entry of the pooled adjacency :math:`S^\top A S` (Theorem 3).

    Edges that are listed more than once are added up first. Takes O((N + E)·K²) time and
    O((N + E)·K) memory.

    Args:
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
        probability: P, ``[N, K]``.
        edge_weight: ``[E]``. (default: ones)
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        ``[B, K, K]``.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ``batch`` is unsorted, an edge is not inside a graph, or a
            row of ``probability`` is none.
    """
    sizes, edges = _read_edges(edge_index, probability, edge_weight, batch, batch_size)
    P, V = probability, probability * (1 - probability)
    R = _multiply(edges.index, edges.weight, P)
    C = _multiply(edges.index.flip(0), edges.weight, P)
    square = _products(V, _multiply(edges.index, edges.weight.square(), V), sizes)
    both_ways = edges.weight * edges.reverse

    # k ≠ l
    variance = _products(V, R.square(), sizes) + _products(C.square(), V, sizes)
    variance = variance - 2 * _products(P * C, P * R, sizes) + square
    columns = []
    for k in range(P.size(1)):
        pairs = P[:, k : k + 1] * P  # p_ik p_il for all l
        there = _multiply(edges.index, both_ways, pairs)
        columns.append(_sums(pairs * there, sizes))
    variance = variance + torch.stack(columns, dim=1)

    # k = l
    linear = R + C + edges.loops.unsqueeze(1)
    diagonal = _sums(linear.square() * V, sizes)
    diagonal = diagonal + _sums(V * _multiply(edges.index, both_ways, V), sizes)
    diagonal = diagonal + square.diagonal(dim1=1, dim2=2)
    same = torch.eye(P.size(1), dtype=torch.bool, device=P.device)
    return torch.where(same, torch.diag_embed(diagonal), variance)


def samples_for_error(
    error: float,
    failure: float,
    num_clusters: int,
    method: Literal["hoeffding", "bernstein", "mcdiarmid"] = "hoeffding",
    *,
    variance: Tensor | float | None = None,
    edge_index: Tensor | None = None,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> int:
    r"""How many draws bring the average pooled adjacency close to its mean (Theorem 4).

    With at least that many, all K² entries are off by at most ``error`` · W at once, with
    probability at least 1 − ``failure``, where W is the sum of the edge weights, which must not be
    negative. In a batch that holds for all B·K² entries of all graphs at once, each against the W
    of its own graph.

    Args:
        error: ε, relative to W, in (0, 1).
        failure: δ, in (0, 1).
        num_clusters: K.
        method: ``"hoeffding"`` needs nothing else and does not depend on the graph;
            ``"bernstein"`` uses ``variance``; ``"mcdiarmid"`` uses the edges, and asks for fewer
            samples the larger the graph is. (default: ``"hoeffding"``)
        variance: The largest variance of an entry, relative to W²: the maximum of
            :func:`adjacency_variance` over W squared, over the graphs.
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
        edge_weight: ``[E]``. (default: ones)
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        The number of samples M, at least 1.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, ``method`` is unknown or what it needs is missing,
            a weight is negative, ``batch`` is unsorted, or an edge joins two graphs.
    """
    check_open_share("error", error)
    check_open_share("failure", failure)
    check_positive_int("num_clusters", num_clusters)
    check_in("method", method, METHODS)
    check_batch(batch, batch_size, None)
    batch_size = _count_graphs(batch, batch_size)
    logarithm = math.log(2 * max(1, batch_size) * int(num_clusters) ** 2) - math.log(failure)
    if method == "hoeffding":
        factor = 0.5
    elif method == "bernstein":
        check_variance(variance)
        assert variance is not None
        factor = 2 * float(variance) + 2 * error / 3
    else:
        if edge_index is None:
            raise ValueError("edge_index must be given for 'mcdiarmid'; got None")
        factor = _bounded_differences(edge_list(edge_index), edge_weight, batch, batch_size) / 2
    samples = factor * logarithm / error / error
    if samples == math.inf:
        raise ValueError(f"error must be large enough for a finite number; got {error}")
    return max(1, math.ceil(samples))


def _bounded_differences(
    edge_index: Tensor, edge_weight: Tensor | None, batch: Tensor | None, batch_size: int
) -> float:
    """The largest Σ d_i² / W² of a graph, d_i being what the edges at node i weigh."""
    check_edges(edge_index, edge_weight, None, None if batch is None else batch.numel())
    if batch is None:
        num_nodes = int(edge_index.max()) + 1 if edge_index.numel() > 0 else 0
        batch = torch.zeros(num_nodes, dtype=torch.int64, device=edge_index.device)
    num_nodes = batch.numel()
    check_devices(edge_index, "edge_index", edge_weight=edge_weight, batch=batch)
    check_within_graphs(edge_index, batch)
    weight = torch.ones(edge_index.size(1), device=edge_index.device)
    weight = (weight if edge_weight is None else edge_weight).double()
    check_not_negative("edge_weight", weight)
    total = sum_rows(weight, batch[edge_index[0]], batch_size)
    loop = edge_index[0] == edge_index[1]
    ends = torch.cat([edge_index[0], edge_index[1][~loop]])
    difference = sum_rows(torch.cat([weight, weight[~loop]]), ends, num_nodes)
    squares = sum_rows(difference.square(), batch, batch_size)
    shares = squares[total > 0] / total[total > 0].square()
    return float(shares.max()) if shares.numel() > 0 else 0.0


class _Edges:
    """Distinct edges without self-loops, the weights of their reverses, and the self-loops."""

    def __init__(self, edge_index: Tensor, weight: Tensor, num_nodes: int) -> None:
        index, weight = coalesce(edge_index, weight, num_nodes)
        loop = index[0] == index[1]
        self.loops = sum_rows(weight[loop], index[0, loop], num_nodes).to(weight.dtype)
        self.index, self.weight = index[:, ~loop], weight[~loop]
        key = self.index[0] * num_nodes + self.index[1]  # ascending, since coalesced
        wanted = self.index[1] * num_nodes + self.index[0]
        at = torch.searchsorted(key, wanted).clamp_(max=max(key.numel() - 1, 0))
        self.reverse = torch.where(key[at] == wanted, self.weight[at], 0)


def _count_graphs(batch: Tensor | None, batch_size: int | None) -> int:
    """B."""
    if batch is None:
        return 1
    if batch_size is None:
        return int(batch[-1]) + 1 if batch.numel() > 0 else 0
    return batch_size


def _read_graphs(
    probability: Tensor, num_nodes: int, batch: Tensor | None, batch_size: int | None
) -> tuple[list[int], Tensor]:
    """The number of nodes of each graph, and the graph of each node."""
    check_length("probability", probability, "x", num_nodes)
    check_probability(probability)
    check_batch(batch, batch_size, num_nodes, "probability")
    check_devices(probability, "probability", batch=batch)
    if batch is None:
        return [num_nodes], torch.zeros(num_nodes, dtype=torch.int64, device=probability.device)
    sizes: list[int] = count_rows(batch, _count_graphs(batch, batch_size)).tolist()
    return sizes, batch


def _read_edges(
    edge_index: Tensor,
    probability: Tensor,
    edge_weight: Tensor | None,
    batch: Tensor | None,
    batch_size: int | None,
) -> tuple[list[int], _Edges]:
    check_features("probability", probability, symbol="K")
    num_nodes = probability.size(0)
    edge_index = edge_list(edge_index)
    check_edges(edge_index, edge_weight, None, num_nodes)
    check_devices(probability, "probability", edge_index=edge_index, edge_weight=edge_weight)
    sizes, graph = _read_graphs(probability, num_nodes, batch, batch_size)
    check_within_graphs(edge_index, graph)
    weight = probability.new_ones(edge_index.size(1)) if edge_weight is None else edge_weight
    return sizes, _Edges(edge_index, weight.to(probability.dtype), num_nodes)


def _multiply(index: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """A Y: each node sums the rows of the nodes that its edges go to."""
    steps = rows.index_select(0, index[1]) * weight.unsqueeze(1)
    return rows.new_zeros(rows.shape).index_add(0, index[0], steps)


def _products(left: Tensor, right: Tensor, sizes: list[int]) -> Tensor:
    """YᵀZ of each graph, ``[B, K, ...]``."""
    pairs = zip(torch.split(left, sizes), torch.split(right, sizes), strict=True)
    products = [y.t() @ z for y, z in pairs]
    return torch.stack(products) if products else left.new_zeros(0, left.size(1), right.size(1))


def _sums(rows: Tensor, sizes: list[int]) -> Tensor:
    """The sum of each graph's rows, ``[B, K]``."""
    parts = [part.sum(0) for part in torch.split(rows, sizes)]
    return torch.stack(parts) if parts else rows.new_zeros(0, rows.size(1))
