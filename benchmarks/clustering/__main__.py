"""Measures clusterings of graphs of up to a million nodes, for docs/results.md.

Every measurement is a process of its own (``worker.py``) with a limit on its memory and its time. A
finished one is one line of ``OUT/results.jsonl`` and is not run again; one that was killed while it
trained goes on from its last epoch. What needed too much memory or time is a result too.

    python -m benchmarks.clustering --cases cora sbm 1e4-k100 --root DIR --seeds 0 1 2
    python -m benchmarks.clustering --cases 1e6-k100 --methods gumbel leiden kmeans --limit-gib 8
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ..common import DOCS, ROOT, append_line, read_lines
from ..processes import ask, build_once
from .cases import CASES
from .methods import METHODS
from .report import write_report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clustering", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=["sbm", "1e4-k100"], metavar="CASE",
        help=f"of {', '.join(CASES)}")  # fmt: skip
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
        help=f"of {', '.join(map(repr, METHODS))}")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=[0])
    add("--epochs", type=int, help="in place of the case's own")
    add("--root", type=Path, help="folder of Planetoid's graphs")
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path("runs/clustering"))
    add("--docs", type=Path, default=DOCS, help="where the report goes")
    add("--limit-gib", type=float, default=8, help="memory that a process may take")
    add("--timeout", type=float, default=3600, help="seconds that a process may take")
    add("--retry-failed", action="store_true", help="run again what failed")
    add("--report-only", action="store_true", help="write the report of what was measured before")
    return parser


def main() -> None:
    """Measures what has not been measured yet, and reports."""
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    done = read_lines(file, mend=not options.report_only)
    if options.retry_failed:
        done = [record for record in done if "failed" not in record]
    wanted = [
        {"case": case, "method": method, "seed": seed,
         "budget": options.epochs or CASES[case].budget.epochs}
        for case in options.cases for seed in options.seeds for method in options.methods
    ]  # fmt: skip
    known = [{key: record.get(key) for key in wanted[0]} for record in done]
    # What did not fit once will not fit with another seed.
    failed = {(record["case"], record["method"]) for record in done if "failed" in record}
    todo = [] if options.report_only else [key for key in wanted if key not in known]
    progress = tqdm(todo, disable=None if todo else True, unit="process")
    for key in progress:
        if (key["case"], key["method"]) in failed:
            continue
        progress.set_postfix_str(f"{key['case']}, {key['method']}, seed {key['seed']}")
        record = key | {"threads": options.threads} | measure(key, options)
        if "failed" in record:
            failed.add((key["case"], key["method"]))
        done.append(record)
        append_line(file, record)
    print(write_report(done, options.docs))


def measure(key: dict, options: argparse.Namespace) -> dict:
    """One measurement in a process of its own."""
    case = key["case"]
    file = options.out / "graphs" / f"{case}.pt"
    graph = build_once(file, lambda: CASES[case].build(options.root))
    name = "-".join(str(value) for value in key.values()).replace(" ", "_").replace(",", "")
    checkpoint = options.out / f"{name}.ckpt"
    command = [sys.executable, "-m", "benchmarks.clustering.worker", key["case"], key["method"]]
    command += ["--seed", str(key["seed"]), "--epochs", str(key["budget"])]
    command += ["--threads", str(options.threads), "--limit-gib", str(options.limit_gib)]
    command += ["--graph", str(graph.resolve()), "--checkpoint", str(checkpoint.resolve())]
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    record = ask(command, ROOT, {**os.environ, **threads}, options.timeout)
    if "failed" not in record:
        checkpoint.unlink(missing_ok=True)
    return record


if __name__ == "__main__":
    main()
