"""The assignment of nodes to clusters: its scores, block by block, and what was drawn of it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gumbelpool.coarsen import count_rows
from gumbelpool.inputs import Inputs
from gumbelpool.plan import Plan

KEPT = 1 << 20  # entries of logits that may be kept from forward to backward


def stage(name: str) -> AbstractContextManager[object]:
    """Names a stage in profiles; where nothing is profiled, it costs nothing."""
    if torch._C._autograd._profiler_enabled():
        return record_function(f"gumbelpool/{name}")
    return nullcontext()


def blocks(plan: Plan, inputs: Inputs) -> Iterator[slice]:
    """The blocks of rows, one after the other."""
    num_rows = inputs.x.size(0)
    for start in range(0, num_rows, plan.block_size):
        yield slice(start, min(start + plan.block_size, num_rows))


class Assignment(NamedTuple):
    """A draw, and the slots that have a row of X'.

    Where the rows are a part of a graph's nodes, edges also lead to nodes that are not among them.

    Attributes:
        local: Cluster of each node, in [0, K); behind the rows, those that only edges lead to.
        slot: graph · K + cluster of each row.
        far: graph · K + cluster of each node that edges lead to: ``slot``, or longer.
        members: How many nodes there are in each of ``supernode``.
        supernode: The slots that have a row of X', ascending.
        number: The row of X' of each slot, or ``None`` where it is the slot itself.
    """

    local: Tensor
    slot: Tensor
    far: Tensor
    members: Tensor
    supernode: Tensor
    number: Tensor | None

    @staticmethod
    def of(plan: Plan, inputs: Inputs, local: Tensor) -> "Assignment":
        """Numbers the slots of a draw, ``local`` int64."""
        slot = inputs.batch * plan.num_clusters + local
        members = count_rows(slot, inputs.num_graphs * plan.num_clusters)
        return Assignment.numbered(plan, inputs, local, slot, slot, members)

    @staticmethod
    def numbered(
        plan: Plan, inputs: Inputs, local: Tensor, slot: Tensor, far: Tensor, members: Tensor
    ) -> "Assignment":
        """Numbers the slots, of which ``members``, ``[B·K]``, are counted."""
        every = torch.arange(members.numel(), device=slot.device)
        if plan.drop_empty:
            kept = members > 0
        elif inputs.limit is not None:
            graph, cluster = every // plan.num_clusters, every % plan.num_clusters
            kept = cluster < inputs.limit.index_select(0, graph)
        else:
            return Assignment(local, slot, far, members, every, None)
        supernode = kept.nonzero().squeeze(1)
        number = torch.cumsum(kept, 0) - 1
        members = members.index_select(0, supernode)
        return Assignment(local, slot, far, members, supernode, number)

    def row(self, slot: Tensor) -> Tensor:
        """The row of X' of each of some slots that have one."""
        return slot if self.number is None else self.number.index_select(0, slot)


class Scorer:
    """Gives the logits of one block of rows at a time, in the same memory each time.

    Those of the head that fill no more than a block are kept from forward to backward.
    """

    def __init__(self, plan: Plan, inputs: Inputs, kept: Tensor | None = None) -> None:
        self.inputs, self.dtype = inputs, inputs.dtype
        self.weight = None if inputs.weight is None else inputs.weight.to(self.dtype)
        self.bias = None if inputs.bias is None else inputs.bias.to(self.dtype)
        self.kept = None if kept is None or kept.size(0) == 0 else kept
        if self.kept is None:
            num_rows = min(plan.block_size, inputs.x.size(0))
            self.memory = inputs.x.new_empty(num_rows, plan.num_clusters, dtype=self.dtype)

    def to_keep(self) -> Tensor:
        """What backward need not score again, ``[N, K]`` or ``[0, K]``."""
        whole = self.memory.size(0) == self.inputs.x.size(0) and self.memory.numel() <= KEPT
        keep = whole and self.weight is not None and self.inputs.limit is None
        return self.memory if keep else self.memory.new_empty(0, self.memory.size(1))

    def features(self, block: slice) -> Tensor:
        """The rows of what is scored, in the dtype that is computed in."""
        return self.inputs.scored[block].to(self.dtype)

    def scores(self, block: slice) -> Tensor:
        """The logits, also of clusters that a graph may not use; valid until the next call."""
        if self.kept is not None:
            return self.kept
        logits = self.memory[: block.stop - block.start]
        if self.weight is None:
            logits.copy_(self.inputs.scored[block])
        elif self.bias is None:
            torch.mm(self.features(block), self.weight.t(), out=logits)
        else:
            torch.addmm(self.bias, self.features(block), self.weight.t(), out=logits)
        return logits

    def logits(self, block: slice) -> Tensor:
        """The logits, −∞ where a graph may not use a cluster; valid until the next call."""
        logits = self.scores(block)
        if self.inputs.limit is not None:
            column = torch.arange(logits.size(1), device=logits.device)
            limit = self.inputs.limit.index_select(0, self.inputs.batch[block]).unsqueeze(1)
            logits.masked_fill_(column >= limit, -torch.inf)
        return logits

    def largest(self, row: int) -> Tensor:
        """The largest logit of a row; a NaN or +∞ also where the graph may not use the cluster."""
        block = slice(row, row + 1)
        everywhere = self.scores(block).amax()
        return torch.where(everywhere < torch.inf, self.logits(block).amax(), everywhere)
