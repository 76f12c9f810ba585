"""Measures ``GumbelPool`` against its peers, and writes the tables and plots of docs/results.md.

Every measurement is a process of its own (``worker.py``). Peers take turns, for as many rounds as
asked for, so that whatever slows the machine down slows all of them; what is reported are ratios
within a round. A finished measurement is one line of ``OUT/results.jsonl`` and is not run again.

    python -m benchmarks.speed.bench --cases wide --rounds 1
"""

import argparse
import os
import time
from pathlib import Path

from tqdm import tqdm

from ..common import DOCS, append_line, read_lines
from .cases import CASES
from .peers import FLOORS, OURS, PEERS
from .processes import build_graphs, measure
from .report import write_report


def peers_of(case: str) -> list[str]:
    """The peers that a case is measured with."""
    if case == "products":
        return [OURS]
    if case.startswith("growth"):
        return [OURS, "composition", "floor"]
    if not CASES[case].used:
        return [OURS, "composition", *FLOORS]
    return [peer for peer in PEERS if peer not in FLOORS or case.startswith("wide")]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER")
    add("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1], help="1 and all cores")
    add("--rounds", type=int, default=3)
    add("--root", type=Path, help="folder of TU datasets (else graphs of their size are generated)")
    add("--out", type=Path, default=Path("runs/bench"))
    add("--docs", type=Path, default=DOCS, help="where the report goes")
    add("--limit-gib", type=float, default=21, help="memory that a process may take")
    add("--timeout", type=float, default=900, help="seconds that a process may take")
    add("--report-only", action="store_true", help="write the report of what was measured before")
    return parser


def main() -> None:
    """Measures what has not been measured yet, and reports."""
    options = parser().parse_args()
    file = options.out / "results.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    done = read_lines(file, mend=not options.report_only)
    keys = {(r["round"], r["threads"], r["case"], r["peer"]) for r in done}
    # What did not fit once will not fit the next time.
    failed = {(r["threads"], r["case"], r["peer"]) for r in done if "failed" in r}
    wanted = [
        (turn, threads, case, peer)
        for turn in range(options.rounds)
        for case in options.cases
        for threads in dict.fromkeys(options.threads)
        for peer in peers_of(case)
        if peer in options.peers
    ]
    todo = [] if options.report_only else [key for key in wanted if key not in keys]
    progress = tqdm(todo, disable=not todo, unit="process")
    for turn, threads, case, peer in progress:
        if (threads, case, peer) in failed:
            continue
        progress.set_postfix_str(f"{case}, {peer}, {threads} threads")
        graphs = build_graphs(case, options.out / "graphs", options.root)
        record = {"round": turn, "threads": threads, "case": case, "peer": peer}
        record |= measure(
            case, peer, threads=threads, graphs=graphs, limit_gib=options.limit_gib,
            timeout=options.timeout,
        )  # fmt: skip
        if "failed" in record:
            failed.add((threads, case, peer))
        done.append(record | {"time": time.time()})
        append_line(file, done[-1])
    print(write_report(done, options.docs))


if __name__ == "__main__":
    main()
