"""Where a step of ``GumbelPool`` spends its time, case by case, for docs/results.md.

Functions of the package are timed as they are called. Times are of whole calls: a stage within
another is indented below it.
"""

import argparse
import functools
import time
from collections import defaultdict
from pathlib import Path

import torch
from cases import CASES
from peers import Setting, gumbelpool
from report import replace_section

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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), metavar="CASE",
        default=["proteins", "dd", "many-small", "wide-unused", "wide", "wider-unused"],
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="folder with TU datasets")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = {}
    for case in options.cases:
        steps = options.steps if case.startswith("wide") else 20 * options.steps
        columns[case] = measure(case, options.root, steps)
    labels = ["forward", "backward", *(label for _, _, label in STAGES)]
    lines = [
        "Milliseconds per step, one thread; stages within others are indented below them.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for label in labels:
        cells = [f"{column.get(label, 0) * 1e3:.3g}" for column in columns.values()]
        name = label.replace("  ", "&nbsp;&nbsp;", 1) if label.startswith("  ") else label
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    replace_section(options.docs, "stages", "\n".join(lines))


if __name__ == "__main__":
    main()
