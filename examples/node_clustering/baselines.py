"""Clusterings that learn nothing: k-means on smoothed features, Leiden and METIS on the edges."""

import random

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from torch import Tensor

from ..shared.errors import InputError
from .graphs import NodeGraph, averaging

SAMPLE = 20_000  # rows that k-means is fitted on, where there are more; or 50 per cluster
# Of two starts the better one: each first centroid the best of so many rows, which finds clusters
# that are apart, and sklearn's own.
TRIALS = 100
MOST = 2_000_000_000  # distances that trials may take: fewer trials where K is large
FEW = 5_000_000  # rows times clusters up to which sklearn starts ten times and not once


def smoothed(graph: NodeGraph, times: int) -> Tensor:
    """Features ``[N, F]``, each the mean of the node and its neighbours, some times over."""
    x, mean = graph.x, averaging(graph.edge_index, graph.num_nodes)
    for _ in range(times):
        x = mean(x)
    return x


def centroids(x: Tensor, num_clusters: int, seed: int) -> Tensor:
    """K-means' centroids ``[K, F]`` of some rows, fitted to a sample where there are very many."""
    rows, most = x, max(SAMPLE, 50 * num_clusters)
    if x.size(0) > most:
        chosen = np.random.default_rng(seed).choice(x.size(0), most, replace=False)
        rows = x[torch.from_numpy(np.sort(chosen))]
    data, size = rows.numpy(), rows.size(0) * num_clusters
    trials = max(10, min(TRIALS, MOST // size))
    first, _ = kmeans_plusplus(data, num_clusters, random_state=seed, n_local_trials=trials)
    fitted = min(
        KMeans(num_clusters, init=first, n_init=1).fit(data),
        KMeans(num_clusters, n_init=10 if size <= FEW else 1, random_state=seed).fit(data),
        key=lambda found: found.inertia_,
    )
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
