"""The study: what sampling gains and costs in accuracy, memory, use of clusters, and depth.

It drives the code of examples/classification/: same network, number of parameters (±5 %),
optimiser, epochs and folds for every pooler; learning rate and weight of losses are chosen on
validation accuracy, from the same number of trials. Each (dataset, setting, fold, seed) is a
process of its own and one line of OUT/study.jsonl; a finished line is never run again, whichever
experiment asks for it.

    python -m benchmarks.study --root DIR --splits DIR --only collapse
    python -m benchmarks.study --root DIR --splits DIR --only main --budget-minutes 120
    python -m benchmarks.study --root DIR --splits DIR --only cost --jobs 1
    python -m benchmarks.study --root DIR --only pooling pooling-more --jobs 1
    python -m benchmarks.study --report-only
"""

import argparse
import fcntl
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from ..common import DOCS
from .experiments import ALL_DATASETS, EXPERIMENTS, WITHOUT_FILES
from .plan import FOLDS, PUBLISHED_SPLITS
from .report import write_report
from .runner import Study


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, help="folder with TU datasets (none needed for what is generated)")
    add("--splits", type=Path, help="folder of NAME.json with published folds")
    add("--out", type=Path, default=Path("runs/study"))
    add("--docs", type=Path, default=DOCS, help="where the report goes")
    add("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="EXPERIMENT",
        help=", ".join(EXPERIMENTS))  # fmt: skip
    add("--datasets", nargs="+", choices=ALL_DATASETS, default=list(ALL_DATASETS),
        metavar="NAME", help=", ".join(ALL_DATASETS))  # fmt: skip
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
    files = asked - WITHOUT_FILES
    if not options.report_only and files and not options.root:
        parser.error(f"{', '.join(sorted(files))} needs --root")
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
            os.environ["OMP_NUM_THREADS"] = "1"  # a thread for each of the processes to come
            study.run_all()
    print(write_report(study.plan, options.docs))


if __name__ == "__main__":
    main()
