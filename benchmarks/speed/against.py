"""Compares the package of this checkout with that of another one, in time and memory.

    git worktree add ../before COMMIT
    python -m benchmarks.speed.against ../before --cases proteins wide --rounds 5

Each is installed into a folder of its own, its native part built, and measured by the same worker
in processes that take turns, so that whatever slows the machine down slows both. Printed are ratios
within a round, there / here: above 1, this checkout is faster, or takes less memory.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common import ROOT, median_range
from .cases import CASES
from .peers import OURS
from .processes import build_graphs, measure
from .report import value

FIELDS = {
    "forward": "forward", "backward": "backward", "seconds": "total", "peak_bytes": "peak memory",
}  # fmt: skip
Pair = dict[str, dict[str, Any]]  # the measurements of a round, here and there


def installed(checkout: Path, folder: Path) -> Path:
    """A folder with the package of a checkout; of one that is no checkout, itself."""
    if not (checkout / "pyproject.toml").exists():
        return checkout.resolve()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--target", str(folder), str(checkout)], check=True)
    return folder


def turns(case: str, packages: dict[str, Path], graphs: Path | None, options: Any) -> list[Pair]:
    """The rounds of a case."""
    pairs: list[Pair] = []
    for turn in range(options.rounds):
        pair: Pair = {}
        for side in sorted(packages, reverse=turn % 2 == 1):  # neither is always the first
            pair[side] = measure(
                case, OURS, threads=options.threads, graphs=graphs, limit_gib=options.limit_gib,
                timeout=options.timeout, package=packages[side],
            )  # fmt: skip
            used = pair[side].get("package")
            if used not in (None, str((packages[side] / OURS).resolve())):
                raise RuntimeError(f"measured {used} in place of that of {packages[side]}")
        pairs.append(pair)
    return pairs


def row(case: str, pairs: list[Pair]) -> str:
    """A case in the table, or why there is nothing to compare."""
    for pair in pairs:
        for side, record in pair.items():
            if "failed" in record:
                return f"| {case} | {side}: {record['failed']} |" + " |" * (len(FIELDS) + 1)
    ratios = [
        median_range(value(pair["there"], field) / value(pair["here"], field) for pair in pairs)
        for field in FIELDS
    ]
    milliseconds = median_range(1e3 * value(pair["here"], "seconds") for pair in pairs)
    backends = " / ".join(pairs[0][side].get("backend", "–") for side in ("there", "here"))
    return f"| {case} | " + " | ".join([*ratios, milliseconds, backends]) + " |"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("there", type=Path, metavar="FOLDER",
        help="another checkout, or a folder with an installed gumbelpool/")  # fmt: skip
    add("--here", type=Path, default=ROOT, metavar="FOLDER", help="in place of this checkout")
    add("--cases", nargs="+", choices=list(CASES), metavar="CASE",
        default=["proteins", "dd", "many-small", "skewed", "wide", "wide-unused"])  # fmt: skip
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--root", type=Path, help="folder of TU datasets (else graphs of their size are generated)")
    add("--limit-gib", type=float, default=21, help="memory that a process may take")
    add("--timeout", type=float, default=900, help="seconds that a process may take")
    return parser


def main() -> None:
    """Installs both, and prints a row per case."""
    arguments = parser()
    options = arguments.parse_args()
    for folder in (options.there, options.here):
        if not (folder / OURS / "__init__.py").exists():
            arguments.error(f"there is no {OURS}/ in {folder}")
    with tempfile.TemporaryDirectory() as work:
        packages = {
            side: installed(getattr(options, side), Path(work) / side) for side in ("here", "there")
        }
        head = ["there / here", *FIELDS.values(), "total here, ms", "backends"]
        print(f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|", flush=True)
        for case in tqdm(options.cases, unit="case", leave=False):
            graphs = build_graphs(case, Path(work), options.root)
            print(row(case, turns(case, packages, graphs, options)), flush=True)


if __name__ == "__main__":
    main()
