"""Where pooling matters: what runs on the benchmarks that were made for pooling, and for how long.

The poolers are those of the study, at half the width, with empty clusters kept (the layer's
default); beside them stand settings of `GumbelPool` that were tried in the hope of a better one.
"""

from collections.abc import Iterator

from .generated import GENERATED
from .plan import DRAWN, POOLERS, Plan, Unit

SHIPPED = ("GCB-hard", "GCB-easy")  # of files; Bianchi et al. 2022
REAL = ("MUTAG", "ENZYMES")  # what is best above must not be worse on these
MATTERS = (*GENERATED, *SHIPPED)
FINE = ["--fine-path"]
KEPT = ["--pool", "gumbel-keep-empty", *DRAWN]
NONE = "none"  # what all others are compared with


def _tried(name: str) -> list[str]:
    return ["--pool", f"gumbel-{name}", *DRAWN, *FINE]


# Every fold is shown once all of these were run on it.
SETTINGS: dict[str, list[str]] = {
    NONE: POOLERS["none"],
    "none, fine path": [*POOLERS["none"], *FINE],
    "none, positions": ["--pool", "none-positions"],
    "random": ["--pool", "random-keep-empty", *DRAWN],
    "random, fine path": ["--pool", "random-keep-empty", *DRAWN, *FINE],
    "kmis": POOLERS["kmis"],
    "kmis, fine path": [*POOLERS["kmis"], *FINE],
    "topk": POOLERS["topk"],
    "diffpool": POOLERS["diffpool"],
    "gumbel": KEPT,
    "gumbel, fine path": [*KEPT, *FINE],
    "gumbel, fine path, positions": _tried("positions"),
    "gumbel, fine path, detached": _tried("detached"),
}
# What more was tried, on the same folds or fewer.
MORE: dict[str, list[str]] = {
    "gumbel, fine path, modularity": _tried("modularity"),
    "gumbel, fine path, positions, modularity": _tried("positions-modularity"),
    "gumbel, fine path, log weights": _tried("log-weights"),
    "gumbel, fine path, sticks": _tried("sticks"),
}
ON_REAL = (NONE, "gumbel", "gumbel, fine path", "gumbel, fine path, positions")
# Clusters of the two levels: about half, and a sixth, of the nodes of small graphs.
CLUSTERS = {name: ["8", "3"] for name in ("two-cycles", "cycles", "multipartite")}


def pooling(plan: Plan, dataset: str) -> Iterator[Unit]:
    """The settings that are compared, on all folds."""
    yield from _units(plan, dataset, SETTINGS)


def more(plan: Plan, dataset: str) -> Iterator[Unit]:
    """What more was tried."""
    yield from _units(plan, dataset, MORE)


def real(plan: Plan, dataset: str) -> Iterator[Unit]:
    """A few of the settings on real datasets, with the network of the study."""
    for fold in range(plan.folds):
        for name in ON_REAL:
            yield plan.unit(dataset, name, SETTINGS[name], fold)


def _units(plan: Plan, dataset: str, settings: dict[str, list[str]]) -> Iterator[Unit]:
    """Of a generated dataset, fold i is another dataset, of seed i."""
    size = ["--hidden", "32", "--num-clusters", *CLUSTERS.get(dataset, ["16", "4"])]
    for fold in range(plan.folds):
        if dataset in GENERATED:
            drawn = ["--num-graphs", "600", "--seed", str(plan.seed + fold)]
        else:
            drawn = []
        for name, flags in settings.items():
            yield plan.unit(dataset, name, [*flags, *size, *drawn], fold)
