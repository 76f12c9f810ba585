"""The assignment of one forward pass: its settings, its scores and its draw, block by block."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool import sampling, scratch
from gumbelpool.adjacency import Edges
from gumbelpool.coarsen import EdgeMerger, count_rows
from gumbelpool.switch import data_checks_enabled
from gumbelpool.validation import check_row_maximum

SAFE = 60.0  # e^60 times any number of clusters is far from float32's limits, and so is e^-60
LOWEST = -1e4  # stands for −∞, since its exponential is zero and its product with that too


@dataclass(frozen=True)
class Plan:
    """The settings of one forward pass.

    Attributes:
        num_clusters: K.
        num_graphs: B.
        estimator: A name in ``ESTIMATORS``.
        tau: Its temperature.
        sample: Whether to draw; otherwise the most likely cluster is taken.
        drop_empty: Whether supernodes without members are left out.
        remove_self_loops: Whether pooled self-loops are left out.
        losses: The names of the losses, so that no statistic is computed in vain.
        block_size: Rows per block.
    """

    num_clusters: int
    num_graphs: int
    estimator: str
    tau: float
    sample: bool
    drop_empty: bool
    remove_self_loops: bool
    losses: tuple[str, ...]
    block_size: int


class Scores(NamedTuple):
    """What the logits [N, K] are made of.

    Attributes:
        source: The logits, ``[N, K]``, or the features before the linear head, ``[N, C]``.
        weight: Of the head, ``[K, C]``.
        bias: Of the head, ``[K]``.
        limit: Clusters that each graph may use, ``[B]``, or ``None`` for K everywhere.
    """

    source: Tensor
    weight: Tensor | None
    bias: Tensor | None
    limit: Tensor | None


class Inputs(NamedTuple):
    """What goes into the streamed pool, in the order of its autograd Function."""

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    batch: Tensor
    source: Tensor
    weight: Tensor | None
    bias: Tensor | None
    limit: Tensor | None

    @property
    def edges(self) -> Edges:
        """The edges with what they carry."""
        return Edges(self.edge_index, self.edge_weight, self.edge_attr)

    @property
    def scores(self) -> Scores:
        """What the logits are made of."""
        return Scores(self.source, self.weight, self.bias, self.limit)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is computed in."""
        dtype = torch.float32
        for tensor in (self.x, self.edge_weight, self.edge_attr, self.source, self.weight):
            if tensor is not None:
                dtype = torch.promote_types(dtype, tensor.dtype)
        return dtype


class Assignment(NamedTuple):
    """A draw.

    Attributes:
        batch: Graph of each node, ``[N]``, sorted.
        local: Cluster of each node, ``[N]``, in [0, K).
        cluster: Its supernode, ``[N]``, in [0, K').
        supernode: graph · K + cluster of each supernode, ``[K']``, ascending.
        members: Nodes of each supernode, ``[K']``.
        number: Supernode of each slot graph · K + cluster that has one, ``[B·K]``.
        num_graphs: B.
        num_clusters: K.
    """

    batch: Tensor
    local: Tensor
    cluster: Tensor
    supernode: Tensor
    members: Tensor
    number: Tensor
    num_graphs: int
    num_clusters: int

    @staticmethod
    def of(batch: Tensor, local: Tensor, plan: Plan) -> "Assignment":
        """Numbers the supernodes of a draw ``local``."""
        num_slots = plan.num_graphs * plan.num_clusters
        slot = batch * plan.num_clusters + local
        members = count_rows(slot, num_slots)
        every = torch.arange(num_slots, device=batch.device)
        supernode, number, cluster = every, every, slot
        if plan.drop_empty:
            supernode = members.nonzero().squeeze(1)
            number = torch.empty_like(every).index_copy_(0, supernode, every[: supernode.numel()])
            cluster, members = number.index_select(0, slot), members.index_select(0, supernode)
        return Assignment(
            batch, local, cluster, supernode, members, number, plan.num_graphs, plan.num_clusters
        )

    def merge_edges(self, edge_index: Tensor) -> EdgeMerger:
        """Finds the pooled edges, whose keys are (graph · K + source's cluster) · K + target's."""
        # An edge's ends are in one graph, so its target's cluster tells its target's supernode.
        slot = self.batch * self.num_clusters + self.local
        num_slots = self.num_graphs * self.num_clusters
        return EdgeMerger(edge_index, slot, self.local, num_slots, self.num_clusters)


def blocks(num_rows: int, block_size: int) -> list[slice]:
    """Consecutive slices that cover the rows."""
    return [
        slice(start, min(start + block_size, num_rows)) for start in range(0, num_rows, block_size)
    ]


class Scorer:
    """Gives the logits and the softmax of one block of rows at a time."""

    def __init__(self, scores: Scores, batch: Tensor, dtype: torch.dtype) -> None:
        self.scores, self.batch, self.dtype = scores, batch, dtype
        self.head = self.bias = None
        self.bounded = self.with_ones = False
        self.num_clusters = scores.source.size(1)
        if scores.weight is not None:
            head = scores.weight.to(dtype)
            self.bias = None if scores.bias is None else scores.bias.to(dtype)
            self.num_clusters = head.size(0)
            # With more clusters than channels, a pass over the features is cheaper than one over
            # the logits: the bias is then the weight of one more channel, a one.
            many = head.size(0) > head.size(1)
            self.with_ones = many and self.bias is not None
            if self.with_ones and self.bias is not None:
                head = torch.cat([head, self.bias.unsqueeze(1)], dim=1)
            self.bounded = many and scores.limit is None and _are_bounded(scores.source, head)
            self.head = head.t()

    def features(self, rows: slice) -> Tensor:
        """The rows that the head is applied to."""
        source = self.scores.source[rows]
        return with_ones(source, self.dtype) if self.with_ones else source.to(self.dtype)

    def logits(self, rows: slice, features: Tensor) -> Tensor:
        """The logits, −∞ where a graph may not use a cluster, from the rows' ``features``."""
        logits = scratch.empty(
            rows.stop - rows.start, self.num_clusters, self.dtype, self.batch.device
        )
        if self.head is None:
            logits.copy_(features)
        else:
            torch.mm(features, self.head, out=logits)
            if self.bias is not None and not self.with_ones:
                logits += self.bias
        if self.scores.limit is not None:
            column = torch.arange(logits.size(1), device=logits.device)
            limit = self.scores.limit[self.batch[rows]].unsqueeze(1)
            logits.masked_fill_(column >= limit, -torch.inf)
        return logits

    def softmax(self, rows: slice, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits up to a constant per row, p, and the constant that makes the former log p.

        An excluded cluster's logit is ``LOWEST``. A row that has no softmax has a NaN everywhere.
        """
        logits = self.logits(rows, features)
        probability = scratch.empty_like(logits)
        if self.bounded:
            torch.exp(logits, out=probability)
            total = probability.sum(-1, keepdim=True)
            probability *= total.reciprocal()
            return logits, probability, total.log_().neg_()
        torch.log_softmax(logits, -1, out=probability)
        torch.exp(probability.clamp_(min=LOWEST), out=logits)
        return probability, logits, logits.new_zeros(1, 1)


def with_ones(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``[x, 1]``, in scratch memory."""
    features = scratch.empty(x.size(0), x.size(1) + 1, dtype, x.device)
    features[:, :-1] = x
    features[:, -1] = 1
    return features


def _are_bounded(source: Tensor, weight: Tensor) -> bool:
    """Whether no logit exceeds ``SAFE`` by Hölder, so that none needs its row's maximum taken off.

    To know costs a pass over the features and saves several over the logits. On an accelerator it
    would cost a device sync.
    """
    if not source.is_cpu or source.numel() == 0:
        return False
    low, high = (float(end) for end in source.aminmax())
    largest = max(-low, high, 1.0)
    return largest * float(weight.abs().sum(1).amax()) <= SAFE  # False for a NaN


def assign(
    plan: Plan, scores: Scores, batch: Tensor, dtype: torch.dtype, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One local cluster id per node ``[N]``, and the statistics ``entropy`` and ``usage``."""
    num_nodes, device = batch.numel(), batch.device
    cluster = torch.empty(num_nodes, dtype=torch.int64, device=device)
    first = torch.empty(num_nodes, dtype=dtype, device=device)
    entropy = torch.zeros(plan.num_graphs, dtype=dtype, device=device)
    usage = torch.zeros(plan.num_graphs, plan.num_clusters, dtype=dtype, device=device)
    uniform = sampling.uniform_noise(num_nodes, device, generator) if plan.sample else first
    scorer = Scorer(scores, batch, dtype)
    for rows in blocks(num_nodes, plan.block_size):
        with scratch.frame():
            logits, probability, constant = scorer.softmax(rows, scorer.features(rows))
            first[rows] = probability[:, 0]
            if plan.sample:
                cluster[rows] = sampling.draw(probability, uniform[rows])
            else:
                cluster[rows] = logits.argmax(-1)
            if "entropy" in plan.losses:
                # −Σ p log p, of which the constant is a part
                each = logits.mul_(probability).sum(-1).add_(constant.squeeze(1)).neg_()
                entropy.index_add_(0, batch[rows], each)
            if "balance" in plan.losses:
                usage.index_add_(0, batch[rows], probability)
    if data_checks_enabled():
        bad = first.isnan()
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            rows = slice(row, row + 1)
            first.zero_()[row] = scorer.logits(rows, scorer.features(rows)).amax()
            check_row_maximum(first, "logits" if scores.weight is None else "lin(x)")
    return cluster, entropy, usage
