"""The example to copy from runs in both ways, learns, and has the network of the README."""

import inspect
import re
import subprocess
import sys

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import pytest
from classifier import ROOT, environment

from examples import minimal


@pytest.mark.parametrize("how", [["-m", "examples.minimal"], ["examples/minimal.py"]])
def test_the_minimal_example_learns(how):
    done = subprocess.run(
        [sys.executable, *how], cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    last = re.findall(r"test accuracy ([\d.]+) %", done.stdout)[-1]
    assert float(last) > 80  # of two classes


def test_its_network_is_the_readme_s():
    assert inspect.getsource(minimal.Net) in (ROOT / "README.md").read_text(encoding="utf-8")
