"""The tables of the study say what its runs were."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.study import cells, main_tables, results
from benchmarks.study.plan import KEPT, POOLERS, SAMPLES, TOO_LONG, Plan
from benchmarks.study.setting_tables import (
    USE,
    collapse_table,
    crispness_table,
    crossed_table,
    drawn_table,
    empty_table,
    fine_table,
    tuning_table,
)


def test_holm_correction():
    # Sorted, 0.01·4, 0.02·3, 0.03·2, 0.5·1, and never less than the one before.
    corrected = results.holm([0.5, 0.01, 0.03, 0.02])
    assert corrected == pytest.approx([0.5, 0.04, 0.06, 0.06])


def test_paired_test_takes_the_folds_that_both_have():
    ours = {fold: 70.0 + fold for fold in range(8)}
    theirs = {fold: 69.0 - fold for fold in range(2, 10)}
    difference, error, p = results.compare(ours, theirs)
    differences = [ours[fold] - theirs[fold] for fold in range(2, 8)]
    assert difference == pytest.approx(np.mean(differences))
    assert error == pytest.approx(stats.sem(differences))
    assert p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert results.compare(ours, ours) == (0.0, 0.0, 1.0)
    almost = {fold: value + 1e-6 for fold, value in ours.items()}
    assert results.compare(ours, almost) == (0.0, 0.0, 1.0)


def test_only_folds_that_all_poolers_were_run_on_are_compared():
    plan = Plan({})
    for name in POOLERS:
        for units in plan.trials("MUTAG", name):
            for unit in units:
                plan.done[unit.key] = {"val_accuracy": 0.5, "val_loss": 0.5, "test_accuracy": 0.5}
            if name == "asap":
                plan.done[units[0].key] = {"failed": "no memory"}
    (trial, *_) = plan.trials("ENZYMES", "gumbel")[0]
    plan.done[trial.key] = {"val_accuracy": 0.5, "val_loss": 0.5, "test_accuracy": 0.5}
    later = [unit for unit in plan.chosen("MUTAG") if unit.fold == 1]
    for unit in later[:-1]:
        plan.done[unit.key] = {"test_accuracy": 0.5}
    found = results.main_runs(plan)
    assert set(found) == {"MUTAG"}
    assert set(found["MUTAG"]) == set(POOLERS) - {"asap"}
    assert all(set(folds) == {0} for folds in found["MUTAG"].values())
    plan.done[later[-1].key] = {"failed": "no time"}  # is a result as well
    assert all(set(folds) == {0, 1} for folds in results.main_runs(plan)["MUTAG"].values())


def test_a_pooler_that_takes_too_long_is_not_waited_for():
    plan = Plan({})
    (left_out,) = TOO_LONG
    dataset, pooler = left_out
    for name in POOLERS:
        for units in plan.trials(dataset, name):
            for unit in units:
                plan.done[unit.key] = {"val_accuracy": 0.5, "val_loss": 0.5, "test_accuracy": 0.5}
    planned = [unit for unit in plan.chosen(dataset) if unit.fold == 0]
    for unit in planned:
        plan.done[unit.key] = {"test_accuracy": 0.5}
    names = set(POOLERS) - {pooler}
    assert {unit.name for unit in planned} == {unit.name for unit in plan.cost(dataset)} == names
    assert set(results.main_runs(plan)[dataset]) == names


def test_folds_of_all_real_datasets_are_tested_together_as_well():
    def runs(*accuracies: float) -> dict[int, dict]:
        return {fold: {"test_accuracy": value / 100} for fold, value in enumerate(accuracies)}

    tests = main_tables.by_test(
        {
            "MUTAG": {"gumbel": runs(70, 80), "none": runs(60, 60)},
            "DD": {"gumbel": runs(50)},
            "hierarchy": {"gumbel": runs(96), "none": runs(20)},
        }
    )
    assert list(tests) == ["MUTAG", "DD", "hierarchy", main_tables.ALL]
    assert tests[main_tables.ALL]["none"] == {("MUTAG", 0): 60, ("MUTAG", 1): 60}
    assert tests[main_tables.ALL]["gumbel"] == tests["MUTAG"]["gumbel"] | tests["DD"]["gumbel"]


def test_paired_test_sees_ties_through_rounding():
    steps = [3, -1, 2, 0, 1, 1, -2, 0, 4, 1]
    ours = {fold: 70 + step * 100 / 60 for fold, step in enumerate(steps)}
    theirs = {fold: 70.0 + 1e-6 * (fold % 3) for fold in range(10)}
    *_, p = results.compare(ours, theirs)
    assert p == pytest.approx(stats.wilcoxon(steps, zero_method="zsplit").pvalue)


def test_mean_rank_is_over_the_real_datasets_that_a_pooler_was_run_on():
    def folds(accuracy: float) -> dict[int, dict]:
        return {0: {"test_accuracy": accuracy}}

    runs = {
        "MUTAG": {
            "gumbel": folds(0.9), "diffpool": folds(0.8), "topk": folds(0.95),
            "gumbel, gst": folds(0.99),
        },
        "DD": {
            "gumbel": folds(0.7), "diffpool": folds(0.6), "topk": {0: {"failed": "no memory"}},
            "gumbel, gst": folds(0.99),
        },
        "hierarchy": {"gumbel": folds(0.1), "diffpool": folds(0.9)},
    }  # fmt: skip
    ranks = results.ranks(runs)
    assert ranks == {"gumbel": [2.0, 1.0], "diffpool": [3.0, 2.0], "topk": [1.0]}
    lines = main_tables.accuracy_table(runs)
    assert "| gumbel | 90.0 | 70.0 | 10.0 | 1.5 |" in lines
    assert "| topk | 95.0 | – | – | 1.0 (1) |" in lines


def test_collapse_table_goes_from_start_to_end():
    plan = Plan({})
    fields = dict.fromkeys(USE)
    start = {field: 1.0 + index for index, field in enumerate(fields)}
    end = {field: 11.0 + index for index, field in enumerate(fields)}
    for unit in plan.collapse("ENZYMES"):
        if unit.name in ("gumbel", "diffpool") and unit.fold < 2:
            plan.done[unit.key] = {
                "test_accuracy": 0.5 + 0.1 * unit.fold, "val_accuracy": 0.7,
                "trace": [start, dict.fromkeys(fields, 99.0), end],
            }  # fmt: skip
    lines = collapse_table(plan, "ENZYMES")
    assert lines[0] == "**ENZYMES**, 2 folds"
    ends = " | ".join(f"{start[field]:.2f} → {end[field]:.2f}" for field in fields)
    assert f"| gumbel | 55.0 ± 5.0 | 70.0 | {ends} |" in lines


def test_crispness_table_counts_bytes():
    inside = {"entropy": 0.5, "similarity": 0.25}
    for kind, shift in (("drawn", 0), ("likeliest", 10)):
        for index, field in enumerate(("within_variance", "modularity", "conductance")):
            inside[f"{kind} {field}"] = shift + index + 1
        inside |= {f"{kind} edges": shift + 40, f"{kind} density": shift + 0.5}
    record = {"nodes": [30, 16, 4], "edges": [100, 256, 16], "inside": inside}
    runs = {name: {0: record} for name in ("gumbel", "diffpool")}
    lines = crispness_table("MUTAG", runs)
    # Ids and two ends of 40 edges in int64, weights in float32; without weights; a byte each.
    drawn = f"{30 * 8 + 40 * 20:,} | {30 * 8 + 40 * 16} | {30 + 80} |"
    drawn = f"1.00 | 2.00 | 3.00 | 0.25 | 0.50 | 40.0 | {drawn}"
    assert f"| gumbel, as drawn | 0.50 | {drawn}" in lines
    likeliest = f"{30 * 8 + 50 * 20:,} | {30 * 8 + 50 * 16:,} | {30 + 100} |"
    likeliest = f"11.00 | 12.00 | 13.00 | – | 10.50 | 50.0 | {likeliest}"
    assert f"| gumbel, likeliest | 0.50 | {likeliest}" in lines
    dense = f"11.00 | 12.00 | 13.00 | 0.25 | 1.00 | 256.0 | {4 * (30 * 16 + 256):,} | – | – |"
    assert f"| diffpool | 0.50 | {dense}" in lines


def test_what_was_tried_is_compared_fold_by_fold():
    plan = Plan({})
    found = {"8 draws": (0.5, 0.6, 0.7), "8 draws, reinmax": (0.52, 0.64, 0.7)}
    for unit in plan.tuning("hierarchy"):
        if unit.name in found:
            accuracy = found[unit.name][unit.fold]
            plan.done[unit.key] = {"val_accuracy": accuracy, "test_accuracy": 0.5, "epochs": 40}
    lines = tuning_table(plan, "hierarchy")
    assert "| 8 draws | 60.0 | – | 50.0 ± 0.0 | 40 |" in lines
    assert "| 8 draws, reinmax | 62.0 | +2.0 ± 1.2 | 50.0 ± 0.0 | 40 |" in lines


def test_estimators_are_crossed_with_losses_and_heads():
    plan = Plan({})
    units = list(plan.crossed("hierarchy"))
    assert len({unit.key for unit in units}) == len(units)
    assert {unit.key for unit in plan.collapse("hierarchy")} & {unit.key for unit in units}
    found = {"gst: link": 0.5, "gst: cosine head": 0.3, "diffpool: none": 0.7}
    for unit in units:
        if unit.name in found:
            plan.done[unit.key] = {"test_accuracy": found[unit.name] + 0.01 * unit.fold}
    assert crossed_table(plan, "hierarchy") == [
        "**hierarchy**, 3 folds",
        "",
        "| test % | link | cosine head | none |",
        "| --- | --- | --- | --- |",
        "| gst | 51.0 ± 0.8 | 31.0 ± 0.8 | – |",
        "| diffpool | – | – | 71.0 ± 0.8 |",
        "",
    ]


def test_kept_and_dropped_are_compared_on_all_folds():
    plan = Plan({})
    for unit in plan.empty("hierarchy"):
        more = 0.01 * (1 + unit.fold % 2) if unit.name == KEPT else 0.0
        plan.done[unit.key] = {"test_accuracy": 0.9 + more}
    lines = empty_table(plan, "hierarchy")
    assert lines[0] == "**hierarchy**, 10 folds"
    assert "| 90.0 ± 0.0 | 91.5 ± 0.5 | +1.5 ± 0.2 (0.002) |" in lines


def test_the_fine_path_is_compared_fold_by_fold():
    plan = Plan({})
    for unit in plan.fine("NCI1"):
        if unit.name.startswith(("gumbel", "none")):
            beside = "fine path" in unit.name
            accuracy = 0.7 + beside * 0.02 * (1 + unit.fold % 2)
            plan.done[unit.key] = {"test_accuracy": accuracy, "hidden": 48 if beside else 64}
    lines = fine_table(plan, "NCI1")
    assert lines[0] == "**NCI1**, 10 folds"
    row = f"| {KEPT} | 70.0 ± 0.0 | 73.0 ± 1.0 | +3.0 ± 0.3 (0.002) | 64 → 48 |"
    assert row in lines
    assert not any(line.startswith(("| random", "| kmis")) for line in lines)
    assert fine_table(Plan({}), "NCI1") == []


def test_draws_are_compared_with_the_likeliest_of_the_same_run():
    plan = Plan({})
    for fold, gain in enumerate((0.02, 0.04)):
        (unit,) = [u for u in plan.temperature("ENZYMES") if u.name == "1" and u.fold == fold]
        drawn = {str(m): {"accuracy": 0.6 + gain * m} for m in SAMPLES}
        plan.done[unit.key] = {
            "dataset": "ENZYMES", "fold": fold, "flags": unit.flags, "test_accuracy": 0.6,
            "sampled": drawn,
        }  # fmt: skip
    plan.done["of no experiment"] = plan.done[unit.key]
    row = drawn_table(plan)[-2]
    assert row.startswith("| ENZYMES | 2 | 2 | +3.0 ± 1.0 | +6.0 ± 2.0 |")


def test_time_is_the_median_with_its_range():
    runs = {fold: {"seconds_per_epoch": value} for fold, value in enumerate((0.5, 2.0, 0.75))}
    assert cells.seconds(runs) == "0.75 (0.50–2.00)"
    assert cells.seconds({0: runs[0]}) == "0.50"
    assert cells.seconds({}) == "–"
