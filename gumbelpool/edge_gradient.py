r"""What the edges contribute to :math:`g = \partial L / \partial S`, by blocks of rows.

A node i gets, from each edge to a node j, the edge's value times the column :math:`c_j` of G, and
from each edge of a node j to it, the value times the row :math:`c_j`. So the gradient G of the
pooled edges is kept as a table with a row of K entries for the supernode at the other end: dense
where most of it is filled, by its entries where it is sparse, and as one number where there is
nothing but the link loss, whose G is the same on the whole diagonal of a graph.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gumbelpool.adjacency import Edges
from gumbelpool.assignment import Assignment
from gumbelpool.coarsen import count_rows, index_dtype

FILL = 16  # a table may have this many times more entries than there are pooled edges
SMALL = 1 << 16  # or this many entries in any case
EXPANDED = 1 << 22  # products of an edge and an entry that are held at a time


class _Block(NamedTuple):
    """The edges at one end of a block of rows.

    Attributes:
        far: The node at the other end, ``[e]``.
        loop: Whether it is the same node, ``[e]``.
        row: Row of the block, ``[e]``, ascending.
        offset: Where each row's edges start, and their number, ``[rows + 1]``.
        edges: Which of all edges these are, a slice or ``[e]``.
    """

    far: Tensor
    loop: Tensor
    row: Tensor
    offset: Tensor
    edges: slice | Tensor


class _EdgesByNode:
    """The edges in the order of the node at one of their ends, 0 for the source."""

    def __init__(self, edge_index: Tensor, end: int, num_nodes: int, block_size: int) -> None:
        self.near, self.far = edge_index[end], edge_index[1 - end]
        num_edges = self.near.numel()
        self.order: Tensor | None = None
        # A device sync would cost an accelerator more than the sort.
        if not (self.near.is_cpu and bool((self.near[1:] >= self.near[:-1]).all())):
            order = self.near.to(index_dtype(num_nodes)).sort(stable=True).indices
            self.order = order.to(index_dtype(num_edges))
        self.pointer = self.near.new_zeros(num_nodes + 1)
        torch.cumsum(count_rows(self.near, num_nodes), 0, out=self.pointer[1:])
        first = torch.arange(0, num_nodes + block_size, block_size, device=self.near.device)
        self.bounds: list[int] = self.pointer[first.clamp_(max=num_nodes)].tolist()

    def block(self, index: int, rows: slice) -> _Block:
        edges: slice | Tensor = slice(self.bounds[index], self.bounds[index + 1])
        if self.order is None:
            near, far = self.near[edges], self.far[edges]
        else:
            edges = self.order[edges]
            near, far = self.near.index_select(0, edges), self.far.index_select(0, edges)
        offset = self.pointer[rows.start : rows.stop + 1] - self.bounds[index]
        return _Block(far, near == far, near - rows.start, offset, edges)


class _Diagonal:
    """The same gradient on the whole diagonal of a graph's G, and nothing elsewhere."""

    def __init__(self, assignment: Assignment, agreement: Tensor) -> None:
        self.assignment, self.agreement = assignment, agreement

    def add_to(self, g: Tensor, block: _Block, value: Tensor | None) -> None:
        """Adds each edge's value times the table's row for the node at its other end."""
        step = self.agreement.index_select(0, self.assignment.batch.index_select(0, block.far))
        if value is not None:
            step *= value
        local = self.assignment.local.index_select(0, block.far)
        g.view(-1).index_add_(0, block.row * g.size(1) + local, step.masked_fill_(block.loop, 0))


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

    def add_to(self, g: Tensor, block: _Block, value: Tensor | None) -> None:
        """Adds each edge's value times the table's row for the node at its other end."""
        g += F.embedding_bag(
            _table_row(block, self.assignment), self.table, block.offset, mode="sum",
            per_sample_weights=value, include_last_offset=True,
        )  # fmt: skip


class _Sparse:
    """The entries of the table, row by row."""

    def __init__(self, entries: _Entries, assignment: Assignment) -> None:
        self.assignment = assignment
        order = entries.row.to(index_dtype(_table_size(assignment)[0])).sort().indices
        self.column = entries.column.index_select(0, order)
        self.value = entries.value.index_select(0, order)
        self.count = count_rows(entries.row, _table_size(assignment)[0])
        self.first = self.count.cumsum(0) - self.count

    def add_to(self, g: Tensor, block: _Block, value: Tensor | None) -> None:
        """Adds each edge's value times the table's row for the node at its other end."""
        row = _table_row(block, self.assignment)
        count = self.count.index_select(0, row)
        last = count.cumsum(0)
        shift = self.first.index_select(0, row) - last + count
        start = block.row * g.size(1)
        total = int(last[-1]) if last.numel() > 0 else 0
        steps = torch.arange(EXPANDED, total + EXPANDED, EXPANDED, device=g.device)
        bounds = [0, *torch.searchsorted(last, steps, right=True).tolist()]
        for edges in (slice(*pair) for pair in pairwise(bounds)):
            each = torch.repeat_interleave(count[edges])
            before = last[edges.start] - count[edges.start] if each.numel() > 0 else 0
            entry = torch.arange(each.numel(), device=g.device) + before
            entry += shift[edges].index_select(0, each)
            step = self.value.index_select(0, entry)
            if value is not None:
                step *= value[edges].index_select(0, each)
            position = self.column.index_select(0, entry)
            position += start[edges].index_select(0, each)
            g.view(-1).index_add_(0, position, step)


def _table_size(assignment: Assignment) -> tuple[int, int]:
    num_rows = assignment.supernode.numel() + assignment.num_graphs
    return num_rows, assignment.num_clusters


def _table_row(block: _Block, assignment: Assignment) -> Tensor:
    """The row of a table that each edge looks up."""
    supernode = assignment.cluster.index_select(0, block.far)
    loop = assignment.batch.index_select(0, block.far) + assignment.supernode.numel()
    return torch.where(block.loop, loop, supernode)


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
        self.ends = [_EdgesByNode(edges.edge_index, end, num_nodes, block_size) for end in (0, 1)]
        self.dtype = dtype
        # Each channel's values, and its tables for the two ends.
        self.channels: list[tuple[Tensor | None, tuple[_Diagonal | _Dense | _Sparse, ...]]] = []
        if grad_weight is not None:
            tables = _tables(assignment, pooled_edge_index, grad_weight.to(dtype), agreement)
            self.channels.append((edges.edge_weight, tables))
        elif agreement is not None:
            self.channels.append((edges.edge_weight, (_Diagonal(assignment, agreement),) * 2))
        if grad_attr is not None and edges.edge_attr is not None:
            for grad, value in zip(grad_attr.t(), edges.edge_attr.t(), strict=True):
                tables = _tables(assignment, pooled_edge_index, grad.to(dtype), None)
                self.channels.append((value, tables))

    def add_to(self, g: Tensor, index: int, rows: slice) -> None:
        """Adds to the rows ``rows`` of g, which are block number ``index``: ``[rows, K]``."""
        for end, edges in enumerate(self.ends):
            block = edges.block(index, rows)
            for value, tables in self.channels:
                if value is not None:
                    own = block.edges
                    value = value[own] if isinstance(own, slice) else value.index_select(0, own)
                    value = value.to(self.dtype)
                tables[end].add_to(g, block, value)


def _tables(
    assignment: Assignment, pooled_edge_index: Tensor, grad: Tensor, agreement: Tensor | None
) -> tuple[_Dense | _Sparse, ...]:
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
    tables = []
    for near, far, extra in ((source, target, [loops]), (target, source, [])):
        parts = [_Entries(far, local.index_select(0, near), grad), *extra]
        if agreement is not None:
            every = torch.arange(supernode.numel(), device=supernode.device)
            parts.append(_Entries(every, local, agreement.index_select(0, graph)))
        entries = _Entries(*(torch.cat(column) for column in zip(*parts, strict=True)))
        tables.append((_Dense if dense else _Sparse)(entries, assignment))
    return tuple(tables)
