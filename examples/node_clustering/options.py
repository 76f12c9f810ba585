"""The command line of the clustering: every flag, its default and its meaning."""

import argparse
from pathlib import Path

from ..shared.arguments import HelpFormatter, Parser, nonnegative, positive, positive_float
from ..shared.errors import InputError
from .baselines import BASELINES
from .graphs import EMBEDDED, PLANETOID

LEARNED = ("gumbel", "dmon", "mincut")
LOSSES = ("modularity", "balance", "link", "entropy")

# The training flags for each kind of graph, where they are not given.
TRAINING = {
    EMBEDDED: {"epochs": 100, "lr": 0.01, "layers": 2, "batch_norm": True},
    **{name: {"epochs": 300, "lr": 3e-3, "layers": 2, "batch_norm": False} for name in PLANETOID},
}
NETWORK = {"hidden": 64, "start": "random"}
GUMBEL = {"losses": ["modularity", "balance"], "estimator": "straight_through"}

DESCRIPTION = """\
Cluster the nodes of one graph, without labels; they are used to measure what was found.

Without arguments: the embedded planted partition `sbm` (generated, no download), about ten seconds.
A run that was stopped, however it was stopped, continues when the same command is given again.
"""

EPILOG = """\
examples:
  # the embedded graph; what k-means makes of it, and Leiden
  python -m examples.node_clustering
  python -m examples.node_clustering --method kmeans
  python -m examples.node_clustering --method leiden

  # Cora, from DIR/Cora/raw/ind.cora.*, with three seeds
  python -m examples.node_clustering --dataset Cora --root DIR --seed 0 1 2 --out runs/cora-gumbel

  # the graph sharded over two processes, which may be of two machines
  torchrun --nproc-per-node 2 -m -- examples.node_clustering --sharded

what --out holds:
  results.jsonl       a line per seed: NMI, ARI, accuracy, modularity, conductance, clusters used
  clustering.png      the graph with its clusters, with its classes, and the pooled graph
  seed-N.clusters     the cluster of each node, a line each; seed-N.ckpt while it is training
  config.json         the settings; a run with others is refused
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m examples.node_clustering", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=HelpFormatter,
    )  # fmt: skip

    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        default=EMBEDDED,
        metavar="NAME",
        help=f"`{EMBEDDED}`, or one of {', '.join(PLANETOID)}",
    )
    data.add_argument("--root", type=Path, metavar="DIR", help="folder that holds NAME/raw/")

    method = parser.add_argument_group("method")
    method.add_argument(
        "--method",
        choices=[*LEARNED, *BASELINES],
        default="gumbel",
        help=f"{', '.join(LEARNED)} learn, in the same network; leiden (which needs igraph), metis "
        "(pymetis) and kmeans, on features smoothed over the graph, do not",
    )
    method.add_argument(
        "--num-clusters",
        type=positive,
        metavar="K",
        help="clusters; leiden finds their number (default: as many as classes)",
    )
    method.add_argument(
        "--losses",
        nargs="+",
        choices=LOSSES,
        metavar="LOSS",
        help=f"of gumbel: any of {', '.join(LOSSES)} (default: {' '.join(GUMBEL['losses'])})",
    )
    method.add_argument(
        "--estimator",
        choices=["straight_through", "gumbel", "gumbel_rao", "gst", "reinmax"],
        help=f"gradient estimator of gumbel (default: {GUMBEL['estimator']})",
    )

    train = parser.add_argument_group(f"network and training, of {', '.join(LEARNED)}")
    train.add_argument("--epochs", type=positive, metavar="N", help=_default("epochs"))
    train.add_argument("--lr", type=positive_float, metavar="LR", help=_default("lr"))
    train.add_argument("--layers", type=positive, metavar="N", help=_default("layers"))
    train.add_argument(
        "--batch-norm", action=argparse.BooleanOptionalAction, help=_default("batch_norm")
    )
    train.add_argument(
        "--hidden", type=positive, metavar="N",
        help=f"channels of every layer (default: {NETWORK['hidden']})",
    )  # fmt: skip
    train.add_argument(
        "--start",
        choices=["random", "kmeans"],
        help="where the head begins: at random, or with the k-means clusters of the untrained "
        f"network's vectors, which helps where clusters are many (default: {NETWORK['start']})",
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--seed",
        type=nonnegative,
        nargs="+",
        default=[0],
        metavar="N",
        help="a run for each; a seed decides everything random but the graph",
    )
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: runs/DATASET-METHOD)"
    )
    run.add_argument(
        "--picture", type=Path, metavar="FILE",
        help="PNG file for the picture (default: OUT/clustering.png)",
    )  # fmt: skip
    run.add_argument(
        "--sharded",
        action="store_true",
        help="shard the graph over the processes that torchrun starts, of gumbel; a run continues "
        "with any number of them",
    )
    run.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads")
    return parser


def _default(flag: str) -> str:
    words = {
        "epochs": "passes over the graph",
        "lr": "learning rate of Adam",
        "layers": "graph convolutions",
        "batch_norm": "normalise after each convolution",
    }
    sbm, other = TRAINING[EMBEDDED][flag], TRAINING[PLANETOID[0]][flag]
    return f"{words[flag]} (default: {sbm} for {EMBEDDED}, {other} otherwise)"


def complete(args: argparse.Namespace) -> None:
    """Fill in the defaults; refuse flags that would be ignored in silence."""
    if args.dataset not in TRAINING:
        raise InputError(f"--dataset is one of {', '.join(TRAINING)}; got {args.dataset!r}")
    if args.picture and args.picture.suffix not in ("", ".png"):
        raise InputError(f"--picture is a PNG file, and {args.picture} is not named so")
    meant = {}
    if args.method in LEARNED:
        meant |= NETWORK | TRAINING[args.dataset]
    if args.method == "gumbel":
        meant |= GUMBEL
    for name in NETWORK | TRAINING[args.dataset] | GUMBEL:
        given = getattr(args, name)
        if name not in meant and given is not None:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} has no meaning for --method {args.method}")
        if given is None:
            setattr(args, name, meant.get(name))
    if args.method == "leiden" and args.num_clusters is not None:
        raise InputError("--num-clusters has no meaning for --method leiden, which finds it")
    if args.sharded and args.method != "gumbel":
        raise InputError(f"--sharded has no meaning for --method {args.method}")
    args.seed = sorted(set(args.seed))
