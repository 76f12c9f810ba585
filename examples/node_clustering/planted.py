"""Planted partitions with power-law degrees: graphs whose clusters are known, of any size."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import coalesce


class Planted(NamedTuple):
    """What a planted partition is like.

    Attributes:
        num_nodes: N.
        num_clusters: Clusters, all of N / num_clusters nodes but for a remainder.
        mean_degree: Neighbours of a node on average; the expected ones follow a power law.
        mixing: The part of the edges whose other end is any node, in whatever cluster.
        signal: Features are the cluster's centre, of this standard deviation, plus noise of 1.
        channels: Of the features.
        exponent: P(degree > d) falls as d to the power 1 − exponent.
    """

    num_nodes: int
    num_clusters: int
    mean_degree: float = 10
    mixing: float = 0.3
    signal: float = 0.1
    channels: int = 64
    exponent: float = 3.0


def planted_partition(planted: Planted, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a degree-corrected block model.

    Edges that are drawn twice count once, so a graph of many small clusters is a little sparser.

    Args:
        planted: What it is like.
        seed: Decides everything random.

    Returns:
        Features ``[N, channels]``, edges in both directions ``[2, E]``, and clusters ``[N]``.
    """
    random = torch.Generator().manual_seed(seed)
    N, K = planted.num_nodes, planted.num_clusters
    y = torch.arange(N) * K // N  # each cluster one interval, until the nodes get their names
    tail = torch.rand(N, generator=random, dtype=torch.float64)
    # The largest weight is bounded, so that no hub has more edges than its cluster has nodes.
    weight = tail.clamp(min=10 / N).pow(-1 / (planted.exponent - 1))
    upper = weight.cumsum(0)
    lower = upper - weight

    def ends(low: Tensor, high: Tensor) -> Tensor:
        """One node for each interval, by its weight."""
        at = low + (high - low) * torch.rand(low.numel(), generator=random, dtype=torch.float64)
        return torch.searchsorted(upper, at).clamp(max=N - 1)

    pairs = round(N * planted.mean_degree / 2)
    whole = torch.zeros(pairs, dtype=torch.float64), upper[-1].expand(pairs)
    source = ends(*whole)
    first = torch.searchsorted(y, torch.arange(K))
    last = torch.cat([first[1:], torch.tensor([N])]) - 1
    inside = torch.rand(pairs, generator=random) >= planted.mixing
    own = y[source]
    low = torch.where(inside, lower[first][own], whole[0])
    high = torch.where(inside, upper[last][own], whole[1])
    target = ends(low, high)
    kept = source != target
    name = torch.randperm(
        N, generator=random
    )  # so that no cluster's nodes are neighbours in memory
    pair = name[torch.stack([source[kept], target[kept]])]
    edge_index = coalesce(torch.cat([pair, pair.flip(0)], dim=1), num_nodes=N)
    y = torch.empty_like(y).index_copy_(0, name, y)

    centre = planted.signal * torch.randn(K, planted.channels, generator=random)
    x = torch.randn(N, planted.channels, generator=random).add_(centre[y])
    return x, edge_index, y
