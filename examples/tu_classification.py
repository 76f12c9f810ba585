"""Train and test a graph classifier with a pooling layer of your choice.

The folds, the budget and the network are the same for every pooler; only the pooler changes. See
`--help`. The network is in models.py, the poolers in poolers.py, the training loop in training.py.
"""

import argparse
import hashlib
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from datasets import (
    EMBEDDED,
    GraphDataset,
    InputError,
    Split,
    load,
    make_splits,
    read_splits,
    standardised,
)
from lightning_fabric import Fabric
from models import HierarchicalClassifier
from options import check, folds_to_run, parser
from poolers import POOLERS, SAMPLED, PoolOptions
from run_folder import RunFolder
from training import Trainer, TrainingOptions, seed_for

NO_RESULT = ("out", "root", "fold", "splits", "picture")  # settings that change no fold's result


def build_model(args: argparse.Namespace, dataset: GraphDataset) -> HierarchicalClassifier:
    """The network that the flags describe."""
    poolers = [
        POOLERS[args.pool](
            args.hidden,
            PoolOptions(
                num_clusters=num_clusters,
                ratio=args.ratio,
                estimator=args.estimator,
                tau=args.tau,
                losses=() if args.losses == ["none"] else tuple(args.losses),
                aggr=args.aggr,
                sample_in_eval=args.eval_samples > 1,
                weighted=not args.binary,
            ),
        )
        for num_clusters in args.num_clusters
    ]
    return HierarchicalClassifier(
        dataset.num_features,
        dataset.num_classes,
        poolers,
        hidden=args.hidden,
        layers=args.layers,
        dropout=args.dropout,
        assign_gnn=args.assign_gnn,
    )


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The settings on which a fold's result depends."""
    config = {key: value for key, value in vars(args).items() if key not in NO_RESULT}
    if args.splits:
        config["splits_sha256"] = hashlib.sha256(args.splits.read_bytes()).hexdigest()
    return config


def run(args: argparse.Namespace) -> None:
    """Everything that the command line asks for."""
    check(args)
    folds = folds_to_run(args.fold, args.folds)
    torch.set_num_threads(args.threads)
    fabric = make_fabric(args)
    with fabric.rank_zero_first():
        dataset = load(args.dataset, args.root, num_graphs=args.num_graphs, seed=args.seed)
    if args.splits:
        splits = read_splits(args.splits, len(dataset.graphs), args.folds)
    else:
        splits = make_splits(dataset, args.folds, args.seed)
    folder = RunFolder(args.out or Path("runs") / f"{args.dataset}-{args.pool}")
    picture = args.picture or folder.path / "hierarchy.png"
    with ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(folder.open(configuration(args)))
            check_writable(picture)
        fabric.barrier()
        fabric.print(
            f"{dataset.name}: {len(dataset.graphs)} graphs, {dataset.num_classes} classes, "
            f"{dataset.num_features} node features; --pool {args.pool}, "
            f"fold {' '.join(map(str, folds))} of {args.folds}; writing to {folder.path}"
        )
        train(args, fabric, dataset, splits, folds, folder)
        if fabric.is_global_zero:
            print_table([result for result in folder.finished() if result["fold"] in folds])
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
    for fold in folds:
        if fold not in done:
            graphs = standardised(dataset, splits[fold].train)
            trainer = Trainer(fabric, graphs, dataset.num_classes, folder, options)
            seed_for(args.seed, fold, 0)
            result = trainer.run(build_model(args, dataset), splits[fold], fold)
            about = {"dataset": args.dataset, "pool": args.pool, "fold": fold, "seed": args.seed}
            if fabric.is_global_zero:
                folder.append(about | result)
            fabric.print(
                f"fold {fold}: test accuracy {100 * result['test_accuracy']:.1f} %, "
                f"{result['seconds']:.0f} s"
            )
        if fabric.is_global_zero:
            folder.checkpoint(fold).unlink(missing_ok=True)
        fabric.barrier()


def training_options(args: argparse.Namespace) -> TrainingOptions:
    """The training flags."""
    return TrainingOptions(
        epochs=args.epochs,
        patience=args.patience,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        loss_weight=args.loss_weight,
        eval_samples=args.eval_samples if args.pool in SAMPLED else 1,
        seed=args.seed,
        train_samples=args.train_samples,
        tau=args.tau,
        tau_end=args.tau_end,
    )


def make_fabric(args: argparse.Namespace) -> Fabric:
    """A launched Fabric; with several devices, this script then runs once per device."""
    try:
        fabric = Fabric(
            accelerator=args.accelerator, devices=args.devices, precision=args.precision
        )
        fabric.launch()
    except Exception as error:  # Fabric names the flag's value, and what it would have accepted
        raise InputError(" ".join(str(error).split())) from error
    return fabric


def print_table(results: list[dict[str, Any]]) -> None:
    """The closing table."""

    def sizes(values: list[float]) -> str:
        return " > ".join(f"{value:.1f}" for value in values)

    rows = [["fold", "test %", "val %", "best epoch", "seconds", "nodes", "edges", "clusters used"]]
    for result in sorted(results, key=lambda result: result["fold"]):
        rows.append(
            [
                str(result["fold"]),
                f"{100 * result['test_accuracy']:.1f}",
                f"{100 * result['val_accuracy']:.1f}",
                str(result["best_epoch"]),
                f"{result['seconds']:.0f}",
                sizes(result["nodes"]),
                sizes(result["edges"]),
                " > ".join(f"{value:.1f}" for value in result["clusters_used"]),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    test = 100 * np.array([result["test_accuracy"] for result in results])
    summary = f"{test.mean():.1f} % on 1 fold"
    if len(test) > 1:
        summary = f"{test.mean():.1f} ± {test.std():.1f} % (mean ± std over {len(test)} folds)"
    print(f"\n{results[0]['dataset']}, --pool {results[0]['pool']}: test accuracy {summary}")


def check_writable(picture: Path) -> None:
    """Find out before the training whether the picture can be written after it."""
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.open("ab").close()
    except OSError as error:
        raise InputError(f"cannot write --picture {picture}: {error.strerror}") from error


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
    from picture import save_picture

    seed_for(args.seed, fold, args.epochs + 2)
    model = build_model(args, dataset)
    model.load_state_dict(torch.load(folder.model(fold), map_location="cpu", weights_only=True))
    graphs = standardised(dataset, split.train)
    classes = [str(label) for label in range(dataset.num_classes)]
    if dataset.name == EMBEDDED:
        from hierarchy import CLASSES

        classes = list(CLASSES)
    title = f"{dataset.name}, --pool {args.pool}, fold {fold}: test graphs"
    save_picture(path, model, [graphs[i] for i in split.test], title, classes)


def main(arguments: list[str] | None = None) -> int:
    """Run, and turn what the user can mend into one line; returns the exit status."""
    try:
        run(parser().parse_args(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
