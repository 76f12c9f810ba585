"""The classifier, run: on small data, in all its forms, killed and continued."""

import os
import random
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch
from classifier import ROOT, SMALL, command, environment, results, run

from examples.classification.command import main
from examples.classification.poolers import POOLERS
from examples.classification.training import Trainer

KEYS = {
    *("dataset", "pool", "fold", "seed", "test_accuracy", "val_accuracy", "val_loss"),
    *("best_epoch", "epochs", "seconds", "nodes", "edges", "clusters_used"),
}


def without_seconds(lines: list[dict]) -> list[dict]:
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


@pytest.fixture
def test_data(tmp_path: Path) -> Path:
    folder = os.environ.get("GUMBELPOOL_TEST_DATA")
    if not folder:
        pytest.skip("GUMBELPOOL_TEST_DATA does not name a folder with ENZYMES.zip and splits/")
    with zipfile.ZipFile(Path(folder) / "ENZYMES.zip") as archive:
        archive.extractall(tmp_path / "root")
    return Path(folder)


@pytest.mark.parametrize("pool", POOLERS)
def test_every_pooler_trains_and_writes_a_valid_result(pool, tmp_path, capsys):
    out = tmp_path / "new" / pool
    status = main([*SMALL, "--pool", pool, "--epochs", "2", "--fold", "1", "--out", str(out)])
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
    assert main(arguments) == 0
    (result,) = results(out)
    assert result["nodes"][1] <= 0.1 * result["nodes"][0] + 1


def test_without_levels_there_is_one_readout(tmp_path):
    out = tmp_path / "out"
    arguments = [*SMALL, "--pool", "none", "--num-clusters", "--epochs", "1", "--out", str(out)]
    assert main(arguments) == 0
    (result,) = results(out)
    assert len(result["nodes"]) == len(result["edges"]) == 1
    assert result["clusters_used"] == []


def test_the_fine_path_is_a_flag(tmp_path):
    out = tmp_path / "out"
    assert main([*SMALL, "--fine-path", "--epochs", "1", "--out", str(out)]) == 0
    assert len(results(out)) == 1
    model = torch.load(out / "fold-0.pt", weights_only=True)
    assert any(name.startswith("fine.1.") for name in model)


def test_every_fold_has_its_line_and_the_table_their_mean(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*SMALL, "--pool", "none", "--epochs", "1", "--fold", "all", "--out", str(out)]
    assert main(arguments) == 0
    lines = results(out)
    assert [line["fold"] for line in lines] == [0, 1, 2]
    mean = 100 * sum(line["test_accuracy"] for line in lines) / 3
    assert f"test accuracy {mean:.1f} ±" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_result_and_another_seed_another(tmp_path):
    scores = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = [*SMALL, "--epochs", "2", "--seed", str(seed), "--out", str(tmp_path / name)]
        assert main(arguments) == 0
        scores.append(torch.load(tmp_path / name / "fold-0.pt", weights_only=True))
    same = [torch.equal(scores[0][key], scores[1][key]) for key in scores[0]]
    other = [torch.equal(scores[0][key], scores[2][key]) for key in scores[0]]
    assert all(same)
    assert not all(other)


def test_killed_at_random_moments_it_continues_to_the_same_results(tmp_path):
    arguments = [*SMALL, "--epochs", "8", "--fold", "0", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*arguments, "--out", str(whole)]) == 0

    def kill_after(sign: Path) -> None:
        with subprocess.Popen(
            command(*arguments, "--out", broken),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
        ) as process:
            while not sign.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(random.random() * 0.5)
            process.send_signal(signal.SIGKILL)

    kill_after(broken / "fold-0.ckpt")
    kill_after(broken / "results.jsonl")
    kept = (broken / "results.jsonl").read_bytes()
    finished = run(*arguments, "--out", broken)
    assert finished.returncode == 0, finished.stderr
    assert (broken / "results.jsonl").read_bytes().startswith(kept)  # finished folds: untouched
    assert without_seconds(results(broken)) == without_seconds(results(whole))
    for fold in (0, 1):
        expected = torch.load(whole / f"fold-{fold}.pt", weights_only=True)
        found = torch.load(broken / f"fold-{fold}.pt", weights_only=True)
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_finished_folds_are_not_repeated(tmp_path, monkeypatch):
    arguments = [*SMALL, "--pool", "none", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = (tmp_path / "results.jsonl").read_bytes()
    trained = []
    run = Trainer.run
    monkeypatch.setattr(
        Trainer, "run", lambda self, *rest: trained.append(rest[-1]) or run(self, *rest)
    )
    assert main([*arguments, "--fold", "0", "1"]) == 0
    assert trained == [1]
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)


def test_enzymes_trains_with_published_splits(test_data, tmp_path):
    out = tmp_path / "out"
    arguments = ["--dataset", "ENZYMES", "--root", str(tmp_path / "root"), "--epochs", "2"]
    arguments += ["--splits", str(test_data / "splits" / "ENZYMES.json"), "--out", str(out)]
    assert main([*arguments, "--accelerator", "cpu"]) == 0
    (result,) = results(out)
    assert result["dataset"] == "ENZYMES"
    assert result["nodes"][0] > 20
