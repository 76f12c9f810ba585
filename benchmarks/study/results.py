"""Reads the runs of the study: by setting and fold, accuracies, ranks, paired tests."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from .plan import DATASETS, EMBEDDED, POOLERS, TOO_LONG, UNRANKED, Plan, Unit

Runs = dict[str, dict[int, dict[str, Any]]]  # setting, fold, record


def collect(plan: Plan, units: Iterable[Unit]) -> Runs:
    """The finished runs among the units."""
    runs: Runs = {}
    for unit in units:
        record = plan.done.get(unit.key)
        if record is not None:
            runs.setdefault(unit.name, {})[unit.fold] = record
    return runs


def succeeded(folds: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The runs of a setting that did not fail."""
    return {fold: record for fold, record in folds.items() if "failed" not in record}


def accuracies(folds: dict[int, dict[str, Any]]) -> dict[int, float]:
    """Test accuracy in percent, by fold."""
    return {fold: 100 * record["test_accuracy"] for fold, record in succeeded(folds).items()}


def main_runs(plan: Plan) -> dict[str, Runs]:
    """By dataset, the runs with what was chosen, on the folds on which all poolers were run.

    A study that goes on must not compare poolers on different folds. One that ran in none of its
    trials is not waited for.
    """
    whole: dict[str, Runs] = {}
    for dataset in DATASETS:
        runs = collect(plan, plan.chosen(dataset))
        waited = [
            name
            for name in POOLERS
            if (dataset, name) not in TOO_LONG
            and (
                plan.choice(dataset, name) is not None
                or not all(unit.key in plan.done for t in plan.trials(dataset, name) for unit in t)
            )
        ]
        folds = set.intersection(*(set(runs.get(name, {})) for name in waited)) if waited else set()
        if folds:
            whole[dataset] = {
                name: {fold: record for fold, record in found.items() if fold in folds}
                for name, found in runs.items()
            }
    return whole


def ranks(runs: dict[str, Runs]) -> dict[str, list[float]]:
    """The rank of each pooler on each real dataset on which it has all folds.

    Gumbel is ranked as it is by default only: more variants would push the others down.
    """
    found: dict[str, list[float]] = {}
    for dataset, by_name in runs.items():
        if dataset == EMBEDDED:
            continue
        values = {name: list(accuracies(by_name.get(name, {})).values()) for name in POOLERS}
        most = max(map(len, values.values()))
        whole = [n for n in POOLERS if n not in UNRANKED and len(values[n]) == most]
        placed = stats.rankdata([-np.mean(values[name]) for name in whole])
        for name, rank in zip(whole, placed, strict=True):
            found.setdefault(name, []).append(float(rank))
    return found


def standard_error(values: list[float]) -> float:
    """Of the mean; zero for a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for turn, index in enumerate(np.argsort(p_values)):
        highest = max(highest, min(1.0, (len(p_values) - turn) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare(ours: dict[Any, float], theirs: dict[Any, float]) -> tuple[float, float, float]:
    """Mean difference over the folds that both have, its error, and Wilcoxon's two-sided p."""
    shared = sorted(ours.keys() & theirs.keys())
    # Accuracies on small folds tie often, in float32 but almost. Zeros count half to each side.
    differences = np.array([ours[fold] - theirs[fold] for fold in shared]).round(4)
    if not differences.any():
        return 0.0, 0.0, 1.0
    p = stats.wilcoxon(differences, zero_method="zsplit").pvalue
    return float(differences.mean()), standard_error(list(differences)), float(p)
