"""The assignment of one forward pass: its settings, its scores and its draw, block by block."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gumbelpool import sampling
from gumbelpool.validation import check_row_maximum


@dataclass(frozen=True)
class Plan:
    """The settings of one forward pass.

    Attributes:
        num_clusters: K.
        num_graphs: B.
        limit: Clusters that each graph may use, ``[B]``, or ``None`` for K everywhere.
        estimator: A name in ``ESTIMATORS``.
        tau: Its temperature.
        sample: Whether to draw; otherwise the most likely cluster is taken.
        drop_empty: Whether supernodes without members are left out.
        remove_self_loops: Whether pooled self-loops are left out.
        losses: The names of the losses, so that no statistic is computed in vain.
        block_size: Rows per block.
        generator: Source of randomness.
    """

    num_clusters: int
    num_graphs: int
    limit: Tensor | None
    estimator: str
    tau: float
    sample: bool
    drop_empty: bool
    remove_self_loops: bool
    losses: tuple[str, ...]
    block_size: int
    generator: torch.Generator | None


class Scores(NamedTuple):
    """The logits [N, K]: given as ``source``, or ``source`` [N, C] before the linear head."""

    source: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def block(self, rows: slice, batch: Tensor, limit: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The logits of some rows, −∞ where a graph may not use a cluster."""
        logits = self.source[rows].to(dtype)
        if self.weight is not None:
            bias = None if self.bias is None else self.bias.to(dtype)
            logits = F.linear(logits, self.weight.to(dtype), bias)
        if limit is not None:
            column = torch.arange(logits.size(1), device=logits.device)
            logits = logits.masked_fill(column >= limit[batch[rows]].unsqueeze(1), -torch.inf)
        return logits


def blocks(num_rows: int, block_size: int) -> list[slice]:
    """Consecutive slices that cover the rows."""
    return [
        slice(start, min(start + block_size, num_rows)) for start in range(0, num_rows, block_size)
    ]


def assign(
    plan: Plan, scores: Scores, batch: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """One local cluster id per node ``[N]``, and the statistics ``entropy`` and ``usage``."""
    num_nodes, device = batch.numel(), batch.device
    cluster = torch.empty(num_nodes, dtype=torch.int64, device=device)
    maximum = torch.empty(num_nodes, dtype=dtype, device=device)
    entropy = torch.zeros(plan.num_graphs, dtype=dtype, device=device)
    usage = torch.zeros(plan.num_graphs, plan.num_clusters, dtype=dtype, device=device)
    uniform = sampling.uniform_noise(num_nodes, device, plan.generator) if plan.sample else maximum
    for rows in blocks(num_nodes, plan.block_size):
        logits = scores.block(rows, batch, plan.limit, dtype)
        top, likeliest = logits.max(-1, keepdim=True)
        maximum[rows] = top.squeeze(1)
        probability = (logits - top).exp_()
        if plan.sample:
            cluster[rows] = sampling.draw(probability, uniform[rows])
        else:
            cluster[rows] = likeliest.squeeze(1)
        if "entropy" in plan.losses or "balance" in plan.losses:
            probability /= probability.sum(-1, keepdim=True)
            entropy.index_add_(0, batch[rows], torch.special.entr(probability).sum(-1))
            usage.index_add_(0, batch[rows], probability)
    check_row_maximum(maximum)
    return cluster, entropy, usage
