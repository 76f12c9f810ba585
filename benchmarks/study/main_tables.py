"""Tables of all poolers on all datasets: accuracy, paired tests, cost, pooled edges."""

import numpy as np

from .cells import edges, megabytes, seconds, spread, table
from .plan import DATASETS, EMBEDDED, POOLERS, Plan
from .results import Runs, accuracies, collect, compare, holm, ranks, succeeded

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


def accuracy_table(runs: dict[str, Runs]) -> list[str]:
    """The main table."""
    if not runs:
        return []
    placed = ranks(runs)
    rank = {
        name: f"{np.mean(places):.1f}" + f" ({len(places)})" * (len(places) < len(placed["gumbel"]))
        for name, places in placed.items()
    }
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
        rows.append([name, *cells, rank.get(name, "–")])
    rows += [
        [name, *(figures.get(dataset, "–") for dataset in runs), ""]
        for name, figures in PUBLISHED.items()
    ]
    return [
        "Test accuracy in percent, mean ± standard deviation over the folds whose number is in",
        "parentheses. Rank: mean over the real datasets (their number, where the pooler has not",
        "run on all), of gumbel and the other poolers.",
        "",
        *table(["", *(f"{dataset} ({count})" for dataset, count in most.items()), "rank"], rows),
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
        ("Seconds per epoch, validation included: median (least–most)", seconds),
        ("Peak memory in MB, above the imports and the dataset, median", megabytes),
    ):
        found = {dataset: f for dataset, f in runs.items() if f}
        if found:
            rows = [
                [name, *(cell(succeeded(f.get(name, {}))) for f in found.values())]
                for name in POOLERS
            ]
            lines += [f"**{title}**", "", *table(["", *found], rows)]
    return lines


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
