"""What is measured: this library, its peers, and the floor. Each is one step of training.

A peer is made once for a case; each step gives a scalar to differentiate and the number of
pooled edges. All score the same features with a linear layer of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import dense_diff_pool, dense_mincut_pool
from torch_geometric.utils import coalesce, scatter, to_dense_adj, to_dense_batch

from gumbelpool import GumbelPool

from .cases import NUM_FEATURES, Case, Graphs

OURS = "gumbelpool"


@dataclass
class Setting:
    """A case on its graphs."""

    case: Case
    graphs: Graphs
    x: Tensor

    @property
    def batch(self) -> Tensor:
        """Graph of each node, [N]."""
        if self.graphs.batch is not None:
            return self.graphs.batch
        return torch.zeros(self.graphs.num_nodes, dtype=torch.int64)


Step = Callable[[], tuple[Tensor, int]]


def _use(x: Tensor, weight: Tensor | None) -> Tensor:
    """A scalar whose gradients with respect to what was pooled are all different."""
    total = (x * x).sum() / x.numel()
    return total if weight is None else total + (weight * weight).sum() / max(weight.numel(), 1)


def gumbelpool(setting: Setting) -> Step:
    """``GumbelPool`` as it comes, but with the two losses that DiffPool's layers compute."""
    pool = GumbelPool(NUM_FEATURES, setting.case.num_clusters, losses=("link", "entropy"))
    graphs = setting.graphs
    batch_size = None if graphs.batch is None else graphs.num_graphs

    def step() -> tuple[Tensor, int]:
        out = pool(setting.x, graphs.edge_index, batch=graphs.batch, batch_size=batch_size)
        weight = out.edge_weight if setting.case.used else None
        return _use(out.x, weight) + out.loss, out.edge_index.size(1)

    return step


def composition(setting: Setting) -> Step:
    """What a user writes without this library; no losses, gradient of the drawn entry only."""
    clusters, graphs, batch = setting.case.num_clusters, setting.graphs, setting.batch
    head = torch.nn.Linear(NUM_FEATURES, clusters)
    num_supernodes = graphs.num_graphs * clusters

    def step() -> tuple[Tensor, int]:
        assignment = F.gumbel_softmax(head(setting.x), hard=True)
        drawn, local = assignment.max(-1)
        cluster = local + batch * clusters
        x = scatter(setting.x * drawn.unsqueeze(1), cluster, 0, num_supernodes, "sum")
        row, col = graphs.edge_index
        weight = drawn[row] * drawn[col] if setting.case.used else torch.ones(row.numel())
        edge_index, weight = coalesce(cluster[graphs.edge_index], weight, num_supernodes)
        return _use(x, weight if setting.case.used else None), edge_index.size(1)

    return step


def sparse_products(setting: Setting) -> Step:
    """One graph after the other: SᵀX, and SᵀAS with a sparse A."""
    clusters, graphs = setting.case.num_clusters, setting.graphs
    head = torch.nn.Linear(NUM_FEATURES, clusters)
    sizes = torch.bincount(setting.batch, minlength=graphs.num_graphs)
    start = sizes.cumsum(0) - sizes
    of_edge = setting.batch[graphs.edge_index[0]]
    adjacencies = []
    for graph, size in enumerate(sizes.tolist()):
        index = graphs.edge_index[:, of_edge == graph] - start[graph]
        adjacencies.append(
            torch.sparse_coo_tensor(
                index, torch.ones(index.size(1)), (size, size), check_invariants=False
            ).coalesce()
        )

    def step() -> tuple[Tensor, int]:
        total, edges = torch.zeros(()), 0
        for x, adjacency in zip(setting.x.split(sizes.tolist()), adjacencies, strict=True):
            assignment = F.gumbel_softmax(head(x), hard=True)
            pooled = assignment.t() @ torch.sparse.mm(adjacency, assignment)
            total = total + _use(assignment.t() @ x, pooled if setting.case.used else None)
            edges += int(pooled.detach().count_nonzero())
        return total, edges

    return step


def _pyg(pool: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]) -> Callable[[Setting], Step]:
    def make(setting: Setting) -> Step:
        head = torch.nn.Linear(NUM_FEATURES, setting.case.num_clusters)

        def step() -> tuple[Tensor, int]:
            x, mask = to_dense_batch(setting.x, setting.batch)
            adjacency = to_dense_adj(setting.graphs.edge_index, setting.batch)
            x, adjacency, first, second = pool(x, adjacency, head(x), mask)
            return _use(x, adjacency) + first + second, adjacency.numel()

        return step

    make.__doc__ = f"PyG's ``{pool.__name__}``, with both of its losses."
    return make


def _tgp(name: str) -> Callable[[Setting], Step]:
    def make(setting: Setting) -> Step:
        from tgp.poolers import get_pooler

        pool = get_pooler(name, in_channels=NUM_FEATURES, k=setting.case.num_clusters)

        def step() -> tuple[Tensor, int]:
            out = pool(x=setting.x, adj=setting.graphs.edge_index, batch=setting.batch)
            return _use(out.x, out.edge_index) + sum(out.loss.values()), out.edge_index.numel()

        return step

    make.__doc__ = f"torch-geometric-pool's ``{name}``."
    return make


def _rows_of_adjacency(setting: Setting, cluster: Tensor, size: int) -> list[Tensor]:
    """The rows of AS, S one-hot, in blocks of `size` rows each, as sparse matrices."""
    graphs, clusters = setting.graphs, setting.case.num_clusters
    row, col = graphs.edge_index[:, graphs.edge_index[0].argsort()]
    blocks = []
    for start in range(0, graphs.num_nodes, size):
        own = (row >= start) & (row < start + size)
        entries = torch.stack([row[own] - start, cluster[col[own]]])
        shape = (min(size, graphs.num_nodes - start), clusters)
        block = torch.sparse_coo_tensor(
            entries, torch.ones(entries.size(1)), shape, check_invariants=False
        )
        blocks.append(block.to_sparse_csr())
    return blocks


def _floor(setting: Setting, two_more: bool = False) -> Step:
    clusters, graphs = setting.case.num_clusters, setting.graphs
    weight = torch.nn.Linear(NUM_FEATURES, clusters).weight
    cluster = torch.randint(clusters, (graphs.num_nodes,))
    size = max(96, 2**18 // max(clusters, 16))  # rows of a block that stays in cache
    blocks, table = [], torch.randn(clusters, clusters if setting.case.used else 0)
    if setting.case.used:
        blocks = _rows_of_adjacency(setting, cluster, size)

    @torch.no_grad()
    def step() -> tuple[Tensor, int]:
        source, slope = torch.empty_like(setting.x), torch.zeros_like(weight)
        logits, product = torch.empty(size, clusters), torch.empty(size, clusters)
        for index, start in enumerate(range(0, graphs.num_nodes, size)):
            x = setting.x[start : start + size]
            inner = torch.mm(x, weight.t(), out=logits[: x.size(0)])
            torch.softmax(inner, -1, out=inner)
            other = torch.mm(x, weight.t(), out=product[: x.size(0)])
            if blocks:
                torch.addmm(other, blocks[index], table, out=other)
                torch.addmm(other, blocks[index], table, out=other)
            torch.mm(inner, weight, out=source[start : start + size])
            if two_more:
                torch.mm(x, weight.t(), out=other)
                torch.addmm(slope, inner.t(), x, out=slope)
        ends = cluster.index_select(0, graphs.edge_index.view(-1)).view(2, -1)
        torch.zeros(clusters).index_add_(0, ends[0], (ends[0] == ends[1]).float())
        with torch.enable_grad():
            return setting.x.new_zeros((), requires_grad=True) * 1, 0

    return step


def floor(setting: Setting) -> Step:
    """Three N×K×F products, a softmax and a pass over the edges, streamed in blocks of rows.

    Where pooled edge weights are used, two sparse-dense products of E·K multiply-adds as well.
    Nothing can be trained with it: it is what the arithmetic costs.
    """
    return _floor(setting)


def floor_and_two(setting: Setting) -> Step:
    """The floor plus the two products that the full gradient needs on top.

    The logits once more in the backward pass, which does not store them, and ∂L/∂W.
    """
    return _floor(setting, two_more=True)


FLOORS = ("floor", "floor + 2 products")  # arithmetic alone: no memory or edges of their own
PEERS: dict[str, Callable[[Setting], Step]] = {
    OURS: gumbelpool,
    "composition": composition,
    "sparse products": sparse_products,
    "PyG diff": _pyg(dense_diff_pool),
    "PyG mincut": _pyg(dense_mincut_pool),
    "tgp diff": _tgp("diff"),
    "tgp diff_u": _tgp("diff_u"),
    "tgp mincut_u": _tgp("mincut_u"),
    "floor": floor,
    "floor + 2 products": floor_and_two,
}
