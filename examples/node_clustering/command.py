"""What the command line asks for: a clustering per seed, a table, a picture.

The network is in models.py, what does not learn in baselines.py, the training loop in training.py.
"""

import argparse
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn

from gumbelpool import CollapseWarning

from ..shared.command import check_writable, run_command
from ..shared.errors import InputError
from ..shared.run_folder import RunFolder, write_atomically
from .baselines import BASELINES
from .graphs import NodeGraph, load
from .metrics import measures
from .models import ClusteringNet, DMoN, Encoder, Gumbel, MinCut
from .options import LEARNED, complete, parser
from .sharding import Team, team_of
from .summary import table
from .training import TrainingOptions, seed_for, train

# Settings that change no seed's result, but for the rounding of sums where it is sharded.
NO_RESULT = ("out", "root", "seed", "picture", "sharded", "threads")


def build_model(args: argparse.Namespace, graph: NodeGraph) -> ClusteringNet:
    """The network that the flags describe."""
    encoder = Encoder(graph.x.size(1), args.hidden, args.layers, args.batch_norm)
    clusterer: nn.Module
    if args.method == "gumbel":
        clusterer = Gumbel(args.hidden, args.num_clusters, tuple(args.losses), args.estimator)
    else:
        kind = {"dmon": DMoN, "mincut": MinCut}[args.method]
        clusterer = kind(args.hidden, args.num_clusters, graph)
    return ClusteringNet(encoder, clusterer)


def run(args: argparse.Namespace) -> None:
    """Everything that the command line asks for."""
    complete(args)
    with team_of(args.sharded) as team:
        run_seeds(args, team)


def run_seeds(args: argparse.Namespace, team: Team) -> None:
    """Each of the seeds, by all processes; the main one alone reads the folder and writes."""
    # How many clusters are used is in the results: a warning would say it a second time.
    warnings.simplefilter("ignore", CollapseWarning)
    torch.set_num_threads(args.threads)
    graph = load(args.dataset, args.root)
    args.num_clusters = args.num_clusters or graph.num_classes
    if args.num_clusters > graph.num_nodes:
        raise InputError(
            f"--num-clusters {args.num_clusters} is more than the {graph.num_nodes} nodes"
        )
    folder = RunFolder(args.out or Path("runs") / f"{args.dataset}-{args.method}", "seed")
    picture = args.picture or folder.path / "clustering.png"
    config = {key: value for key, value in vars(args).items() if key not in NO_RESULT}
    with ExitStack() as stack:
        team.tell(lambda: stack.enter_context(folder.open(config)))
        team.tell(lambda: check_writable(picture))
        team.say(
            f"{graph.name}: {graph.num_nodes} nodes, {graph.edge_index.size(1) // 2} edges, "
            f"{graph.num_classes} classes, {graph.x.size(1)} features; --method {args.method}, "
            f"seed {' '.join(map(str, args.seed))}; writing to {folder.path}"
        )
        done = team.tell(lambda: {result["seed"] for result in folder.finished()})
        if done.issuperset(args.seed):
            team.say(
                f"nothing left to do: the run in {folder.path} is finished; to start anew, remove "
                "that folder or give another --out"
            )
        for seed in args.seed:
            if seed not in done:
                result = cluster_once(args, graph, seed, folder, team)
                team.say(f"seed {seed}: NMI {result['nmi']:.3f}, {result['seconds']:.1f} s")
            team.tell(lambda seed=seed: folder.checkpoint(seed).unlink(missing_ok=True))
        if team.is_main:
            print(f"\n{table([line for line in folder.finished() if line['seed'] in args.seed])}")
            draw(args, graph, folder, picture)
            print(f"picture of the clustering: {picture}")


def cluster_once(
    args: argparse.Namespace, graph: NodeGraph, seed: int, folder: RunFolder, team: Team
) -> dict[str, Any]:
    """Cluster with one seed, and write down what came of it."""
    start = time.perf_counter()
    if args.method in LEARNED:
        part = team.part(graph)
        mean = part.averaging()
        seed_for(seed, 0)
        model = build_model(args, graph)
        options = TrainingOptions(args.epochs, args.lr, seed, args.start)
        seconds = train(model, part, mean, options, folder.checkpoint(seed), f"seed {seed}", team)
        cluster, spent = part.collect(model.clusters(part, mean)), sum(seconds)
    else:
        cluster = BASELINES[args.method](graph, args.num_clusters, seed)
        spent = time.perf_counter() - start
    lines = "\n".join(map(str, cluster.tolist())) + "\n"
    team.tell(lambda: write_atomically(clusters_file(folder, seed), lines.encode()))
    about = {"dataset": args.dataset, "method": args.method, "seed": seed}
    about["num_clusters"] = args.num_clusters
    result = about | measures(cluster, graph.edge_index, graph.y)
    result |= {"epochs": args.epochs or 0, "seconds": round(spent, 2)}
    team.tell(lambda: folder.append(result))
    return result


def clusters_file(folder: RunFolder, seed: int) -> Path:
    """Where the clusters of a finished seed are."""
    return folder.path / f"seed-{seed}.clusters"


def read_clusters(file: Path) -> Tensor:
    """The cluster of each node, ``[N]``."""
    try:
        return torch.from_numpy(np.loadtxt(file, dtype=np.int64, ndmin=1))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the clusters {file}: {error}") from error


def draw(args: argparse.Namespace, graph: NodeGraph, folder: RunFolder, path: Path) -> None:
    """The picture of the first seed's clusters."""
    mpl.use("Agg")
    from ..shared.drawing import png
    from .picture import draw_clustering

    seed = args.seed[0]
    cluster = read_clusters(clusters_file(folder, seed))
    title = f"{graph.name}, --method {args.method}, seed {seed}"
    write_atomically(path, png(draw_clustering(graph, cluster, title)))


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    return run_command(lambda: run(parser().parse_args(arguments)))
