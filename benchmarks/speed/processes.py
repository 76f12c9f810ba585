"""A measurement is a process of its own: how it is started, and what becomes of its answer."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..common import ROOT
from .cases import CASES

PACKAGES = {"tgp": "torch-geometric-pool"}  # modules that may be missing, and what has them


def build_graphs(case: str, folder: Path, root: Path | None) -> Path | None:
    """Builds the graphs once for all processes; the largest are generated where they are used."""
    if case == "products":
        return None
    file = folder / f"{case}.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(vars(CASES[case].build(root)), file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return file


def measure(
    case: str,
    peer: str,
    *,
    threads: int,
    graphs: Path | None,
    limit_gib: float,
    timeout: float,
    start_in: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One measurement; a failure is a result too, and says what happened.

    The package that is measured is the one that a Python started in `start_in` imports.
    """
    command = [sys.executable, "-m", "benchmarks.speed.worker", case, peer]
    command += ["--threads", str(threads), "--limit-gib", str(limit_gib)]
    if graphs is not None:
        command += ["--graphs", str(graphs.resolve())]
    given = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            command, cwd=start_in, env={**os.environ, **(environment or {}), **given},
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"takes more than {timeout:g} s"}
    if done.returncode < 0:
        return {"failed": f"killed by signal {-done.returncode}, most likely for its memory"}
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        missing = next((name for key, name in PACKAGES.items() if f"'{key}" in last), None)
        if missing is not None and "ModuleNotFoundError" in last:
            return {"failed": f"{missing} is not installed"}
        return {"failed": last}
    return json.loads(done.stdout.splitlines()[-1])
