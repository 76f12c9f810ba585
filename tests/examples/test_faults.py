"""The classifier under faults: a full disk, a pipe in place of a terminal, a run that is done.

A full disk is a small file system where one may be mounted, and a limit on the size of a file
everywhere: one of the two is never skipped.
"""

import fcntl
import os
import pty
import re
import resource
import shutil
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from classifier import ROOT, SMALL, command, environment, results, run, write_tu_dataset
from matplotlib.collections import LineCollection

from examples.classification.datasets import load
from examples.classification.described import build_model
from examples.classification.options import parser
from examples.classification.picture import draw_hierarchy

TINY = [*SMALL, "--epochs", "2"]
KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    may_mount = os.geteuid() == 0 and shutil.which("mount")
    if not may_mount or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system cannot be mounted here; the limit on files stands in for it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def run_limited(most: int, *arguments: object) -> subprocess.CompletedProcess:
    """Run where no file can grow beyond `most` bytes."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=False, timeout=170,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )  # fmt: skip


def the_error(failed: subprocess.CompletedProcess) -> str:
    """The one line that it ends with."""
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: cannot write ")
    assert "make room there, then the same command continues from here" in line
    return line


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(KIB))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_full_disk_leaves_a_line_and_nothing_half_written_and_the_command_resumes(tmp_path):
    out = tmp_path / "out"
    failed = run_limited(8 * KIB, *TINY, "--out", out)
    assert f"{out / 'fold-0.ckpt'}: File too large" in the_error(failed)
    assert names(out) == {"lock", "config.json"}

    # With room for the training, but not for the picture, the result stays.
    failed = run_limited(90 * KIB, *TINY, "--out", out)
    assert f"{out / 'hierarchy.png'}: File too large" in the_error(failed)
    assert names(out) == {"lock", "config.json", "fold-0.pt", "results.jsonl"}
    kept = results(out)

    done = run(*TINY, "--out", out)
    assert done.returncode == 0, done.stderr
    assert results(out) == kept
    assert (out / "hierarchy.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_in_the_middle_keeps_the_last_checkpoint(small_disk):
    filler = small_disk / "filler"
    arguments = [*SMALL, "--epochs", "300", "--patience", "300", "--out", small_disk]
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            if "epoch 3 " in line:
                break
        fill(filler)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("error: cannot write ")
    assert "No space left on device; make room there" in errors
    assert len(errors.splitlines()) == 1
    assert names(small_disk) == {"lock", "config.json", "fold-0.ckpt", "filler"}
    reached = torch.load(small_disk / "fold-0.ckpt", weights_only=True)["epoch"]
    assert reached >= 3

    filler.unlink()
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        first = next(line for line in process.stdout if "epoch" in line)
        process.kill()
    assert f"epoch {reached + 1} of 300" in first


def test_with_two_processes_a_full_disk_is_one_line_too(tmp_path):
    failed = run_limited(8 * KIB, *TINY, "--devices", "2", "--out", tmp_path / "out")
    assert failed.returncode == 2
    lines = [line for line in failed.stderr.splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    assert lines[0].startswith("error: cannot write ")
    assert "Traceback" not in failed.stderr
    assert names(tmp_path / "out") == {"lock", "config.json"}


def test_a_dataset_cut_short_by_a_full_disk_is_processed_again(tmp_path):
    write_tu_dataset(tmp_path, num_graphs=60)
    arguments = ["--dataset", "PLAIN", "--root", tmp_path, "--epochs", "1", "--folds", "3"]
    arguments += ["--out", tmp_path / "out"]
    failed = run_limited(KIB, *arguments)
    assert failed.returncode == 2
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot write {tmp_path / 'PLAIN'}: File too large; make room")
    assert names(tmp_path / "PLAIN") == {"raw"}
    (tmp_path / "PLAIN" / "processed").mkdir()
    (tmp_path / "PLAIN" / "processed" / "data.pt").write_bytes(b"as a kill leaves it")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr


def test_piped_output_comes_line_by_line_epoch_by_epoch(tmp_path):
    arguments = [*SMALL, "--epochs", "40", "--patience", "40", "--out", tmp_path]
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("hierarchy: 60 graphs")
        for epoch in (1, 2, 3):
            line = process.stdout.readline()
            assert re.match(rf"fold 0, epoch {epoch} of 40: loss [\d.]+, val [\d.]+, best", line)
        assert process.poll() is None  # said while it trains, not when it is done
        process.kill()


def test_on_a_terminal_there_is_a_bar_in_place_of_lines(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(
        command(*TINY, "--out", tmp_path), cwd=ROOT, env=environment(), stdout=theirs,
        stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"fold 0: 100%" in shown, shown
    assert b"epoch 1 of" not in shown


def test_a_finished_run_says_so_and_how_to_start_anew(tmp_path):
    first = run(*TINY, "--out", tmp_path)
    assert "nothing left to train" not in first.stdout
    before = (tmp_path / "results.jsonl").read_bytes()
    again = run(*TINY, "--out", tmp_path)
    assert again.returncode == 0
    assert f"the run in {tmp_path} is finished; to start anew, remove that folder" in again.stdout
    assert "epoch 1 of" not in again.stdout
    assert "test accuracy" in again.stdout
    assert (tmp_path / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("flags", [["gumbel"], ["diffpool"], ["gumbel", "--binary"], ["topk"]])
def test_the_picture_counts_the_nodes_and_edges_that_it_draws(flags: list[str]):
    torch.manual_seed(0)
    args = parser().parse_args([*SMALL, "--pool", *flags])
    dataset = load("hierarchy", None, num_graphs=10, seed=0)
    model = build_model(args, dataset)
    figure = draw_hierarchy(model, dataset.graphs, "", list("abcde"))
    assert figure.axes
    for panel in figure.axes:
        title = panel.get_title()
        nodes, edges = map(int, re.search(r": (\d+) nodes?, (\d+) edges?$", title).groups())
        lines = [
            tuple(sorted(map(tuple, segment)))
            for collection in panel.collections if isinstance(collection, LineCollection)
            for segment in collection.get_segments()
        ]  # fmt: skip
        assert len(set(lines)) == len(lines) == edges, title
        assert all(start != end for start, end in lines)
        dots = [c for c in panel.collections if not isinstance(c, LineCollection)]
        assert sum(len(np.asarray(dot.get_offsets())) for dot in dots) == nodes
    plt.close(figure)
