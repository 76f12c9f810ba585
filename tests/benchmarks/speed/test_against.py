"""Two checkouts are compared by the same worker, each with a package of its own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import ROOT
from benchmarks.speed.against import row
from benchmarks.speed.processes import measure

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def against(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.speed.against", folder, *arguments]
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


@linux
def test_a_package_that_sleeps_is_found_slower(tmp_path):
    shutil.copytree(ROOT / "gumbelpool", tmp_path / "gumbelpool")
    with (tmp_path / "gumbelpool" / "__init__.py").open("a") as file:
        file.write(
            "\nimport time\n"
            "_forward = GumbelPool.forward\n"
            "GumbelPool.forward = lambda *a, **k: time.sleep(0.5) or _forward(*a, **k)\n"
        )
    here = tmp_path / "here"
    shutil.copytree(ROOT / "gumbelpool", here / "gumbelpool")
    done = against(tmp_path, "--here", here, "--cases", "growth-n1000", "--rounds", 2)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| growth-n1000"))
    forward, backward, total, memory = (
        [float(number.replace(",", "")) for number in re.findall(r"[\d.,]+", cell)]
        for cell in line.split("|")[2:6]
    )
    assert len(forward) == 3  # median, least and most
    assert min(forward) > 5
    assert forward[0] > total[0] > 1
    assert 0.2 < backward[0] < 5
    assert 0.5 < memory[0] < 2


@linux
def test_a_measurement_says_which_package_and_backend_it_is_of(tmp_path):
    shutil.copytree(ROOT / "gumbelpool", tmp_path / "gumbelpool")
    with (tmp_path / "gumbelpool" / "__init__.py").open("a") as file:
        file.write("\nbackend = lambda: 'made up'\n")
    record = measure(
        "growth-n1000", "gumbelpool", threads=1, graphs=None, limit_gib=8, timeout=300,
        package=tmp_path,
    )  # fmt: skip
    assert record["package"] == str(tmp_path / "gumbelpool")
    assert record["backend"] == "made up"


def test_a_folder_without_the_package_is_refused(tmp_path):
    done = against(tmp_path)
    assert done.returncode == 2
    assert "there is no gumbelpool/" in done.stderr


def test_what_failed_is_said_in_its_row():
    pairs = [{"here": {"forward": 1.0, "backward": 1.0}, "there": {"failed": "no memory"}}]
    assert row("wide", pairs) == "| wide | there: no memory | | | | | |"
