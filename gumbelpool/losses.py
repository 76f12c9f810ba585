"""The auxiliary losses, each a function of per-graph statistics, and the table that names them.

Each gives one value per graph that does not depend on what else is in the batch, and zero for a
graph without nodes. A new loss is one function and one row of the table.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-12  # the link residual is kept above it, so that its root has a finite slope


class GraphStatistics(NamedTuple):
    """What the losses are made of. A field that none of the wanted losses reads may be ``None``.

    Attributes:
        num_nodes: ``[B]``.
        num_clusters: Clusters that each graph may use, ``[B]``.
        residual: ‖A − SSᵀ‖² (Frobenius), ``[B]``.
        weight_square: ‖A‖² (Frobenius), ``[B]``.
        entropy: Σ_i H(p_i), ``[B]``.
        usage: Σ_i p_i, ``[B, K]``.
        inside: Σ_ij A_ij [c_i=c_j], the weight inside of clusters, ``[B]``.
        chance: Σ_k vol⁺_k vol⁻_k, the volumes being the sums of the members' out- and in-degrees,
            ``[B]``.
        weight: Σ_ij A_ij, ``[B]``.
    """

    num_nodes: Tensor
    num_clusters: Tensor | None
    residual: Tensor | None
    weight_square: Tensor | None
    entropy: Tensor | None
    usage: Tensor | None
    inside: Tensor | None
    chance: Tensor | None
    weight: Tensor | None


def link_loss(graph: GraphStatistics) -> Tensor:
    """‖A − SSᵀ‖ / max(‖A‖, 1)."""
    assert graph.residual is not None
    assert graph.weight_square is not None
    loss = (graph.residual.clamp(min=TINY) / graph.weight_square.clamp(min=1)).sqrt()
    return loss.masked_fill(graph.num_nodes == 0, 0)


def entropy_loss(graph: GraphStatistics) -> Tensor:
    """The mean entropy of the nodes' assignment probabilities, mean_i H(p_i)."""
    assert graph.entropy is not None
    mean: Tensor = graph.entropy / graph.num_nodes.clamp(min=1)
    return mean


def balance_loss(graph: GraphStatistics) -> Tensor:
    """Log K − H(m) = Σ_k m_k log(K m_k), m = mean_i p_i: zero where clusters are used alike.

    Near there it is the square of what K m_k is off one by, hence the float64; and m is scaled to a
    sum of exactly one, which its terms keep only up to the rounding of the p_i.
    """
    assert graph.usage is not None
    assert graph.num_clusters is not None
    usage = graph.usage.double()
    mean = usage / usage.sum(1, keepdim=True).clamp(min=torch.finfo(usage.dtype).tiny)
    # An unused cluster has no part in it, and must not make a NaN.
    level = (mean * graph.num_clusters.unsqueeze(1)).where(mean > 0, torch.ones_like(mean))
    loss = (mean * level.log()).sum(1).clamp(min=0)
    return loss.masked_fill(graph.num_nodes == 0, 0)


def modularity_loss(graph: GraphStatistics) -> Tensor:
    """−Q: the weight inside of clusters is to be more than degrees alone would put there.

    Q = Σ_ij A_ij [c_i=c_j] / W − Σ_k vol⁺_k vol⁻_k / W² with W = Σ_ij A_ij (Newman 2006; Leicht and
    Newman 2008 for directed graphs), and zero for a graph without edges. Squares of weights must be
    numbers in float64, and degrees in the dtype of the input.
    """
    assert graph.inside is not None
    assert graph.chance is not None
    assert graph.weight is not None
    joined = graph.weight > 0
    weight = graph.weight.where(joined, 1)
    loss = (graph.chance / weight - graph.inside) / weight
    return loss.masked_fill(~joined, 0)


LOSSES: dict[str, Callable[[GraphStatistics], Tensor]] = {
    "link": link_loss,
    "entropy": entropy_loss,
    "balance": balance_loss,
    "modularity": modularity_loss,
}


def mean_losses(
    names: Sequence[str], graph: GraphStatistics, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The named losses, each averaged over the graphs of the batch."""
    if graph.num_nodes.numel() == 0:
        zero = graph.num_nodes.new_zeros((), dtype=dtype)
        return dict.fromkeys(names, zero)
    if not names:
        return {}
    means = torch.stack([LOSSES[name](graph) for name in names]).mean(1).to(dtype)
    return dict(zip(names, means.unbind(), strict=True))
