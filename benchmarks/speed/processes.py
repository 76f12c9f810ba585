"""A measurement is a process of its own: how it is started, and what becomes of its answer."""

import os
import sys
from pathlib import Path
from typing import Any

from ..common import ROOT
from ..processes import ask, build_once
from .cases import CASES


def build_graphs(case: str, folder: Path, root: Path | None) -> Path | None:
    """Builds the graphs once for all processes; the largest are generated where they are used."""
    if case == "products":
        return None
    return build_once(folder / f"{case}.pt", lambda: CASES[case].build(root))


def measure(
    case: str,
    peer: str,
    *,
    threads: int,
    graphs: Path | None,
    limit_gib: float,
    timeout: float,
    package: Path | None = None,
) -> dict[str, Any]:
    """One measurement; a failure is a result too, and says what happened.

    Args:
        case: On what.
        peer: Of what.
        threads: Of the process.
        graphs: The file of the case's graphs; without one they are generated.
        limit_gib: Memory that the process may take.
        timeout: Seconds that it may take.
        package: A folder with a gumbelpool/ to measure in place of the one that is installed.
    """
    python, environment = [sys.executable], dict(os.environ)
    if package is not None:
        # Without site, no editable installation answers in place of the folder.
        python.append("-S")
        paths = [str(package), str(ROOT), *filter(None, sys.path)]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [*python, "-m", "benchmarks.speed.worker", case, peer]
    command += ["--threads", str(threads), "--limit-gib", str(limit_gib)]
    if graphs is not None:
        command += ["--graphs", str(graphs.resolve())]
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return ask(command, package or ROOT, environment, timeout)
