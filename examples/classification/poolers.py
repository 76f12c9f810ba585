"""The table from a name (`--pool NAME`) to a pooling layer with one common call.

Every adapter takes `(x, edge_index, edge_weight, batch, batch_size, assign_x)` and returns a
`Pooled`, so that a model can swap poolers without knowing them. Nothing here trains anything.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import ASAPooling, SAGPooling, TopKPooling, dense_mincut_pool
from torch_geometric.utils import to_dense_adj, to_dense_batch

from gumbelpool import DenseDiffPool, GumbelPool


class Pooled(NamedTuple):
    """A batch of graphs after one pooling level."""

    x: Tensor  # [K', F]
    edge_index: Tensor  # [2, E']
    edge_weight: Tensor | None  # [E']
    batch: Tensor  # [K'], the graph of each pooled node
    cluster: Tensor  # [N], the row of `x` that each node (mostly) went to; -1 where it was dropped
    loss: Tensor  # scalar, the sum of the pooler's auxiliary losses


@dataclass(frozen=True)
class PoolOptions:
    """What the pooling flags of the command line say, for one level."""

    num_clusters: int
    ratio: float | None = None
    estimator: str = "gumbel"
    tau: float = 1.0
    losses: tuple[str, ...] = ("link", "entropy", "balance")
    aggr: str = "sum"
    sample_in_eval: bool = False
    weighted: bool = True


class Gumbel(nn.Module):
    """`gumbelpool.GumbelPool`: one sampled cluster per node."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__()
        self.pool = GumbelPool(
            channels,
            options.num_clusters,
            ratio=options.ratio,
            estimator=options.estimator,
            tau=options.tau,
            aggr=options.aggr,
            losses=options.losses,
            weighted=options.weighted,
            sample_in_eval=options.sample_in_eval,
        )

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Pool with clusters drawn from softmax(lin(assign_x))."""
        out = self.pool(x, edge_index, edge_weight, batch, assign_x=assign_x, batch_size=batch_size)
        return Pooled(out.x, out.edge_index, out.edge_weight, out.batch, out.cluster, out.loss)


class DiffPool(Gumbel):
    """`gumbelpool.DenseDiffPool`: the same call, soft clusters, all K·K pooled edges."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        nn.Module.__init__(self)
        self.pool = DenseDiffPool(
            channels,
            options.num_clusters,
            ratio=options.ratio,
            aggr=options.aggr,
            losses=options.losses,
        )


class Random(nn.Module):
    """A uniformly random hard assignment, fresh in every forward pass, in eval() too: the control.

    It goes through `GumbelPool` with all-zero logits, so it differs from `gumbel` in nothing but
    what is learned: no assignment head, no gradient to it, no auxiliary loss.
    """

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__()
        self.num_clusters = options.num_clusters
        self.pool = GumbelPool(
            channels,
            options.num_clusters,
            ratio=options.ratio,
            aggr=options.aggr,
            losses=(),
            weighted=options.weighted,
            sample_in_eval=True,
        )
        self.pool.lin.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Pool with clusters drawn uniformly; `assign_x` has no say."""
        logits = x.new_zeros(x.size(0), self.num_clusters)
        out = self.pool(x, edge_index, edge_weight, batch, logits=logits, batch_size=batch_size)
        return Pooled(out.x, out.edge_index, out.edge_weight, out.batch, out.cluster, out.loss)


class MinCut(nn.Module):
    """PyG's `dense_mincut_pool` (Bianchi et al. 2020) with a linear head, back to sparse edges."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__()
        self.lin = nn.Linear(channels, options.num_clusters)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Pool softly; every graph gets all K clusters, however small it is."""
        logits = self.lin(x if assign_x is None else assign_x)
        dense_x, mask = to_dense_batch(x, batch, batch_size=batch_size)
        dense_logits, _ = to_dense_batch(logits, batch, batch_size=batch_size)
        weight = x.new_ones(edge_index.size(1)) if edge_weight is None else edge_weight
        adj = to_dense_adj(edge_index, batch, weight, dense_x.size(1), batch_size)

        # The cut of a graph without edges is 0/0: stand in self-loops, and take the result away.
        edgeless = adj.sum(dim=(1, 2)) == 0
        adj = adj + torch.diag_embed(edgeless[:, None].to(x.dtype).expand_as(mask))
        pooled_x, pooled_adj, cut, orthogonality = dense_mincut_pool(
            dense_x, adj, dense_logits, mask
        )
        pooled_adj = pooled_adj * ~edgeless[:, None, None]

        num_clusters = pooled_x.size(1)
        graph, row, col = (pooled_adj != 0).nonzero(as_tuple=True)
        return Pooled(
            pooled_x.flatten(0, 1),
            torch.stack([graph * num_clusters + row, graph * num_clusters + col]),
            pooled_adj[graph, row, col],
            torch.arange(batch_size, device=x.device).repeat_interleave(num_clusters),
            batch * num_clusters + logits.argmax(dim=-1),
            cut + orthogonality,
        )


class Selection(nn.Module):
    """PyG's poolers that keep the best-scored nodes and drop the rest: TopK, SAG and ASAP.

    They keep min(K, n) nodes of a graph with n nodes, or ceil(ratio·n) where `--ratio` is given.
    """

    def __init__(
        self, layer: Callable[..., nn.Module], channels: int, options: PoolOptions
    ) -> None:
        super().__init__()
        # PyG reads a ratio of 1 or more as a number of nodes.
        self.pool = layer(channels, ratio=options.ratio or options.num_clusters)
        if isinstance(self.pool, ASAPooling):
            # It orders the scores, for which a gradient would never come: several processes wait.
            self.pool.select.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Keep the best nodes; `batch_size` and `assign_x` have no say."""
        # ASAP loses its pooled weights when it is given none.
        weight = x.new_ones(edge_index.size(1)) if edge_weight is None else edge_weight
        with warnings.catch_warnings():  # ASAP's sparse matrices make torch say that they are new
            warnings.filterwarnings("ignore", message="Sparse ", category=UserWarning)
            pooled_x, edge_index, weight, pooled_batch, kept = self.pool(
                x, edge_index, weight, batch=batch
            )[:5]
        if isinstance(self.pool, ASAPooling):
            # PyG 2.8 has no gradient for ASAP's pooled weights: it stops at a sparse index_select.
            # The scores still learn through the features.
            weight = weight.detach()
        cluster = batch.new_full((x.size(0),), -1)
        cluster[kept] = torch.arange(kept.size(0), device=x.device)
        return Pooled(pooled_x, edge_index, weight, pooled_batch, cluster, x.new_zeros(()))


class NoPool(nn.Module):
    """The graph as it came: what the message passing does on its own."""

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Return the input."""
        cluster = torch.arange(x.size(0), device=x.device)
        return Pooled(x, edge_index, edge_weight, batch, cluster, x.new_zeros(()))


@dataclass(frozen=True)
class Pooler:
    """What the command line offers under a name.

    Attributes:
        make: Makes the layer of one level from the number of channels and the options.
        samples: Its forward passes can differ in eval() too, so that averaging over them helps.
        assigns: It has an assignment head, which may be given features of its own.
        fixed_size: It cannot follow `--ratio`.
    """

    make: Callable[[int, PoolOptions], nn.Module]
    samples: bool = False
    assigns: bool = False
    fixed_size: bool = False


POOLERS: dict[str, Pooler] = {
    "gumbel": Pooler(Gumbel, samples=True, assigns=True),
    "diffpool": Pooler(DiffPool, assigns=True),
    "mincut": Pooler(MinCut, assigns=True, fixed_size=True),
    "topk": Pooler(partial(Selection, TopKPooling)),
    "sag": Pooler(partial(Selection, SAGPooling)),
    "asap": Pooler(partial(Selection, ASAPooling)),
    "random": Pooler(Random, samples=True),
    "none": Pooler(lambda channels, options: NoPool()),
}


def names(poolers: Mapping[str, Pooler], trait: str) -> str:
    """In words, the poolers that have a trait, such as `samples`."""
    *others, last = (name for name, pooler in poolers.items() if getattr(pooler, trait))
    return f"{', '.join(others)} and {last}" if others else last
