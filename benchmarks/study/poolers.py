"""Poolers that only the study needs, beside those of the example: more heads, more peers."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.classification.poolers import POOLERS as OFFERED
from examples.classification.poolers import Gumbel, Pooled, Pooler, PoolOptions, Random

from .candidates import PositionedNone, Tried


class DroppingGumbel(Gumbel):
    """`GumbelPool` without its empty supernodes, as the study's tables were measured."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__(channels, options)
        self.pool.drop_empty = True


class DroppingRandom(Random):
    """The control, likewise."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__(channels, options)
        self.pool.drop_empty = True


class OrthogonalGumbel(DroppingGumbel):
    """`GumbelPool` whose head starts with orthogonal rows and no bias."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__(channels, options)
        nn.init.orthogonal_(self.pool.lin.weight)
        nn.init.zeros_(self.pool.lin.bias)


class CosineGumbel(DroppingGumbel):
    """`GumbelPool` on cosines between features and cluster centres, times a learned scale."""

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__(channels, options)
        self.pool.lin.requires_grad_(False)
        self.centres = nn.Parameter(torch.empty(options.num_clusters, channels))
        nn.init.orthogonal_(self.centres)
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Pool with clusters drawn from softmax(scale · cosine)."""
        scored = F.normalize(x if assign_x is None else assign_x, dim=-1)
        logits = self.scale * scored @ F.normalize(self.centres, dim=-1).t()
        out = self.pool(x, edge_index, edge_weight, batch, logits=logits, batch_size=batch_size)
        return Pooled(out.x, out.edge_index, out.edge_weight, out.batch, out.cluster, out.loss)


class Tgp(nn.Module):
    """A pooler of torch-geometric-pool: ``kmis``, ``maxcut`` or ``bnpool``.

    kmis decides by itself how many nodes it keeps, maxcut keeps K of each graph, and bnpool
    has K soft clusters.
    """

    def __init__(self, name: str, channels: int, options: PoolOptions) -> None:
        super().__init__()
        from tgp.poolers import get_pooler

        size: dict[str, dict[str, object]] = {
            "kmis": {},
            "maxcut": {"ratio": options.num_clusters},
            "bnpool": {"k": options.num_clusters, "sparse_output": True},
        }
        self.pool = get_pooler(name, in_channels=channels, **size[name])

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Pool; `assign_x` has no say."""
        if edge_weight is None:
            edge_weight = x.new_ones(edge_index.size(1))
        out = self.pool(
            x=x, adj=edge_index, edge_weight=edge_weight, batch=batch, batch_size=batch_size
        )
        loss = sum(out.loss.values()) if out.loss else x.new_zeros(())
        if out.so.s.dim() == 3:  # soft, padded: [B, most nodes, K]
            cluster = batch * out.so.s.size(-1) + out.so.s.argmax(-1)[out.so.in_mask]
        else:
            cluster = batch.new_full((x.size(0),), -1)
            cluster[out.so.node_index] = out.so.cluster_index
        return Pooled(out.x, out.edge_index, out.edge_weight, out.batch, cluster, loss)


MODULAR = {"losses": ("modularity", "balance")}
TRIED: dict[str, dict[str, Any]] = {
    "positions": {"positions": True},
    "detached": {"detached": True},
    "log-weights": {"log_weights": True},
    "sticks": {"sticks": 4.0},
    "modularity": MODULAR,
    "positions-modularity": {"positions": True, **MODULAR},
}
POOLERS: dict[str, Pooler] = {
    **OFFERED,
    "gumbel": Pooler(DroppingGumbel, samples=True, assigns=True),
    "random": Pooler(DroppingRandom, samples=True),
    "gumbel-orthogonal": Pooler(OrthogonalGumbel, samples=True, assigns=True),
    "gumbel-cosine": Pooler(CosineGumbel, samples=True, assigns=True),
    "gumbel-keep-empty": Pooler(Gumbel, samples=True, assigns=True),
    "random-keep-empty": Pooler(Random, samples=True),
    **{
        f"gumbel-{name}": Pooler(partial(Tried, **options), samples=True, assigns=True)
        for name, options in TRIED.items()
    },
    "none-positions": Pooler(PositionedNone),
    "kmis": Pooler(partial(Tgp, "kmis")),
    "maxcut": Pooler(partial(Tgp, "maxcut")),
    # It draws from a beta distribution, in eval() too.
    "bnpool": Pooler(partial(Tgp, "bnpool"), samples=True),
}
