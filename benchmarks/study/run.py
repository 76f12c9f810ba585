"""One run of the study: train, test, look inside. The study gives each a process of its own.

The network, the poolers, the data and the training loop are those of examples/classification/.
"""

import argparse
import dataclasses
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from examples.classification.datasets import (
    GraphDataset,
    Split,
    load,
    make_splits,
    read_splits,
    standardised,
)
from examples.classification.described import build_model, training_options
from examples.classification.options import check, parser
from examples.classification.processes import make_fabric
from examples.classification.training import Trainer, loss_of, seed_for
from examples.shared.run_folder import RunFolder
from gumbelpool import GumbelPool

from ..common import resident, restart_high_water
from .generated import GENERATED, generate
from .look import look
from .poolers import POOLERS
from .pooling import MATTERS

# Whose number of parameters every run is given, by its width.
REFERENCE = {"pool": "gumbel", "assign_gnn": False, "fine_path": False}
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
        return parameters(build_model(flags, dataset, POOLERS))

    levels = args.num_clusters or parser().get_default("num_clusters")
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


def data_of(args: argparse.Namespace, unit: dict[str, Any]) -> tuple[GraphDataset, Split]:
    """The graphs, and the parts to train, choose and test on."""
    if args.dataset in GENERATED:
        return generate(args.dataset, args.num_graphs, args.seed)
    root = Path(unit["root"]) if unit["root"] else None
    dataset = load(args.dataset, root, num_graphs=args.num_graphs, seed=args.seed)
    if unit["splits"]:
        splits = read_splits(Path(unit["splits"]), len(dataset.graphs), args.folds)
    else:
        splits = make_splits(dataset, args.folds, args.seed)
    return dataset, splits[unit["fold"]]


def run(unit: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests on one fold; `unit` holds its flags, fold, root and splits."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    args = parser(POOLERS).parse_args(unit["flags"])
    check(args, POOLERS)
    dataset, split = data_of(args, unit)
    pooler, fold = POOLERS[args.pool], unit["fold"]
    traced = args.dataset not in MATTERS  # of these no table shows an epoch, or other draws
    wanted, args.hidden = within_budget(args, dataset)
    graphs = standardised(dataset, split.train)

    def some(indices: list[int]) -> list[Batch]:
        """A share of the graphs: they may be sorted by class."""
        chosen = [graphs[i] for i in indices[:: math.ceil(len(indices) / LOOK_AT)]]
        return list(DataLoader(chosen, args.batch_size))

    watched, tested = some(split.validation), some(split.test)
    trace: list[dict[str, float]] = []

    def watch(model: nn.Module, epoch: int) -> None:
        if pooler.assigns and traced:
            trace.append({"epoch": epoch} | look(model, watched, statistics_of_batch=True))

    # What only a first step takes is neither time nor memory of the pooler.
    seed_for(args.seed, fold, 0)
    loss, _ = loss_of(build_model(args, dataset, POOLERS), Batch.from_data_list(graphs[:4]), 1.0)
    loss.backward()
    baseline = restart_high_water()
    with tempfile.TemporaryDirectory() as folder:
        training = training_options(args, POOLERS)
        fabric = make_fabric(args)
        trainer = Trainer(
            fabric, graphs, dataset.num_classes, RunFolder(Path(folder)), training, watch
        )
        seed_for(args.seed, fold, 0)
        model = build_model(args, dataset, POOLERS)
        result = trainer.run(model, split, fold)
        result["peak_bytes"] = resident("VmHWM") - baseline
        result |= {"parameters": parameters(model), "reference": wanted, "hidden": args.hidden}
        result["seconds_per_epoch"] = result["seconds"] / result["epochs"]
        seed_for(args.seed, fold, args.epochs + 3)
        result["inside"] = look(model, tested)
        result["trace"] = trace
        if pooler.samples and traced:
            result["sampled"] = {}
            for module in model.modules():
                if isinstance(module, GumbelPool):
                    module.sample_in_eval = True
            for samples in EVAL_SAMPLES:
                trainer.options = dataclasses.replace(training, eval_samples=samples)
                score = trainer.evaluate(model, trainer.shares(split.test))
                result["sampled"][str(samples)] = {"accuracy": score.accuracy, "loss": score.loss}
    return result
