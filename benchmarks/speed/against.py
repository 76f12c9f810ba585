"""Compares the package of this checkout with that of another folder, in time and memory.

    git worktree add ../before COMMIT
    python -m benchmarks.speed.against ../before --cases proteins wide --rounds 5

The same worker measures both, each in processes of its own that take turns, so that whatever slows
the machine down slows both. Printed are ratios within a round, there / here: above 1, this checkout
is faster, or takes less memory.
"""

import argparse
import os
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


def turns(case: str, packages: dict[str, Path], graphs: Path | None, options: Any) -> list[Pair]:
    """The rounds of a case."""
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pairs: list[Pair] = []
    for turn in range(options.rounds):
        pair: Pair = {}
        for side in sorted(packages, reverse=turn % 2 == 1):  # neither is always the first
            pair[side] = measure(
                case, OURS, threads=options.threads, graphs=graphs, limit_gib=options.limit_gib,
                timeout=options.timeout, start_in=packages[side], environment=environment,
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
                return f"| {case} | {side}: {record['failed']} |" + " |" * len(FIELDS)
    ratios = [
        median_range(value(pair["there"], field) / value(pair["here"], field) for pair in pairs)
        for field in FIELDS
    ]
    milliseconds = median_range(1e3 * value(pair["here"], "seconds") for pair in pairs)
    return f"| {case} | " + " | ".join(ratios) + f" | {milliseconds} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="holds another gumbelpool/")
    add("--cases", nargs="+", choices=list(CASES), metavar="CASE",
        default=["proteins", "dd", "many-small", "skewed", "wide", "wide-unused"])  # fmt: skip
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--root", type=Path, help="folder of TU datasets (else graphs of their size are generated)")
    add("--limit-gib", type=float, default=21, help="memory that a process may take")
    add("--timeout", type=float, default=900, help="seconds that a process may take")
    options = parser.parse_args()
    if not (options.folder / OURS / "__init__.py").exists():
        parser.error(f"there is no {OURS}/ in {options.folder}")
    print(f"| there / here | {' | '.join(FIELDS.values())} | total here, ms |")
    print("|---" * (len(FIELDS) + 2) + "|")
    with tempfile.TemporaryDirectory() as work:
        packages = {}
        for side, checkout in (("here", ROOT), ("there", options.folder)):
            # A folder with nothing but the package: the rest comes from this checkout.
            packages[side] = Path(work) / side
            packages[side].mkdir()
            (packages[side] / OURS).symlink_to((checkout / OURS).resolve())
        for case in tqdm(options.cases, unit="case", leave=False):
            graphs = build_graphs(case, Path(work), options.root)
            print(row(case, turns(case, packages, graphs, options)), flush=True)


if __name__ == "__main__":
    main()
