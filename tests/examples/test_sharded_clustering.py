"""The clustering of nodes with the graph sharded over real processes, started by torchrun."""

import re
import signal
import subprocess
import sys
import time

import torch
from clusterer import ROOT, environment, main, one_line_error, results

from examples.node_clustering.command import read_clusters

# After "--" torchrun takes no flag for its own, as it would --start.
TORCHRUN = [
    sys.executable,
    *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"],
]
SHARDED = [*TORCHRUN, "examples.node_clustering", "--sharded"]


def sharded(*arguments):
    """Run in two processes; what the main one printed."""
    done = subprocess.run(
        [*SHARDED, *map(str, arguments)], cwd=ROOT, env=environment(), capture_output=True,
        text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses_of(text):
    """What was printed of each epoch."""
    lines = re.findall(r"^seed 0, epoch \d+ of \d+: modularity (.*), balance (.*)$", text, re.M)
    return torch.tensor([[float(number) for number in line] for line in lines])


def test_two_processes_begin_as_one_does_and_one_of_them_writes(tmp_path, capsys):
    arguments = ["--epochs", 8, "--start", "kmeans", "--out"]
    assert main([*map(str, arguments), str(tmp_path / "one")]) == 0
    alone = losses_of(capsys.readouterr().out)
    together = losses_of(sharded(*arguments, tmp_path / "two"))
    assert together.shape == alone.shape == (8, 2)
    # Rounding may turn a draw, and from then on runs differ.
    torch.testing.assert_close(together[:4], alone[:4], rtol=0, atol=0.0011)
    (line,) = results(tmp_path / "two")
    assert line["epochs"] == 8
    cluster = read_clusters(tmp_path / "two" / "seed-0.clusters")
    assert cluster.shape == (1000,)
    same = (cluster == read_clusters(tmp_path / "one" / "seed-0.clusters")).float().mean()
    assert same > 0.9


def test_other_methods_and_a_start_without_torchrun_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    message = one_line_error(capsys, "--sharded", "--method", "dmon", "--out", tmp_path)
    assert message == "error: --sharded has no meaning for --method dmon"
    message = one_line_error(capsys, "--sharded", "--out", tmp_path)
    assert "--sharded needs torchrun: torchrun --nproc-per-node 2 -m -- ex" in message


def test_stopped_with_two_processes_it_goes_on_with_one(tmp_path, capsys):
    arguments = ["--epochs", "400", "--out", str(tmp_path)]
    with subprocess.Popen(
        [*SHARDED, *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not (tmp_path / "seed-0.ckpt").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    assert (tmp_path / "seed-0.ckpt").exists()
    assert main(arguments) == 0
    first, *_, last = re.findall(r"^seed 0, epoch (\d+) of 400", capsys.readouterr().out, re.M)
    assert int(first) > 1
    assert last == "400"
    (line,) = results(tmp_path)
    assert line["nmi"] > 0.85
