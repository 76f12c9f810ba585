"""What a hard assignment looks like: is it collapsing?"""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool.coarsen import sum_rows
from gumbelpool.validation import check_batch, check_cluster, check_one_graph_each


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
    check_cluster(cluster, torch.iinfo(torch.int64).max)
    check_batch(batch, batch_size, cluster.size(0))
    if batch is None:
        batch = torch.zeros_like(cluster)
        batch_size = 1
    if batch_size is None:
        batch_size = int(batch[-1]) + 1 if batch.numel() > 0 else 0

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
