"""How good a clustering is: against known classes, and by the edges alone."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor


def measures(cluster: Tensor, edge_index: Tensor, y: Tensor) -> dict[str, float]:
    """All of them, by name; `cluster` and `y` are ``[N]``, numbers from 0."""
    found, known = cluster.numpy(), y.numpy()
    return {
        "nmi": float(normalized_mutual_info_score(known, found)),
        "ari": float(adjusted_rand_score(known, found)),
        "accuracy": accuracy(cluster, y),
        "modularity": modularity(cluster, edge_index),
        "conductance": conductance(cluster, edge_index),
        "clusters_used": int(np.unique(found).size),
    }


def matching(cluster: Tensor, y: Tensor) -> tuple[dict[int, int], int]:
    """The class of each matched cluster, and the nodes that are then right.

    Clusters and classes are matched one to one so that as many nodes as possible are right
    (the Hungarian method); what is left over of the more numerous has no match.
    """
    classes, clusters = torch.unique(y).numpy(), torch.unique(cluster).numpy()
    table = contingency_matrix(y.numpy(), cluster.numpy())
    rows, columns = linear_sum_assignment(table, maximize=True)
    matched = {int(clusters[j]): int(classes[i]) for i, j in zip(rows, columns, strict=True)}
    return matched, int(table[rows, columns].sum())


def accuracy(cluster: Tensor, y: Tensor) -> float:
    """The part of the nodes whose cluster is matched with their class."""
    return matching(cluster, y)[1] / y.numel()


def _volumes(cluster: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cluster the edges that leave its nodes, and those of them that stay inside."""
    size = int(cluster.max()) + 1
    ends = cluster[edge_index]
    inside = ends[0][ends[0] == ends[1]]
    count = torch.bincount(ends[0], minlength=size), torch.bincount(inside, minlength=size)
    return count[0].double(), count[1].double()


def modularity(cluster: Tensor, edge_index: Tensor) -> float:
    """Newman's Q of an undirected graph: edges inside, beyond what degrees alone would have."""
    volume, inside = _volumes(cluster, edge_index)
    total = max(edge_index.size(1), 1)
    return float((inside / total - (volume / total).square()).sum())


def conductance(cluster: Tensor, edge_index: Tensor) -> float:
    """Mean over the clusters of cut / min(volume, volume of the rest); 0 for one without edges."""
    volume, inside = _volumes(cluster, edge_index)
    smaller = torch.minimum(volume, volume.sum() - volume)
    # All edges in one cluster leave none for the rest: nothing is cut.
    share = torch.where(smaller > 0, (volume - inside) / smaller.clamp(min=1), 0)
    return float(share[torch.unique(cluster)].mean())
