"""What a hard assignment looks like: is it collapsing, and how sharply does it divide?"""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool.adjacency import edge_list
from gumbelpool.coarsen import sum_rows
from gumbelpool.graph_validation import (
    check_batch,
    check_edges,
    check_one_graph_each,
    check_within_graphs,
)
from gumbelpool.switch import data_checks_enabled
from gumbelpool.validation import check_cluster, check_features, check_not_negative


class Occupancy(NamedTuple):
    """How a graph's nodes are spread over its supernodes.

    Attributes:
        used: Supernodes with members, ``[B]``, int64.
        largest_share: Share of the graph's nodes in its largest supernode, ``[B]``, in [0, 1].
        perplexity: exp of the entropy of the shares, ``[B]``: the number of equally large
            supernodes that would be as spread out, from 1 (collapsed) to ``used``.
    """

    used: Tensor
    largest_share: Tensor
    perplexity: Tensor


def occupancy(
    cluster: Tensor, batch: Tensor | None = None, batch_size: int | None = None
) -> Occupancy:
    """Measures how many supernodes each graph uses, and how evenly.

    Args:
        cluster: Supernode of each node, ``[N]``, int64, such as ``PoolOutput.cluster``. Nodes of
            different graphs must not share one.
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        :class:`Occupancy`; zeros for a graph without nodes.

    Raises:
        TypeError: If ``cluster`` or ``batch`` is not int64.
        ValueError: If shapes disagree, ids are negative, ``batch`` is unsorted, or two graphs share
            a supernode.
    """
    check_cluster(cluster, None)
    batch, batch_size = _read_batch(cluster, batch, batch_size)
    _, supernode, members = torch.unique(cluster, return_inverse=True, return_counts=True)
    graph = torch.empty_like(members).scatter_(0, supernode, batch)
    check_one_graph_each(graph[supernode], batch)
    num_nodes = torch.bincount(batch, minlength=batch_size)
    share = members / num_nodes[graph]
    return Occupancy(
        used=torch.bincount(graph, minlength=batch_size),
        largest_share=share.new_zeros(batch_size).scatter_reduce_(0, graph, share, "amax"),
        perplexity=sum_rows(torch.special.entr(share), graph, batch_size)
        .exp()
        .where(num_nodes > 0, share.new_zeros(())),
    )


UNDECIDED = math.log(1.5)  # mean entropy of a node: as of one and a half clusters to choose from
NEARLY_ALL = 0.95  # of the graphs
WHOLE = 0.99  # of a graph's nodes
FEW = 8  # nodes beyond the first of their graph that may fall together by chance


class CollapseWarning(UserWarning):
    """``eval()`` puts nearly every graph into a single cluster, though its scores are undecided."""


def warn_if_collapsed(
    layer: str,
    size: Tensor,
    graph: Tensor,
    mean_entropy: Tensor,
    limit: Tensor | int,
    stacklevel: int = 1,
) -> bool:
    """Warns that the most likely cluster of nearly every node is the same one.

    Where scores are undecided, draws spread over the clusters and the most likely one does not:
    what a network sees in ``eval()`` is then not what it was trained on. Graphs of one node or one
    cluster say nothing about it. Reads the data, so it does nothing in a trace of
    ``torch.compile``, nor, since that costs a sync, on a device with the data checks off.

    Args:
        layer: What the warning calls the layer.
        size: Number of members of each supernode, ``[K']``.
        graph: Its graph, ``[K']``, int64.
        mean_entropy: Mean of H(p_i) over the nodes, a scalar.
        limit: Clusters that each graph may use: ``[B]``, or one number for all.
        stacklevel: Of the warning, counted from the caller. (default: the caller itself)

    Returns:
        Whether it warned.
    """
    if torch.compiler.is_compiling() or not (size.is_cpu or data_checks_enabled()):
        return False
    num_graphs = int(graph.max()) + 1 if graph.numel() > 0 else 0
    if isinstance(limit, int):
        limit = graph.new_full((num_graphs,), limit)
    size = size.detach().double()
    nodes = sum_rows(size, graph, num_graphs)
    largest = nodes.new_zeros(num_graphs).scatter_reduce_(0, graph, size, "amax")
    counts = (nodes > 1) & (limit[:num_graphs] > 1)
    collapsed = int((counts & (largest >= WHOLE * nodes)).sum())
    total, entropy = int(counts.sum()), float(mean_entropy.detach())
    chance = float((nodes - 1)[counts].sum()) < FEW
    if chance or collapsed < NEARLY_ALL * total or not entropy >= UNDECIDED:
        return False
    warnings.warn(
        f"{layer} in eval() puts the nodes of {collapsed} of {total} graphs into a single cluster "
        f"each, while its scores are undecided (as of {math.exp(entropy):.1f} clusters to choose "
        "from): the most likely cluster is the same for nearly all nodes, though draws are not. "
        "Train with 'balance' among losses, so that nodes come to differ; or set "
        "sample_in_eval=True, so that eval() draws as training does. out.occupancy() measures it. "
        "This is said once per layer.",
        CollapseWarning,
        stacklevel=stacklevel + 1,
    )
    return True


class Crispness(NamedTuple):
    """How sharply a graph is divided by its clusters, each ``[B]``.

    Attributes:
        within_variance: Share of the variance of x that lies within clusters, in [0, 1]; zero where
            all nodes of a cluster are alike, one where clusters say nothing about x.
        cut: Share of the edge weight that joins different clusters, in [0, 1].
        modularity: Weight inside the clusters beyond what the same degrees would put there by
            chance, as a share of all; at most one, zero for a single cluster (`Newman 2006
            <https://doi.org/10.1073/pnas.0601602103>`_; directed, `Leicht and Newman 2008
            <https://doi.org/10.1103/PhysRevLett.100.118703>`_).
        conductance: Weight that leaves a cluster, relative to the lesser of its volume and that of
            the rest; mean over the clusters for which there is a rest.
        density: Pooled edges over pairs of clusters in use, in [0, 1].
    """

    within_variance: Tensor
    cut: Tensor
    modularity: Tensor
    conductance: Tensor
    density: Tensor


def crispness(
    x: Tensor,
    edge_index: Tensor,
    cluster: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Crispness:
    """Measures how sharply clusters divide the features and the edges of each graph.

    Args:
        x: Node features, ``[N, F]``.
        edge_index: Directed edges, ``[2, E]``, int64, or an ``EdgeIndex``.
        cluster: Supernode of each node, ``[N]``, int64, such as ``PoolOutput.cluster``. Nodes of
            different graphs must not share one.
        edge_weight: ``[E]``, not negative. (default: ones)
        batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
        batch_size: The number of graphs B. (default: read from ``batch``)

    Returns:
        :class:`Crispness`, in float64; zeros where a measure has nothing to measure.

    Raises:
        TypeError: If an argument has the wrong dtype.
        ValueError: If shapes disagree, ids are out of range, a weight is negative, ``batch`` is
            unsorted, two graphs share a supernode, or an edge joins two graphs.
    """
    check_features("x", x)
    edge_index = edge_list(edge_index)
    check_edges(edge_index, edge_weight, None, x.size(0))
    check_not_negative("edge_weight", edge_weight)
    check_cluster(cluster, None, num_nodes=x.size(0))
    batch, batch_size = _read_batch(cluster, batch, batch_size)
    check_within_graphs(edge_index, batch)
    _, cluster, members = torch.unique(cluster, return_inverse=True, return_counts=True)
    graph = torch.empty_like(members).scatter_(0, cluster, batch)
    check_one_graph_each(graph[cluster], batch)
    count, x = members.numel(), x.double()

    nodes = torch.bincount(batch, minlength=batch_size)
    mean = sum_rows(x, batch, batch_size) / nodes.clamp(min=1).unsqueeze(1)
    centre = sum_rows(x, cluster, count) / members.unsqueeze(1)
    total = sum_rows((x - mean[batch]).square().sum(1), batch, batch_size)
    within = sum_rows((x - centre[cluster]).square().sum(1), batch, batch_size)

    weight = x.new_ones(edge_index.size(1)) if edge_weight is None else edge_weight.double()
    row, col = cluster[edge_index]
    inside = sum_rows(weight * (row == col), row, count)
    out, into = sum_rows(weight, row, count), sum_rows(weight, col, count)
    volume = out + into
    all_weight = sum_rows(out, graph, batch_size)
    chance = sum_rows(out * into, graph, batch_size)
    share = _ratio(sum_rows(inside, graph, batch_size), all_weight)

    rest = 2 * all_weight[graph] - volume
    leaving = volume - 2 * inside
    has_rest = (volume > 0) & (rest > 0)
    each = _ratio(leaving, torch.minimum(volume, rest)) * has_rest
    pooled = torch.unique(row * max(count, 1) + col) // max(count, 1)
    used = torch.bincount(graph, minlength=batch_size)
    return Crispness(
        within_variance=_ratio(within, total),
        cut=(1 - share) * (all_weight > 0),
        modularity=share - _ratio(chance, all_weight.square()),
        conductance=_ratio(
            sum_rows(each, graph, batch_size), sum_rows(has_rest.double(), graph, batch_size)
        ),
        density=_ratio(
            torch.bincount(graph[pooled], minlength=batch_size).double(), used.double().square()
        ),
    )


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Part / whole, and zero where the whole is."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)


def _read_batch(
    cluster: Tensor, batch: Tensor | None, batch_size: int | None
) -> tuple[Tensor, int]:
    check_batch(batch, batch_size, cluster.size(0), "cluster")
    if batch is None:
        return torch.zeros_like(cluster), 1
    if batch_size is None:
        batch_size = int(batch[-1]) + 1 if batch.numel() > 0 else 0
    return batch, batch_size
