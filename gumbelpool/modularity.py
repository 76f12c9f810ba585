r"""Mean and variance of the modularity of the drawn clusters, in closed form.

The proof is in ``docs/theory.md``, section 6. As in :mod:`gumbelpool.expectation`, no N×N matrix is
formed, and everything is differentiable with respect to the floating arguments.
"""

import torch
from torch import Tensor

from gumbelpool.coarsen import sum_rows
from gumbelpool.graph_sums import each_node, multiply, products, read_edges, sums
from gumbelpool.validation import check_not_negative


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
    sizes, edges = read_edges(edge_index, probability, edge_weight, batch, batch_size)
    check_not_negative("edge_weight", edge_weight)
    P = probability
    out, into = edges.scale(sizes)
    inside = (P * multiply(edges.index, edges.weight, P)).sum(1, keepdim=True)
    alone = edges.loops.unsqueeze(1) - out * into * (1 - P.square().sum(1, keepdim=True))
    volumes = sums(out * P, sizes) * sums(into * P, sizes)
    return sums(inside + alone, sizes)[:, 0] - volumes.sum(1)


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
    sizes, edges = read_edges(edge_index, probability, edge_weight, batch, batch_size)
    check_not_negative("edge_weight", edge_weight)
    P = probability
    out, into = edges.scale(sizes)

    # What is linear in each row's deviation from p_i.
    chance = (
        each_node(sums(into * P, sizes), sizes) * out
        + each_node(sums(out * P, sizes), sizes) * into
    )
    slope = multiply(edges.index, edges.weight, P) - chance + 2 * out * into * P
    slope = slope + multiply(edges.index.flip(0), edges.weight, P)
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
    return sums((linear + joined - own).unsqueeze(1), sizes)[:, 0] + between.sum((1, 2))


def _covariance_product(p: Tensor, q: Tensor) -> Tensor:
    """tr(J(p) J(q)) of each two rows, J(p) being the covariance of a draw from p."""
    product = p * q
    return (product * (1 - p - q)).sum(1) + product.sum(1).square()


def _covariances(values: Tensor, P: Tensor, sizes: list[int]) -> Tensor:
    """Σ_i u_i J(p_i) of each graph, ``[B, K, K]``, for the values u, ``[N, 1]``."""
    return torch.diag_embed(sums(values * P, sizes)) - products(values * P, P, sizes)
