"""Tables of the benchmarks made for pooling: what the runs were, and nothing of half a fold."""

from scipy import stats

from benchmarks.study.plan import Plan
from benchmarks.study.pooling import MORE, NONE, SETTINGS, more, pooling, real
from benchmarks.study.pooling_tables import mean_ranks, pooling_tables

NUMBER = {name: index for index, name in enumerate((*SETTINGS, *MORE))}


def run_all(plan: Plan, units, folds: int, step: float) -> None:
    """Accuracies 0.5, 0.5 + step, … in the order of the settings, some more on odd folds."""
    for unit in units:
        if unit.fold < folds:
            extra = 0.01 * (unit.fold % 2) if unit.name != NONE else 0.0
            accuracy = 0.5 + step * NUMBER[unit.name] + extra
            plan.done[unit.key] = {"test_accuracy": accuracy}


def test_only_folds_with_all_settings_are_shown_and_compared():
    plan = Plan({})
    run_all(plan, pooling(plan, "cycles"), folds=8, step=0.01)
    (unfinished,) = [u for u in pooling(plan, "cycles") if u.fold == 7 and u.name == "topk"]
    del plan.done[unfinished.key]
    lines = pooling_tables(plan)
    assert "|  | cycles (7) | rank |" in lines
    assert f"| none | 50.0 ± 0.0 | {len(SETTINGS):.1f} |" in lines
    differences = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    p = float(stats.wilcoxon(differences).pvalue)
    cell = f"+1.4 ± {stats.sem(differences):.1f} ({p:.2g})" + "*" * (p < 0.05)
    assert "*" in cell
    assert f"| none, fine path | {cell} |" in lines
    assert not any(line.startswith(f"| {name} |") for name in MORE for line in lines)
    assert pooling_tables(Plan({})) == []


def test_what_more_was_tried_has_its_number_of_folds_and_no_rank_before_it_has_all():
    plan = Plan({})
    run_all(plan, pooling(plan, "GCB-hard"), folds=5, step=0.01)
    run_all(plan, more(plan, "GCB-hard"), folds=3, step=0.01)
    lines = pooling_tables(plan)
    last = list(MORE)[-1]
    accuracy = 50 + NUMBER[last]
    assert f"| {last} | {accuracy + 1 / 3:.1f} ± 0.5 (3) | – |" in lines
    # Of few folds there is no p.
    assert f"| {last} | +{NUMBER[last] + 1 / 3:.1f} ± 0.3 |" in lines
    run_all(plan, more(plan, "GCB-hard"), folds=6, step=0.01)  # one more than all others
    assert f"| {last} | {accuracy + 0.4:.1f} ± 0.5 | 1.0 |" in pooling_tables(plan)


def test_real_datasets_have_few_settings_and_no_say_in_the_rank():
    plan = Plan({})
    run_all(plan, pooling(plan, "cycles"), folds=6, step=0.01)
    run_all(plan, pooling(plan, "two-cycles"), folds=6, step=-0.01)
    run_all(plan, real(plan, "MUTAG"), folds=6, step=0.02)
    lines = pooling_tables(plan)
    assert "|  | two-cycles (6) | cycles (6) | MUTAG (6) | rank |" in lines
    middle = (1 + len(SETTINGS)) / 2
    row = next(line for line in lines if line.startswith("| topk |"))
    assert row.endswith(f"| – | {middle:.1f} |")


def test_equal_means_share_a_rank():
    tested = {
        "a": {"none": {0: 50.0, 1: 60.0}, "topk": {0: 60.0, 1: 50.0}, "kmis": {0: 70.0, 1: 70.0}},
        "b": {"none": {0: 90.0}, "topk": {0: 80.0}, "kmis": {0: 70.0}, "random": {0: 99.0}},
    }
    assert mean_ranks(tested) == {"none": 1.75, "topk": 2.25, "kmis": 2.0}
