"""The gradient g with respect to the one-hot assignment, one block of its rows at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool import rows
from gumbelpool.assignment import Assignment, stage
from gumbelpool.edges import EdgeBlocks, Ends, Tables, Volumes
from gumbelpool.inputs import Inputs
from gumbelpool.plan import Plan, PooledGradients
from gumbelpool.rows.reference import Table


class Part(NamedTuple):
    """The rows whose gradient is taken, of all nodes or of a shard's.

    Attributes:
        nodes: Their clusters.
        ends: Their edges.
        volumes: Where the gradient needs them.
        first_row: What number the first one has among all nodes.
    """

    nodes: Assignment
    ends: Ends
    volumes: Volumes | None
    first_row: int


class AssignmentGradient:
    """Prepares what all blocks share, and gives g of one block of rows at a time."""

    def __init__(
        self, plan: Plan, inputs: Inputs, part: Part, edge_index: Tensor, grad: PooledGradients
    ) -> None:
        nodes, volumes = part.nodes, part.volumes
        self.plan, self.inputs, self.nodes, self.dtype = plan, inputs, nodes, inputs.dtype
        inside = None if grad.inside is None else grad.inside.to(self.dtype)
        graph = nodes.supernode // plan.num_clusters

        # What all nodes of a graph share, the gradient of the sizes and of Σ n_k², and what their
        # features and degrees are multiplied with; `own` takes the part i = j of that away.
        self.matrix, self.shared = grad.x, grad.size
        self.num_features = 0 if grad.x is None else grad.x.size(1)
        self.degree: Tensor | None = None
        self.own: Tensor | None = None
        if grad.pairs is not None:
            slope = 2 * grad.pairs.to(self.dtype)
            pairs = slope.index_select(0, graph) * nodes.members
            self.shared = pairs if self.shared is None else self.shared + pairs
            self.own = slope.neg().index_select(0, inputs.batch)
        if volumes is not None:
            self.degree = volumes.degree.to(self.dtype)
            columns = volumes.of_degrees(nodes.supernode, graph).to(self.dtype)
            self.matrix = columns if grad.x is None else torch.cat([grad.x, columns], dim=1)
            own = -2 * volumes.of_nodes(inputs.batch).to(self.dtype)
            self.own = own if self.own is None else self.own + own
        if inputs.num_graphs == 1 and nodes.number is not None:
            self.matrix, self.shared = self._all_slots(self.matrix), self._all_slots(self.shared)

        num_rows = min(plan.block_size, inputs.x.size(0))
        self.memory = inputs.x.new_empty(num_rows, plan.num_clusters, dtype=self.dtype)
        out, into = part.ends
        num_edges = max(out.edge_index.size(1), into.edge_index.size(1))
        self.edges = EdgeBlocks(plan, inputs.x.size(0), part.ends) if num_edges > 0 else None
        # By channel: the values of the edges at either end, and the tables for them.
        self.channels: list[tuple[tuple[Tensor | None, ...], tuple[Table, Table]]] = []
        tables = Tables(plan, inputs, nodes.supernode, edge_index)
        if grad.edge_weight is not None or inside is not None:
            both = tables.of(grad.edge_weight, inside)
            self.channels.append(((out.edge_weight, into.edge_weight), both))
        if grad.edge_attr is not None and out.edge_attr is not None and into.edge_attr is not None:
            values = out.edge_attr.unbind(1)
            others = values if into is out else into.edge_attr.unbind(1)
            for each, *value in zip(grad.edge_attr.t(), values, others, strict=True):
                self.channels.append((tuple(value), tables.of(each, None)))

    def _all_slots(self, rows_of_supernodes: Tensor | None) -> Tensor | None:
        if rows_of_supernodes is None:
            return None
        shape = (self.plan.num_clusters, *rows_of_supernodes.shape[1:])
        every = rows_of_supernodes.new_zeros(shape)
        return every.index_copy_(0, self.nodes.supernode, rows_of_supernodes)

    def block(self, block: slice) -> Tensor:
        """The rows ``block`` of g, ``[rows, K]``; valid until the next call."""
        g, nodes = self.memory[: block.stop - block.start], self.nodes
        with stage("products"):
            self._multiply(g, block)
        if self.own is not None:
            own = self.own[block].unsqueeze(1)
            g.scatter_add_(1, nodes.local[block].unsqueeze(1), own)
        if self.edges is not None and self.channels:
            with stage("add_edges"):
                for end in (0, 1):
                    near, far, edges = self.edges.of(block, end)
                    for values, tables in self.channels:
                        value, table = values[end], tables[end]
                        if value is not None:
                            value = (value if edges is None else value[edges]).to(self.dtype)
                        rows.of(g).add_edges_(g, block.start, near, far, value, nodes.far, table)
        return g

    def _multiply(self, g: Tensor, block: slice) -> None:
        """Writes ⟨∂L/∂X'_k, x_i⟩, the same of the degrees, and what the nodes share, to g."""
        matrix, shared, inputs = self.matrix, self.shared, self.inputs
        if matrix is None and shared is None:
            g.zero_()
            return
        if matrix is None:
            assert shared is not None
            matrix = g.new_zeros(shared.numel(), 0)
        x = inputs.x[block, : self.num_features].to(self.dtype)
        if self.degree is not None:
            x = torch.cat([x, self.degree[block]], dim=1)
        if inputs.num_graphs > 1:
            rows.of(g).multiply_rows_(
                g, x, matrix, shared, self.nodes.supernode, inputs.batch[block], inputs.num_graphs
            )
        elif shared is None:
            torch.mm(x, matrix.t(), out=g)
        else:
            torch.addmm(shared, x, matrix.t(), out=g)
