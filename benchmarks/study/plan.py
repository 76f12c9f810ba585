"""What the study runs: which poolers and settings, on which datasets and folds, how long."""

import json
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from .generated import GENERATED

EMBEDDED = "hierarchy"
DATASETS = ("MUTAG", "ENZYMES", "PROTEINS", "IMDB-BINARY", "NCI1", "DD", EMBEDDED)
FOLDS = 10
PUBLISHED_SPLITS = ("ENZYMES", "PROTEINS", "IMDB-BINARY", "NCI1", "DD")  # else drawn here


class Budget(NamedTuple):
    """What each run on a dataset is given, alike for all poolers."""

    epochs: int
    patience: int
    batch_size: int
    trials: tuple[int, ...]  # the folds on which hyper-parameters are tried
    few: int  # folds of everything but the main table


# Some 1,000 to 2,000 steps, fewer on the smallest. DD's largest graph has 5,748 nodes, and dense
# poolers pad every graph of a batch to it.
BUDGETS = {
    "MUTAG": Budget(60, 30, 32, (0,), 5),
    "ENZYMES": Budget(60, 30, 32, (0,), 5),
    "PROTEINS": Budget(40, 15, 32, (0,), 3),
    "IMDB-BINARY": Budget(40, 15, 32, (0,), 3),
    "NCI1": Budget(20, 10, 32, (0,), 3),
    "DD": Budget(10, 8, 8, (0,), 3),
    "hierarchy": Budget(40, 20, 32, (0,), 3),
    **dict.fromkeys(("GCB-hard", "GCB-easy"), Budget(40, 40, 32, (0,), 10)),
    **dict.fromkeys(GENERATED, Budget(25, 25, 32, (0,), 10)),
}
TRIED_ON = {"DD": "PROTEINS"}  # proteins too; trials of dense poolers on DD would take hours
RATE = "0.003"  # of everything but the main table
ESTIMATORS = ("gumbel", "gumbel_rao", "straight_through", "gst", "reinmax")
OWN = ["--assign-gnn"]
# Poolers that draw, in training and in testing, are tested with the mean of eight draws. On
# validation, `tuning` found nothing better for gumbel by more than its standard error.
DRAWN = ["--eval-samples", "8"]
KEPT = "gumbel, empty clusters kept"
POOLERS: dict[str, list[str]] = {
    "gumbel": ["--pool", "gumbel", *DRAWN],
    "diffpool": ["--pool", "diffpool", "--losses", "link", "entropy"],  # its own two losses
    **{name: ["--pool", name] for name in ("mincut", "topk", "sag", "asap", "kmis", "maxcut")},
    "bnpool": ["--pool", "bnpool", *DRAWN],
    "random": ["--pool", "random", *DRAWN],
    "none": ["--pool", "none"],
    "readout only": ["--pool", "none", "--num-clusters"],  # no level, so two layers, not six
    **{
        f"gumbel, {name}": ["--pool", "gumbel", *DRAWN, "--estimator", name]
        for name in ESTIMATORS[1:]
    },
    KEPT: ["--pool", "gumbel-keep-empty", *DRAWN],
}
WITHOUT_LOSS = ("topk", "sag", "asap", "kmis", "random", "none", "readout only")
UNRANKED = ("readout only", *(name for name in POOLERS if name.startswith("gumbel, ")))
TOO_LONG = {("DD", "bnpool")}  # an epoch takes minutes: left out, and named
# What is tried on validation, the same number for all: the learning rate, and the weight of the
# auxiliary losses where there are some.
TRIALS: dict[bool, list[list[str]]] = {
    False: [["--lr", rate] for rate in ("0.003", "0.001", "0.01", "0.0003")],
    True: [
        ["--lr", rate, *weight]
        for rate in ("0.003", "0.001")
        for weight in ([], ["--loss-weight", "1"])  # 0.1 where nothing is said
    ],
}
LOSSES = {  # beside all three, which is what the examples train with
    "none": ["none"],
    "link, entropy": ["link", "entropy"],
    "balance": ["balance"],
}
CROSSED = ("none", "link", "link, entropy")  # beside all three, as it is
RECIPES = (  # what is compared for each task; `benchmarks.theory.clusters` has the other one
    "link, entropy, balance",
    "modularity, balance",
    "modularity, entropy, balance",
    "link, entropy, balance, modularity",
)
HEADS = ("orthogonal", "cosine")
FINE = (KEPT, "random", "none", "kmis")  # with and without the unpooled graph beside
SAMPLES = (1, 2, 4, 8, 16)
LEVELS = range(1, 7)


class Unit(NamedTuple):
    """One training run: a setting on a fold."""

    name: str  # what the tables call the setting
    flags: tuple[str, ...]  # of examples/classification, the dataset and the seed among them
    fold: int

    @property
    def key(self) -> str:
        """What makes a run the same run, in whichever experiments it appears."""
        return json.dumps([" ".join(self.flags), self.fold])


class Plan:
    """The experiments as lists of units.

    Args:
        done: Records of finished runs by key; learning rates are chosen from them.
        seed: For everything random.
        folds: The most folds that any experiment runs.
        epochs: The most epochs of any run.
    """

    def __init__(
        self,
        done: dict[str, dict[str, Any]],
        seed: int = 0,
        folds: int = FOLDS,
        epochs: int | None = None,
    ) -> None:
        self.done, self.seed, self.folds, self.epochs = done, seed, folds, epochs

    def unit(self, dataset: str, name: str, flags: list[str], fold: int) -> Unit:
        """A setting with the budget that all poolers have on the dataset."""
        budget = BUDGETS[dataset]
        shared = {
            "--epochs": str(min(budget.epochs, self.epochs or budget.epochs)),
            "--patience": str(budget.patience),
            "--batch-size": str(budget.batch_size),
            "--lr": RATE,
            "--seed": str(self.seed),
        }
        own = list(flags)
        for flag in shared:
            if flag in own:
                at = own.index(flag)
                _, shared[flag] = own[at : at + 2]
                del own[at : at + 2]
        words = [word for pair in shared.items() for word in pair]
        return Unit(name, ("--dataset", dataset, *own, *words), fold)

    def trials(self, dataset: str, name: str) -> list[list[Unit]]:
        """The runs that decide on a pooler's hyper-parameters, by what is tried."""
        dataset = TRIED_ON.get(dataset, dataset)
        folds = [fold for fold in BUDGETS[dataset].trials if fold < self.folds]
        return [
            [self.unit(dataset, name, [*POOLERS[name], *tried], fold) for fold in folds]
            for tried in TRIALS[name not in WITHOUT_LOSS]
        ]

    def choice(self, dataset: str, name: str) -> list[str] | None:
        """What did best on validation, once all trials are done: accuracy, then lower loss."""
        scores = {}
        for index, units in enumerate(self.trials(dataset, name)):
            found = [self.done.get(unit.key) for unit in units]
            if not all(found):
                return None
            if not any("failed" in record for record in found if record):
                accuracy = statistics.mean(r["val_accuracy"] for r in found if r)
                loss = statistics.mean(r["val_loss"] for r in found if r)
                scores[index] = round(accuracy, 6), -loss
        best = max(scores, key=scores.__getitem__) if scores else None
        return None if best is None else TRIALS[name not in WITHOUT_LOSS][best]

    def main(self, dataset: str) -> Iterator[Unit]:
        """All poolers on all folds, after the trials."""
        for name in POOLERS:
            for units in self.trials(dataset, name):
                yield from units
        yield from self.chosen(dataset)

    def chosen(self, dataset: str) -> Iterator[Unit]:
        """The runs of the main table: of each pooler, those with what was chosen."""
        choices = {name: self.choice(dataset, name) for name in POOLERS}
        for fold in range(self.folds):
            for name, flags in POOLERS.items():
                tried = choices[name]
                if tried is not None and (dataset, name) not in TOO_LONG:
                    yield self.unit(dataset, name, [*flags, *tried], fold)

    def cost(self, dataset: str) -> Iterator[Unit]:
        """Time and memory: a few epochs of each pooler, to be run with nothing beside them."""
        for fold in range(min(3, self.folds)):
            for name, flags in POOLERS.items():
                if (dataset, name) not in TOO_LONG:
                    yield self.unit(dataset, name, [*flags, "--epochs", "5"], fold)

    def collapse(self, dataset: str) -> Iterator[Unit]:
        """Clusters in use: loss sets, estimators, heads, assignment networks; and DiffPool's."""
        gumbel, diffpool = ["--pool", "gumbel"], ["--pool", "diffpool"]
        settings = {"diffpool": diffpool, "gumbel": gumbel}
        for losses, names in LOSSES.items():
            settings[f"losses: {losses}"] = [*gumbel, "--losses", *names]
        settings["losses: all, weight 1"] = [*gumbel, "--loss-weight", "1"]
        for estimator in ESTIMATORS[1:]:
            settings[f"estimator: {estimator}"] = [*gumbel, "--estimator", estimator]
        for head in HEADS:
            settings[f"head: {head}"] = ["--pool", f"gumbel-{head}"]
        settings["own network"] = [*gumbel, *OWN]
        settings["diffpool, own network"] = [*diffpool, *OWN]
        yield from self._few(dataset, settings)

    def crossed(self, dataset: str) -> Iterator[Unit]:
        """Each estimator, and DiffPool, with each of a few loss sets and heads."""
        settings = {}
        for name in (*ESTIMATORS, "diffpool"):
            pool = name if name == "diffpool" else "gumbel"
            own = ["--estimator", name] if name in ESTIMATORS[1:] else []
            settings[f"{name}: as it is"] = ["--pool", pool, *own]
            for losses in CROSSED:
                chosen = ["--losses", *losses.split(", ")]
                settings[f"{name}: {losses}"] = ["--pool", pool, *own, *chosen]
            for head in HEADS if pool == "gumbel" else ():
                settings[f"{name}: {head} head"] = ["--pool", f"gumbel-{head}", *own]
        yield from self._few(dataset, settings)

    def recipes(self, dataset: str) -> Iterator[Unit]:
        """Sets of losses, with each of two estimators, of the layer as it is by default."""
        settings = {}
        for estimator in ("gumbel", "straight_through"):
            own = ["--estimator", estimator] if estimator != "gumbel" else []
            for losses in RECIPES:
                chosen = ["--losses", *losses.split(", ")] if losses != RECIPES[0] else []
                settings[f"{estimator}: {losses}"] = [*POOLERS[KEPT], *own, *chosen]
        yield from self._few(dataset, settings)

    def empty(self, dataset: str) -> Iterator[Unit]:
        """Empty clusters dropped or kept, as in `tuning`, on all folds."""
        for fold in range(self.folds):
            for name in ("gumbel", KEPT):
                yield self.unit(dataset, name, POOLERS[name], fold)

    def fine(self, dataset: str) -> Iterator[Unit]:
        """The unpooled graph beside the pooled ones or not, on all folds."""
        for fold in range(self.folds):
            for name in FINE:
                yield self.unit(dataset, name, POOLERS[name], fold)
                flags = [*POOLERS[name], "--fine-path"]
                yield self.unit(dataset, f"{name}, fine path", flags, fold)

    def tuning(self, dataset: str) -> Iterator[Unit]:
        """What looked best in `collapse`, together, and tested as it is trained: with draws."""
        drawn = ["--pool", "gumbel", *DRAWN]
        own = [*drawn, *OWN]
        straight = ["--estimator", "straight_through"]
        kept = POOLERS[KEPT]
        settings = {
            "8 draws": drawn,
            "8 draws, reinmax": [*drawn, "--estimator", "reinmax"],
            "8 draws, gumbel_rao": [*drawn, "--estimator", "gumbel_rao"],
            "8 draws, link, entropy": [*drawn, "--losses", "link", "entropy"],
            "8 draws, binary pooled graphs": [*drawn, "--binary"],
            "8 draws, mean of the members": [*drawn, "--aggr", "mean"],
            "8 draws, empty clusters kept": kept,
            "8 draws, empty clusters kept, reinmax": [*kept, "--estimator", "reinmax"],
            "8 draws, straight_through": [*drawn, *straight],
            "8 draws, empty clusters kept, straight_through": [*kept, *straight],
            "8 draws, own network": own,
            "8 draws, own network, reinmax": [*own, "--estimator", "reinmax"],
            "8 draws, own network, gumbel_rao": [*own, "--estimator", "gumbel_rao"],
            "8 draws, own network, orthogonal": ["--pool", "gumbel-orthogonal", *DRAWN, *OWN],
        }
        yield from self._few(dataset, settings)

    def temperature(self, dataset: str) -> Iterator[Unit]:
        """Constant, and annealed geometrically from the first to the last epoch."""
        settings = {}
        for start, end in (
            ("0.3", None), ("0.5", None), ("1", None), ("2", None), ("2", "0.5"), ("1", "0.1"),
        ):  # fmt: skip
            flags = ["--pool", "gumbel", "--tau", start] if start != "1" else ["--pool", "gumbel"]
            settings[f"{start} → {end}" if end else start] = [
                *flags, *(["--tau-end", end] if end else []),
            ]  # fmt: skip
        yield from self._few(dataset, settings)

    def samples(self, dataset: str) -> Iterator[Unit]:
        """Draws per step of training; every run is tested with each number of draws."""
        settings = {
            str(count): ["--pool", "gumbel"] + ["--train-samples", str(count)] * (count > 1)
            for count in SAMPLES
        }
        yield from self._few(dataset, settings)

    def depth(self, dataset: str) -> Iterator[Unit]:
        """One to six levels, each with half the clusters of the one before."""
        settings = {}
        for levels in LEVELS:
            clusters = [str(64 >> level) for level in range(levels)]
            for pool in ("gumbel", "diffpool"):
                settings[f"{pool}, {levels}"] = ["--pool", pool, "--num-clusters", *clusters]
        yield from self._few(dataset, settings)

    def _few(self, dataset: str, settings: dict[str, list[str]]) -> Iterator[Unit]:
        for fold in range(min(BUDGETS[dataset].few, self.folds)):
            for name, flags in settings.items():
                yield self.unit(dataset, name, flags, fold)
