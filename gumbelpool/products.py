"""Products of each node's row with the matrix of the node's own graph."""

import torch
from torch import Tensor

TILE = 32  # rows of one graph that go into one product of a batch of products
FEW_ROWS = 96  # rows per graph from which a product per graph is faster than tiles, on a CPU


class GraphProducts:
    r"""Gives :math:`\langle m_k, x_i \rangle` for the supernodes k of node i's graph, by blocks.

    A few large graphs are multiplied one after the other. Many small ones, and all graphs on an
    accelerator, are cut into tiles of ``TILE`` rows which one batched product takes together.

    Args:
        matrix: m, a row for each supernode, ``[K', C]``.
        supernode: graph · K + cluster of each of its rows, ascending, ``[K']``.
        batch: Graph of each node, ``[N]``, sorted.
        num_graphs: B.
        num_clusters: K.
    """

    def __init__(
        self, matrix: Tensor, supernode: Tensor, batch: Tensor, num_graphs: int, num_clusters: int
    ) -> None:
        self.num_graphs, self.num_clusters, self.batch = num_graphs, num_clusters, batch
        graphs = torch.arange(num_graphs + 1, device=batch.device)
        self.start = torch.searchsorted(batch, graphs)
        num_slots, num_nodes = num_graphs * num_clusters, batch.numel()
        few = matrix.is_cpu and num_nodes >= FEW_ROWS * num_graphs
        # Where most slots are empty, all of them may take more memory than the nodes.
        self.by_graph = num_graphs == 1 or few or num_slots > 4 * num_nodes + 2**16
        if self.by_graph:
            self.matrix, self.local = matrix, supernode % num_clusters
            first = torch.searchsorted(supernode, graphs * num_clusters)
            self.node_bounds: list[int] = self.start.tolist()
            self.bounds: list[int] = first.tolist()
            return
        slots = matrix.new_zeros(num_slots, matrix.size(1)).index_copy_(0, supernode, matrix)
        self.matrix = slots.view(num_graphs, num_clusters, -1)

    def block(self, x: Tensor, rows: slice) -> Tensor:
        """The products of the rows ``x`` = X[rows], ``[rows, K]``; zero for other clusters."""
        return self._graph_by_graph(x, rows) if self.by_graph else self._in_tiles(x, rows)

    def _graph_by_graph(self, x: Tensor, rows: slice) -> Tensor:
        products = x.new_zeros(x.size(0), self.num_clusters)
        for graph in range(self.num_graphs):
            start = max(self.node_bounds[graph], rows.start) - rows.start
            stop = min(self.node_bounds[graph + 1], rows.stop) - rows.start
            if start >= stop:
                continue
            own = slice(self.bounds[graph], self.bounds[graph + 1])
            matrix = self.matrix[own].t()
            if matrix.size(1) == self.num_clusters:
                torch.mm(x[start:stop], matrix, out=products[start:stop])
            else:
                products[start:stop].index_copy_(1, self.local[own], x[start:stop] @ matrix)
        return products

    def _in_tiles(self, x: Tensor, rows: slice) -> Tensor:
        batch = self.batch[rows]
        start = (self.start - rows.start).clamp_(min=0, max=x.size(0))
        num_tiles = x.size(0) // TILE + self.num_graphs  # at least as many as are needed
        last = ((start.diff() + TILE - 1) // TILE).cumsum(0)
        first = torch.cat([last.new_zeros(1), last[:-1]])
        node = torch.arange(x.size(0), device=x.device)
        position = node + (first * TILE - start[:-1]).index_select(0, batch)
        tile = torch.arange(num_tiles, device=x.device)
        graph = torch.searchsorted(last, tile, right=True).clamp_(max=self.num_graphs - 1)

        padded = x.new_zeros(num_tiles * TILE, x.size(1)).index_copy_(0, position, x)
        matrix = self.matrix.index_select(0, graph).transpose(1, 2)
        products = torch.bmm(padded.view(num_tiles, TILE, -1), matrix)
        return products.view(num_tiles * TILE, -1).index_select(0, position)
