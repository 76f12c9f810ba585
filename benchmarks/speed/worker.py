"""Measures one peer on one case in a process of its own, and prints one line of JSON."""

import argparse
import json
import resource
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import gumbelpool

from ..common import resident, restart_high_water
from .cases import CASES, Graphs
from .peers import PEERS, Setting, Step

WARM = 10.0  # seconds that the first, unmeasured step may take if others are to follow
LEAST, MOST = 1.5, 60  # seconds and steps of measurement


def measure(step: Step, x: torch.Tensor) -> dict[str, Any]:
    """Medians of the seconds of a step, and the edges of its pooled graph."""
    forward, backward = [], []
    began = time.perf_counter()
    while True:
        x.grad = None
        start = time.perf_counter()
        loss, edges = step()
        middle = time.perf_counter()
        loss.backward()
        stop = time.perf_counter()
        del loss
        forward.append(middle - start)
        backward.append(stop - middle)
        if len(forward) == 1 and stop - start < WARM:
            began = time.perf_counter()
        elif time.perf_counter() - began > LEAST or len(forward) > MOST:
            break
    # The first step sets things up; where it is the only one, it is what there is.
    measured = slice(1, None) if len(forward) > 1 else slice(None)
    return {
        "forward": statistics.median(forward[measured]),
        "backward": statistics.median(backward[measured]),
        "steps": len(forward[measured]),
        "pooled_edges": edges,
    }


def main() -> None:
    """Runs as ``worker CASE PEER --threads T --limit-gib G [--graphs FILE]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("peer")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--limit-gib", type=float, required=True)
    parser.add_argument("--graphs", type=Path, help="the case's graphs, built before")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    if options.peer.startswith("tgp"):
        import tgp.poolers  # noqa: F401, so that the import is in the baseline

    case = CASES[options.case]
    baseline = restart_high_water()
    limit = resident("VmData") + int(options.limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    graphs = Graphs(**torch.load(options.graphs)) if options.graphs else case.build(None)
    x = graphs.features()
    record: dict[str, Any] = {
        "input_bytes": graphs.edge_index.nbytes + x.nbytes,
        "input": graphs.source,
        "package": str(Path(gumbelpool.__file__).parent.resolve()),
    }
    if hasattr(gumbelpool, "backend"):
        record["backend"] = gumbelpool.backend()
    try:
        record |= measure(PEERS[options.peer](Setting(case, graphs, x)), x)
        record["peak_bytes"] = resident("VmHWM") - baseline
    except (RuntimeError, MemoryError) as error:
        if "alloc" not in str(error).lower():
            raise
        record["failed"] = f"needs more than {options.limit_gib:g} GiB"
    print(json.dumps(record))


if __name__ == "__main__":
    main()
