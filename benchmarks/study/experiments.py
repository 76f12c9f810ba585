"""The experiments by name: what each runs, and on which datasets unless told otherwise."""

from collections.abc import Callable, Iterator

from .generated import GENERATED
from .plan import DATASETS, EMBEDDED, Plan, Unit
from .pooling import MATTERS, REAL, more, pooling, real

EXPERIMENTS: dict[str, tuple[Callable[[Plan, str], Iterator[Unit]], tuple[str, ...]]] = {
    "tuning": (Plan.tuning, ("ENZYMES", "hierarchy")),
    "collapse": (Plan.collapse, ("ENZYMES", "PROTEINS", "hierarchy")),
    "crossed": (Plan.crossed, ("hierarchy",)),
    "recipes": (Plan.recipes, ("hierarchy", "ENZYMES")),
    "empty": (Plan.empty, ("hierarchy",)),
    "fine": (Plan.fine, ("NCI1", "ENZYMES")),
    "pooling": (pooling, MATTERS),
    "pooling-more": (more, MATTERS),
    "pooling-real": (real, REAL),
    "main": (Plan.main, DATASETS),
    "samples": (Plan.samples, ("ENZYMES", "hierarchy")),
    "temperature": (Plan.temperature, ("ENZYMES", "hierarchy")),
    "depth": (Plan.depth, ("ENZYMES", "PROTEINS")),
    "cost": (Plan.cost, DATASETS),
}
ALL_DATASETS = tuple(dict.fromkeys(name for _, named in EXPERIMENTS.values() for name in named))
WITHOUT_FILES = {EMBEDDED, *GENERATED}
