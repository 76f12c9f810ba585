"""Products of each node's row with the matrix of the node's own graph."""

from bisect import bisect_left, bisect_right
from itertools import pairwise

import torch
from torch import Tensor

from gumbelpool import scratch

SMALL = 1 << 16  # slots that may all have a row, whatever the number of nodes
TILE = 32  # rows of one graph that go into one product of a batch of products


class GraphProducts:
    r"""Gives :math:`\langle m_k, x_i \rangle` for the supernodes k of node i's graph, by blocks.

    On a CPU graphs are multiplied one after the other, which even for 2,000 graphs of 18 nodes took
    a third of the time of batched products. An accelerator cannot afford that many launches: there
    the graphs are cut into tiles of ``TILE`` rows, and one batched product takes them all.

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
        num_slots, num_nodes = num_graphs * num_clusters, batch.numel()
        graphs = torch.arange(num_graphs + 1, device=batch.device)
        self.start = torch.searchsorted(batch, graphs)
        # Where most slots are empty, all of them may take more memory than the nodes.
        self.full = num_slots <= 4 * num_nodes + SMALL
        self.by_graph = num_graphs == 1 or matrix.is_cpu or not self.full
        if self.full and num_slots > supernode.numel():
            matrix = matrix.new_zeros(num_slots, matrix.size(1)).index_copy_(0, supernode, matrix)
        if self.full:
            self.slots = matrix.view(num_graphs, num_clusters, matrix.size(1))
        if self.by_graph:
            self.node_bounds: list[int] = self.start.tolist()
        if not self.full:
            first = torch.searchsorted(supernode, graphs * num_clusters)
            sizes: list[int] = first.diff().tolist()
            self.matrices = torch.split(matrix.t(), sizes, dim=1)
            self.local = torch.split(supernode % num_clusters, sizes)

    def block(self, x: Tensor, rows: slice) -> Tensor:
        """The products of the rows ``x`` = X[rows], ``[rows, K]``; zero for other clusters."""
        return self._graph_by_graph(x, rows) if self.by_graph else self._in_tiles(x, rows)

    def _graph_by_graph(self, x: Tensor, rows: slice) -> Tensor:
        products = scratch.empty(x.size(0), self.num_clusters, x.dtype, x.device)
        first = bisect_right(self.node_bounds, rows.start) - 1
        last = bisect_left(self.node_bounds, rows.stop)
        bounds = [rows.start, *self.node_bounds[first + 1 : last], rows.stop]
        sizes = [stop - start for start, stop in pairwise(bounds)]
        parts = zip(torch.split(x, sizes), torch.split(products, sizes), strict=True)
        if self.full:
            for (own, out), matrix in zip(parts, self.slots[first:last].unbind(), strict=True):
                torch.mm(own, matrix.t(), out=out)
        else:
            for graph, (own, out) in enumerate(parts, first):
                out.zero_().index_copy_(1, self.local[graph], own @ self.matrices[graph])
        return products

    def _in_tiles(self, x: Tensor, rows: slice) -> Tensor:
        num_rows = x.size(0)
        start = (self.start - rows.start).clamp_(min=0, max=num_rows)
        size = start.diff()
        tiles = (size + (TILE - 1)).div_(TILE, rounding_mode="floor")
        last = tiles.cumsum(0)
        first = last - tiles
        num_tiles = num_rows // TILE + self.num_graphs  # at least as many as are needed
        tile = torch.arange(num_tiles, device=x.device)
        graph = torch.searchsorted(last, tile, right=True).clamp_(max=self.num_graphs - 1)

        # A graph's last tile runs on into the next graph; what comes out there is not looked at.
        within = (tile - first.index_select(0, graph)).mul_(TILE)
        node = start.index_select(0, graph).add_(within).unsqueeze(1)
        node = (node + torch.arange(TILE, device=x.device)).clamp_(max=max(num_rows - 1, 0))
        tiled = scratch.empty(num_tiles * TILE, x.size(1), x.dtype, x.device)
        torch.index_select(x, 0, node.view(-1), out=tiled)
        products = scratch.empty(num_tiles * TILE, self.num_clusters, x.dtype, x.device)
        torch.bmm(
            tiled.view(num_tiles, TILE, -1),
            self.slots.index_select(0, graph).transpose(1, 2),
            out=products.view(num_tiles, TILE, -1),
        )
        own = self.batch[rows]
        position = (first * TILE - start[:-1]).index_select(0, own)
        position += torch.arange(num_rows, device=x.device)
        out = scratch.empty(num_rows, self.num_clusters, x.dtype, x.device)
        return torch.index_select(products, 0, position, out=out)
