"""What the tests of the node clustering share: how it is called, and what it wrote."""

import os
import re
import subprocess
import sys
from pathlib import Path

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import pytest
from classifier import ROOT, environment, results

from examples.node_clustering.command import main

__all__ = ["ROOT", "command", "environment", "main", "one_line_error", "results", "run"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.node_clustering", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess:
    """Run in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=False, timeout=170,
    )  # fmt: skip


def one_line_error(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Run in this process, and return what it says on failing."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("error: ", line)
    return line


def planetoid_root() -> Path:
    """The folder of Planetoid's graphs, where the tests are told one."""
    root = Path(os.environ.get("GUMBELPOOL_TEST_DATA", "nowhere")) / "planetoid"
    if not (root / "Cora").exists():
        pytest.skip("GUMBELPOOL_TEST_DATA does not name a folder with planetoid/Cora/raw/")
    return root
