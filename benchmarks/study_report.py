"""Turns the runs of the study into the tables of docs/results.md; study_plots.py draws."""

import statistics
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import study_plots
from report import replace_section
from study_plan import DATASETS, EMBEDDED, EXPERIMENTS, LEVELS, POOLERS, SAMPLES, Plan
from study_results import (
    Runs,
    accuracies,
    collect,
    compare,
    holm,
    main_runs,
    ranks,
    standard_error,
    succeeded,
)  # fmt: skip

ALL = "all real datasets"
Fold = tuple[str, int]  # of which dataset, and its number
# Test accuracy, mean ± std over the same ten folds: Errica et al., ICLR 2020.
PUBLISHED = {
    "DiffPool, published": {
        "DD": "75.0 ± 3.5", "NCI1": "76.9 ± 1.9", "PROTEINS": "73.7 ± 3.5",
        "ENZYMES": "59.5 ± 5.6", "IMDB-BINARY": "68.4 ± 3.3",
    },
    "GIN, published": {
        "DD": "75.3 ± 2.9", "NCI1": "80.0 ± 1.4", "PROTEINS": "73.3 ± 4.0",
        "ENZYMES": "59.6 ± 4.5", "IMDB-BINARY": "71.2 ± 3.9",
    },
    "no graph structure, published": {
        "DD": "78.4 ± 4.5", "NCI1": "69.8 ± 2.2", "PROTEINS": "75.8 ± 3.7",
        "ENZYMES": "65.2 ± 6.4", "IMDB-BINARY": "70.8 ± 5.0",
    },
}  # fmt: skip


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean ± standard deviation; of a single value, the value."""
    numbers = list(values)
    if not numbers:
        return "–"
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    return f"{np.mean(numbers):.{digits}f} ± {np.std(numbers):.{digits}f}"


def mean_of(folds: dict[int, dict[str, Any]], *path: str | int, digits: int = 2) -> str:
    """Mean over the folds of a field of a field of the record."""
    values = []
    for record in succeeded(folds).values():
        found: Any = record
        for step in path:
            found = found.get(step, np.nan) if isinstance(found, dict) else found[step]
        if np.isfinite(found):  # elsewhere there was nothing to measure
            values.append(found)
    return f"{np.mean(values):.{digits}f}" if values else "–"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def accuracy_table(runs: dict[str, Runs]) -> list[str]:
    """The main table."""
    if not runs:
        return []
    rank = ranks(runs)
    most = {
        dataset: max(len(accuracies(folds)) for folds in found.values())
        for dataset, found in runs.items()
    }
    rows = []
    for name in POOLERS:
        cells = []
        for dataset, found in runs.items():
            values = accuracies(found.get(name, {}))
            fewer = f" ({len(values)})" if 0 < len(values) < most[dataset] else ""
            cells.append(spread(values.values()) + fewer)
        rows.append([name, *cells, f"{rank[name]:.1f}" if name in rank else "–"])
    rows += [
        [name, *(figures.get(dataset, "–") for dataset in runs), ""]
        for name, figures in PUBLISHED.items()
    ]
    return [
        "Test accuracy in percent, mean ± standard deviation over the folds whose number is in",
        "parentheses. Rank: mean over the real datasets, of gumbel and the other poolers.",
        "",
        *table(["", *(f"{dataset} ({count})" for dataset, count in most.items()), "rank"], rows),
    ]


def failures(plan: Plan) -> list[str]:
    """What did not run, and why."""
    return [
        f"- failed: `{' '.join(record['flags'])}`, fold {record['fold']}: {record['failed']}"
        for record in plan.done.values()
        if "failed" in record
    ]


def by_test(runs: dict[str, Runs]) -> dict[str, dict[str, dict[Fold, float]]]:
    """Test accuracy by fold of each pooler, on each dataset and on all real ones together."""
    tests: dict[str, dict[str, dict[Fold, float]]] = {}
    for dataset, found in runs.items():
        for name, folds in found.items():
            values: dict[Fold, float] = {
                (dataset, fold): value for fold, value in accuracies(folds).items()
            }
            tests.setdefault(dataset, {})[name] = values
            if dataset != EMBEDDED:
                tests.setdefault(ALL, {}).setdefault(name, {}).update(values)
    if ALL in tests:
        tests[ALL] = tests.pop(ALL)  # the last
    return tests


def test_table(runs: dict[str, Runs]) -> list[str]:
    """Gumbel against each other pooler, fold by fold: on each dataset, and on all real ones."""
    columns: dict[str, dict[str, str]] = {}
    for dataset, tested in by_test(runs).items():
        ours = tested.get("gumbel", {})
        others = {
            name: compare(ours, tested[name])
            for name in POOLERS
            if name != "gumbel" and len(ours.keys() & tested.get(name, {}).keys()) > 5
        }
        corrected = holm([p for *_, p in others.values()])
        columns[dataset] = {
            name: f"{difference:+.1f} ± {error:.1f} ({p:.2g})" + ("*" if p < 0.05 else "")
            for (name, (difference, error, _)), p in zip(others.items(), corrected, strict=True)
        }
    columns = {dataset: column for dataset, column in columns.items() if column}
    if not columns:
        return []
    rows = [
        [name, *(column.get(name, "–") for column in columns.values())]
        for name in POOLERS
        if name != "gumbel"
    ]
    return [
        "gumbel minus the other, points of accuracy: mean ± standard error over the folds, and in",
        "parentheses p of Wilcoxon's paired test, Holm-corrected within each column; * where",
        "p < 0.05. The last column is of all real datasets. (Folds share most of their",
        "training graphs, which makes p too small, for all alike.)",
        "",
        *table(["gumbel against", *columns], rows),
    ]


def cost_table(plan: Plan) -> list[str]:
    """Time and memory, measured alone."""
    runs = {dataset: collect(plan, plan.cost(dataset)) for dataset in DATASETS}
    lines: list[str] = []
    for title, cell in (
        ("Seconds per epoch, validation included: median (least–most)", lambda f: seconds(f)),
        ("Peak memory in MB, above the imports and the dataset, median", lambda f: megabytes(f)),
    ):
        found = {dataset: f for dataset, f in runs.items() if f}
        if found:
            rows = [
                [name, *(cell(succeeded(f.get(name, {}))) for f in found.values())]
                for name in POOLERS
            ]
            lines += [f"**{title}**", "", *table(["", *found], rows)]
    return lines


def seconds(folds: dict[int, dict[str, Any]]) -> str:
    """Median over the runs, and the least and the most."""
    values = sorted(record["seconds_per_epoch"] for record in folds.values())
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "–"
    return f"{statistics.median(values):.2f} ({values[0]:.2f}–{values[-1]:.2f})"


def megabytes(folds: dict[int, dict[str, Any]]) -> str:
    """Median over the runs."""
    values = [record["peak_bytes"] / 1e6 for record in folds.values()]
    return f"{statistics.median(values):.0f}" if values else "–"


def edges_table(runs: dict[str, Runs]) -> list[str]:
    """How large pooled graphs are."""
    if not runs:
        return []
    rows = [
        [name, *(edges(succeeded(found.get(name, {}))) for found in runs.values())]
        for name in POOLERS
    ]
    title = "Directed edges per test graph of the runs above: of the input, then after each level"
    return [f"{title}.", "", *table(["", *runs], rows)]


def edges(folds: dict[int, dict[str, Any]]) -> str:
    """Mean over the runs, level by level."""
    values = [record["edges"] for record in folds.values()]
    return " > ".join(f"{value:.0f}" for value in np.mean(values, 0)) if values else "–"


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
    return _section(dataset, runs, table(head, rows))


def drawn_table(plan: Plan) -> list[str]:
    """Every run that chose its epoch by the likeliest clusters, tested with draws instead."""
    gains: dict[str, dict[int, list[list[float]]]] = {}
    for record in plan.done.values():
        drawn = record.get("sampled")
        if drawn and "--eval-samples" not in record["flags"] and "gumbel" in record["flags"][3]:
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
    return _section(dataset, runs, table(head, rows))


def mean_of_percent(folds: dict[int, dict[str, Any]], field: str) -> str:
    """Mean of a share, in percent."""
    values = [100 * record[field] for record in succeeded(folds).values()]
    return f"{np.mean(values):.1f}" if values else "–"


def tuning_table(plan: Plan, dataset: str) -> list[str]:
    """What was tried for the main table."""
    runs = collect(plan, plan.tuning(dataset))
    tried = collect(plan, plan.collapse(dataset))
    rows = [
        [
            name,
            mean_of_percent(folds, "val_accuracy"),
            spread(accuracies(folds).values()),
            f"{statistics.mean(record['epochs'] for record in succeeded(folds).values()):.0f}",
        ]
        for name, folds in ({"likeliest": tried.get("gumbel", {})} | runs).items()
        if succeeded(folds)
    ]
    return _section(dataset, runs, table(["", "validation %", "test %", "epochs"], rows))


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
    return _section(dataset, runs, table(head, rows))


def depth_table(plan: Plan, dataset: str) -> list[str]:
    """Accuracy, memory and edges by number of levels."""
    runs = collect(plan, plan.depth(dataset))
    rows = []
    for levels in LEVELS:
        for pool in ("gumbel", "diffpool"):
            folds = succeeded(runs.get(f"{pool}, {levels}", {}))
            if folds:
                rows.append(
                    [
                        str(levels), pool, spread(accuracies(folds).values()),
                        mean_of(folds, "parameters", digits=0), megabytes(folds), edges(folds),
                    ]
                )  # fmt: skip
    head = ["levels", "", "test %", "parameters", "peak MB", "edges per test graph, by level"]
    return _section(dataset, runs, table(head, rows))


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
            fields += [f"{edge_count:.1f}", f"{4 * nodes * clusters + 4 * clusters**2:,.0f}", "–"]
        else:
            edge_count = np.mean([r["inside"][f"{kind} edges"] for r in folds.values()])
            alike = "–" if kind == "likeliest" else mean_of(folds, "inside", "similarity")
            fields += [alike, mean_of(folds, "inside", f"{kind} density"), f"{edge_count:.1f}"]
            fields += [f"{8 * nodes + 20 * edge_count:,.0f}", f"{nodes + 2 * edge_count:,.0f}"]
        rows.append([label, *fields])
    head = [
        "", "entropy of a node", "variance within clusters", "modularity", "conductance",
        "cosine of two supernodes", "density of the pooled graph", "pooled edges",
        "bytes of S and A'", "narrowest, binary",
    ]  # fmt: skip
    return _section(dataset, found, table(head, rows))


def _section(dataset: str, runs: Runs, lines: list[str]) -> list[str]:
    folds = sorted({len(succeeded(by_fold)) for by_fold in runs.values()} - {0})
    if not folds:
        return []
    count = f"{folds[0]} to {folds[-1]}" if len(folds) > 1 else str(folds[0])
    return [f"**{dataset}**, {count} fold{'' if count == '1' else 's'}", "", *lines]


def write_report(plan: Plan, docs: Path) -> str:
    """Puts each table between its marks in docs/results.md, and gives all their text."""
    docs.mkdir(exist_ok=True, parents=True)
    runs = main_runs(plan)
    sections = {
        "study": [*accuracy_table(runs), *test_table(runs), *edges_table(runs), *failures(plan)],
        "study cost": cost_table(plan),
    }
    for name, make in (
        ("tuning", tuning_table),
        ("samples", samples_table),
        ("collapse", collapse_table),
        ("temperature", temperature_table),
        ("depth", depth_table),
    ):
        _, datasets = EXPERIMENTS[name]
        sections[f"study {name}"] = [line for d in datasets for line in make(plan, d)]
    sections["study samples"] += drawn_table(plan)
    sections["study crispness"] = [
        line for dataset, found in runs.items() for line in crispness_table(dataset, found)
    ]
    texts = []
    for name, lines in sections.items():
        if lines:
            texts.append("\n".join(lines).rstrip())
            replace_section(docs, name, texts[-1])
    study_plots.draw_all(plan, runs, docs)
    return "\n\n".join(texts)
