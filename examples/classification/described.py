"""What the flags describe: a network, how it is trained, and on what."""

import argparse
from collections.abc import Mapping

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
