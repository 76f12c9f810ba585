"""The clustering of nodes, run: every method, killed and continued, and what it refuses."""

import importlib.util
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from clusterer import ROOT, command, environment, main, one_line_error, planetoid_root, results, run

from examples.node_clustering.command import read_clusters
from examples.node_clustering.graphs import PARTS
from examples.node_clustering.options import LEARNED

KEYS = {
    *("dataset", "method", "seed", "num_clusters", "nmi", "ari", "accuracy", "modularity"),
    *("conductance", "clusters_used", "epochs", "seconds"),
}
NEEDS = {"leiden": "igraph", "metis": "pymetis"}


def test_the_default_run_finds_the_planted_clusters_within_a_minute(tmp_path):
    start = time.monotonic()
    done = run("--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 60
    assert "Warning" not in done.stderr
    (result,) = results(tmp_path)
    assert result.keys() == KEYS
    assert result["nmi"] > 0.85
    assert result["modularity"] > 0.55
    assert result["clusters_used"] == 8
    assert "epoch 1 of 100: modularity" in done.stdout
    assert (tmp_path / "clustering.png").read_bytes().startswith(b"\x89PNG")
    assert read_clusters(tmp_path / "seed-0.clusters").shape == (1000,)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("method", [*LEARNED, "kmeans", "leiden", "metis"])
def test_every_method_writes_a_line_for_each_seed(method, tmp_path, capsys):
    if method in NEEDS and importlib.util.find_spec(NEEDS[method]) is None:
        pytest.skip(f"{NEEDS[method]} is not installed")
    flags = ["--epochs", "3", "--start", "kmeans"] if method in LEARNED else []
    arguments = ["--method", method, "--seed", "1", "0", "--out", str(tmp_path), *flags]
    assert main(arguments) == 0
    lines = results(tmp_path)
    assert [(line["method"], line["seed"]) for line in lines] == [(method, 0), (method, 1)]
    for line in lines:
        assert line.keys() == KEYS
        assert 0 < line["nmi"] <= 1
    assert "± std" in capsys.readouterr().out


def test_a_graph_of_planetoid_is_read_where_its_files_are(tmp_path):
    out = tmp_path / "out"
    arguments = ["--dataset", "Cora", "--root", str(planetoid_root()), "--method", "kmeans"]
    assert main([*arguments, "--out", str(out)]) == 0
    (result,) = results(out)
    assert result["num_clusters"] == 7
    assert result["nmi"] > 0.4


def test_killed_at_random_moments_it_continues_to_the_same_clusters(tmp_path):
    arguments = ["--seed", "0", "1", "--epochs", "200"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*arguments, "--out", str(whole)]) == 0
    for sign in (broken / "seed-0.ckpt", broken / "results.jsonl"):
        with subprocess.Popen(
            command(*arguments, "--out", broken), cwd=ROOT, env=environment(),
            stdout=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            while not sign.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(random.random() * 0.5)
            process.send_signal(signal.SIGKILL)
    kept = (broken / "results.jsonl").read_bytes()
    done = run(*arguments, "--out", broken)
    assert done.returncode == 0, done.stderr
    assert (broken / "results.jsonl").read_bytes().startswith(kept)
    for seed in (0, 1):
        name = f"seed-{seed}.clusters"
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    shown = [{key: line[key] for key in KEYS - {"seconds"}} for line in results(whole)]
    assert shown == [{key: line[key] for key in KEYS - {"seconds"}} for line in results(broken)]


def test_a_finished_run_says_so_and_other_settings_are_refused(tmp_path, capsys):
    arguments = ["--epochs", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = (tmp_path / "results.jsonl").read_bytes()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "to start anew, remove that folder" in capsys.readouterr().out
    assert (tmp_path / "results.jsonl").read_bytes() == before
    message = one_line_error(capsys, *arguments, "--lr", "0.5")
    assert "lr: 0.01 there, 0.5 here" in message


@pytest.mark.parametrize(("method", "package"), NEEDS.items())
def test_a_missing_package_is_one_line(method, package, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = one_line_error(capsys, "--method", method, "--out", tmp_path)
    assert message == f"error: --method {method} needs {package}: pip install {package}"


def test_missing_and_broken_files_of_a_dataset_are_one_line(tmp_path, capsys):
    wanted = ["--dataset", "Cora", "--out", tmp_path / "out"]
    assert "needs --root" in one_line_error(capsys, *wanted)
    assert "ind.cora.x" in one_line_error(capsys, *wanted, "--root", tmp_path)
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    for part in PARTS:
        (raw / f"ind.cora.{part}").write_bytes(b"nonsense")
    assert "cannot read Cora" in one_line_error(capsys, *wanted, "--root", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dataset", "NO_SUCH"],
        ["--method", "nothing"],
        ["--method", "leiden", "--num-clusters", "3"],
        ["--method", "kmeans", "--epochs", "3"],
        ["--method", "dmon", "--losses", "link"],
        ["--method", "kmeans", "--no-batch-norm"],
        ["--num-clusters", "0"],
        ["--num-clusters", "1001"],
        ["--picture", "tree.svg"],
        ["--epochs", "x"],
        ["--unknown"],
    ],
)
def test_wrong_flags_are_one_line(arguments, tmp_path, capsys):
    one_line_error(capsys, "--out", tmp_path, *arguments)


def test_an_output_path_below_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = one_line_error(capsys, "--out", tmp_path / "file" / "below")
    assert "cannot write to --out" in message


def test_a_number_of_clusters_other_than_the_classes_is_taken(tmp_path):
    arguments = ["--num-clusters", "3", "--epochs", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert results(tmp_path)[0]["num_clusters"] == 3
    cluster = read_clusters(tmp_path / "seed-0.clusters")
    assert set(torch.unique(cluster).tolist()) <= {0, 1, 2}
