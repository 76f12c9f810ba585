"""Clusters one graph with one method in a process of its own, and prints one line of JSON."""

import argparse
import ctypes
import gc
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gumbelpool
from examples.node_clustering.graphs import Averaging, NodeGraph, averaging
from examples.node_clustering.metrics import measures
from examples.node_clustering.models import ClusteringNet, Encoder
from examples.node_clustering.training import TrainingOptions, seed_for, start_from_kmeans, train

from ..common import resident, restart_high_water
from .cases import CASES
from .methods import METHODS


def clock(options: argparse.Namespace) -> Callable[[], float]:
    """With one thread, the processor's time: others on the machine do not count then."""
    return time.process_time if options.threads == 1 else time.perf_counter


def learn(graph: NodeGraph, options: Any, checkpoint: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """Train, from the checkpoint on if there is one; the clusters and what they took."""
    case, method = CASES[options.case], METHODS[options.method]
    budget = case.budget
    mean = averaging(graph.edge_index, graph.num_nodes)
    seed_for(options.seed, 0)
    encoder = Encoder(graph.x.size(1), budget.hidden, budget.layers, budget.batch_norm)
    model = ClusteringNet(encoder, method.make(budget.hidden, case.num_clusters, graph))
    training = TrainingOptions(
        options.epochs, budget.lr * method.rate, options.seed, method.start, clock(options)
    )
    begun = {}
    if method.start == "kmeans":  # or what is learned would be taken for what it began with
        start_from_kmeans(model, graph, mean, options.seed)
        found = measures(model.clusters(graph, mean), graph.edge_index, graph.y)
        begun = {"start_nmi": found["nmi"], "start_modularity": found["modularity"]}
    start = clock(options)()
    seconds = train(model, graph, mean, training, checkpoint)
    spent = clock(options)() - start
    cluster = model.clusters(graph, mean)
    record = {
        "epochs": len(seconds),
        "epoch_seconds": statistics.median(seconds[1:] or seconds),
        "seconds": sum(seconds),
        "start_seconds": spent - sum(seconds),
        "peak_bytes": resident("VmHWM"),
    }
    return cluster, record | begun | layer_share(model, graph, mean, clock(options))


def layer_share(
    model: ClusteringNet, graph: NodeGraph, mean: Averaging, now: Callable[[], float]
) -> dict[str, Any]:
    """Seconds of the pooling layer, forward and backward, and memory above what was there."""
    model.train()
    with torch.no_grad():
        x = model.encoder(graph, mean)
    x.requires_grad_()
    gc.collect()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be used again unseen
    before = restart_high_water()
    start = now()
    sum(model.clusterer.losses(x, graph).values()).backward()
    return {
        "layer_seconds": now() - start,
        "layer_bytes": resident("VmHWM") - before,
    }


def measure(graph: NodeGraph, options: Any, checkpoint: Path) -> dict[str, Any]:
    """Cluster, and say how good it is and what it took."""
    method = METHODS[options.method]
    if method.function is not None:
        start = clock(options)()
        cluster = method.function(graph, CASES[options.case].num_clusters, options.seed)
        record = {"seconds": clock(options)() - start, "peak_bytes": resident("VmHWM")}
    else:
        cluster, record = learn(graph, options, checkpoint)
    return record | measures(cluster, graph.edge_index, graph.y)


def parser() -> argparse.ArgumentParser:
    """The command line of a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("case")
    add("method")
    add("--seed", type=int, required=True)
    add("--epochs", type=int, required=True)
    add("--threads", type=int, required=True)
    add("--limit-gib", type=float, required=True)
    add("--graph", type=Path, required=True, help="the case's graph, built before")
    add("--checkpoint", type=Path, required=True)
    return parser


def main() -> None:
    """Measures."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if "tgp" in options.method:
        import tgp.poolers  # noqa: F401, so that the import is in the baseline
    baseline = restart_high_water()
    limit = resident("VmData") + int(options.limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        graph = NodeGraph(**torch.load(options.graph))
        record = {
            "nodes": graph.num_nodes,
            "edges": graph.edge_index.size(1),
            "input_bytes": graph.x.nbytes + graph.edge_index.nbytes,
            "backend": gumbelpool.backend(),
        } | measure(graph, options, options.checkpoint)
        record["peak_bytes"] -= baseline
    except (RuntimeError, MemoryError) as error:
        if "alloc" not in str(error).lower():
            raise
        record = {"failed": f"needs more than {options.limit_gib:g} GiB"}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
