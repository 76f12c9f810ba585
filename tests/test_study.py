"""The study runs, continues after a kill, keeps its promises of fairness, and tabulates."""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load
from poolers import POOLERS, PoolOptions
from scipy import stats
from torch_geometric.data import Batch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import options  # noqa: E402
import study_main  # noqa: E402
import study_plan  # noqa: E402
import study_results  # noqa: E402
import study_run  # noqa: E402
import study_settings  # noqa: E402
import study_tables  # noqa: E402
import tu_classification  # noqa: E402

from gumbelpool import occupancy  # noqa: E402

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
COMMON = ["--only", "temperature", "--datasets", "hierarchy", "--folds", "1", "--epochs", "1"]


def command(out: Path, *arguments: object) -> list[str]:
    script = str(BENCHMARKS / "study.py")
    return [sys.executable, script, "--out", str(out), "--docs", str(out), *map(str, arguments)]


def records(out: Path) -> list[dict]:
    lines = (out / "study.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def arguments_of(*flags: str) -> argparse.Namespace:
    return options.parser().parse_args(list(flags))


@linux
def test_killed_and_started_again_no_run_is_lost_or_repeated(tmp_path):
    study = subprocess.Popen(
        command(tmp_path, *COMMON, "--jobs", 1), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / "study.jsonl").exists() or len(records(tmp_path)) < 2:
        assert time.monotonic() < deadline
        assert study.poll() is None
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-s", str(os.getsid(study.pid))], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) > 1
    study.send_signal(signal.SIGKILL)
    study.wait()
    first = records(tmp_path)

    # The run that was going on follows the study, so it cannot disturb the next one.
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    with (tmp_path / "study.jsonl").open("a") as file:
        file.write('{"key": "half a li')  # as a kill in the middle of a write leaves it
    subprocess.run(command(tmp_path, *COMMON, "--jobs", 1), check=True, capture_output=True)
    second = records(tmp_path)
    assert second[: len(first)] == first
    assert len(second) == len({record["key"] for record in second}) == 6
    assert not any("failed" in record for record in second)

    text = (tmp_path / "results.md").read_text()
    assert "**hierarchy**, 1 fold\n" in text
    for schedule in ("0.3", "0.5", "1", "2", "2 → 0.5", "1 → 0.1"):
        assert f"| {schedule} | " in text
    for record in second:
        assert abs(record["parameters"] / record["reference"] - 1) <= 0.05
        assert [point["epoch"] for point in record["trace"]] == [0, 1]
        assert set(record["sampled"]) == {"1", "2", "4", "8", "16"}
        assert f"| {100 * record['test_accuracy']:.1f} |" in text

    subprocess.run(
        command(tmp_path, *COMMON, "--budget-minutes", 0, "--jobs", 1),
        check=True, capture_output=True,
    )  # fmt: skip
    assert records(tmp_path) == second


@linux
def test_a_failed_run_is_a_result_that_says_why_and_can_be_asked_for_again(tmp_path):
    asked = ["--only", "temperature", "--datasets", "ENZYMES", "--folds", 1, "--jobs", 1]
    asked += ["--root", tmp_path / "nowhere", "--splits", tmp_path]

    def study(*more: object) -> list[dict]:
        subprocess.run(command(tmp_path, *asked, *more), check=True, capture_output=True)
        return records(tmp_path)

    first = study()
    assert len(first) == 6
    assert all("nowhere" in record["failed"] for record in first)
    assert study() == first
    assert len(study("--retry-failed")) == 12


@linux
def test_a_second_study_leaves_the_first_one_s_file_alone(tmp_path):
    (tmp_path / "study.jsonl").write_text('{"key": "on its w')
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command(tmp_path, *COMMON), capture_output=True, text=True)
    assert done.returncode == 2
    assert "another study" in done.stderr
    assert (tmp_path / "study.jsonl").read_text() == '{"key": "on its w'


def test_real_datasets_are_not_run_on_folds_of_our_own(tmp_path):
    for flags, wanted in (([], "--root"), (["--root", tmp_path], "--splits")):
        done = subprocess.run(
            command(tmp_path, "--only", "temperature", *flags), capture_output=True, text=True
        )
        assert done.returncode == 2
        assert f"ENZYMES needs {wanted}" in done.stderr


@pytest.mark.parametrize("name", study_plan.POOLERS)
def test_every_pooler_has_the_reference_s_number_of_parameters(name):
    pytest.importorskip("tgp") if name in ("kmis", "maxcut", "bnpool") else None
    study_run.study_poolers.register()
    dataset = load("hierarchy", None, num_graphs=10, seed=0)
    args = arguments_of(*study_plan.POOLERS[name])
    reference = study_run.parameters(tu_classification.build_model(arguments_of(), dataset))
    wanted, args.hidden = study_run.within_budget(args, dataset)
    assert wanted == reference
    count = study_run.parameters(tu_classification.build_model(args, dataset))
    assert abs(count / reference - 1) <= 0.05


@pytest.mark.parametrize(
    "pool", ["gumbel", "gumbel-cosine", "gumbel-keep-empty", "diffpool", "random"]
)
def test_a_look_inside_measures_the_clusters_that_eval_takes_and_changes_nothing(pool):
    study_run.study_poolers.register()
    dataset = load("hierarchy", None, num_graphs=6, seed=0)
    torch.manual_seed(0)
    model = tu_classification.build_model(arguments_of("--pool", pool), dataset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = Batch.from_data_list(dataset.graphs)
    found = study_run.look(model, [batch])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert 0 <= found["similarity"] <= 1
    if pool == "random":  # which has no scores, and no likeliest clusters
        assert "entropy" not in found
        assert "likeliest used" not in found
        return
    model.eval()
    level = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs).levels[0]
    assert (level.x.size(0) == 6 * 16) == (pool in ("gumbel-keep-empty", "diffpool"))
    used = occupancy(level.cluster, batch.batch, batch.num_graphs).used
    assert found["likeliest used"] == pytest.approx(used.double().mean().item(), abs=1e-4)
    assert found["drawn used"] > found["likeliest used"]  # of an untrained head
    assert found["drawn edges"] > found["likeliest edges"]
    assert 0 < found["entropy"] <= np.log(16) + 1e-5


def test_a_look_at_several_batches_is_the_mean_over_graphs():
    dataset = load("hierarchy", None, num_graphs=6, seed=0)
    model = tu_classification.build_model(arguments_of("--pool", "diffpool"), dataset)
    whole = study_run.look(model, [Batch.from_data_list(dataset.graphs)])
    parts = study_run.look(
        model, [Batch.from_data_list(dataset.graphs[:1]), Batch.from_data_list(dataset.graphs[1:])]
    )
    for name in ("likeliest used", "likeliest modularity", "entropy", "similarity"):
        assert parts[name] == pytest.approx(whole[name], abs=1e-4)


def test_similarity_is_the_mean_cosine_of_pairs():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0], [5.0, 1.0]])
    batch = torch.tensor([0, 0, 0, 0, 1])
    found = study_run.similarity(x, batch, 3)
    mean = 2 * 0.5**0.5 / 3
    # A graph without two supernodes says nothing, rather than that they are unlike.
    expected = torch.tensor([mean, np.nan, np.nan], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-6, atol=0)
    # Nor does a lone supernode whose length rounds to a little more or less than one.
    lone = torch.full((1, 3), 1 / 3)
    assert study_run.similarity(lone, torch.tensor([0]), 1).isnan().all()


def test_hyper_parameters_are_chosen_on_validation_after_all_trials():
    plan = study_plan.Plan({})
    trials = plan.trials("MUTAG", "diffpool")
    # Accuracy decides, then the lower loss; what happens in the test has no say.
    validation = [(0.9, 0.6), (0.8, 0.1), (0.9, 0.4), (0.7, 0.2)]
    for units, (accuracy, loss) in zip(trials, validation, strict=True):
        for unit in units:
            assert plan.choice("MUTAG", "diffpool") is None
            plan.done[unit.key] = {
                "val_accuracy": accuracy, "val_loss": loss, "test_accuracy": 1 - accuracy,
            }  # fmt: skip
    assert plan.choice("MUTAG", "diffpool") == study_plan.TRIALS[True][2]
    chosen = [unit for unit in plan.chosen("MUTAG") if unit.name == "diffpool"]
    assert [unit.fold for unit in chosen] == list(range(10))
    # A trial with what was chosen is a run of the main table already.
    assert {unit.key for unit in trials[2]} <= {unit.key for unit in chosen}

    failed = trials[2][0].key
    plan.done[failed] = {"failed": "no memory"}
    assert plan.choice("MUTAG", "diffpool") == study_plan.TRIALS[True][0]


def test_a_dataset_without_trials_of_its_own_takes_what_another_chose():
    plan = study_plan.Plan({})
    for index, units in enumerate(plan.trials("PROTEINS", "topk")):
        for unit in units:
            plan.done[unit.key] = {"val_accuracy": 0.5 + 0.1 * (index == 2), "val_loss": 0.5}
    (unit, *_) = (unit for unit in plan.chosen("DD") if unit.name == "topk")
    flags = dict(zip(unit.flags[::2], unit.flags[1::2], strict=True))
    assert flags["--lr"] == study_plan.TRIALS[False][2][1] != study_plan.TRIALS[False][0][1]
    assert flags["--dataset"] == "DD"
    assert flags["--epochs"] == str(study_plan.BUDGETS["DD"].epochs)


def test_all_poolers_of_a_dataset_have_the_same_budget_and_number_of_trials():
    study_run.study_poolers.register()
    plan = study_plan.Plan({})
    own = {flag for flags in study_plan.POOLERS.values() for flag in flags if flag[0] == "-"}
    for dataset in study_plan.DATASETS:
        budgets, counts = set(), set()
        for name in study_plan.POOLERS:
            trials = plan.trials(dataset, name)
            counts.add(sum(map(len, trials)))
            for units in trials:
                args = vars(arguments_of(*units[0].flags))
                for flag in own | {"--lr", "--loss-weight"}:
                    del args[flag[2:].replace("-", "_")]
                budgets.add(json.dumps(args, default=str))
        assert len(counts) == 1
        assert len(budgets) == 1


@pytest.mark.parametrize("name", study_plan.POOLERS)
def test_poolers_that_draw_are_tested_with_eight_draws(name):
    study_run.study_poolers.register()
    args = arguments_of(*study_plan.POOLERS[name])
    options.check(args)
    draws = args.pool in ("gumbel", "gumbel-keep-empty", "random", "bnpool")
    assert tu_classification.training_options(args).eval_samples == (8 if draws else 1)


def test_experiments_share_the_runs_that_they_have_in_common():
    plan = study_plan.Plan({})
    keys = [
        {unit.name: unit.key for unit in experiment(plan, "ENZYMES") if unit.fold == 0}
        for experiment in (study_plan.Plan.collapse, study_plan.Plan.samples)
    ]
    tau = {unit.name: unit.key for unit in plan.temperature("ENZYMES") if unit.fold == 0}
    assert keys[0]["gumbel"] == keys[1]["1"] == tau["1"]
    assert len(set(keys[0].values())) == len(keys[0])


def test_holm_correction():
    # Sorted, 0.01·4, 0.02·3, 0.03·2, 0.5·1, and never less than the one before.
    corrected = study_results.holm([0.5, 0.01, 0.03, 0.02])
    assert corrected == pytest.approx([0.5, 0.04, 0.06, 0.06])


def test_paired_test_takes_the_folds_that_both_have():
    ours = {fold: 70.0 + fold for fold in range(8)}
    theirs = {fold: 69.0 - fold for fold in range(2, 10)}
    difference, error, p = study_results.compare(ours, theirs)
    differences = [ours[fold] - theirs[fold] for fold in range(2, 8)]
    assert difference == pytest.approx(np.mean(differences))
    assert error == pytest.approx(stats.sem(differences))
    assert p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert study_results.compare(ours, ours) == (0.0, 0.0, 1.0)
    almost = {fold: value + 1e-6 for fold, value in ours.items()}
    assert study_results.compare(ours, almost) == (0.0, 0.0, 1.0)


def test_only_folds_that_all_poolers_were_run_on_are_compared():
    plan = study_plan.Plan({})
    for name in study_plan.POOLERS:
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
    found = study_results.main_runs(plan)
    assert set(found) == {"MUTAG"}
    assert set(found["MUTAG"]) == set(study_plan.POOLERS) - {"asap"}
    assert all(set(folds) == {0} for folds in found["MUTAG"].values())
    plan.done[later[-1].key] = {"failed": "no time"}  # is a result as well
    assert all(set(folds) == {0, 1} for folds in study_results.main_runs(plan)["MUTAG"].values())


def test_a_pooler_that_takes_too_long_is_not_waited_for():
    plan = study_plan.Plan({})
    (left_out,) = study_plan.TOO_LONG
    dataset, pooler = left_out
    for name in study_plan.POOLERS:
        for units in plan.trials(dataset, name):
            for unit in units:
                plan.done[unit.key] = {"val_accuracy": 0.5, "val_loss": 0.5, "test_accuracy": 0.5}
    planned = [unit for unit in plan.chosen(dataset) if unit.fold == 0]
    for unit in planned:
        plan.done[unit.key] = {"test_accuracy": 0.5}
    names = set(study_plan.POOLERS) - {pooler}
    assert {unit.name for unit in planned} == {unit.name for unit in plan.cost(dataset)} == names
    assert set(study_results.main_runs(plan)[dataset]) == names


def test_folds_of_all_real_datasets_are_tested_together_as_well():
    def runs(*accuracies: float) -> dict[int, dict]:
        return {fold: {"test_accuracy": value / 100} for fold, value in enumerate(accuracies)}

    tests = study_main.by_test(
        {
            "MUTAG": {"gumbel": runs(70, 80), "none": runs(60, 60)},
            "DD": {"gumbel": runs(50)},
            "hierarchy": {"gumbel": runs(96), "none": runs(20)},
        }
    )
    assert list(tests) == ["MUTAG", "DD", "hierarchy", study_main.ALL]
    assert tests[study_main.ALL]["none"] == {("MUTAG", 0): 60, ("MUTAG", 1): 60}
    assert tests[study_main.ALL]["gumbel"] == tests["MUTAG"]["gumbel"] | tests["DD"]["gumbel"]


def test_paired_test_sees_ties_through_rounding():
    steps = [3, -1, 2, 0, 1, 1, -2, 0, 4, 1]
    ours = {fold: 70 + step * 100 / 60 for fold, step in enumerate(steps)}
    theirs = {fold: 70.0 + 1e-6 * (fold % 3) for fold in range(10)}
    *_, p = study_results.compare(ours, theirs)
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
    ranks = study_results.ranks(runs)
    assert ranks == {"gumbel": [2.0, 1.0], "diffpool": [3.0, 2.0], "topk": [1.0]}
    lines = study_main.accuracy_table(runs)
    assert "| gumbel | 90.0 | 70.0 | 10.0 | 1.5 |" in lines
    assert "| topk | 95.0 | – | – | 1.0 (1) |" in lines


def test_collapse_table_goes_from_start_to_end():
    plan = study_plan.Plan({})
    fields = dict.fromkeys(study_settings.USE)
    start = {field: 1.0 + index for index, field in enumerate(fields)}
    end = {field: 11.0 + index for index, field in enumerate(fields)}
    for unit in plan.collapse("ENZYMES"):
        if unit.name in ("gumbel", "diffpool") and unit.fold < 2:
            plan.done[unit.key] = {
                "test_accuracy": 0.5 + 0.1 * unit.fold, "val_accuracy": 0.7,
                "trace": [start, dict.fromkeys(fields, 99.0), end],
            }  # fmt: skip
    lines = study_settings.collapse_table(plan, "ENZYMES")
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
    lines = study_settings.crispness_table("MUTAG", runs)
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
    plan = study_plan.Plan({})
    found = {"8 draws": (0.5, 0.6, 0.7), "8 draws, reinmax": (0.52, 0.64, 0.7)}
    for unit in plan.tuning("hierarchy"):
        if unit.name in found:
            accuracy = found[unit.name][unit.fold]
            plan.done[unit.key] = {"val_accuracy": accuracy, "test_accuracy": 0.5, "epochs": 40}
    lines = study_settings.tuning_table(plan, "hierarchy")
    assert "| 8 draws | 60.0 | – | 50.0 ± 0.0 | 40 |" in lines
    assert "| 8 draws, reinmax | 62.0 | +2.0 ± 1.2 | 50.0 ± 0.0 | 40 |" in lines


def test_estimators_are_crossed_with_losses_and_heads():
    plan = study_plan.Plan({})
    units = list(plan.crossed("hierarchy"))
    assert len({unit.key for unit in units}) == len(units)
    assert {unit.key for unit in plan.collapse("hierarchy")} & {unit.key for unit in units}
    found = {"gst: link": 0.5, "gst: cosine head": 0.3, "diffpool: none": 0.7}
    for unit in units:
        if unit.name in found:
            plan.done[unit.key] = {"test_accuracy": found[unit.name] + 0.01 * unit.fold}
    assert study_settings.crossed_table(plan, "hierarchy") == [
        "**hierarchy**, 3 folds",
        "",
        "| test % | link | cosine head | none |",
        "| --- | --- | --- | --- |",
        "| gst | 51.0 ± 0.8 | 31.0 ± 0.8 | – |",
        "| diffpool | – | – | 71.0 ± 0.8 |",
        "",
    ]


def test_kept_and_dropped_are_compared_on_all_folds():
    plan = study_plan.Plan({})
    for unit in plan.empty("hierarchy"):
        more = 0.01 * (1 + unit.fold % 2) if unit.name == study_plan.KEPT else 0.0
        plan.done[unit.key] = {"test_accuracy": 0.9 + more}
    lines = study_settings.empty_table(plan, "hierarchy")
    assert lines[0] == "**hierarchy**, 10 folds"
    assert "| 90.0 ± 0.0 | 91.5 ± 0.5 | +1.5 ± 0.2 (0.002) |" in lines


def test_draws_are_compared_with_the_likeliest_of_the_same_run():
    plan = study_plan.Plan({})
    for fold, gain in enumerate((0.02, 0.04)):
        (unit,) = [u for u in plan.temperature("ENZYMES") if u.name == "1" and u.fold == fold]
        drawn = {str(m): {"accuracy": 0.6 + gain * m} for m in study_plan.SAMPLES}
        plan.done[unit.key] = {
            "dataset": "ENZYMES", "fold": fold, "flags": unit.flags, "test_accuracy": 0.6,
            "sampled": drawn,
        }  # fmt: skip
    plan.done["of no experiment"] = plan.done[unit.key]
    row = study_settings.drawn_table(plan)[-2]
    assert row.startswith("| ENZYMES | 2 | 2 | +3.0 ± 1.0 | +6.0 ± 2.0 |")


@pytest.mark.parametrize("name", ["kmis", "maxcut", "bnpool"])
def test_peers_clusters_are_rows_of_the_same_graph(name):
    pytest.importorskip("tgp")
    study_run.study_poolers.register()
    batch = Batch.from_data_list(load("hierarchy", None, num_graphs=5, seed=0).graphs)
    torch.manual_seed(0)
    x = torch.randn(batch.num_nodes, 8, requires_grad=True)
    pool = POOLERS[name](8, PoolOptions(num_clusters=6))
    out = pool(x, batch.edge_index, None, batch.batch, batch.num_graphs)
    assert out.cluster.shape == (batch.num_nodes,)
    assert out.cluster.min() >= 0
    assert torch.equal(out.batch[out.cluster], batch.batch)
    assert out.edge_index.max() < out.x.size(0)
    assert out.edge_weight.shape == (out.edge_index.size(1),)
    if name == "maxcut":
        assert torch.bincount(out.batch).tolist() == [6] * 5
    if name == "bnpool":
        assert out.x.size(0) == 5 * 6
    (out.x.sum() + out.loss).backward()
    assert x.grad.abs().sum() > 0


def test_time_is_the_median_with_its_range():
    runs = {fold: {"seconds_per_epoch": value} for fold, value in enumerate((0.5, 2.0, 0.75))}
    assert study_tables.seconds(runs) == "0.75 (0.50–2.00)"
    assert study_tables.seconds({0: runs[0]}) == "0.50"
    assert study_tables.seconds({}) == "–"
