r"""The gradient :math:`g = \partial L / \partial S` of the straight-through draw, by blocks.

With k, l over the clusters of node i's graph, G the gradient of the pooled edge values, A₀ the
edges that are no self-loops and a their self-loops,

.. math::
    g_{ik} = \langle \partial L / \partial X'_k, x_i \rangle
    + \sum_l G_{kl} (A_0 S)_{il} + \sum_l G_{lk} (A_0^\top S)_{il} + a_i G_{kk} + \ldots

where the dots stand for the sizes n_k and the agreement that the link loss is made of.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool import scratch
from gumbelpool.adjacency import Edges
from gumbelpool.assignment import Assignment, with_ones
from gumbelpool.edge_gradient import EdgeGradient
from gumbelpool.products import GraphProducts


class PooledGradients(NamedTuple):
    """Gradients of the pooled ``x``, ``size``, ``edge_weight``, ``edge_attr``, ``agreement``."""

    x: Tensor | None
    size: Tensor | None
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    agreement: Tensor | None


class AssignmentGradient:
    """Prepares what all blocks share, and gives g of one block of rows at a time."""

    def __init__(
        self,
        x: Tensor,
        edges: Edges,
        assignment: Assignment,
        pooled_edge_index: Tensor,
        grad: PooledGradients,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        self.x, self.assignment, self.dtype = x, assignment, dtype
        self.agreement = None if grad.agreement is None else grad.agreement.to(dtype)

        # The term ⟨∂L/∂X'_k, x_i⟩, and in one more column, for an x of one, what all nodes share.
        columns = [] if grad.x is None else [grad.x]
        shared = grad.size
        if self.agreement is not None:
            graph = assignment.supernode // assignment.num_clusters
            pairs = -self.agreement.index_select(0, graph) * assignment.members
            shared = pairs if shared is None else shared + pairs
        if shared is not None:
            columns.append(shared.unsqueeze(1))
        self.has_features, self.has_shared = grad.x is not None, shared is not None
        self.products: GraphProducts | None = None
        if columns:
            self.products = GraphProducts(
                torch.cat(columns, dim=1), assignment.supernode, assignment.batch,
                assignment.num_graphs, assignment.num_clusters,
            )  # fmt: skip

        self.edges: EdgeGradient | None = None
        if edges.edge_index.size(1) > 0 and any(
            value is not None for value in (grad.edge_weight, grad.edge_attr, grad.agreement)
        ):
            self.edges = EdgeGradient(
                edges, assignment, pooled_edge_index, grad.edge_weight, grad.edge_attr,
                self.agreement, block_size, dtype,
            )  # fmt: skip

    def block(self, index: int, rows: slice, ones: Tensor | None = None) -> Tensor:
        """The rows ``rows`` of g, which are block number ``index``: ``[rows, K]``.

        ``ones`` are x and a column of ones, for a caller who has them.
        """
        x, num_rows = self.x[rows], rows.stop - rows.start
        if self.products is None:
            num_clusters = self.assignment.num_clusters
            g = scratch.empty(num_rows, num_clusters, self.dtype, x.device).zero_()
        elif not self.has_features:
            g = self.products.block(x.new_ones(num_rows, 1, dtype=self.dtype), rows)
        elif not self.has_shared:
            g = self.products.block(x.to(self.dtype), rows)
        else:
            g = self.products.block(with_ones(x, self.dtype) if ones is None else ones, rows)
        if self.agreement is not None:
            own = self.agreement.index_select(0, self.assignment.batch[rows])
            g.scatter_add_(1, self.assignment.local[rows].unsqueeze(1), own.unsqueeze(1))
        if self.edges is not None:
            self.edges.add_to(g, index, rows)
        return g
