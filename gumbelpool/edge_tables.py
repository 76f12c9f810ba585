r"""The gradient G of the pooled edges, as tables that an edge looks up by the supernode at its end.

A table has a row of K entries for the supernode at an edge's other end, and one for the self-loops
of each graph: dense where most of it is filled, by its entries where it is sparse, and as one
number per graph where there is only the link loss, whose G is the same on the whole diagonal.
"""

from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from gumbelpool import scratch
from gumbelpool.assignment import Assignment
from gumbelpool.coarsen import count_rows, stable_order

FILL = 16  # a table may have this many times more entries than there are pooled edges
SMALL = 1 << 16  # or this many entries in any case
EXPANDED = 1 << 22  # products of an edge and an entry that are held at a time


class Window(NamedTuple):
    """The edges at one end of a few blocks of rows.

    Attributes:
        near: The node at this end, ``[e]``.
        far: The node at the other end, ``[e]``.
        loop: Whether they are the same, ``[e]``.
        edges: Which of all edges these are, a slice or ``[e]``.
    """

    near: Tensor
    far: Tensor
    loop: Tensor
    edges: slice | Tensor


class Rows(NamedTuple):
    """A block of rows and its edges, as a part of a window.

    Attributes:
        edges: Which edges of the window.
        start: First row of the block.
        offset: Where each row's edges start, and their number, ``[rows + 1]``; ``None`` where
            the edges are not in the order of the rows.
    """

    edges: slice
    start: int
    offset: Tensor | None


class Diagonal:
    """The same gradient on the whole diagonal of a graph's G, and nothing elsewhere."""

    def __init__(self, assignment: Assignment, agreement: Tensor) -> None:
        self.assignment, self.agreement = assignment, agreement

    def prepare(self, window: Window, value: Tensor | None) -> None:
        """Looks up what the window's edges add."""
        local = self.assignment.local.index_select(0, window.far)
        self.position = local.add_(window.near, alpha=self.assignment.num_clusters)
        step = self.agreement
        if self.assignment.num_graphs > 1:
            step = step.index_select(0, self.assignment.batch.index_select(0, window.far))
        self.step = step.expand(window.loop.shape).masked_fill(window.loop, 0)
        if value is not None:
            self.step *= value

    def add_to(self, g: Tensor, rows: Rows) -> None:
        """Adds what a block's edges add."""
        position = self.position[rows.edges] - rows.start * g.size(1)
        g.view(-1).index_add_(0, position, self.step[rows.edges])


class Entries(NamedTuple):
    """Entries of a table that has a row for each supernode and one for each graph's self-loops."""

    row: Tensor
    column: Tensor
    value: Tensor


class Dense:
    """The whole table, ``[K' + B, K]``."""

    def __init__(self, entries: Entries, assignment: Assignment) -> None:
        self.assignment = assignment
        num_rows, num_columns = _table_size(assignment)
        self.table = entries.value.new_zeros(num_rows, num_columns)
        position = entries.row * num_columns + entries.column
        self.table.view(-1).index_add_(0, position, entries.value)

    def prepare(self, window: Window, value: Tensor | None) -> None:
        """Looks up what the window's edges add."""
        self.row, self.value, self.near = _table_row(window, self.assignment), value, window.near

    def add_to(self, g: Tensor, rows: Rows) -> None:
        """Adds what a block's edges add."""
        if rows.offset is None:
            step = scratch.empty(self.row.numel(), g.size(1), g.dtype, g.device)
            torch.index_select(self.table, 0, self.row, out=step)
            if self.value is not None:
                step *= self.value.unsqueeze(1)
            g.index_add_(0, self.near - rows.start, step)
            return
        g += F.embedding_bag(
            self.row[rows.edges], self.table, rows.offset, mode="sum",
            per_sample_weights=None if self.value is None else self.value[rows.edges],
            include_last_offset=True,
        )  # fmt: skip


class Sparse:
    """The entries of the table, row by row."""

    def __init__(self, entries: Entries, assignment: Assignment) -> None:
        self.assignment = assignment
        order = stable_order(entries.row, _table_size(assignment)[0])
        self.column = entries.column.index_select(0, order)
        self.value = entries.value.index_select(0, order)
        self.count = count_rows(entries.row, _table_size(assignment)[0])
        self.first = self.count.cumsum(0) - self.count

    def prepare(self, window: Window, value: Tensor | None) -> None:
        """Looks up what the window's edges add."""
        row = _table_row(window, self.assignment)
        self.edge_value, self.near = value, window.near
        self.edge_count = self.count.index_select(0, row)
        self.edge_first = self.first.index_select(0, row)

    def add_to(self, g: Tensor, rows: Rows) -> None:
        """Adds what a block's edges add."""
        count, first = self.edge_count[rows.edges], self.edge_first[rows.edges]
        value = None if self.edge_value is None else self.edge_value[rows.edges]
        start = (self.near[rows.edges] - rows.start) * g.size(1)
        last = count.cumsum(0)
        shift = first - last + count
        total = int(last[-1]) if last.numel() > 0 else 0
        steps = torch.arange(EXPANDED, total + EXPANDED, EXPANDED, device=g.device)
        bounds = [0, *torch.searchsorted(last, steps, right=True).tolist()]
        for edges in (slice(*pair) for pair in pairwise(bounds) if pair[0] < pair[1]):
            each = torch.repeat_interleave(count[edges])
            entry = torch.arange(each.numel(), device=g.device)
            entry += last[edges.start] - count[edges.start]
            entry += shift[edges].index_select(0, each)
            step = self.value.index_select(0, entry)
            if value is not None:
                step *= value[edges].index_select(0, each)
            position = self.column.index_select(0, entry)
            position += start[edges].index_select(0, each)
            g.view(-1).index_add_(0, position, step)


Table: TypeAlias = Diagonal | Dense | Sparse


def _table_size(assignment: Assignment) -> tuple[int, int]:
    num_rows = assignment.supernode.numel() + assignment.num_graphs
    return num_rows, assignment.num_clusters


def _table_row(window: Window, assignment: Assignment) -> Tensor:
    """The row of a table that each edge looks up."""
    supernode = assignment.cluster.index_select(0, window.far)
    loop = assignment.batch.index_select(0, window.far) + assignment.supernode.numel()
    return torch.where(window.loop, loop, supernode)


def make_tables(
    assignment: Assignment, pooled_edge_index: Tensor, grad: Tensor, agreement: Tensor | None
) -> list[Table]:
    """The tables for an edge's source and for its target."""
    supernode, num_clusters = assignment.supernode, assignment.num_clusters
    source, target = pooled_edge_index
    graph, local = supernode // num_clusters, supernode % num_clusters
    inside = (source == target).nonzero().squeeze(1)
    within = source.index_select(0, inside)
    loops = Entries(
        graph.index_select(0, within) + supernode.numel(),
        local.index_select(0, within),
        grad.index_select(0, inside),
    )
    num_rows, num_columns = _table_size(assignment)
    dense = num_rows * num_columns <= max(SMALL, FILL * grad.numel())
    tables: list[Table] = []
    for near, far, extra in ((source, target, [loops]), (target, source, [])):
        parts = [Entries(far, local.index_select(0, near), grad), *extra]
        if agreement is not None:
            every = torch.arange(supernode.numel(), device=supernode.device)
            parts.append(Entries(every, local, agreement.index_select(0, graph)))
        entries = Entries(*(torch.cat(column) for column in zip(*parts, strict=True)))
        tables.append((Dense if dense else Sparse)(entries, assignment))
    return tables
