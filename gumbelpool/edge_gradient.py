r"""What the edges contribute to :math:`g = \partial L / \partial S`, by blocks of rows.

A node i gets, from each edge to a node j, the edge's value times the column :math:`c_j` of G, and
from each edge of a node j to it, the value times the row :math:`c_j`. So the gradient G of the
pooled edges is kept as a table with a row of K entries for the supernode at the other end: dense
where most of it is filled, by its entries where it is sparse, and as one number where there is
nothing but the link loss, whose G is the same on the whole diagonal of a graph.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from gumbelpool import scratch
from gumbelpool.adjacency import Edges
from gumbelpool.assignment import Assignment
from gumbelpool.coarsen import count_rows, index_dtype, stable_order

FILL = 16  # a table may have this many times more entries than there are pooled edges
SMALL = 1 << 16  # or this many entries in any case
WINDOW = 1 << 15  # edges that are looked up together
FEW = 1 << 18  # entries of g that edges may be added to one by one, which saves a sort
EXPANDED = 1 << 22  # products of an edge and an entry that are held at a time


class _Window(NamedTuple):
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


class _EdgesByNode:
    """The edges in the order of the node at one of their ends, 0 for the source.

    Where there is one block and little to add, they stay in the order in which they came.
    """

    def __init__(
        self, edge_index: Tensor, end: int, num_nodes: int, num_clusters: int, block_size: int
    ) -> None:
        self.near, self.far = edge_index[end], edge_index[1 - end]
        num_edges = self.near.numel()
        self.order: Tensor | None = None
        self.bounds = [0, num_edges]  # where the edges of each block begin
        # A device sync would cost an accelerator more than the sort.
        self.ascending = self.near.is_cpu and bool((self.near[1:] >= self.near[:-1]).all())
        if not self.ascending:
            if num_nodes <= block_size and num_edges * num_clusters <= FEW:
                return
            order = stable_order(self.near, num_nodes)
            self.order, self.ascending = order.to(index_dtype(num_edges)), True
        self.pointer = self.near.new_zeros(num_nodes + 1)
        torch.cumsum(count_rows(self.near, num_nodes), 0, out=self.pointer[1:])
        first = torch.arange(0, num_nodes + block_size, block_size, device=self.near.device)
        self.bounds = self.pointer[first.clamp_(max=num_nodes)].tolist()

    def window(self, index: int) -> tuple[int, _Window]:
        """Where the window that starts with block ``index`` ends, and its edges."""
        start = self.bounds[index]
        last = max(index + 1, bisect_right(self.bounds, start + WINDOW) - 1)
        edges: slice | Tensor = slice(start, self.bounds[last])
        if self.order is None:
            near, far = self.near[edges], self.far[edges]
        else:
            edges = self.order[edges]
            near, far = self.near.index_select(0, edges), self.far.index_select(0, edges)
        return last, _Window(near, far, near == far, edges)


class _Rows(NamedTuple):
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


class _Diagonal:
    """The same gradient on the whole diagonal of a graph's G, and nothing elsewhere."""

    def __init__(self, assignment: Assignment, agreement: Tensor) -> None:
        self.assignment, self.agreement = assignment, agreement

    def prepare(self, window: _Window, value: Tensor | None) -> None:
        """Looks up what the window's edges add."""
        local = self.assignment.local.index_select(0, window.far)
        self.position = local.add_(window.near, alpha=self.assignment.num_clusters)
        step = self.agreement
        if self.assignment.num_graphs > 1:
            step = step.index_select(0, self.assignment.batch.index_select(0, window.far))
        self.step = step.expand(window.loop.shape).masked_fill(window.loop, 0)
        if value is not None:
            self.step *= value

    def add_to(self, g: Tensor, rows: _Rows) -> None:
        """Adds what a block's edges add."""
        position = self.position[rows.edges] - rows.start * g.size(1)
        g.view(-1).index_add_(0, position, self.step[rows.edges])


class _Entries(NamedTuple):
    """Entries of a table that has a row for each supernode and one for each graph's self-loops."""

    row: Tensor
    column: Tensor
    value: Tensor


class _Dense:
    """The whole table, ``[K' + B, K]``."""

    def __init__(self, entries: _Entries, assignment: Assignment) -> None:
        self.assignment = assignment
        num_rows, num_columns = _table_size(assignment)
        self.table = entries.value.new_zeros(num_rows, num_columns)
        position = entries.row * num_columns + entries.column
        self.table.view(-1).index_add_(0, position, entries.value)

    def prepare(self, window: _Window, value: Tensor | None) -> None:
        """Looks up what the window's edges add."""
        self.row, self.value, self.near = _table_row(window, self.assignment), value, window.near

    def add_to(self, g: Tensor, rows: _Rows) -> None:
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


class _Sparse:
    """The entries of the table, row by row."""

    def __init__(self, entries: _Entries, assignment: Assignment) -> None:
        self.assignment = assignment
        order = stable_order(entries.row, _table_size(assignment)[0])
        self.column = entries.column.index_select(0, order)
        self.value = entries.value.index_select(0, order)
        self.count = count_rows(entries.row, _table_size(assignment)[0])
        self.first = self.count.cumsum(0) - self.count

    def prepare(self, window: _Window, value: Tensor | None) -> None:
        """Looks up what the window's edges add."""
        row = _table_row(window, self.assignment)
        self.edge_value, self.near = value, window.near
        self.edge_count = self.count.index_select(0, row)
        self.edge_first = self.first.index_select(0, row)

    def add_to(self, g: Tensor, rows: _Rows) -> None:
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


_Table: TypeAlias = _Diagonal | _Dense | _Sparse


def _table_size(assignment: Assignment) -> tuple[int, int]:
    num_rows = assignment.supernode.numel() + assignment.num_graphs
    return num_rows, assignment.num_clusters


def _table_row(window: _Window, assignment: Assignment) -> Tensor:
    """The row of a table that each edge looks up."""
    supernode = assignment.cluster.index_select(0, window.far)
    loop = assignment.batch.index_select(0, window.far) + assignment.supernode.numel()
    return torch.where(window.loop, loop, supernode)


class EdgeGradient:
    """Prepares the tables, and adds to one block of rows of g at a time.

    Args:
        edges: ``edge_index`` with its weights (``None`` for ones) and features.
        assignment: The draw.
        pooled_edge_index: ``[2, E']``.
        grad_weight: Gradient of the pooled weights, ``[E']``, if any.
        grad_attr: Gradient of the pooled features, ``[E', D]``, if any.
        agreement: Gradient of the agreement that the link loss is made of, ``[B]``, if any.
        block_size: Rows per block.
        dtype: Of g.
    """

    def __init__(
        self,
        edges: Edges,
        assignment: Assignment,
        pooled_edge_index: Tensor,
        grad_weight: Tensor | None,
        grad_attr: Tensor | None,
        agreement: Tensor | None,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        num_nodes = assignment.batch.numel()
        self.ends = [
            _EdgesByNode(edges.edge_index, end, num_nodes, assignment.num_clusters, block_size)
            for end in (0, 1)
        ]
        self.dtype = dtype
        # Each channel's values, and its tables for the two ends.
        self.channels: list[tuple[Tensor | None, Sequence[_Table]]] = []
        tables: Sequence[_Table]
        if grad_weight is not None:
            tables = _tables(assignment, pooled_edge_index, grad_weight.to(dtype), agreement)
            self.channels.append((edges.edge_weight, tables))
        elif agreement is not None:
            tables = _Diagonal(assignment, agreement), _Diagonal(assignment, agreement)
            self.channels.append((edges.edge_weight, tables))
        if grad_attr is not None and edges.edge_attr is not None:
            for grad, value in zip(grad_attr.t(), edges.edge_attr.t(), strict=True):
                tables = _tables(assignment, pooled_edge_index, grad.to(dtype), None)
                self.channels.append((value, tables))

        self.first, self.last = [0, 0], [0, 0]  # blocks of each end's window

    def add_to(self, g: Tensor, index: int, rows: slice) -> None:
        """Adds to the rows ``rows`` of g, which are block number ``index``: ``[rows, K]``.

        The blocks must come in order, from the first.
        """
        for end, edges in enumerate(self.ends):
            if index == self.last[end]:
                self._move_window(end, index)
            before = edges.bounds[self.first[end]]
            start, stop = edges.bounds[index], edges.bounds[index + 1]
            if start == stop:
                continue
            own = _Rows(
                slice(start - before, stop - before),
                rows.start,
                edges.pointer[rows.start : rows.stop + 1] - start if edges.ascending else None,
            )
            for _, tables in self.channels:
                tables[end].add_to(g, own)

    def _move_window(self, end: int, index: int) -> None:
        self.first[end] = index
        self.last[end], window = self.ends[end].window(index)
        for value, tables in self.channels:
            if value is not None:
                own = window.edges
                value = value[own] if isinstance(own, slice) else value.index_select(0, own)
                value = value.to(self.dtype)
            tables[end].prepare(window, value)


def _tables(
    assignment: Assignment, pooled_edge_index: Tensor, grad: Tensor, agreement: Tensor | None
) -> list[_Table]:
    """The tables for an edge's source and for its target."""
    supernode, num_clusters = assignment.supernode, assignment.num_clusters
    source, target = pooled_edge_index
    graph, local = supernode // num_clusters, supernode % num_clusters
    inside = (source == target).nonzero().squeeze(1)
    within = source.index_select(0, inside)
    loops = _Entries(
        graph.index_select(0, within) + supernode.numel(),
        local.index_select(0, within),
        grad.index_select(0, inside),
    )
    num_rows, num_columns = _table_size(assignment)
    dense = num_rows * num_columns <= max(SMALL, FILL * grad.numel())
    tables: list[_Table] = []
    for near, far, extra in ((source, target, [loops]), (target, source, [])):
        parts = [_Entries(far, local.index_select(0, near), grad), *extra]
        if agreement is not None:
            every = torch.arange(supernode.numel(), device=supernode.device)
            parts.append(_Entries(every, local, agreement.index_select(0, graph)))
        entries = _Entries(*(torch.cat(column) for column in zip(*parts, strict=True)))
        tables.append((_Dense if dense else _Sparse)(entries, assignment))
    return tables
