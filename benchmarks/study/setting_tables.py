"""Tables of what a setting does: losses, draws, temperatures, depth, crispness."""

import statistics
from itertools import compress
from typing import Any

import numpy as np

from .cells import edges, mean_of, mean_of_percent, megabytes, section, spread, table
from .experiments import EXPERIMENTS
from .plan import FINE, KEPT, LEVELS, SAMPLES, Plan
from .results import Runs, accuracies, collect, compare, standard_error, succeeded


def samples_table(plan: Plan, dataset: str) -> list[str]:
    """Draws in training against draws in evaluation."""
    runs = collect(plan, plan.samples(dataset))
    rows = []
    for name, folds in runs.items():
        done = succeeded(folds)
        cells = [mean_of_percent(folds, "val_accuracy"), spread(accuracies(folds).values())]
        for count in SAMPLES:
            cells.append(spread(100 * r["sampled"][str(count)]["accuracy"] for r in done.values()))
        rows.append([name, *cells])
    head = [
        "draws in training",
        "validation %",
        "test %, likeliest",
        *(f"{m} drawn" for m in SAMPLES),
    ]
    return section(dataset, runs, table(head, rows))


def drawn_table(plan: Plan) -> list[str]:
    """Every run that chose its epoch by the likeliest clusters, tested with draws instead."""
    units = (
        unit
        for make, datasets in EXPERIMENTS.values()
        for dataset in datasets
        for unit in make(plan, dataset)
        if "--eval-samples" not in unit.flags and "gumbel" in unit.flags[3]
    )
    records = {unit.key: plan.done[unit.key] for unit in units if unit.key in plan.done}
    gains: dict[str, dict[int, list[list[float]]]] = {}
    for record in records.values():
        if "failed" not in record:
            drawn = record["sampled"]
            gain = [100 * (drawn[str(m)]["accuracy"] - record["test_accuracy"]) for m in SAMPLES]
            gains.setdefault(record["dataset"], {}).setdefault(record["fold"], []).append(gain)
    rows = []
    for dataset, by_fold in gains.items():
        of_folds = np.array([np.mean(found, 0) for found in by_fold.values()])
        errors = [f" ± {standard_error(list(f)):.1f}" * (len(of_folds) > 1) for f in of_folds.T]
        cells = [f"{m:+.1f}{e}" for m, e in zip(of_folds.mean(0), errors, strict=True)]
        rows.append([dataset, str(sum(map(len, by_fold.values()))), str(len(by_fold)), *cells])
    if not rows:
        return []
    return [
        "All runs of gumbel that were tested with the likeliest clusters, in whatever setting:",
        "what draws in their place add to the test accuracy. Means over the runs on a fold, then",
        "mean ± standard error over the folds.",
        "",
        *table(["", "runs", "folds", *(f"{m} drawn" for m in SAMPLES)], rows),
    ]


USE = {  # fields of a run's trace, and what the table calls them
    "drawn perplexity": "perplexity, drawn",
    "likeliest perplexity": "perplexity, likeliest",
    "likeliest largest_share": "largest share",
    "likeliest used": "used",
    "entropy": "entropy of a node",
    "similarity": "cosine of two supernodes",
}


def collapse_table(plan: Plan, dataset: str) -> list[str]:
    """Use of clusters from the start to the end, and what it did for the accuracy."""
    runs = collect(plan, plan.collapse(dataset))
    rows = []
    for name, folds in runs.items():
        cells = [spread(accuracies(folds).values()), mean_of_percent(folds, "val_accuracy")]
        for field in USE:
            cells.append(" → ".join(mean_of(folds, "trace", moment, field) for moment in (0, -1)))
        rows.append([name, *cells])
    head = ["", "test %", "validation %", *USE.values()]
    filled = [any(row[column] != "– → –" for row in rows) for column in range(len(head))]
    head, *rows = (list(compress(row, filled)) for row in (head, *rows))
    return section(dataset, runs, table(head, rows))


def tuning_table(plan: Plan, dataset: str) -> list[str]:
    """What was tried for the main table."""
    tried = {"likeliest": collect(plan, plan.collapse(dataset)).get("gumbel", {})}
    runs = collect(plan, plan.tuning(dataset))
    base = validated(runs.get("8 draws", {}))
    rows = []
    for name, folds in (tried | runs).items():
        done = succeeded(folds)
        if done:
            better = [of - base[fold] for fold, of in validated(folds).items() if fold in base]
            cells = [mean_of_percent(folds, "val_accuracy"), "–"]
            if better and name != "8 draws":
                cells[1] = f"{np.mean(better):+.1f} ± {standard_error(better):.1f}"
            cells.append(spread(accuracies(folds).values()))
            cells.append(f"{statistics.mean(record['epochs'] for record in done.values()):.0f}")
            rows.append([name, *cells])
    head = ["", "validation %", "against 8 draws, ± standard error", "test %", "epochs"]
    return section(dataset, runs, table(head, rows))


def validated(folds: dict[int, dict[str, Any]]) -> dict[int, float]:
    """Validation accuracy in percent, by fold."""
    return {fold: 100 * record["val_accuracy"] for fold, record in succeeded(folds).items()}


def crossed_table(plan: Plan, dataset: str) -> list[str]:
    """Estimators by loss sets and heads."""
    return _by_setting(dataset, collect(plan, plan.crossed(dataset)))


def recipes_table(plan: Plan, dataset: str) -> list[str]:
    """Estimators by loss sets, of the layer as it is by default."""
    return _by_setting(dataset, collect(plan, plan.recipes(dataset)))


def _by_setting(dataset: str, runs: Runs) -> list[str]:
    """Runs that are named "row: column"."""
    names = dict.fromkeys(name.split(": ")[0] for name in runs)
    settings = dict.fromkeys(name.split(": ")[1] for name in runs)
    rows = [
        [name, *(spread(accuracies(runs.get(f"{name}: {s}", {})).values()) for s in settings)]
        for name in names
    ]
    return section(dataset, runs, table(["test %", *settings], rows))


def empty_table(plan: Plan, dataset: str) -> list[str]:
    """Empty clusters dropped or kept, fold by fold."""
    runs = collect(plan, plan.empty(dataset))
    dropped, kept = (accuracies(runs.get(name, {})) for name in ("gumbel", KEPT))
    if not dropped or not kept:
        return []
    difference, error, p = compare(kept, dropped)
    cells = [spread(dropped.values()), spread(kept.values())]
    cells.append(f"{difference:+.1f} ± {error:.1f} ({p:.2g})")
    head = ["dropped, test %", "kept, test %", "kept minus dropped, ± standard error (p)"]
    return section(dataset, runs, table(head, [cells]))


def fine_table(plan: Plan, dataset: str) -> list[str]:
    """The unpooled graph beside the pooled ones or not, fold by fold, at like size."""
    runs = collect(plan, plan.fine(dataset))
    rows = []
    for name in FINE:
        both = [runs.get(key, {}) for key in (name, f"{name}, fine path")]
        without, beside = (accuracies(folds) for folds in both)
        if without and beside:
            difference, error, p = compare(beside, without)
            cells = [spread(without.values()), spread(beside.values())]
            cells.append(f"{difference:+.1f} ± {error:.1f} ({p:.2g})")
            cells.append(" → ".join(mean_of(folds, "hidden", digits=0) for folds in both))
            rows.append([name, *cells])
    head = ["", "without, test %", "with, test %", "with minus without, ± standard error (p)"]
    return section(dataset, runs, table([*head, "channels"], rows)) if rows else []


def temperature_table(plan: Plan, dataset: str) -> list[str]:
    """Accuracy by schedule."""
    runs = collect(plan, plan.temperature(dataset))
    rows = [
        [
            name,
            spread(accuracies(folds).values()),
            mean_of_percent(folds, "val_accuracy"),
            mean_of(folds, "inside", "likeliest used"),
            mean_of(folds, "inside", "entropy"),
        ]
        for name, folds in runs.items()
    ]
    head = ["τ", "test %", "validation %", "clusters used", "entropy of a node"]
    return section(dataset, runs, table(head, rows))


def depth_table(plan: Plan, dataset: str) -> list[str]:
    """Accuracy, memory and edges by number of levels."""
    runs = collect(plan, plan.depth(dataset))
    rows = []
    for levels in LEVELS:
        pools = ("gumbel", "diffpool")
        both = {pool: succeeded(runs.get(f"{pool}, {levels}", {})) for pool in pools}
        ahead, error, _ = compare(*(accuracies(folds) for folds in both.values()))
        for pool, folds in both.items():
            if folds:
                shown = all(both.values()) and pool == "gumbel"
                rows.append(
                    [
                        str(levels), pool, spread(accuracies(folds).values()),
                        f"{ahead:+.1f} ± {error:.1f}" if shown else "",
                        mean_of(folds, "parameters", digits=0), megabytes(folds), edges(folds),
                    ]
                )  # fmt: skip
    head = [
        "levels", "", "test %", "gumbel minus diffpool, ± standard error", "parameters", "peak MB",
        "edges per test graph, by level",
    ]  # fmt: skip
    return section(dataset, runs, table(head, rows))


def crispness_table(dataset: str, found: Runs) -> list[str]:
    """Of the first level on test graphs: how sharp, how dense, how many bytes."""
    clusters = 16  # of the first level, in examples/
    rows = []
    for label, name, kind in (
        ("gumbel, as drawn", "gumbel", "drawn"),
        ("gumbel, likeliest", "gumbel", "likeliest"),
        ("diffpool", "diffpool", "likeliest"),
        ("mincut", "mincut", "likeliest"),
        ("random", "random", "drawn"),
    ):
        folds = succeeded(found.get(name, {}))
        if not folds:
            continue
        nodes = np.mean([record["nodes"][0] for record in folds.values()])
        fields = [mean_of(folds, "inside", "entropy")]
        fields += [
            mean_of(folds, "inside", f"{kind} {field}")
            for field in ("within_variance", "modularity", "conductance")
        ]
        if name in ("diffpool", "mincut"):
            edge_count = np.mean([record["edges"][1] for record in folds.values()])
            fields += [mean_of(folds, "inside", "similarity"), f"{edge_count / clusters**2:.2f}"]
            whole = 4 * nodes * clusters + 4 * clusters**2
            fields += [f"{edge_count:.1f}", f"{whole:,.0f}", "–", "–"]
        else:
            edge_count = np.mean([r["inside"][f"{kind} edges"] for r in folds.values()])
            alike = "–" if kind == "likeliest" else mean_of(folds, "inside", "similarity")
            fields += [alike, mean_of(folds, "inside", f"{kind} density"), f"{edge_count:.1f}"]
            fields += [
                f"{size:,.0f}"
                for size in (
                    8 * nodes + 20 * edge_count, 8 * nodes + 16 * edge_count,
                    nodes + 2 * edge_count,
                )
            ]  # fmt: skip
        rows.append([label, *fields])
    head = [
        "", "entropy of a node", "variance within clusters", "modularity", "conductance",
        "cosine of two supernodes", "density of the pooled graph", "pooled edges",
        "bytes of S and A'", "binary", "binary, narrowest",
    ]  # fmt: skip
    return section(dataset, found, table(head, rows))
