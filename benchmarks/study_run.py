"""One run of the study: train, test, look inside. The study gives each a process of its own.

The network, the poolers, the data and the training loop are those of examples/.
"""

import argparse
import copy
import dataclasses
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import BatchNorm
from torch_geometric.utils import scatter
from worker import resident

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import options
import poolers
import study_poolers
import tu_classification as example
from datasets import GraphDataset, load, make_splits, read_splits, standardised
from run_folder import RunFolder
from training import Trainer, loss_of, seed_for

from gumbelpool import (
    DenseDiffPool,
    GumbelPool,
    crispness,
    occupancy,
    sample_clusters,
)

# Whose number of parameters every run is given, by its width.
REFERENCE = {"pool": "gumbel", "assign_gnn": False}
BUDGET = 0.05
EVAL_SAMPLES = (1, 2, 4, 8, 16)
LOOK_AT = 128  # graphs that a look inside takes, at most


def parameters(model: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def within_budget(args: argparse.Namespace, dataset: GraphDataset) -> tuple[int, int]:
    """The reference's number of parameters, and the width that brings `args` closest to it."""

    def count(**changed: Any) -> int:
        flags = argparse.Namespace(**(vars(args) | changed))
        return parameters(example.build_model(flags, dataset))

    levels = args.num_clusters or options.parser().get_default("num_clusters")
    wanted = count(**REFERENCE, num_clusters=levels)
    # The count grows with the width: bisect for the first that is too wide.
    low, high = 1, 2 * args.hidden
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if count(hidden=middle) < wanted else (low, middle)
    off = {width: abs(count(hidden=width) / wanted - 1) for width in (max(low - 1, 1), low)}
    best = min(off, key=off.__getitem__)
    if off[best] > BUDGET:
        raise ValueError(f"no width brings {args.pool} within {BUDGET:.0%} of {wanted} parameters")
    return wanted, best


class Probe:
    """Records the scores that the first pooling layer draws or mixes by, [N, K]."""

    def __init__(self, pooler: nn.Module) -> None:
        self.scores: Tensor | None = None
        pool = getattr(pooler, "pool", None)
        learned = not isinstance(pooler, poolers.Random)  # the control has no scores of its own
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
        if isinstance(model.poolers[0], poolers.Random):
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


def run(unit: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests on one fold; `unit` holds its flags, fold, root and splits."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    study_poolers.register()
    args = options.parser().parse_args(unit["flags"])
    options.check(args)
    root = Path(unit["root"]) if unit["root"] else None
    dataset = load(args.dataset, root, num_graphs=args.num_graphs, seed=args.seed)
    if unit["splits"]:
        splits = read_splits(Path(unit["splits"]), len(dataset.graphs), args.folds)
    else:
        splits = make_splits(dataset, args.folds, args.seed)
    fold, split = unit["fold"], splits[unit["fold"]]
    wanted, args.hidden = within_budget(args, dataset)
    graphs = standardised(dataset, split.train)

    def some(indices: list[int]) -> list[Batch]:
        """A share of the graphs: they may be sorted by class."""
        chosen = [graphs[i] for i in indices[:: math.ceil(len(indices) / LOOK_AT)]]
        return list(DataLoader(chosen, args.batch_size))

    watched, tested = some(split.validation), some(split.test)
    trace: list[dict[str, float]] = []

    def watch(model: nn.Module, epoch: int) -> None:
        if args.pool in poolers.ASSIGNED:
            trace.append({"epoch": epoch} | look(model, watched, statistics_of_batch=True))

    # What only a first step takes is neither time nor memory of the pooler.
    seed_for(args.seed, fold, 0)
    loss, _ = loss_of(example.build_model(args, dataset), Batch.from_data_list(graphs[:4]), 1.0)
    loss.backward()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    baseline = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        training = example.training_options(args)
        fabric = example.make_fabric(args)
        trainer = Trainer(
            fabric, graphs, dataset.num_classes, RunFolder(Path(folder)), training, watch
        )
        seed_for(args.seed, fold, 0)
        model = example.build_model(args, dataset)
        result = trainer.run(model, split, fold)
        result["peak_bytes"] = resident("VmHWM") - baseline
        result |= {"parameters": parameters(model), "reference": wanted, "hidden": args.hidden}
        result["seconds_per_epoch"] = result["seconds"] / result["epochs"]
        seed_for(args.seed, fold, args.epochs + 3)
        result["inside"] = look(model, tested)
        result["trace"] = trace
        if args.pool in poolers.SAMPLED:
            result["sampled"] = {}
            for module in model.modules():
                if isinstance(module, GumbelPool):
                    module.sample_in_eval = True
            for samples in EVAL_SAMPLES:
                trainer.options = dataclasses.replace(training, eval_samples=samples)
                score = trainer.evaluate(model, trainer._batches(split.test))
                result["sampled"][str(samples)] = {"accuracy": score.accuracy, "loss": score.loss}
    return result
