"""The edges and the gradient of the pooled ones, in the form that the row functions take."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from gumbelpool import rows
from gumbelpool.coarsen import count_rows
from gumbelpool.inputs import Inputs
from gumbelpool.plan import Plan, narrowest_dtype
from gumbelpool.rows.merging import index_dtype
from gumbelpool.rows.reference import Table

FILL = 16  # a table may have this many times more entries than are not zero
SMALL = 1 << 16  # or this many entries in any case


class Edges(NamedTuple):
    """Edges ``[2, E]`` with their weights ``[E]`` and features ``[E, D]``, if they have any."""

    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None

    @staticmethod
    def of(inputs: Inputs) -> "Edges":
        """Those of a call."""
        return Edges(inputs.edge_index, inputs.edge_weight, inputs.edge_attr)


Ends: TypeAlias = tuple[Edges, Edges]
"""The edges whose source is a row, and those whose target is one: the same, but in a shard."""


class Volumes(NamedTuple):
    """What the gradient of Σ_k vol⁺_k vol⁻_k is made of, in float64, source before target.

    Attributes:
        degree: Out- and in-degree of each node, ``[N, 2]``.
        volume: Their sums over the members of each slot, ``[B·K, 2]``.
        slope: Gradient of each graph's Σ_k vol⁺_k vol⁻_k, ``[B]``.
    """

    degree: Tensor
    volume: Tensor
    slope: Tensor

    @staticmethod
    def of(plan: Plan, inputs: Inputs, ends: Ends, slot: Tensor, slope: Tensor) -> "Volumes":
        """Sums the edges at each row, and the rows of each slot."""
        num_rows, sum_rows = inputs.x.size(0), rows.of(inputs.x).sum_rows
        degrees = [
            count_rows(edges.edge_index[end], num_rows).double()
            if edges.edge_weight is None
            else sum_rows(edges.edge_weight, edges.edge_index[end], num_rows)
            for end, edges in enumerate(ends)
        ]
        degree = torch.stack(degrees, dim=1)
        num_slots = inputs.num_graphs * plan.num_clusters
        return Volumes(degree, sum_rows(degree, slot, num_slots), slope)

    def of_pairs(self, source: Tensor, target: Tensor, graph: Tensor) -> Tensor:
        """The gradient of an edge's weight, for the slots and the graph of its ends."""
        other = self.volume[:, 1].index_select(0, source) + self.volume[:, 0].index_select(
            0, target
        )
        return other * self.slope.index_select(0, graph)

    def of_degrees(self, supernode: Tensor, graph: Tensor) -> Tensor:
        """What a node's out- and in-degree are multiplied with in g, of each supernode, [K', 2]."""
        volume = self.volume.index_select(0, supernode).flip(1)
        return volume * self.slope.index_select(0, graph).unsqueeze(1)

    def of_nodes(self, batch: Tensor) -> Tensor:
        """The half of what a node's own degrees have added to g, [N]."""
        return self.degree.prod(1) * self.slope.index_select(0, batch)


class EdgeBlocks:
    """The edges by the block that the row at one of their ends is in, 0 for the source."""

    def __init__(self, plan: Plan, num_rows: int, ends: Ends) -> None:
        self.ends = [edges.edge_index.unbind() for edges in ends]
        self.block_size = plan.block_size
        self.order: list[Tensor | None] = [None, None]
        self.bounds: list[list[int]] = []
        num_blocks = -(-num_rows // plan.block_size)
        if num_blocks <= 1:
            return
        dtype = narrowest_dtype(num_blocks + 1)  # a sort takes several times what it sorts
        every = torch.arange(num_blocks + 1, dtype=dtype, device=ends[0].edge_index.device)
        for end, nodes in enumerate(self.ends):
            near = nodes[end]
            block = torch.empty_like(near, dtype=dtype)
            torch.div(near, plan.block_size, rounding_mode="floor", out=block)
            if not bool((block[1:] >= block[:-1]).all()):
                block, order = block.sort()
                self.order[end] = order.to(index_dtype(near.numel()))
            self.bounds.append(torch.searchsorted(block, every).tolist())

    def of(self, block: slice, end: int) -> tuple[Tensor, Tensor, slice | Tensor | None]:
        """The near and far nodes of a block's edges, and which edges these are; None for all."""
        near, far = self.ends[end][end], self.ends[end][1 - end]
        if not self.bounds:
            return near, far, None
        index, order = block.start // self.block_size, self.order[end]
        own = slice(*self.bounds[end][index : index + 2])
        if order is None:
            return near[own], far[own], own
        edges = order[own].long()
        return near.index_select(0, edges), far.index_select(0, edges), edges


class Tables:
    """The gradient G of the pooled edges, as tables by the slot at an edge's far end."""

    def __init__(self, plan: Plan, inputs: Inputs, supernode: Tensor, edge_index: Tensor) -> None:
        self.K, self.num_graphs = plan.num_clusters, inputs.num_graphs
        self.supernode, (self.source, self.target) = supernode, edge_index
        self.num_slots = self.num_graphs * self.K

    def of(self, grad: Tensor | None, inside: Tensor | None) -> tuple[Table, Table]:
        """The tables for an edge's source and for its target.

        Args:
            grad: Gradient of the pooled edges' values, ``[E']``, if any.
            inside: Gradient of the weight inside of each graph's clusters, ``[B]``, if any: on the
                whole diagonal.
        """
        num_entries = 0 if grad is None else grad.numel()
        if (self.num_slots + self.num_graphs) * self.K <= max(SMALL, FILL * num_entries):
            return self._dense(grad, inside)
        return self._sparse(grad, inside)

    def _dense(self, grad: Tensor | None, inside: Tensor | None) -> tuple[Table, Table]:
        K, B = self.K, self.num_graphs
        like = grad if grad is not None else inside
        assert like is not None
        tables = like.new_zeros(2, self.num_slots + B, K)
        columns, matrix = (table[: self.num_slots].view(B, K, K) for table in tables)
        if grad is not None:
            matrix.view(-1).index_copy_(0, self.source * K + self.target % K, grad)
            tables[0, self.num_slots :] = matrix.diagonal(dim1=1, dim2=2)
        if inside is not None:
            matrix.diagonal(dim1=1, dim2=2).add_(inside.unsqueeze(1))
        columns.copy_(matrix.transpose(1, 2))
        first, second = (Table(table, None, None, self.num_slots) for table in tables)
        return first, second

    def _sparse(self, grad: Tensor | None, inside: Tensor | None) -> tuple[Table, Table]:
        K = self.K
        parts: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]
        if grad is not None:
            diagonal = (self.source == self.target).nonzero().squeeze(1)
            loops = self.source.index_select(0, diagonal)
            own = grad.index_select(0, diagonal)
            parts[0] += [
                (self.target, self.source % K, grad),
                (self.num_slots + loops // K, loops % K, own),
            ]
            parts[1] += [(self.source, self.target % K, grad)]
        if inside is not None:
            each = inside.index_select(0, self.supernode // K)
            for part in parts:
                part.append((self.supernode, self.supernode % K, each))
        first, second = (self._by_row(part) for part in parts)
        return first, second

    def _by_row(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Table:
        row, column, value = (torch.cat(part) for part in zip(*parts, strict=True))
        row, order = row.sort(stable=True)
        every = torch.arange(self.num_slots + self.num_graphs + 1, device=row.device)
        pointer = torch.searchsorted(row, every)
        return Table(value[order], pointer, column[order], self.num_slots)
