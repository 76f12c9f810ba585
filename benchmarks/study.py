"""The study: what sampling gains and costs in accuracy, memory, use of clusters, and depth.

It drives the code of examples/: same network, number of parameters (±5 %), optimiser, epochs and
folds for every pooler; learning rate and weight of losses are chosen on validation accuracy, from
the same number of trials. Each (dataset, setting, fold, seed) is a process of its own and one
line of OUT/study.jsonl; a finished line is never run again, whichever experiment asks for it.

    python benchmarks/study.py --root DIR --splits DIR --only collapse
    python benchmarks/study.py --root DIR --splits DIR --only main --budget-minutes 120
    python benchmarks/study.py --root DIR --splits DIR --only cost --jobs 1
    python benchmarks/study.py --report-only
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from bench import read_results
from study_plan import DATASETS, EMBEDDED, EXPERIMENTS, FOLDS, PUBLISHED_SPLITS, Plan, Unit
from tqdm import tqdm

HERE = Path(__file__).parent


def child(unit: dict[str, Any], answer: Connection) -> None:
    """One run, in a process forked from a server that has imported everything."""
    study = multiprocessing.parent_process()
    assert study is not None

    def follow() -> None:
        wait_for([study.sentinel])
        os._exit(1)  # nobody would take the answer

    threading.Thread(target=follow, daemon=True).start()
    with open(os.devnull, "w") as quiet:
        sys.stderr = sys.stdout = quiet
        import study_run

        try:
            answer.send(study_run.run(unit))
        except Exception as error:  # a failure is a result, and says why
            answer.send({"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]})


class Study:
    """The finished lines, and how to get more of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.file = options.out / "study.jsonl"
        records = read_results(self.file, mend=not options.report_only)
        self.done = {record["key"]: record for record in records}
        self.before = set(self.done)
        self.plan = Plan(self.done, options.seed, options.folds, options.epochs)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["study_run"])

    def wanted(self) -> Iterator[Unit]:
        """What is not done yet, in the order of the experiments."""
        seen = {
            key
            for key, record in self.done.items()
            if not ("failed" in record and self.options.retry_failed and key in self.before)
        }
        for experiment in self.options.only:
            plan, datasets = EXPERIMENTS[experiment]
            for dataset in datasets:
                if dataset in self.options.datasets:
                    for unit in plan(self.plan, dataset):
                        if unit.key not in seen:
                            seen.add(unit.key)
                            yield unit

    def run(self, unit: Unit) -> dict[str, Any]:
        """One process."""
        options = self.options
        dataset = unit.flags[unit.flags.index("--dataset") + 1]
        published = options.splits / f"{dataset}.json" if dataset in PUBLISHED_SPLITS else None
        asked = {
            "flags": list(unit.flags),
            "fold": unit.fold,
            "root": str(options.root) if options.root else None,
            "splits": str(published) if published else None,
        }
        answers, answer = self.context.Pipe(duplex=False)
        process = self.context.Process(target=child, args=(asked, answer), daemon=True)
        started = time.time()
        process.start()
        answer.close()
        result: dict[str, Any] = {"failed": f"takes more than {options.timeout:g} s"}
        if answers.poll(options.timeout):
            try:
                result = answers.recv()
                process.join(60)
            except EOFError:
                process.join()
                result = {"failed": f"exit {process.exitcode}"}
        process.kill()
        process.join()
        self.before.discard(unit.key)
        about = {"key": unit.key, "dataset": dataset, "flags": asked["flags"], "fold": unit.fold}
        spent = {"jobs": options.jobs, "wall": round(time.time() - started, 1)}
        return about | result | spent

    def append(self, record: dict[str, Any]) -> None:
        """Adds a finished line."""
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[record["key"]] = record

    def run_all(self) -> None:
        """Everything that is wanted, until the time is up."""
        end = time.time() + 60 * self.options.budget_minutes
        running: dict[Future[dict[str, Any]], str] = {}
        with ThreadPoolExecutor(self.options.jobs) as pool, tqdm(unit="run") as bar:
            while True:
                # Asked anew each time, because trials decide what the main table runs.
                queue = [unit for unit in self.wanted() if unit.key not in running.values()]
                bar.total = bar.n + len(queue) + len(running)
                for unit in queue[: self.options.jobs - len(running)]:
                    if time.time() < end:
                        running[pool.submit(self.run, unit)] = unit.key
                        bar.set_postfix_str(unit.key)
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self.append(future.result())
                    del running[future]
                    bar.update()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, help="folder with TU datasets (none needed for `hierarchy`)")
    add("--splits", type=Path, help="folder of NAME.json with published folds")
    add("--out", type=Path, default=Path("runs/study"))
    add("--docs", type=Path, default=HERE.parent / "docs", help="where the report goes")
    add("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="EXPERIMENT",
        help=", ".join(EXPERIMENTS))  # fmt: skip
    add("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="NAME",
        help=", ".join(DATASETS))  # fmt: skip
    add("--folds", type=int, default=FOLDS, help="the most folds that an experiment takes")
    add("--epochs", type=int, help="the most epochs of a run, for a trial of the script")
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time, a thread each")
    add("--timeout", type=float, default=3600, help="seconds that a process may take")
    add("--budget-minutes", type=float, default=float("inf"), help="start nothing new after that")
    add("--report-only", action="store_true", help="write the report of what was run before")
    add("--retry-failed", action="store_true", help="run again what failed before")
    options = parser.parse_args()
    asked = {d for experiment in options.only for d in EXPERIMENTS[experiment][1]}
    asked &= set(options.datasets)
    if not options.report_only and asked - {EMBEDDED} and not options.root:
        parser.error(f"{', '.join(sorted(asked - {EMBEDDED}))} needs --root")
    if not options.report_only and asked & set(PUBLISHED_SPLITS) and not options.splits:
        parser.error(f"{', '.join(sorted(asked & set(PUBLISHED_SPLITS)))} needs --splits")
    if "cost" in options.only and options.jobs > 1 and not options.report_only:
        if options.only != list(EXPERIMENTS):
            parser.error("cost measures time: --jobs 1, and nothing else on the machine")
        options.only.remove("cost")
        print("cost is left out: it needs --only cost --jobs 1", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if not options.report_only:
            lock = stack.enter_context((options.out / "lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                parser.error(f"another study is writing to {options.out}")
        study = Study(options)
        if not options.report_only:
            # For the processes to come: where to import from, and one thread each.
            paths = [str(HERE), str(HERE.parent / "examples"), os.environ.get("PYTHONPATH", "")]
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            os.environ["OMP_NUM_THREADS"] = "1"
            study.run_all()
    from study_report import write_report

    print(write_report(study.plan, options.docs))


if __name__ == "__main__":
    main()
