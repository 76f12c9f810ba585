"""Runs what the plan asks for and what is not done yet, each run in a process of its own."""

import argparse
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from tqdm import tqdm

from ..common import append_line, read_lines
from .experiments import EXPERIMENTS
from .plan import PUBLISHED_SPLITS, Plan, Unit


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
        from .run import run

        try:
            answer.send(run(unit))
        except Exception as error:  # a failure is a result, and says why
            answer.send({"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]})


class Study:
    """The finished lines, and how to get more of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.file = options.out / "study.jsonl"
        records = read_lines(self.file, mend=not options.report_only)
        self.done = {record["key"]: record for record in records}
        self.before = set(self.done)
        self.plan = Plan(self.done, options.seed, options.folds, options.epochs)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["benchmarks.study.run"])

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
        append_line(self.file, record)
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
