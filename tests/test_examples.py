"""The example classifier: real runs on small data, killed, continued, and given wrong input."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import datasets
import models
import options
import pytest
import torch
import training
import tu_classification
from datasets import InputError
from lightning_fabric import Fabric
from models import HierarchicalClassifier, Prediction
from poolers import POOLERS, PoolOptions
from run_folder import RunFolder
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import TUDataset

SCRIPT = Path(tu_classification.__file__)
SMALL = ["--num-graphs", "60", "--folds", "3", "--hidden", "8", "--num-clusters", "6", "3"]
SMALL += ["--accelerator", "cpu"]
KEYS = {
    *("dataset", "pool", "fold", "seed", "test_accuracy", "val_accuracy", "val_loss"),
    *("best_epoch", "epochs", "seconds", "nodes", "edges", "clusters_used"),
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def without_seconds(lines: list[dict]) -> list[dict]:
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


def one_line_error(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Run in this process, and return what it says on failing."""
    capsys.readouterr()
    assert tu_classification.main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if not re.match("Processing|Downloading", line)]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def small_model(pool: str, in_channels: int, classes: int, **options) -> HierarchicalClassifier:
    torch.manual_seed(0)
    poolers = [POOLERS[pool](8, PoolOptions(num_clusters, **options)) for num_clusters in (5, 2)]
    return HierarchicalClassifier(in_channels, classes, poolers, hidden=8, layers=1)


def awkward_batch() -> Batch:
    """Graphs of one node, of no edges, with fewer nodes than clusters, and an isolated node."""
    sizes, edges = (1, 4, 9, 3), ([], [], [(0, 1), (1, 2), (2, 3), (4, 5), (6, 7)], [(0, 2)])
    graphs = []
    for size, pairs in zip(sizes, edges, strict=True):
        both = [(i, j) for i, j in pairs] + [(j, i) for i, j in pairs]
        edge_index = torch.tensor(both, dtype=torch.long).reshape(-1, 2).t()
        graphs.append(
            Data(x=torch.randn(size, 3), edge_index=edge_index, y=torch.tensor([size % 2]))
        )
    return Batch.from_data_list(graphs)


def write_tu_dataset(root: Path, name: str = "PLAIN", num_graphs: int = 30) -> None:
    """Rings and stars in the TU text format, without node labels or attributes."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    pairs, indicator, labels, start = [], [], [], 1
    for g in range(num_graphs):
        n = 5 + g % 4
        if g % 2:
            undirected = [(i, (i + 1) % n) for i in range(n)]
        else:
            undirected = [(0, i) for i in range(1, n)]
        for i, j in undirected:
            pairs += [(start + i, start + j), (start + j, start + i)]
        indicator += [g + 1] * n
        labels.append(g % 2)
        start += n
    (raw / f"{name}_A.txt").write_text("".join(f"{i}, {j}\n" for i, j in pairs))
    (raw / f"{name}_graph_indicator.txt").write_text("".join(f"{g}\n" for g in indicator))
    (raw / f"{name}_graph_labels.txt").write_text("".join(f"{y}\n" for y in labels))


@pytest.fixture
def test_data(tmp_path: Path) -> Path:
    folder = os.environ.get("GUMBELPOOL_TEST_DATA")
    if not folder:
        pytest.skip("GUMBELPOOL_TEST_DATA does not name a folder with ENZYMES.zip and splits/")
    with zipfile.ZipFile(Path(folder) / "ENZYMES.zip") as archive:
        archive.extractall(tmp_path / "root")
    return Path(folder)


# Runs


@pytest.mark.parametrize("pool", POOLERS)
def test_every_pooler_trains_and_writes_a_valid_result(pool, tmp_path, capsys):
    out = tmp_path / "new" / pool
    status = tu_classification.main(
        [*SMALL, "--pool", pool, "--epochs", "2", "--fold", "1", "--out", str(out)]
    )
    assert status == 0
    (result,) = results(out)
    assert result.keys() == KEYS
    assert (result["dataset"], result["pool"], result["fold"]) == ("hierarchy", pool, 1)
    assert 0 <= result["test_accuracy"] <= 1
    assert 1 <= result["best_epoch"] <= 2
    assert len(result["nodes"]) == len(result["edges"]) == 3
    assert len(result["clusters_used"]) == 2
    if pool != "none":
        assert result["nodes"][1] <= 6
        assert result["nodes"][2] <= 3
    printed = capsys.readouterr().out
    assert "test accuracy" in printed
    assert str(out / "hierarchy.png") in printed
    assert (out / "hierarchy.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.ckpt"))


@pytest.mark.parametrize("pool", ["gumbel", "diffpool", "random", "topk", "sag", "asap"])
def test_ratio_bounds_the_pooled_nodes(pool, tmp_path):
    arguments = [*SMALL, "--num-clusters", "30", "--ratio", "0.1"]
    out = tmp_path / "out"
    arguments += ["--pool", pool, "--epochs", "1", "--out", str(out)]
    assert tu_classification.main(arguments) == 0
    (result,) = results(out)
    assert result["nodes"][1] <= 0.1 * result["nodes"][0] + 1


def test_without_levels_there_is_one_readout(tmp_path):
    out = tmp_path / "out"
    arguments = [*SMALL, "--pool", "none", "--num-clusters", "--epochs", "1", "--out", str(out)]
    assert tu_classification.main(arguments) == 0
    (result,) = results(out)
    assert len(result["nodes"]) == len(result["edges"]) == 1
    assert result["clusters_used"] == []


def test_every_fold_has_its_line_and_the_table_their_mean(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*SMALL, "--pool", "none", "--epochs", "1", "--fold", "all", "--out", str(out)]
    assert tu_classification.main(arguments) == 0
    lines = results(out)
    assert [line["fold"] for line in lines] == [0, 1, 2]
    mean = 100 * sum(line["test_accuracy"] for line in lines) / 3
    assert f"test accuracy {mean:.1f} ±" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_result_and_another_seed_another(tmp_path):
    scores = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = [*SMALL, "--epochs", "2", "--seed", str(seed), "--out", str(tmp_path / name)]
        assert tu_classification.main(arguments) == 0
        scores.append(torch.load(tmp_path / name / "fold-0.pt", weights_only=True))
    same = [torch.equal(scores[0][key], scores[1][key]) for key in scores[0]]
    other = [torch.equal(scores[0][key], scores[2][key]) for key in scores[0]]
    assert all(same)
    assert not all(other)


def test_killed_at_random_moments_it_continues_to_the_same_results(tmp_path):
    arguments = [*SMALL, "--epochs", "8", "--fold", "0", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert tu_classification.main([*arguments, "--out", str(whole)]) == 0

    def kill_after(sign: Path) -> None:
        with subprocess.Popen(
            command(*arguments, "--out", broken), env=environment(), stdout=subprocess.DEVNULL
        ) as process:
            while not sign.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(random.random() * 0.5)
            process.send_signal(signal.SIGKILL)

    kill_after(broken / "fold-0.ckpt")
    kill_after(broken / "results.jsonl")
    kept = (broken / "results.jsonl").read_bytes()
    finished = subprocess.run(
        command(*arguments, "--out", broken),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert (broken / "results.jsonl").read_bytes().startswith(kept)  # finished folds: untouched
    assert without_seconds(results(broken)) == without_seconds(results(whole))
    for fold in (0, 1):
        expected = torch.load(whole / f"fold-{fold}.pt", weights_only=True)
        found = torch.load(broken / f"fold-{fold}.pt", weights_only=True)
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_finished_folds_are_not_repeated(tmp_path, monkeypatch):
    arguments = [*SMALL, "--pool", "none", "--epochs", "1", "--out", str(tmp_path)]
    assert tu_classification.main(arguments) == 0
    before = (tmp_path / "results.jsonl").read_bytes()
    trained = []
    run = training.Trainer.run
    monkeypatch.setattr(
        training.Trainer, "run", lambda self, *rest: trained.append(rest[-1]) or run(self, *rest)
    )
    assert tu_classification.main([*arguments, "--fold", "0", "1"]) == 0
    assert trained == [1]
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)


def test_two_processes_train_and_score_every_test_graph_once(tmp_path):
    arguments = [*SMALL[:-2], "--accelerator", "cpu", "--devices", "2", "--epochs", "2"]
    finished = subprocess.run(
        command(*arguments, "--batch-size", "7", "--out", tmp_path / "out"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert finished.returncode == 0, finished.stderr
    (result,) = results(tmp_path / "out")
    hits = 20 * result["test_accuracy"]  # a third of 60 graphs
    assert math.isclose(hits, round(hits), abs_tol=1e-4)
    assert finished.stdout.count("picture of the learned hierarchy") == 1


def test_enzymes_trains_with_published_splits(test_data, tmp_path):
    out = tmp_path / "out"
    arguments = ["--dataset", "ENZYMES", "--root", str(tmp_path / "root"), "--epochs", "2"]
    arguments += ["--splits", str(test_data / "splits" / "ENZYMES.json"), "--out", str(out)]
    assert tu_classification.main([*arguments, "--accelerator", "cpu"]) == 0
    (result,) = results(out)
    assert result["dataset"] == "ENZYMES"
    assert result["nodes"][0] > 20


# Parts


@pytest.mark.parametrize("pool", POOLERS)
@pytest.mark.parametrize("training_mode", [True, False])
def test_awkward_graphs_give_finite_predictions_and_gradients(pool, training_mode):
    batch = awkward_batch()
    model = small_model(pool, 3, 2).train(training_mode)
    loss, prediction = training.loss_of(model, batch, 1.0)
    loss.backward()
    assert prediction.logits.shape == (4, 2)
    assert prediction.logits.isfinite().all()
    for level in prediction.levels:
        assert level.x.size(0) == level.batch.size(0)
        assert (level.batch[1:] >= level.batch[:-1]).all()
        if level.edge_index.numel():
            row, col = level.edge_index
            assert int(level.edge_index.max()) < level.x.size(0)
            assert torch.equal(level.batch[row], level.batch[col])
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("pool", ["gumbel", "diffpool", "mincut"])
def test_auxiliary_losses_are_added_with_their_weight(pool):
    batch = awkward_batch()
    model = small_model(pool, 3, 2)
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        loss, prediction = training.loss_of(model, batch, weight)
        losses.append(loss)
    assert prediction.loss != 0
    torch.testing.assert_close(losses[1], losses[0] + 2.0 * prediction.loss)
    assert torch.equal(prediction.loss, sum(level.loss for level in prediction.levels))


@pytest.mark.parametrize("pool", ["topk", "sag", "asap", "random", "none"])
def test_poolers_without_auxiliary_losses_add_none(pool):
    assert small_model(pool, 3, 2)(*_arguments(awkward_batch())).loss == 0


def _arguments(batch: Batch) -> tuple:
    return batch.x, batch.edge_index, batch.batch, batch.num_graphs


def test_only_the_pooler_differs_between_models():
    def backbone(pool: str) -> dict[str, torch.Size]:
        parameters = small_model(pool, 3, 2).named_parameters()
        return {name: p.shape for name, p in parameters if not name.startswith("poolers.")}

    assert all(backbone(pool) == backbone("none") for pool in POOLERS)


def test_pooled_edge_weights_change_the_messages():
    block = models.MessagePassing(2, 4, 1, 0.0).eval()
    x, edge_index = torch.randn(3, 2), torch.tensor([[1, 2], [0, 0]])
    even, uneven = (block(x, edge_index, torch.tensor(w)) for w in ([1.0, 1.0], [3.0, 1.0]))
    assert not torch.allclose(even[0], uneven[0])
    scaled = block(x, edge_index, torch.tensor([30.0, 10.0]))
    torch.testing.assert_close(uneven, scaled)  # proportions count, not the scale
    torch.testing.assert_close(even, block(x, edge_index, None))


def test_self_loops_change_no_message():
    block = models.MessagePassing(2, 4, 1, 0.0).eval()
    x, edge_index = torch.randn(3, 2), torch.tensor([[1, 2], [0, 0]])
    looped = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 2]])
    weighted = block(x, looped, torch.tensor([9.0, 1.0, 1.0, 9.0]))
    torch.testing.assert_close(weighted, block(x, edge_index, None))


def test_random_clusters_differ_between_eval_passes_and_gumbels_do_not():
    batch = awkward_batch()
    for pool, same in (("gumbel", True), ("random", False)):
        model = small_model(pool, 3, 2).eval()
        first, second = (model(*_arguments(batch)).levels[0].cluster for _ in range(2))
        assert torch.equal(first, second) == same


class Alternating(nn.Module):
    """Says in turn what it was given to say."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = [torch.tensor([row]) for row in logits]

    def forward(self, *_):
        self.logits.append(self.logits.pop(0))
        return Prediction(self.logits[-1], torch.zeros(()), [])


def test_eval_samples_averages_the_class_probabilities(tmp_path):
    graph = Data(
        x=torch.ones(1, 1), edge_index=torch.zeros(2, 0, dtype=torch.long), y=torch.tensor([1])
    )
    batch = Batch.from_data_list([graph])
    model = Alternating([0.2, 0.0], [0.0, 3.0])
    scores = []
    for samples in (1, 2):
        options = training.TrainingOptions(1, 1, 1, 1e-3, 0.0, 0.0, samples, 0)
        trainer = training.Trainer(
            Fabric(accelerator="cpu", devices=1), [graph], 2, RunFolder(tmp_path), options
        )
        model.logits.sort(key=lambda row: row[0, 1].item())
        scores.append(trainer.evaluate(model, [batch]))
    assert scores[0].accuracy == 0.0
    assert scores[1].accuracy == 1.0
    mean = (torch.tensor([0.2, 0.0]).softmax(0)[1] + torch.tensor([0.0, 3.0]).softmax(0)[1]) / 2
    assert scores[1].loss == pytest.approx(-mean.log().item())


class Scaled(nn.Module):
    """A prediction whose gradient is another in each pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.passes = 0

    def forward(self, *_):
        self.passes += 1
        return Prediction((self.passes * self.weight).unsqueeze(0), torch.zeros(()), [])


@pytest.mark.parametrize("samples", [1, 3])
def test_train_samples_averages_the_gradient_over_draws(tmp_path, samples):
    graph = Data(
        x=torch.ones(1, 1), edge_index=torch.zeros(2, 0, dtype=torch.long), y=torch.tensor([1])
    )
    options = training.TrainingOptions(1, 1, 1, 1.0, 0.0, 0.0, 1, 0, train_samples=samples)
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = training.Trainer(fabric, [graph], 2, RunFolder(tmp_path), options)
    model = Scaled()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = fabric.setup(model, optimizer)
    trainer._train_epoch(model, optimizer, [0], 0, 1)
    # The gradient of a pass is its number times (1/2, -1/2).
    mean = sum(range(1, samples + 1)) / samples
    torch.testing.assert_close(model.weight, torch.tensor([-mean / 2, mean / 2]))


def test_temperature_falls_geometrically_to_its_end(tmp_path):
    args = options.parser().parse_args(
        [*SMALL, "--epochs", "3", "--tau", "2", "--tau-end", "0.5", "--out", str(tmp_path)]
    )
    seen = []
    dataset = datasets.load("hierarchy", None, num_graphs=args.num_graphs, seed=0)
    trainer = training.Trainer(
        Fabric(accelerator="cpu", devices=1), dataset.graphs, dataset.num_classes,
        RunFolder(tmp_path), tu_classification.training_options(args),
        lambda model, epoch: seen.append((epoch, model.poolers[1].pool.tau)),
    )  # fmt: skip
    split = datasets.make_splits(dataset, args.folds, args.seed)[0]
    trainer.run(tu_classification.build_model(args, dataset), split, 0)
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    assert [tau for _, tau in seen] == pytest.approx([2, 2, 1, 0.5])


def test_flags_of_the_draw_are_refused_where_there_is_none(capsys):
    for flags in (["--train-samples", "2"], ["--tau-end", "0.5"], ["--binary"]):
        assert flags[0] in one_line_error(capsys, "--pool", "diffpool", *flags)


@pytest.mark.parametrize("pool", ["gumbel", "random"])
def test_binary_pooled_graphs_have_no_weights(pool):
    args = options.parser().parse_args([*SMALL, "--pool", pool, "--binary"])
    dataset = datasets.load("hierarchy", None, num_graphs=3, seed=0)
    batch = Batch.from_data_list(dataset.graphs)
    model = tu_classification.build_model(args, dataset)
    prediction = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
    assert [level.edge_weight for level in prediction.levels] == [None, None]


# Data


def test_graphs_without_features_get_their_degrees(tmp_path):
    write_tu_dataset(tmp_path)
    dataset = datasets.load("PLAIN", tmp_path, num_graphs=0, seed=0)
    assert (len(dataset.graphs), dataset.num_classes, dataset.num_attributes) == (30, 2, 0)
    for graph in dataset.graphs:
        degrees = torch.bincount(graph.edge_index[0], minlength=graph.num_nodes)
        assert torch.equal(graph.x[:, 1:].argmax(dim=1), degrees)
        torch.testing.assert_close(graph.x[:, 0], degrees.float().log1p())


def test_a_dataset_without_features_trains(tmp_path):
    write_tu_dataset(tmp_path / "root")
    out = tmp_path / "out"
    arguments = ["--dataset", "PLAIN", "--root", tmp_path / "root", "--out", out, "--epochs", "2"]
    finished = subprocess.run(
        command(*arguments, "--folds", 3, "--accelerator", "cpu"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "Warning" not in finished.stderr
    assert len(results(out)) == 1


def test_attributes_are_standardised_by_the_training_part_alone():
    graphs = [
        Data(x=torch.tensor([[float(v), 1.0]]), edge_index=torch.zeros(2, 0, dtype=torch.long))
        for v in (1, 3, 100)
    ]
    dataset = datasets.GraphDataset("x", graphs, 2, num_attributes=1)
    scaled = torch.cat([graph.x for graph in datasets.standardised(dataset, [0, 1])])
    torch.testing.assert_close(scaled, torch.tensor([[-1.0, 1.0], [1.0, 1.0], [98.0, 1.0]]))
    assert graphs[0].x[0, 0] == 1.0


def test_folds_are_disjoint_stratified_and_cover_every_graph():
    dataset = datasets.load("hierarchy", None, num_graphs=100, seed=0)
    splits = datasets.make_splits(dataset, 5, seed=0)
    labels = torch.tensor([int(graph.y) for graph in dataset.graphs])
    assert sorted(i for split in splits for i in split.test) == list(range(100))
    for split in splits:
        assert sorted(split.train + split.validation + split.test) == list(range(100))
        assert torch.bincount(labels[split.test]).tolist() == [4] * 5
        assert set(labels[split.validation].tolist()) == set(range(5))


def test_results_survive_a_torn_last_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append({"fold": 0})
    folder.append({"fold": 1})
    text = folder.results.read_text()
    folder.results.write_text(text[:-4])
    assert folder.finished() == [{"fold": 0}]
    folder.append({"fold": 1})
    assert folder.results.read_text() == text


# Errors


def test_settings_other_than_those_in_out_are_refused(tmp_path, capsys):
    arguments = [*SMALL, "--pool", "none", "--epochs", "1", "--out", str(tmp_path)]
    assert tu_classification.main(arguments) == 0
    message = one_line_error(capsys, *arguments, "--lr", "0.5")
    assert "lr: 0.003 there, 0.5 here" in message


def test_a_run_that_another_writes_to_is_refused(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.open({}), pytest.raises(InputError, match="another run"), second.open({}):
        pass
    with second.open({}):
        pass


@pytest.mark.parametrize("name", ["NO_SUCH_DATASET", "../x", ""])
def test_a_wrong_dataset_name_or_an_empty_root_is_one_line(name, tmp_path, capsys, monkeypatch):
    def offline(self: TUDataset) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(TUDataset, "download", offline)
    message = one_line_error(capsys, "--dataset", name, "--root", tmp_path, "--out", tmp_path / "o")
    assert repr(name) in message
    assert not list(tmp_path.iterdir())  # nothing left behind


def test_a_tudataset_without_root_is_one_line(capsys):
    assert "--root" in one_line_error(capsys, "--dataset", "PROTEINS")


def test_broken_raw_files_are_one_line(tmp_path, capsys):
    write_tu_dataset(tmp_path)
    (tmp_path / "PLAIN" / "raw" / "PLAIN_A.txt").write_text("1, 2\nnonsense\n")
    assert "cannot read PLAIN" in one_line_error(capsys, "--dataset", "PLAIN", "--root", tmp_path)


def fold(train=(0, 1), validation=(2,), test=(3,)) -> dict:
    inner = {"train": list(train), "validation": list(validation)}
    return {"test": list(test), "model_selection": [inner]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON"),
        ({"test": [0]}, "list of folds"),
        ([fold()], "1 folds, and --folds asks for 2"),
        ([fold(), {"test": [0]}], "fold 1: there is no 'model_selection'"),
        ([fold(), {**fold(), "model_selection": []}], "fold 1: expected"),
        ([fold(), {"model_selection": [{"train": [0], "validation": [1]}]}], "no 'test'"),
        ([fold(), [1, 2]], "fold 1: expected"),
        ([fold(test=[60]), fold()], "fold 0: 60 in 'test' is not a graph index"),
        ([fold(test=[-1]), fold()], "-1 in 'test'"),
        ([fold(test=[0.5]), fold()], "0.5 in 'test'"),
        ([fold(test=[]), fold()], "not empty"),
        ([fold(test=[1]), fold()], "graph 1 is in 'train' and in 'test'"),
        ([fold(train=[2]), fold()], "graph 2 is in 'train' and in 'validation'"),
        ([fold(train=[0, 0]), fold()], "graph 0 is in 'train' and in 'train'"),
    ],
)
def test_broken_splits_are_one_line(content, expected, tmp_path, capsys):
    path = tmp_path / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = ["--num-graphs", 60, "--folds", 2, "--splits", path, "--out", tmp_path / "out"]
    assert expected in one_line_error(capsys, *arguments)


def test_missing_splits_are_one_line(tmp_path, capsys):
    assert "cannot read the splits" in one_line_error(capsys, *SMALL, "--splits", tmp_path / "no")


@pytest.mark.parametrize("flag", ["--out", "--picture"])
def test_an_output_path_below_a_file_is_one_line(flag, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [*SMALL, "--out", tmp_path / "out", flag, tmp_path / "file" / "below"]
    assert "cannot write" in one_line_error(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fold", "3"],
        ["--fold", "x"],
        ["--pool", "none", "--assign-gnn"],
        ["--pool", "mincut", "--ratio", "0.5"],
        ["--losses", "none", "link"],
        ["--num-clusters", "0"],
        ["--num-clusters"],
        ["--ratio", "1"],
        ["--pool", "nothing"],
        ["--folds", "50"],
        ["--precision", "3-bit"],
        ["--accelerator", "abacus"],
        ["--unknown"],
    ],
)
def test_wrong_flags_are_one_line(arguments, tmp_path, capsys):
    one_line_error(capsys, *SMALL, "--out", tmp_path, *arguments)


def test_a_wrong_call_ends_in_status_2_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    finished = subprocess.run(
        command(*SMALL, "--out", tmp_path / "file" / "below"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: cannot write to --out")
    assert len(finished.stderr.splitlines()) == 1


def test_help_shows_every_pooler_and_defaults(capsys):
    with pytest.raises(SystemExit):
        tu_classification.main(["--help"])
    text = capsys.readouterr().out
    assert all(pool in text for pool in POOLERS)
    assert "default: 16 4" in text
    assert "examples:" in text
