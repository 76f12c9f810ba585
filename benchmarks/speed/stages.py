"""Where a step of ``GumbelPool`` spends its time, case by case, for docs/results.md.

The package labels its stages by ``torch.profiler.record_function("gumbelpool/STAGE")``; each label
becomes a row, whatever there are. A stage within another counts for both. Beside them stands how
many operations of torch a step makes, and one of what a user would write without this library.

    python -m benchmarks.speed.stages --cases proteins --root DIR
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from gumbelpool import op

from ..common import DOCS, replace_section
from .cases import CASES
from .peers import Setting, Step, composition, gumbelpool

LABEL = "gumbelpool/"


@dataclass
class Stage:
    """What a step spends in a stage: seconds, and how often it gets there."""

    seconds: float = 0.0
    count: float = 0.0

    def __str__(self) -> str:
        times = "" if self.count == 1 else f" ×{self.count:.3g}"
        return f"{self.seconds * 1e3:.3g}{times}"


def stages(run: Callable[[], object], steps: int) -> dict[str, Stage]:
    """The labelled stages of a step by name, in the order in which they are reached first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            run()
    found: dict[str, Stage] = {}
    for event in sorted(profiled.events(), key=lambda event: event.time_range.start):
        if event.name.startswith(LABEL):
            stage = found.setdefault(event.name.removeprefix(LABEL), Stage())
            stage.seconds += event.cpu_time_total * 1e-6
            stage.count += 1
    return {name: Stage(s.seconds / steps, s.count / steps) for name, s in found.items()}


def whole(step: Step, steps: int) -> dict[str, Stage]:
    """The two halves of a step, without a profiler: it slows down what it looks at."""
    halves = {"forward": Stage(count=1), "backward": Stage(count=1)}
    for _ in range(steps):
        start = time.perf_counter()
        loss = step()[0]
        middle = time.perf_counter()
        loss.backward()
        halves["forward"].seconds += (middle - start) / steps
        halves["backward"].seconds += (time.perf_counter() - middle) / steps
    return halves


def measure(case: str, root: Path | None, steps: int) -> dict[str, Stage]:
    """The whole of a step, and its stages."""
    step = make_step(gumbelpool, case, root)
    for _ in range(2):
        step()[0].backward()
    return whole(step, steps) | stages(lambda: step()[0].backward(), steps)


def make_step(peer: Callable[[Setting], Step], case: str, root: Path | None) -> Step:
    """One step of a peer on a case."""
    graphs = CASES[case].build(root)
    return peer(Setting(CASES[case], graphs, graphs.features()))


INSIDE = {  # what the library's own operators are made of
    torch.ops.gumbelpool.pool.default: op.run,
    torch.ops.gumbelpool.pool_backward.default: op.run_backward,
}


class Counter(TorchDispatchMode):
    """Counts the operations that it sees, those of the backward pass among them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):  # noqa: ANN001, ANN204
        if operation in INSIDE:
            with self:
                return INSIDE[operation](*arguments)
        self.count += 1
        return operation(*arguments, **(options or {}))


def operations(peer: Callable[[Setting], Step], case: str, root: Path | None) -> int:
    """How many operations a step makes."""
    step = make_step(peer, case, root)
    step()[0].backward()
    with Counter() as counter:
        step()[0].backward()
    return counter.count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), metavar="CASE",
        default=["proteins", "dd", "many-small", "wide-unused", "wide", "wider-unused"],
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="folder with TU datasets")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--count-only", action="store_true", help="no times, only operations")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not options.count_only:
        columns = {}
        for case in options.cases:
            steps = options.steps if case.startswith("wide") else 20 * options.steps
            columns[case] = measure(case, options.root, steps)
        rows = [
            [name, *(str(column.get(name, "–")) for column in columns.values())]
            for name in dict.fromkeys(name for column in columns.values() for name in column)
        ]
        title = (
            "Milliseconds per step, one thread; ×n where a step gets to a stage n times. The\n"
            "first two rows are without the profiler, the stages with it."
        )
        write(options.docs, "stages", title, list(columns), rows)
    cases = [case for case in options.cases if not case.startswith("wider")]
    rows = [
        [name, *(f"{operations(peer, case, options.root):,}" for case in cases)]
        for name, peer in (("gumbelpool", gumbelpool), ("composition", composition))
    ]
    title = "Operations of torch per step, forward and backward."
    write(options.docs, "operations", title, cases, rows)


def write(docs: Path, section: str, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table, and puts it into docs/results.md."""
    lines = [title, "", "| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    print("\n".join(lines), end="\n\n")
    replace_section(docs, section, "\n".join(lines))


if __name__ == "__main__":
    main()
