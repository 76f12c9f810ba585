"""Where a step of ``GumbelPool`` spends its time, case by case, for docs/results.md.

Functions of the package are timed as they are called. Times are of whole calls: a stage within
another is indented below it. Beside them stands how many operations of torch a step makes, and one
of what a user would write without this library.
"""

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from cases import CASES
from peers import Setting, Step, composition, gumbelpool
from report import replace_section
from torch.utils._python_dispatch import TorchDispatchMode

from gumbelpool import (
    assignment,
    backward,
    edge_gradient,
    estimators,
    gradient,
    pool,
    products,
    sampling,
    streaming,
)

# (object, name, label): what is replaced by a timed version of itself.
STAGES = [
    (pool, "read_inputs", "check the inputs"),
    (streaming, "assign", "draw"),
    (sampling, "draw", "  invert the cumulative sum"),
    (assignment.Assignment, "merge_edges", "merge edges"),
    (streaming, "sum_rows", "pool features"),
    (backward, "_score_backward", "backward of the scores"),
    (assignment.Scorer, "softmax", "  softmax, here and in the draw"),
    (products.GraphProducts, "block", "  ⟨∂L/∂X', x⟩"),
    (edge_gradient.EdgeGradient, "add_to", "  edges' part of g"),
    (sampling, "exponential_noise", "  noise"),
    (estimators, "conditional_gumbel_softmax", "  softmax of the noisy logits"),
    (estimators, "softmax_vjp", "  its Jacobian"),
    (backward, "_add_exact", "  gradient of the entropy"),
    (gradient, "EdgeGradient", "order edges, make tables of G"),
]


def measure(case: str, root: Path | None, steps: int) -> dict[str, float]:
    """Seconds per step of each stage, and of the whole."""
    graphs = CASES[case].build(root)
    setting = Setting(CASES[case], graphs, graphs.features())
    step = gumbelpool(setting)
    for _ in range(2):
        step()[0].backward()
    spent: dict[str, float] = defaultdict(float)

    def timed(function, label):  # noqa: ANN001, ANN202
        @functools.wraps(function, updated=())
        def run(*arguments, **options):  # noqa: ANN002, ANN003, ANN202
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[label] += time.perf_counter() - start

        return run

    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in STAGES]
    for owner, name, label in STAGES:
        setattr(owner, name, timed(getattr(owner, name), label))
    try:
        for _ in range(steps):
            start = time.perf_counter()
            loss = step()[0]
            middle = time.perf_counter()
            loss.backward()
            spent["forward"] += middle - start
            spent["backward"] += time.perf_counter() - middle
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
    return {label: seconds / steps for label, seconds in spent.items()}


class Counter(TorchDispatchMode):
    """Counts the operations that it sees, those of the backward pass among them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):  # noqa: ANN001, ANN204
        self.count += 1
        return operation(*arguments, **(options or {}))


def operations(make: Callable[[Setting], Step], case: str, root: Path | None) -> int:
    """How many operations a step makes."""
    graphs = CASES[case].build(root)
    step = make(Setting(CASES[case], graphs, graphs.features()))
    step()[0].backward()
    with Counter() as counter:
        step()[0].backward()
    return counter.count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), metavar="CASE",
        default=["proteins", "dd", "many-small", "wide-unused", "wide", "wider-unused"],
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="folder with TU datasets")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--count-only", action="store_true", help="no times, only operations")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not options.count_only:
        columns = {}
        for case in options.cases:
            steps = options.steps if case.startswith("wide") else 20 * options.steps
            columns[case] = measure(case, options.root, steps)
        rows = [
            [label.replace("  ", "&nbsp;&nbsp;", 1) if label.startswith("  ") else label]
            + [f"{column.get(label, 0) * 1e3:.3g}" for column in columns.values()]
            for label in ["forward", "backward", *(label for _, _, label in STAGES)]
        ]
        title = "Milliseconds per step, one thread; stages within others are indented below them."
        write(options.docs, "stages", title, list(columns), rows)
    cases = [case for case in options.cases if not case.startswith("wider")]
    rows = [
        [name, *(f"{operations(make, case, options.root):,}" for case in cases)]
        for name, make in (("gumbelpool", gumbelpool), ("composition", composition))
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
