"""The plan of the study: the same budget for all, choices on validation, shared runs."""

import json

import pytest

from benchmarks.study.generated import GENERATED
from benchmarks.study.plan import BUDGETS, DATASETS, POOLERS, TRIALS, Plan
from benchmarks.study.poolers import POOLERS as OFFERED
from benchmarks.study.pooling import MATTERS, REAL, more, pooling, real
from examples.classification.described import training_options
from examples.classification.options import check, parser


def test_hyper_parameters_are_chosen_on_validation_after_all_trials():
    plan = Plan({})
    trials = plan.trials("MUTAG", "diffpool")
    # Accuracy decides, then the lower loss; what happens in the test has no say.
    validation = [(0.9, 0.6), (0.8, 0.1), (0.9, 0.4), (0.7, 0.2)]
    for units, (accuracy, loss) in zip(trials, validation, strict=True):
        for unit in units:
            assert plan.choice("MUTAG", "diffpool") is None
            plan.done[unit.key] = {
                "val_accuracy": accuracy, "val_loss": loss, "test_accuracy": 1 - accuracy,
            }  # fmt: skip
    assert plan.choice("MUTAG", "diffpool") == TRIALS[True][2]
    chosen = [unit for unit in plan.chosen("MUTAG") if unit.name == "diffpool"]
    assert [unit.fold for unit in chosen] == list(range(10))
    # A trial with what was chosen is a run of the main table already.
    assert {unit.key for unit in trials[2]} <= {unit.key for unit in chosen}

    failed = trials[2][0].key
    plan.done[failed] = {"failed": "no memory"}
    assert plan.choice("MUTAG", "diffpool") == TRIALS[True][0]


def test_a_dataset_without_trials_of_its_own_takes_what_another_chose():
    plan = Plan({})
    for index, units in enumerate(plan.trials("PROTEINS", "topk")):
        for unit in units:
            plan.done[unit.key] = {"val_accuracy": 0.5 + 0.1 * (index == 2), "val_loss": 0.5}
    (unit, *_) = (unit for unit in plan.chosen("DD") if unit.name == "topk")
    flags = dict(zip(unit.flags[::2], unit.flags[1::2], strict=True))
    assert flags["--lr"] == TRIALS[False][2][1] != TRIALS[False][0][1]
    assert flags["--dataset"] == "DD"
    assert flags["--epochs"] == str(BUDGETS["DD"].epochs)


def test_all_poolers_of_a_dataset_have_the_same_budget_and_number_of_trials():
    plan = Plan({})
    own = {flag for flags in POOLERS.values() for flag in flags if flag[0] == "-"}
    for dataset in DATASETS:
        budgets, counts = set(), set()
        for name in POOLERS:
            trials = plan.trials(dataset, name)
            counts.add(sum(map(len, trials)))
            for units in trials:
                args = vars(parser(OFFERED).parse_args(units[0].flags))
                for flag in own | {"--lr", "--loss-weight"}:
                    del args[flag[2:].replace("-", "_")]
                budgets.add(json.dumps(args, default=str))
        assert len(counts) == 1
        assert len(budgets) == 1


@pytest.mark.parametrize("name", POOLERS)
def test_poolers_that_draw_are_tested_with_eight_draws(name):
    args = parser(OFFERED).parse_args(POOLERS[name])
    check(args, OFFERED)
    draws = args.pool in ("gumbel", "gumbel-keep-empty", "random", "bnpool")
    assert training_options(args, OFFERED).eval_samples == (8 if draws else 1)


@pytest.mark.parametrize("dataset", ["NCI1", "ENZYMES"])
def test_the_fine_path_is_the_only_difference_between_two_runs(dataset):
    units = list(Plan({}, folds=1).fine(dataset))
    assert len(units) == 8
    for without, beside in zip(units[::2], units[1::2], strict=True):
        assert beside.name == f"{without.name}, fine path"
        assert [word for word in beside.flags if word != "--fine-path"] == list(without.flags)
        assert "--fine-path" in beside.flags
        check(parser(OFFERED).parse_args(beside.flags), OFFERED)


def test_experiments_share_the_runs_that_they_have_in_common():
    plan = Plan({})
    keys = [
        {unit.name: unit.key for unit in experiment(plan, "ENZYMES") if unit.fold == 0}
        for experiment in (Plan.collapse, Plan.samples)
    ]
    tau = {unit.name: unit.key for unit in plan.temperature("ENZYMES") if unit.fold == 0}
    assert keys[0]["gumbel"] == keys[1]["1"] == tau["1"]
    assert len(set(keys[0].values())) == len(keys[0])


@pytest.mark.parametrize("dataset", MATTERS)
def test_settings_of_a_benchmark_differ_in_the_pooler_and_the_fine_path_alone(dataset):
    plan = Plan({}, folds=3)
    units = [*pooling(plan, dataset), *more(plan, dataset)]
    own = {"pool", "eval_samples", "fine_path", "losses"}
    for fold in range(3):
        settings = set()
        for unit in (unit for unit in units if unit.fold == fold):
            args = parser(OFFERED).parse_args(unit.flags)
            check(args, OFFERED)
            assert args.fine_path == ("fine path" in unit.name)
            settings.add(json.dumps({k: str(v) for k, v in vars(args).items() if k not in own}))
        assert len(settings) == 1
        # Of what is generated, each fold is another dataset.
        assert args.seed == (fold if dataset in GENERATED else 0)
    assert len({unit.key for unit in units}) == len(units)
    drawn = {unit.name for unit in units if "--eval-samples" in unit.flags}
    assert drawn == {u.name for u in units if u.name.startswith(("gumbel", "random"))}


@pytest.mark.parametrize("dataset", REAL)
def test_real_datasets_have_the_budget_of_the_study(dataset):
    plan = Plan({}, folds=1)
    units = {unit.name: unit.key for unit in real(plan, dataset)}
    tuned = {unit.name: unit.key for unit in plan.tuning(dataset) if unit.fold == 0}
    assert units["gumbel"] == tuned["8 draws, empty clusters kept"]
    assert len(set(units.values())) == len(units)
