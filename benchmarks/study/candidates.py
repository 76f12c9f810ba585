"""Settings of `GumbelPool` that were tried where pooling matters, and the controls they call for.

None of them is in the package: see docs/results.md, "Where pooling matters".
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm
from torch_geometric.utils import scatter, to_dense_adj

from examples.classification.poolers import Gumbel, NoPool, Pooled, PoolOptions

STEPS = 16  # of the random walks


@torch.no_grad()
def return_probabilities(
    edge_index: Tensor, edge_weight: Tensor | None, batch: Tensor, batch_size: int
) -> Tensor:
    """How likely a random walk is back where it began after 1, 2, …, 16 steps, [N, 16].

    Dwivedi et al., "Graph Neural Networks with Learnable Structural and Positional
    Representations" (ICLR 2022). Dense, [B, n, n]: for small graphs. A node that no edge leaves is
    never back.
    """
    count = torch.bincount(batch, minlength=batch_size)
    longest = int(count.max())
    adjacency = to_dense_adj(edge_index, batch, edge_weight, longest, batch_size)
    walk = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1e-12)
    powers = [walk]
    while len(powers) < STEPS // 2:
        powers.append(powers[-1] @ walk)
    back = [power.diagonal(dim1=1, dim2=2) for power in powers]
    # diag(P^(a+b)) is in P^a and P^b already: half as many products.
    half = powers[-1].transpose(1, 2)
    back += [(power * half).sum(-1) for power in powers]
    place = torch.arange(batch.size(0), device=batch.device) - (count.cumsum(0) - count)[batch]
    return torch.stack(back, dim=-1)[batch, place]


def broken_stick(num_clusters: int, sticks: float) -> Tensor:
    """Shares of clusters, [K], each 1 / (1 + sticks) of what is left; the last takes the rest."""
    rest = torch.arange(num_clusters).float()
    shares = (sticks / (1 + sticks)) ** rest / (1 + sticks)
    shares[-1] = 1 - shares[:-1].sum()
    return shares


class Tried(Gumbel):
    """`GumbelPool` with other features for its scores, other losses, or other pooled weights.

    Args:
        channels: Of the features that are pooled.
        options: As of any pooler.
        positions: Scores see `return_probabilities` beside the features, which do not.
        detached: Scores send no gradient to the features, so that these learn from what comes
            after the pooling alone, and the head from all.
        log_weights: The network after the pooling gets log(1 + w) for the weight w of an edge.
        losses: In the place of those of the options.
        sticks: The number of clusters adapts: in the place of `balance`, which draws the mean
            assignment of a graph to the uniform one, it is drawn to that of a broken stick, of
            which each cluster takes a share 1 / (1 + sticks) of what is left (the mean of BN-Pool's
            prior; Castellana and Bianchi 2025).
    """

    def __init__(
        self,
        channels: int,
        options: PoolOptions,
        *,
        positions: bool = False,
        detached: bool = False,
        log_weights: bool = False,
        losses: tuple[str, ...] | None = None,
        sticks: float | None = None,
    ) -> None:
        losses = options.losses if losses is None else losses
        if sticks is not None:
            losses = tuple(name for name in losses if name != "balance")
        super().__init__(channels + STEPS * positions, replace(options, losses=losses))
        # Later steps differ by little from node to node.
        self.norm = BatchNorm(STEPS, allow_single_element=True) if positions else None
        self.detached, self.log_weights = detached, log_weights
        prior = None if sticks is None else broken_stick(options.num_clusters, sticks)
        self.register_buffer("prior", prior, persistent=False)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Pool with clusters drawn from scores of what the options say."""
        scored = x if assign_x is None else assign_x
        if self.detached:
            scored = scored.detach()
        if self.norm is not None:
            position = return_probabilities(edge_index, edge_weight, batch, batch_size)
            scored = torch.cat([scored, self.norm(position.to(x.dtype))], dim=1)
        pooled = super().forward(x, edge_index, edge_weight, batch, batch_size, scored)
        if self.log_weights and pooled.edge_weight is not None:
            pooled = pooled._replace(edge_weight=pooled.edge_weight.log1p())
        if self.prior is not None:
            p = self.pool.lin(scored).softmax(-1)
            mean = scatter(p, batch, 0, batch_size, "mean")
            from_prior = (mean * (mean.clamp(min=1e-12) / self.prior).log()).sum(-1).mean()
            pooled = pooled._replace(loss=pooled.loss + from_prior)
        return pooled


class PositionedNone(NoPool):
    """The graph as it came, its features plus a map of `return_probabilities`: a control.

    Whoever gives positions to scores gives them to the pooled graph as well, through the clusters.
    """

    def __init__(self, channels: int, options: PoolOptions) -> None:
        super().__init__()
        self.norm = BatchNorm(STEPS, allow_single_element=True)
        self.lin = nn.Linear(STEPS, channels)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor,
        batch_size: int,
        assign_x: Tensor | None = None,
    ) -> Pooled:
        """Return the input, with positions added to its features."""
        position = return_probabilities(edge_index, edge_weight, batch, batch_size)
        x = x + self.lin(self.norm(position.to(x.dtype)))
        return super().forward(x, edge_index, edge_weight, batch, batch_size)
