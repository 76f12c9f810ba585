"""A measurement in a process of its own: the graphs it reads, and what becomes of its answer."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# Modules that may be missing, and what has them.
PACKAGES = {
    "tgp": "torch-geometric-pool",
    "torch_scatter": "torch-scatter",
    "igraph": "igraph",
    "pymetis": "pymetis",
}


def build_once(file: Path, build: Callable[[], object]) -> Path:
    """Builds the graphs of a case once for all processes; they are read as a dictionary."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(vars(build()), file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return file


def ask(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """Run, and read the last line of JSON; a failure is a result too, and says what happened."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
        )
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
