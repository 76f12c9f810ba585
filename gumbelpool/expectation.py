r"""Mean and variance of what a draw gives, in closed form.

The proofs are in ``docs/theory.md``, sections 2, 3 and 6. All sums run over nodes and edges; no N×N
matrix is formed. The probabilities are held whole, ``[N, K]``: this is for analysis, not for
training. Those of a layer are ``pool.lin(x).softmax(-1)``; the results have all K clusters of every
graph, as the layer's have unless ``drop_empty=True``. Everything is differentiable with respect to
the floating arguments.
"""

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
    check_length,
    check_not_negative,
    check_probability,
    check_within_graphs,
)


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


def expected_modularity(
    edge_index: Tensor,
    probability: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""The mean of the modularity Q of the drawn clusters (Theorem 7).

    Args:
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
        probability: P, ``[N, K]``.
        edge_weight: ``[E]``, not negative. (default: ones)
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        ``[B]``; zero for a graph without edges.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ``batch`` is unsorted, an edge is not inside a graph, a
            weight is negative, or a row of ``probability`` is none.
    """
    sizes, edges = _read_edges(edge_index, probability, edge_weight, batch, batch_size)
    check_not_negative("edge_weight", edge_weight)
    P = probability
    out, into = edges.scale(sizes)
    inside = (P * _multiply(edges.index, edges.weight, P)).sum(1, keepdim=True)
    alone = edges.loops.unsqueeze(1) - out * into * (1 - P.square().sum(1, keepdim=True))
    volumes = _sums(out * P, sizes) * _sums(into * P, sizes)
    return _sums(inside + alone, sizes)[:, 0] - volumes.sum(1)


def modularity_variance(
    edge_index: Tensor,
    probability: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""The variance of the modularity Q of the drawn clusters (Theorem 7).

    Takes O(E·K + N·K²) time.

    Args:
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
        probability: P, ``[N, K]``.
        edge_weight: ``[E]``, not negative. (default: ones)
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        ``[B]``; zero for a graph without edges.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ``batch`` is unsorted, an edge is not inside a graph, a
            weight is negative, or a row of ``probability`` is none.
    """
    sizes, edges = _read_edges(edge_index, probability, edge_weight, batch, batch_size)
    check_not_negative("edge_weight", edge_weight)
    P = probability
    out, into = edges.scale(sizes)

    # What is linear in each row's deviation from p_i.
    chance = _each(_sums(into * P, sizes), sizes) * out + _each(_sums(out * P, sizes), sizes) * into
    slope = _multiply(edges.index, edges.weight, P) - chance + 2 * out * into * P
    slope = slope + _multiply(edges.index.flip(0), edges.weight, P)
    linear = (P * slope.square()).sum(1) - (P * slope).sum(1).square()

    # What is a product of two rows': of the pairs that an edge joins, and of all by their volumes.
    row, col = edges.index
    pairs = out[row] * into[col] + into[row] * out[col]
    joined = edges.weight * (edges.weight + edges.reverse - 2 * pairs[:, 0])
    joined = sum_rows(joined * _covariance_product(P[row], P[col]), row, len(P)).to(P.dtype)
    own = 2 * (out * into).square()[:, 0] * _covariance_product(P, P)
    between = (_covariances(out.square(), P, sizes) * _covariances(into.square(), P, sizes)) + (
        _covariances(out * into, P, sizes).square()
    )
    return _sums((linear + joined - own).unsqueeze(1), sizes)[:, 0] + between.sum((1, 2))


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

    def scale(self, sizes: list[int]) -> tuple[Tensor, Tensor]:
        """Makes each graph's weights sum to one, and gives out- and in-degrees, ``[N, 1]`` each."""
        num_nodes = self.loops.numel()
        out, into = (
            sum_rows(self.weight, end, num_nodes).to(self.weight.dtype) + self.loops
            for end in self.index
        )
        total = _each(_sums(out.unsqueeze(1), sizes), sizes)[:, 0]
        share = 1 / total.where(total > 0, 1)
        here = share.index_select(0, self.index[0])
        self.weight, self.reverse = self.weight * here, self.reverse * here
        self.loops = self.loops * share
        return (out * share).unsqueeze(1), (into * share).unsqueeze(1)


def count_graphs(batch: Tensor | None, batch_size: int | None) -> int:
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
    sizes: list[int] = count_rows(batch, count_graphs(batch, batch_size)).tolist()
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


def _each(rows: Tensor, sizes: list[int]) -> Tensor:
    """Each graph's row for each of its nodes."""
    times = torch.tensor(sizes, dtype=torch.int64, device=rows.device)
    return rows.repeat_interleave(times, dim=0)


def _covariance_product(p: Tensor, q: Tensor) -> Tensor:
    """tr(J(p) J(q)) of each two rows, J(p) being the covariance of a draw from p."""
    product = p * q
    return (product * (1 - p - q)).sum(1) + product.sum(1).square()


def _covariances(values: Tensor, P: Tensor, sizes: list[int]) -> Tensor:
    """Σ_i u_i J(p_i) of each graph, ``[B, K, K]``, for the values u, ``[N, 1]``."""
    return torch.diag_embed(_sums(values * P, sizes)) - _products(values * P, P, sizes)
