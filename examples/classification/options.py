"""The command line of the classifier: every flag, its default and its meaning."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ..shared.arguments import (
    HelpFormatter,
    Parser,
    fraction,
    nonnegative,
    nonnegative_float,
    positive,
    positive_float,
    probability,
)
from ..shared.errors import InputError
from .datasets import EMBEDDED
from .poolers import POOLERS, Pooler, names

DESCRIPTION = """\
Train and test a graph classifier with a pooling layer of your choice.

Without arguments: one fold of the embedded dataset `hierarchy` (generated, no download).
A run that was stopped, however it was stopped, continues when the same command is given again.
"""

EPILOG = """\
examples:
  # the embedded dataset, all folds, and the control that every pooling layer should beat
  python -m examples.classification --fold all --out runs/hierarchy-gumbel
  python -m examples.classification --fold all --pool random --out runs/hierarchy-random

  # a TUDataset with published splits, ten folds
  python -m examples.classification --dataset PROTEINS --root DIR --splits PROTEINS.json \\
      --folds 10 --fold all --epochs 100 --seed 0 --out runs/proteins-gumbel

  # three folds only; two pooling levels with a quarter of the nodes each; another estimator
  python -m examples.classification --dataset MUTAG --root DIR --fold 0 1 2 \\
      --num-clusters 16 8 --ratio 0.25 --estimator reinmax

what --out holds:
  results.jsonl   a line per finished fold: accuracies, best epoch, seconds, and the mean number
                  of nodes, edges and used clusters per test graph at every level
  hierarchy.png   the learned clusters of a few test graphs
  fold-N.pt       the best model of fold N (a state_dict); fold-N.ckpt while it is training
  config.json     the settings; a run with others is refused
"""


def parser(poolers: Mapping[str, Pooler] = POOLERS) -> argparse.ArgumentParser:
    """The command line, with a choice of poolers."""
    parser = Parser(
        prog="python -m examples.classification", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=HelpFormatter,
    )  # fmt: skip

    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", default=EMBEDDED, metavar="NAME", help="`hierarchy`, or any TUDataset"
    )
    data.add_argument(
        "--root", type=Path, metavar="DIR", help="folder that holds NAME/raw/, or to download to"
    )
    data.add_argument(
        "--num-graphs",
        type=positive,
        default=800,
        metavar="N",
        help="graphs to generate, for `hierarchy`",
    )
    data.add_argument("--folds", type=positive, default=10, metavar="N", help="number of folds")
    data.add_argument(
        "--fold",
        nargs="+",
        default=["0"],
        metavar="I",
        help="folds to run: numbers from 0, or `all`",
    )
    data.add_argument(
        "--splits",
        type=Path,
        metavar="FILE",
        help="JSON file of folds, in the format of Errica et al., ICLR 2020 "
        "(default: stratified folds drawn with --seed)",
    )

    pool = parser.add_argument_group("pooling")
    pool.add_argument(
        "--pool",
        choices=list(poolers),
        default="gumbel",
        help="`random` is a uniformly random assignment, `none` the same network without pooling",
    )
    pool.add_argument(
        "--num-clusters",
        type=positive,
        nargs="*",
        default=[16, 4],
        metavar="K",
        help="clusters per graph, one number per pooling level; with --pool none, no number at "
        "all leaves a network of one block and its readout",
    )
    pool.add_argument(
        "--ratio",
        type=fraction,
        metavar="R",
        help="pool a graph of n nodes to ceil(R·n), 0 < R < 1, at every level; --num-clusters "
        "then gives the number of levels and, for gumbel, diffpool and random, an upper bound "
        f"(not for {names(poolers, 'fixed_size')}, whose size is fixed)",
    )
    pool.add_argument(
        "--estimator",
        default="gumbel",
        choices=["gumbel", "gumbel_rao", "straight_through", "gst", "reinmax"],
        help="gradient estimator of gumbel",
    )
    pool.add_argument(
        "--tau",
        type=positive_float,
        default=1.0,
        metavar="T",
        help="temperature of gumbel's gradient",
    )
    pool.add_argument(
        "--tau-end",
        type=positive_float,
        metavar="T",
        help="lower (or raise) the temperature geometrically from --tau to this in the last epoch "
        "(default: constant)",
    )
    pool.add_argument(
        "--losses",
        nargs="+",
        default=["link", "entropy", "balance"],
        choices=["link", "entropy", "balance", "modularity", "none"],
        metavar="LOSS",
        help="auxiliary losses of gumbel and diffpool: any of link, entropy, balance, modularity; "
        "or none",
    )
    pool.add_argument(
        "--loss-weight",
        type=nonnegative_float,
        default=0.1,
        metavar="W",
        help="weight of the sum of the auxiliary losses",
    )
    pool.add_argument(
        "--aggr",
        default="sum",
        choices=["sum", "mean"],
        help="how gumbel, diffpool and random reduce the features of a cluster",
    )
    pool.add_argument(
        "--binary",
        action="store_true",
        help=f"pooled graphs without edge weights ({names(poolers, 'samples')})",
    )
    pool.add_argument(
        "--assign-gnn",
        action="store_true",
        help="compute assignments with message passing of their own, as in DiffPool's paper "
        f"({names(poolers, 'assigns')})",
    )
    pool.add_argument(
        "--train-samples",
        type=positive,
        default=1,
        metavar="M",
        help=f"average the gradient over M draws per step ({names(poolers, 'samples')})",
    )
    pool.add_argument(
        "--eval-samples",
        type=positive,
        default=1,
        metavar="M",
        help="average the class probabilities of M sampled forward passes "
        f"({names(poolers, 'samples')}); where M is 1, gumbel takes the likeliest clusters",
    )

    net = parser.add_argument_group("network")
    net.add_argument(
        "--hidden", type=positive, default=64, metavar="N", help="channels of every layer"
    )
    net.add_argument(
        "--layers",
        type=positive,
        default=2,
        metavar="N",
        help="message-passing layers before each pooling, and after the last",
    )
    net.add_argument(
        "--fine-path",
        action="store_true",
        help="go on with the unpooled graph beside the pooled ones, with as many layers, and read "
        "out both",
    )
    net.add_argument(
        "--dropout",
        type=probability,
        default=0.0,
        metavar="P",
        help="probability of dropout after each layer",
    )

    train = parser.add_argument_group("training")
    train.add_argument(
        "--epochs", type=positive, default=60, metavar="N", help="the most epochs of a fold"
    )
    train.add_argument(
        "--patience",
        type=positive,
        default=50,
        metavar="N",
        help="stop after N epochs without a better validation accuracy",
    )
    train.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="graphs per step, in each process",
    )
    train.add_argument(
        "--lr", type=positive_float, default=3e-3, metavar="LR", help="learning rate of Adam"
    )
    train.add_argument(
        "--weight-decay",
        type=nonnegative_float,
        default=0.0,
        metavar="W",
        help="weight decay of Adam",
    )
    train.add_argument(
        "--seed", type=nonnegative, default=0, metavar="N", help="decides everything random"
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: runs/DATASET-POOL)"
    )
    run.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="PNG file for the picture (default: OUT/hierarchy.png)",
    )
    run.add_argument(
        "--device",
        "--accelerator",
        dest="accelerator",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, mps or auto",
    )
    run.add_argument(
        "--devices",
        type=positive,
        default=1,
        metavar="N",
        help="processes to train with, one per device",
    )
    run.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="CPU threads per process; more than one rarely pays for small graphs",
    )
    run.add_argument(
        "--precision",
        default="32-true",
        metavar="P",
        help="32-true, 16-mixed, bf16-mixed, 64-true, …",
    )
    return parser


def folds_to_run(fold: list[str], folds: int) -> list[int]:
    """The meaning of `--fold`."""
    if fold == ["all"]:
        return list(range(folds))
    try:
        numbers = [int(text) for text in fold]
    except ValueError:
        numbers = [-1]
    if not all(0 <= number < folds for number in numbers):
        raise InputError(
            f"--fold takes `all`, or numbers from 0 to {folds - 1}; got {' '.join(fold)}"
        )
    return sorted(set(numbers))


def check(args: argparse.Namespace, poolers: Mapping[str, Pooler] = POOLERS) -> None:
    """Refuse combinations of flags that would be ignored in silence."""
    pooler = poolers[args.pool]
    if args.ratio and pooler.fixed_size:
        raise InputError(f"--ratio has no meaning for --pool {args.pool}: give --num-clusters")
    if not args.num_clusters and args.pool != "none":
        raise InputError(f"--num-clusters without a number leaves no level for {args.pool}")
    if args.binary and not pooler.samples:
        raise InputError(f"--binary has no meaning for --pool {args.pool}")
    if args.assign_gnn and not pooler.assigns:
        raise InputError(f"--assign-gnn has no meaning for --pool {args.pool}")
    if args.train_samples > 1 and not pooler.samples:
        raise InputError(f"--train-samples has no meaning for --pool {args.pool}")
    if args.tau_end is not None and args.pool != "gumbel":
        raise InputError(f"--tau-end has no meaning for --pool {args.pool}")
    if args.picture and args.picture.suffix not in ("", ".png"):
        raise InputError(f"--picture is a PNG file, and {args.picture} is not named so")
    if args.fine_path and not args.num_clusters:
        raise InputError("--fine-path has no meaning without a level in --num-clusters")
    if "none" in args.losses and len(args.losses) > 1:
        raise InputError("--losses none stands alone")
