"""What the flags describe: a network, how it is trained, and on what."""

import argparse
from collections.abc import Mapping

from lightning_fabric import Fabric

from ..shared.errors import InputError
from .datasets import GraphDataset
from .models import HierarchicalClassifier
from .poolers import POOLERS, Pooler, PoolOptions
from .training import TrainingOptions


def build_model(
    args: argparse.Namespace, dataset: GraphDataset, poolers: Mapping[str, Pooler] = POOLERS
) -> HierarchicalClassifier:
    """The network, with one of the poolers."""
    levels = [
        poolers[args.pool].make(
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
        levels,
        hidden=args.hidden,
        layers=args.layers,
        dropout=args.dropout,
        assign_gnn=args.assign_gnn,
        fine_path=args.fine_path,
    )


def training_options(
    args: argparse.Namespace, poolers: Mapping[str, Pooler] = POOLERS
) -> TrainingOptions:
    """How it is trained, and tested."""
    return TrainingOptions(
        epochs=args.epochs,
        patience=args.patience,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        loss_weight=args.loss_weight,
        eval_samples=args.eval_samples if poolers[args.pool].samples else 1,
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
