"""What the tables of the study are made of: cells of one setting's runs, and Markdown."""

import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np

from .results import Runs, succeeded


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def section(dataset: str, runs: Runs, lines: list[str]) -> list[str]:
    """A table under its dataset, and on how many folds it rests; none of a single setting."""
    folds = sorted({len(succeeded(by_fold)) for by_fold in runs.values()} - {0})
    if not folds or len(runs) < 2:
        return []
    count = f"{folds[0]} to {folds[-1]}" if len(folds) > 1 else str(folds[0])
    return [f"**{dataset}**, {count} fold{'' if count == '1' else 's'}", "", *lines]


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
        if not np.isnan(found):  # there was something to measure
            values.append(found)
    return f"{np.mean(values):.{digits}f}" if values else "–"


def mean_of_percent(folds: dict[int, dict[str, Any]], field: str) -> str:
    """Mean of a share, in percent."""
    values = [100 * record[field] for record in succeeded(folds).values()]
    return f"{np.mean(values):.1f}" if values else "–"


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


def edges(folds: dict[int, dict[str, Any]]) -> str:
    """Mean over the runs, level by level."""
    values = [record["edges"] for record in folds.values()]
    return " > ".join(f"{value:.0f}" for value in np.mean(values, 0)) if values else "–"
