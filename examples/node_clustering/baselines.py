"""Clusterings that learn nothing: k-means on smoothed features, Leiden and METIS on the edges."""

import random

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from torch import Tensor

from ..shared.errors import InputError
from .graphs import NodeGraph, averaging

SAMPLE = 20_000  # rows that k-means is fitted on, where there are more; or 50 per cluster
FEW = 5_000_000  # rows times clusters up to which k-means is started ten times and not once
TRIALS = 100  # rows that each first centroid of a weighted k-means is the best of
MOST = 2_000_000_000  # distances that these may take: fewer trials where K is large


def smoothed(graph: NodeGraph, times: int) -> Tensor:
    """Features ``[N, F]``, each the mean of the node and its neighbours, some times over."""
    x, mean = graph.x, averaging(graph.edge_index, graph.num_nodes)
    for _ in range(times):
        x = mean(x)
    return x


def centroids(x: Tensor, num_clusters: int, seed: int, weight: Tensor | None = None) -> Tensor:
    """K-means' centroids ``[K, F]`` of some rows, fitted to a sample where there are very many.

    Rows of more `weight`, ``[N]``, are sampled more often and count for more; then each first
    centroid is the best of many, which misses hardly any cluster where clusters are apart.
    """
    rows, most = np.arange(x.size(0)), max(SAMPLE, 50 * num_clusters)
    heavy = None if weight is None else weight.double().numpy()
    if rows.size > most:
        chance = None if heavy is None else heavy / heavy.sum()
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False, p=chance))
    data, size = x[torch.from_numpy(rows)].numpy(), rows.size * num_clusters
    if heavy is None:
        means = KMeans(num_clusters, n_init=10 if size <= FEW else 1, random_state=seed)
        fitted = means.fit(data)
    else:
        first, _ = kmeans_plusplus(
            data, num_clusters, sample_weight=heavy[rows], random_state=seed,
            n_local_trials=max(10, min(TRIALS, MOST // size)),
        )  # fmt: skip
        fitted = KMeans(num_clusters, init=first, n_init=1).fit(data, sample_weight=heavy[rows])
    return torch.from_numpy(fitted.cluster_centers_).to(x.dtype)


def nearest(x: Tensor, centre: Tensor) -> Tensor:
    """The nearest centroid of each row, ``[N]``, without holding all distances."""
    half = centre.square().sum(1) / 2
    return torch.cat([(half - rows @ centre.t()).argmin(1) for rows in x.split(1 << 14)])


def kmeans(graph: NodeGraph, num_clusters: int, seed: int, smooth: int = 2) -> Tensor:
    """K-means on features smoothed over the graph: simple, and hard to beat."""
    x = smoothed(graph, smooth)
    return nearest(x, centroids(x, num_clusters, seed))


def leiden(graph: NodeGraph, num_clusters: int, seed: int) -> Tensor:
    """Leiden maximises modularity; it finds the number of clusters by itself."""
    try:
        import igraph
    except ImportError as error:
        raise InputError("--method leiden needs igraph: pip install igraph") from error
    once = graph.edge_index[:, graph.edge_index[0] < graph.edge_index[1]]
    made = igraph.Graph(n=graph.num_nodes, edges=once.t().contiguous().numpy())
    random.seed(seed)  # which igraph draws from
    found = made.community_leiden(objective_function="modularity", n_iterations=10)
    return torch.tensor(found.membership)


def metis(graph: NodeGraph, num_clusters: int, seed: int) -> Tensor:
    """METIS cuts few edges between parts of equal size."""
    try:
        import pymetis
    except ImportError as error:
        raise InputError("--method metis needs pymetis: pip install pymetis") from error
    pointer = np.zeros(graph.num_nodes + 1, dtype=np.int64)
    row, col = graph.edge_index.numpy()
    np.cumsum(np.bincount(row, minlength=graph.num_nodes), out=pointer[1:])
    options = pymetis.Options(seed=seed)
    adjacency = pymetis.CSRAdjacency(pointer, col)
    _, part = pymetis.part_graph(num_clusters, adjacency, options=options)
    return torch.tensor(part)


BASELINES = {"leiden": leiden, "metis": metis, "kmeans": kmeans}
