"""What the command line asks for: folds trained and tested, a table, a picture.

The folds, the budget and the network are the same for every pooler; only the pooler changes. The
network is in models.py, the poolers in poolers.py, the training loop in training.py.
"""

import argparse
import hashlib
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from lightning_fabric import Fabric

from gumbelpool import CollapseWarning

from ..shared.command import check_writable, run_command
from ..shared.run_folder import RunFolder, write_atomically
from .datasets import (
    EMBEDDED,
    GraphDataset,
    Split,
    load,
    make_splits,
    read_splits,
    standardised,
)
from .described import build_model, training_options
from .options import check, folds_to_run, parser
from .processes import in_main_process, make_fabric
from .summary import table
from .training import Trainer, seed_for

NO_RESULT = ("out", "root", "fold", "splits", "picture")  # settings that change no fold's result


def configuration(args: argparse.Namespace, fabric: Fabric) -> dict[str, Any]:
    """The settings on which a fold's result depends."""
    config = {key: value for key, value in vars(args).items() if key not in NO_RESULT}
    config["devices"] = fabric.world_size  # whoever started them
    if args.splits:
        config["splits_sha256"] = hashlib.sha256(args.splits.read_bytes()).hexdigest()
    return config


def run(args: argparse.Namespace) -> None:
    """Everything that the command line asks for."""
    check(args)
    # How many clusters are used is in the results: a warning would say it a second time.
    warnings.simplefilter("ignore", CollapseWarning)
    folds = folds_to_run(args.fold, args.folds)
    fabric = make_fabric(args)
    torch.set_num_threads(args.threads)  # Fabric has a number of its own where it starts processes
    with fabric.rank_zero_first():
        dataset = load(args.dataset, args.root, num_graphs=args.num_graphs, seed=args.seed)
    if args.splits:
        splits = read_splits(args.splits, len(dataset.graphs), args.folds)
    else:
        splits = make_splits(dataset, args.folds, args.seed)
    folder = RunFolder(args.out or Path("runs") / f"{args.dataset}-{args.pool}")
    picture = args.picture or folder.path / "hierarchy.png"
    with ExitStack() as stack:
        in_main_process(
            fabric, lambda: stack.enter_context(folder.open(configuration(args, fabric)))
        )
        in_main_process(fabric, lambda: check_writable(picture))
        fabric.print(
            f"{dataset.name}: {len(dataset.graphs)} graphs, {dataset.num_classes} classes, "
            f"{dataset.num_features} node features; --pool {args.pool}, "
            f"fold {' '.join(map(str, folds))} of {args.folds}; writing to {folder.path}"
        )
        train(args, fabric, dataset, splits, folds, folder)
        if fabric.is_global_zero:
            print(f"\n{table([line for line in folder.finished() if line['fold'] in folds])}")
            draw(args, dataset, splits[folds[0]], folds[0], folder, picture)
            print(f"picture of the learned hierarchy: {picture}")


def train(
    args: argparse.Namespace,
    fabric: Fabric,
    dataset: GraphDataset,
    splits: list[Split],
    folds: list[int],
    folder: RunFolder,
) -> None:
    """Train and test on the folds that have no result yet."""
    options = training_options(args)
    done = {result["fold"] for result in folder.finished()}
    if done.issuperset(folds):
        fabric.print(
            f"nothing left to train: the run in {folder.path} is finished; to start anew, remove "
            "that folder or give another --out"
        )
    for fold in folds:
        if fold not in done:
            graphs = standardised(dataset, splits[fold].train)
            trainer = Trainer(fabric, graphs, dataset.num_classes, folder, options)
            seed_for(args.seed, fold, 0)
            result = trainer.run(build_model(args, dataset), splits[fold], fold)
            about = {"dataset": args.dataset, "pool": args.pool, "fold": fold, "seed": args.seed}
            in_main_process(fabric, partial(folder.append, about | result))
            fabric.print(
                f"fold {fold}: test accuracy {100 * result['test_accuracy']:.1f} %, "
                f"{result['seconds']:.0f} s"
            )
        in_main_process(fabric, partial(folder.checkpoint(fold).unlink, missing_ok=True))


def draw(
    args: argparse.Namespace,
    dataset: GraphDataset,
    split: Split,
    fold: int,
    folder: RunFolder,
    path: Path,
) -> None:
    """The picture of a finished fold's best model on its test graphs."""
    mpl.use("Agg")
    from ..shared.drawing import png
    from .picture import draw_hierarchy

    seed_for(args.seed, fold, args.epochs + 2)
    model = build_model(args, dataset)
    model.load_state_dict(torch.load(folder.model(fold), map_location="cpu", weights_only=True))
    graphs = standardised(dataset, split.train)
    classes = [str(label) for label in range(dataset.num_classes)]
    if dataset.name == EMBEDDED:
        from .hierarchy import CLASSES

        classes = list(CLASSES)
    title = f"{dataset.name}, --pool {args.pool}, fold {fold}: test graphs"
    figure = draw_hierarchy(model, [graphs[i] for i in split.test], title, classes)
    write_atomically(path, png(figure))


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    return run_command(lambda: run(parser().parse_args(arguments)))
