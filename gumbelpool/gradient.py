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


class PooledGradients(NamedTuple):
    """Gradients of the pooled ``x``, ``size``, ``edge_values`` and ``agreement``."""

    x: Tensor | None
    size: Tensor | None
    edge_values: Tensor | None
    agreement: Tensor | None


class _EdgesByBlock:
    """The edges whose given end lies in each block of rows."""

    def __init__(self, end: Tensor, num_nodes: int, block_size: int) -> None:
        self.order: Tensor | None = None
        if num_nodes > block_size:
            ordered, self.order = end.sort()
            starts = torch.arange(0, num_nodes + block_size, block_size, device=end.device)
            self.bounds: list[int] = torch.searchsorted(ordered, starts).tolist()

    def block(self, index: int) -> slice | Tensor:
        if self.order is None:
            return slice(None)
        return self.order[self.bounds[index] : self.bounds[index + 1]]


class AssignmentGradient:
    """Prepares what all blocks share, and gives g of one block of rows at a time."""

    def __init__(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_values: Tensor,
        batch: Tensor,
        local: Tensor,
        cluster: Tensor,
        supernode: Tensor,
        pooled_edge_index: Tensor,
        grad: PooledGradients,
        num_graphs: int,
        num_clusters: int,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        self.x, self.batch, self.local, self.cluster = x, batch, local, cluster
        self.edge_index, self.edge_values = edge_index, edge_values
        self.grad, self.num_clusters, self.dtype = grad, num_clusters, dtype

        pooled_local = supernode % num_clusters
        pooled_graph = supernode // num_clusters
        if grad.x is not None:
            graphs = torch.arange(num_graphs + 1, device=x.device)
            self.node_bounds: list[int] = torch.searchsorted(batch, graphs).tolist()
            self.pooled_bounds: list[int] = torch.searchsorted(pooled_graph, graphs).tolist()
            self.pooled_local = pooled_local

        # Terms that all nodes of a graph share, [B, K].
        self.shared: Tensor | None = None
        if grad.size is not None or grad.agreement is not None:
            self.shared = torch.zeros(num_graphs * num_clusters, dtype=dtype, device=x.device)
            if grad.size is not None:
                self.shared[supernode] += grad.size
            if grad.agreement is not None:
                members = torch.bincount(cluster, minlength=supernode.numel())
                self.shared[supernode] -= (grad.agreement[pooled_graph] * members).to(dtype)
            self.shared = self.shared.view(num_graphs, num_clusters)

        if grad.edge_values is not None or grad.agreement is not None:
            row, col = edge_index
            self.loop = row == col
            self.outgoing = _EdgesByBlock(row, batch.numel(), block_size)
            self.incoming = _EdgesByBlock(col, batch.numel(), block_size)
        if grad.edge_values is not None:
            # G as a row of K entries for each supernode at the other end: [C, K', K].
            source, target = pooled_edge_index
            shape = (grad.edge_values.size(1), supernode.numel(), num_clusters)
            channels = grad.edge_values.t().to(dtype)
            self.into = torch.zeros(shape, dtype=dtype, device=x.device)
            self.into[:, target, pooled_local[source]] = channels
            self.out_of = torch.zeros(shape, dtype=dtype, device=x.device)
            self.out_of[:, source, pooled_local[target]] = channels
            inside = source == target
            self.diagonal = torch.zeros(
                (shape[0], num_graphs, num_clusters), dtype=dtype, device=x.device
            )
            at = source[inside]
            self.diagonal[:, pooled_graph[at], pooled_local[at]] = channels[:, inside]

    def block(self, index: int, rows: slice) -> Tensor:
        """The rows ``rows`` of g, which are block number ``index``: ``[rows, K]``."""
        shape = (rows.stop - rows.start, self.num_clusters)
        g = torch.zeros(shape, dtype=self.dtype, device=self.x.device)
        if self.grad.x is not None:
            self._add_features(g, rows)
        if self.shared is not None:
            g += self.shared[self.batch[rows]]
        if self.grad.agreement is not None:
            own = self.grad.agreement[self.batch[rows]].to(self.dtype).unsqueeze(1)
            g.scatter_add_(1, self.local[rows].unsqueeze(1), own)
        if self.grad.edge_values is not None or self.grad.agreement is not None:
            self._add_edges(g, rows, self.outgoing.block(index), 0)
            self._add_edges(g, rows, self.incoming.block(index), 1)
        return g

    def _add_features(self, g: Tensor, rows: slice) -> None:
        """⟨∂L/∂X'_k, x_i⟩: a product with the graph's own supernodes, graph by graph."""
        assert self.grad.x is not None
        for graph in range(len(self.node_bounds) - 1):
            start = max(self.node_bounds[graph], rows.start)
            stop = min(self.node_bounds[graph + 1], rows.stop)
            if start >= stop:
                continue
            pooled = slice(self.pooled_bounds[graph], self.pooled_bounds[graph + 1])
            product = self.x[start:stop].to(self.dtype) @ self.grad.x[pooled].t()
            inner = g[start - rows.start : stop - rows.start]
            inner.index_copy_(1, self.pooled_local[pooled], product)

    def _add_edges(self, g: Tensor, rows: slice, edges: slice | Tensor, end: int) -> None:
        """What the edges give to the nodes at their source (``end`` 0) or target (``end`` 1)."""
        near, far = self.edge_index[end, edges], self.edge_index[1 - end, edges]
        values, loop = self.edge_values[edges].to(self.dtype), self.loop[edges]
        straight = ~loop
        row = near - rows.start
        if self.grad.agreement is not None:
            step = self.grad.agreement[self.batch[near]] * values[:, 0] * straight
            g.view(-1).index_add_(0, row * g.size(1) + self.local[far], step.to(self.dtype))
        if self.grad.edge_values is None:
            return
        other = (self.into, self.out_of)[end]
        size = (g.size(0), other.size(1))
        position = torch.stack([row, self.cluster[far]])
        for channel in range(values.size(1)):
            weight = values[:, channel] * straight
            sums = torch.sparse_coo_tensor(position, weight, size, check_invariants=False)
            g += torch.sparse.mm(sums, other[channel])
            if end == 0:
                weight = values[loop, channel].unsqueeze(1)
                g.index_add_(0, row[loop], weight * self.diagonal[channel, self.batch[near[loop]]])
