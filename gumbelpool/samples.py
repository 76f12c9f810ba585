"""How many draws bring an average close to its mean (``docs/theory.md``, section 4)."""

import math
from typing import Literal

import torch
from torch import Tensor

from gumbelpool.adjacency import edge_list
from gumbelpool.coarsen import sum_rows
from gumbelpool.graph_sums import count_graphs
from gumbelpool.graph_validation import check_batch, check_edges, check_within_graphs
from gumbelpool.options import check_in, check_open_share, check_positive_int, check_variance
from gumbelpool.validation import check_devices, check_not_negative

METHODS = ("hoeffding", "bernstein", "mcdiarmid")


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
    batch_size = count_graphs(batch, batch_size)
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
