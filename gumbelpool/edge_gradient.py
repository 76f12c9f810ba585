r"""What the edges contribute to :math:`g = \partial L / \partial S`, by blocks of rows.

A node i gets, from each edge to a node j, the edge's value times the column :math:`c_j` of G, and
from each edge of a node j to it, the value times the row :math:`c_j`. G is in the tables of
:mod:`gumbelpool.edge_tables`; here the edges are put in the order of the rows.
"""

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from gumbelpool.adjacency import Edges
from gumbelpool.assignment import Assignment
from gumbelpool.coarsen import count_rows, index_dtype, stable_order
from gumbelpool.edge_tables import Diagonal, Rows, Table, Window, make_tables

WINDOW = 1 << 15  # edges that are looked up together
FEW = 1 << 18  # entries of g that edges may be added to one by one, which saves a sort


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

    def window(self, index: int) -> tuple[int, Window]:
        """Where the window that starts with block ``index`` ends, and its edges."""
        start = self.bounds[index]
        last = max(index + 1, bisect_right(self.bounds, start + WINDOW) - 1)
        edges: slice | Tensor = slice(start, self.bounds[last])
        if self.order is None:
            near, far = self.near[edges], self.far[edges]
        else:
            edges = self.order[edges]
            near, far = self.near.index_select(0, edges), self.far.index_select(0, edges)
        return last, Window(near, far, near == far, edges)


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
        self.channels: list[tuple[Tensor | None, Sequence[Table]]] = []
        tables: Sequence[Table]
        if grad_weight is not None:
            tables = make_tables(assignment, pooled_edge_index, grad_weight.to(dtype), agreement)
            self.channels.append((edges.edge_weight, tables))
        elif agreement is not None:
            tables = Diagonal(assignment, agreement), Diagonal(assignment, agreement)
            self.channels.append((edges.edge_weight, tables))
        if grad_attr is not None and edges.edge_attr is not None:
            for grad, value in zip(grad_attr.t(), edges.edge_attr.t(), strict=True):
                tables = make_tables(assignment, pooled_edge_index, grad.to(dtype), None)
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
            own = Rows(
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
