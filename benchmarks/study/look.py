"""A look inside a network: how its first level uses its clusters, and how crisp they are."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import BatchNorm
from torch_geometric.utils import scatter

from examples.classification.poolers import Random
from gumbelpool import DenseDiffPool, GumbelPool, crispness, occupancy, sample_clusters


class Probe:
    """Records the scores that the first pooling layer draws or mixes by, [N, K]."""

    def __init__(self, pooler: nn.Module) -> None:
        self.scores: Tensor | None = None
        pool = getattr(pooler, "pool", None)
        learned = not isinstance(pooler, Random)  # the control has no scores of its own
        if learned and isinstance(pool, (GumbelPool, DenseDiffPool)):
            pool.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, pool: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        logits, scored = named.get("logits"), named.get("assign_x")
        if logits is None:
            logits = pool.lin(given[0] if scored is None else scored)
        self.scores = logits.detach()


def similarity(x: Tensor, batch: Tensor, batch_size: int) -> Tensor:
    """Mean cosine of the features of two supernodes of a graph that are not zero, [B].

    NaN for a graph that has not two of them.
    """
    length = x.norm(dim=-1, keepdim=True)
    kept = length.squeeze(1) > 0
    unit, batch = (x / length)[kept], batch[kept]
    count = torch.bincount(batch, minlength=batch_size)
    total = scatter(unit, batch, 0, batch_size, "sum").square().sum(-1)
    pairs = (count * (count - 1)).double()
    return ((total - count) / pairs).where(pairs > 0, torch.nan)


@torch.no_grad()
def look(
    model: nn.Module, batches: list[Batch], statistics_of_batch: bool = False
) -> dict[str, float]:
    """The first level on some graphs: use of clusters and crispness; means over graphs.

    Where clusters are drawn, `similarity` is that of the pooled graphs of a draw. `likeliest` and
    `drawn` are clusters of the same scores. A model that has not been trained has no batch-norm
    statistics to speak of: `statistics_of_batch` takes the batch's.
    """
    if not len(model.poolers):
        return {}
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if statistics_of_batch and isinstance(module, BatchNorm):
            module.train()
        if isinstance(module, GumbelPool):
            module.sample_in_eval = True
    probe = Probe(model.poolers[0])
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        level = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs).levels[0]
        clusters = {"likeliest": level.cluster}
        if isinstance(model.poolers[0], Random):
            clusters = {"drawn": level.cluster}
        values = {"similarity": similarity(level.x, level.batch, batch.num_graphs)}
        if probe.scores is not None:
            first = batch.batch * probe.scores.size(1)
            clusters = {
                "likeliest": first + probe.scores.argmax(-1),
                "drawn": first + sample_clusters(probe.scores),
            }
            entropy = torch.special.entr(probe.scores.softmax(-1)).sum(-1)
            values["entropy"] = scatter(entropy, batch.batch, 0, batch.num_graphs, "mean")
        for kind, cluster in clusters.items():
            if (cluster >= 0).all():  # dropped nodes have no cluster
                named = measures(batch, cluster).items()
                values |= {f"{kind} {name}": value for name, value in named}
        for name, value in values.items():
            found.setdefault(name, []).append(value.double())
    means = {name: torch.cat(values).nanmean().item() for name, values in found.items()}
    return {name: round(mean, 5) for name, mean in means.items() if mean == mean}


def measures(batch: Batch, cluster: Tensor) -> dict[str, Tensor]:
    """What the library's diagnostics say about clusters, by name, [B] each."""
    use = occupancy(cluster, batch.batch, batch.num_graphs)
    crisp = crispness(batch.x, batch.edge_index, cluster, None, batch.batch, batch.num_graphs)
    return use._asdict() | crisp._asdict() | {"edges": crisp.density * use.used.square()}
