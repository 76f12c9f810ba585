"""Measures ``GumbelPool`` against its peers, and writes the tables and plots of docs/results.md.

Every measurement is a process of its own (``worker.py``). Peers take turns, for as many rounds as
asked for, so that whatever slows the machine down slows all of them; what is reported are ratios
within a round. A finished measurement is one line of ``OUT/results.jsonl`` and is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from cases import CASES
from peers import PEERS
from report import write_report
from tqdm import tqdm

HERE = Path(__file__).parent
OURS = "gumbelpool"
PACKAGE = {"tgp": "torch-geometric-pool"}


def peers_of(case: str) -> list[str]:
    """The peers that a case is measured with."""
    if case == "products":
        return [OURS]
    if case.startswith("growth") or not CASES[case].used:
        return [OURS, "composition", "floor"]
    return [peer for peer in PEERS if peer != "floor" or case.startswith("wide")]


def measure(case: str, peer: str, threads: int, graphs: Path | None, options) -> dict:  # noqa: ANN001
    """One measurement; a failure is a result too, and says what happened."""
    command = [sys.executable, str(HERE / "worker.py"), case, peer]
    command += ["--threads", str(threads), "--limit-gib", str(options.limit_gib)]
    if graphs is not None:
        command += ["--graphs", str(graphs)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=options.timeout
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"takes more than {options.timeout:g} s"}
    if done.returncode < 0:
        return {"failed": f"killed by signal {-done.returncode}, most likely for its memory"}
    if done.returncode > 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        missing = next((name for key, name in PACKAGE.items() if f"'{key}" in last[0]), None)
        if missing is not None and "ModuleNotFoundError" in last[0]:
            return {"failed": f"{missing} is not installed"}
        return {"failed": last[0]}
    return json.loads(done.stdout.splitlines()[-1])


def read_results(file: Path, mend: bool = True) -> list[dict]:
    """The finished measurements; a last line that a kill cut short is taken out of the file.

    `mend` leaves the file alone where it is false: the line may be on its way.
    """
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        if mend:
            file.write_text("".join(lines))
    return [json.loads(line) for line in lines]


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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER")
    add("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1], help="1 and all cores")
    add("--rounds", type=int, default=3)
    add(
        "--root",
        type=Path,
        help="folder with TU datasets (else graphs of their size are generated)",
    )
    add("--out", type=Path, default=Path("runs/bench"))
    add("--docs", type=Path, default=HERE.parent / "docs", help="where the report goes")
    add("--limit-gib", type=float, default=21, help="memory that a process may take")
    add("--timeout", type=float, default=900, help="seconds that a process may take")
    add("--report-only", action="store_true", help="write the report of what was measured before")
    options = parser.parse_args()

    file = options.out / "results.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    done = read_results(file, mend=not options.report_only)
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
        record |= measure(case, peer, threads, graphs, options) | {"time": time.time()}
        if "failed" in record:
            failed.add((threads, case, peer))
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        done.append(record)
    print(write_report(done, options.docs))


if __name__ == "__main__":
    main()
