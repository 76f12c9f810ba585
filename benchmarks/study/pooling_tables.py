"""Tables of the benchmarks made for pooling: accuracy, rank, and what is gained on none."""

import numpy as np
from scipy import stats

from .cells import spread, table
from .plan import Plan
from .pooling import MATTERS, MORE, NONE, ON_REAL, REAL, SETTINGS, more, pooling, real
from .results import Runs, accuracies, collect, compare

FEWEST = 6  # pairs, below which no paired test can find anything


def finished(plan: Plan, dataset: str) -> Runs:
    """The runs on the folds that all settings were run on, and what more was tried there."""
    made, compared = (pooling, SETTINGS) if dataset in MATTERS else (real, ON_REAL)
    runs = collect(plan, made(plan, dataset))
    folds = set.intersection(*(set(runs.get(name, {})) for name in compared))
    if dataset in MATTERS:
        runs |= collect(plan, more(plan, dataset))
    shared = {
        name: {fold: record for fold, record in sorted(by_fold.items()) if fold in folds}
        for name, by_fold in runs.items()
    }
    return {name: by_fold for name, by_fold in shared.items() if by_fold}


def pooling_tables(plan: Plan) -> list[str]:
    """Accuracy and mean rank; then each setting against no pooling, fold by fold."""
    found = {dataset: finished(plan, dataset) for dataset in (*MATTERS, *REAL)}
    tested = {
        dataset: {name: accuracies(folds) for name, folds in runs.items()}
        for dataset, runs in found.items()
        if runs
    }
    if not tested:
        return []
    most = {dataset: len(tests[NONE]) for dataset, tests in tested.items()}
    ranked = mean_ranks({d: tests for d, tests in tested.items() if d in MATTERS})
    accuracy, gain = [], []
    for name in (*SETTINGS, *MORE):
        cells = []
        for dataset, tests in tested.items():
            values = tests.get(name, {})
            fewer = f" ({len(values)})" if 0 < len(values) < most[dataset] else ""
            cells.append(spread(values.values()) + fewer)
        if any(name in tests for tests in tested.values()):
            rank = f"{ranked[name]:.1f}" if name in ranked else "–"
            accuracy.append([name, *cells, rank])
            gain.append([name, *(against_none(tests, name) for tests in tested.values())])
    head = [f"{dataset} ({count})" for dataset, count in most.items()]
    return [
        "Test accuracy in percent, mean ± standard deviation over the folds or seeds whose number",
        "is in parentheses. Rank: mean over the benchmarks made for pooling, of the settings that",
        "were run on all their folds.",
        "",
        *table(["", *head, "rank"], accuracy),
        "The setting minus `none`, points of accuracy: mean ± standard error, and in parentheses p",
        "of Wilcoxon's paired test, as it is (not corrected for their number); * where p < 0.05.",
        "",
        *table(["against none", *tested], [row for row in gain if row[0] != NONE]),
    ]


def mean_ranks(tested: dict[str, dict[str, dict[int, float]]]) -> dict[str, float]:
    """The mean over the datasets of a setting's rank by mean accuracy; 1 is the best.

    Only settings that have all folds of all datasets are ranked.
    """
    most = {dataset: max(map(len, tests.values())) for dataset, tests in tested.items()}
    names = [
        name
        for name in (*SETTINGS, *MORE)
        if all(len(tests.get(name, {})) == most[dataset] for dataset, tests in tested.items())
    ]
    ranks = [
        stats.rankdata([-round(np.mean(list(tests[name].values())), 4) for name in names])
        for tests in tested.values()
    ]
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True)) if ranks else {}


def against_none(tests: dict[str, dict[int, float]], name: str) -> str:
    """The cell of a setting: difference, its error, and p where there are pairs enough."""
    ours, theirs = tests.get(name, {}), tests.get(NONE, {})
    pairs = len(ours.keys() & theirs.keys())
    if not pairs:
        return "–"
    difference, error, p = compare(ours, theirs)
    if pairs < FEWEST:
        return f"{difference:+.1f} ± {error:.1f}"
    return f"{difference:+.1f} ± {error:.1f} ({p:.2g})" + "*" * (p < 0.05)
