"""The study runs, continues after a kill, keeps its promises of fairness, and tabulates."""

import argparse
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
from scipy import stats
from torch_geometric.data import Batch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import options  # noqa: E402
import study_plan  # noqa: E402
import study_results  # noqa: E402
import study_run  # noqa: E402
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
        assert f"{100 * record['test_accuracy']:.1f} ± 0.0" in text

    subprocess.run(
        command(tmp_path, *COMMON, "--budget-minutes", 0, "--jobs", 1),
        check=True, capture_output=True,
    )  # fmt: skip
    assert records(tmp_path) == second


@linux
def test_a_failed_run_is_a_result_that_says_why(tmp_path):
    subprocess.run(
        command(
            tmp_path, "--only", "temperature", "--datasets", "ENZYMES", "--folds", 1,
            "--budget-minutes", 0.01, "--jobs", 1,
        ),
        check=True, capture_output=True,
    )  # fmt: skip
    found = records(tmp_path)
    assert found
    assert "--root" in found[0]["failed"]


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


@pytest.mark.parametrize("pool", ["gumbel", "gumbel-cosine", "diffpool", "random"])
def test_a_look_inside_measures_the_clusters_that_eval_takes_and_changes_nothing(pool):
    study_run.study_poolers.register()
    dataset = load("hierarchy", None, num_graphs=6, seed=0)
    torch.manual_seed(0)
    sampled = ["--eval-samples", "8"] if pool == "gumbel" else []
    model = tu_classification.build_model(arguments_of("--pool", pool, *sampled), dataset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = Batch.from_data_list(dataset.graphs)
    found = study_run.look(model, batch)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if pool != "random":  # which draws anew in every pass
        model.eval()
        model.poolers[0].pool.sample_in_eval = False
        level = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs).levels[0]
        used = occupancy(level.cluster, batch.batch, batch.num_graphs).used
        assert found["likeliest used"] == pytest.approx(used.double().mean().item(), abs=1e-4)
    assert found["drawn used"] >= found["likeliest used"] - (pool == "random")
    assert found["entropy"] <= np.log(16) + 1e-5


def test_similarity_is_the_mean_cosine_of_pairs():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0], [5.0, 1.0]])
    batch = torch.tensor([0, 0, 0, 0, 1])
    found = study_run.similarity(x, batch, 3)
    root = 0.5**0.5
    torch.testing.assert_close(found, torch.tensor([(0 + root + root) / 3, 0.0, 0.0]))


def test_learning_rates_are_chosen_on_validation_accuracy_after_all_trials():
    plan = study_plan.Plan({})
    trials = plan.trials("MUTAG", "topk")
    validation = {"0.001": (0.7, 0.8), "0.003": (0.9, 0.9), "0.01": (1.0, 0.7)}
    for rate, units in trials.items():
        for unit, accuracy in zip(units, validation[rate], strict=True):
            assert plan.rate("MUTAG", "topk") is None
            # The test accuracies, the other way round, have no say.
            plan.done[unit.key] = {"val_accuracy": accuracy, "test_accuracy": 1 - accuracy}
    assert plan.rate("MUTAG", "topk") == "0.003"
    chosen = [unit for unit in plan.chosen("MUTAG") if unit.name == "topk"]
    assert len(chosen) == 10
    assert all("--lr 0.003" in " ".join(unit.flags) for unit in chosen)
    # A trial with the chosen rate is a run of the main table already.
    assert {unit.key for unit in trials["0.003"]} <= {unit.key for unit in chosen}


def test_all_poolers_of_a_dataset_have_the_same_budget_and_number_of_trials():
    plan = study_plan.Plan({})
    for dataset in study_plan.DATASETS:
        budgets = set()
        for name, own in study_plan.POOLERS.items():
            trials = plan.trials(dataset, name)
            assert list(trials) == list(study_plan.RATES)
            assert len({len(units) for units in trials.values()}) == 1
            for units in trials.values():
                words = list(units[0].flags)
                for flag in (*own, "--lr", words[words.index("--lr") + 1]):
                    words.remove(flag)
                budgets.add(tuple(words))
        assert len(budgets) == 1


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
    difference, p = study_results.compare(ours, theirs)
    differences = [ours[fold] - theirs[fold] for fold in range(2, 8)]
    assert difference == pytest.approx(np.mean(differences))
    assert p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert study_results.compare(ours, ours) == (0.0, 1.0)


def test_mean_rank_counts_the_poolers_that_are_on_every_real_dataset():
    def folds(accuracy: float) -> dict[int, dict]:
        return {0: {"test_accuracy": accuracy}}

    runs = {
        "MUTAG": {"gumbel": folds(0.9), "diffpool": folds(0.8), "topk": folds(0.95)},
        "DD": {"gumbel": folds(0.7), "diffpool": folds(0.6), "topk": {0: {"failed": "no memory"}}},
        "hierarchy": {"gumbel": folds(0.1), "diffpool": folds(0.9)},
    }
    assert study_results.ranks(runs) == {"gumbel": 1.0, "diffpool": 2.0}
