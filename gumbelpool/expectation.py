r"""Mean and variance of what a draw gives, in closed form.

The proofs are in ``docs/theory.md``, sections 2 and 3. All sums run over nodes and edges; no N×N
matrix is formed. The probabilities are held whole, ``[N, K]``: this is for analysis, not for
training. Those of a layer are ``pool.lin(x).softmax(-1)``; the results have all K clusters of every
graph, as the layer's have unless ``drop_empty=True``. Everything is differentiable with respect to
the floating arguments.
"""

import torch
from torch import Tensor

from gumbelpool.graph_sums import multiply, products, read_edges, read_graphs, sums
from gumbelpool.validation import check_devices, check_features


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
    sizes, _ = read_graphs(probability, x.size(0), batch, batch_size)
    dtype = torch.promote_types(x.dtype, probability.dtype)
    return products(probability.to(dtype), x.to(dtype), sizes)


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
    sizes, edges = read_edges(edge_index, probability, edge_weight, batch, batch_size)
    sent = multiply(edges.index, edges.weight, probability)
    mean = products(probability, sent, sizes)
    return mean + torch.diag_embed(products(probability, edges.loops.unsqueeze(1), sizes)[..., 0])


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
    sizes, edges = read_edges(edge_index, probability, edge_weight, batch, batch_size)
    P, V = probability, probability * (1 - probability)
    R = multiply(edges.index, edges.weight, P)
    C = multiply(edges.index.flip(0), edges.weight, P)
    square = products(V, multiply(edges.index, edges.weight.square(), V), sizes)
    both_ways = edges.weight * edges.reverse

    # k ≠ l
    variance = products(V, R.square(), sizes) + products(C.square(), V, sizes)
    variance = variance - 2 * products(P * C, P * R, sizes) + square
    columns = []
    for k in range(P.size(1)):
        pairs = P[:, k : k + 1] * P  # p_ik p_il for all l
        there = multiply(edges.index, both_ways, pairs)
        columns.append(sums(pairs * there, sizes))
    variance = variance + torch.stack(columns, dim=1)

    # k = l
    linear = R + C + edges.loops.unsqueeze(1)
    diagonal = sums(linear.square() * V, sizes)
    diagonal = diagonal + sums(V * multiply(edges.index, both_ways, V), sizes)
    diagonal = diagonal + square.diagonal(dim1=1, dim2=2)
    same = torch.eye(P.size(1), dtype=torch.bool, device=P.device)
    return torch.where(same, torch.diag_embed(diagonal), variance)
