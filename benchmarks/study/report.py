"""Writes the tables and plots of the study into docs/."""

from pathlib import Path

from ..common import replace_section
from . import plots
from .experiments import EXPERIMENTS
from .main_tables import accuracy_table, cost_table, edges_table, test_table
from .plan import Plan
from .pooling_tables import pooling_tables
from .results import main_runs
from .setting_tables import (
    collapse_table,
    crispness_table,
    crossed_table,
    depth_table,
    drawn_table,
    empty_table,
    fine_table,
    recipes_table,
    samples_table,
    temperature_table,
    tuning_table,
)


def write_report(plan: Plan, docs: Path) -> str:
    """Puts each table between its marks in docs/results.md, and gives all their text."""
    runs = main_runs(plan)
    sections = {
        "study": [
            *accuracy_table(runs),
            *test_table(runs),
            *edges_table(runs),
            *failures(plan),
        ],
        "study cost": cost_table(plan),
        "study pooling": pooling_tables(plan),
    }
    for name, make in (
        ("tuning", tuning_table),
        ("samples", samples_table),
        ("collapse", collapse_table),
        ("crossed", crossed_table),
        ("recipes", recipes_table),
        ("empty", empty_table),
        ("fine", fine_table),
        ("temperature", temperature_table),
        ("depth", depth_table),
    ):
        _, datasets = EXPERIMENTS[name]
        sections[f"study {name}"] = [line for d in datasets for line in make(plan, d)]
    sections["study samples"] += drawn_table(plan)
    sections["study crispness"] = [
        line for dataset, found in runs.items() for line in crispness_table(dataset, found)
    ]
    texts = []
    for name, lines in sections.items():
        if lines:
            texts.append("\n".join(lines).rstrip())
            replace_section(docs, name, texts[-1])
    plots.draw_all(plan, runs, docs)
    return "\n\n".join(texts)


def failures(plan: Plan) -> list[str]:
    """What did not run, and why."""
    return [
        f"- failed: `{' '.join(record['flags'])}`, fold {record['fold']}: {record['failed']}"
        for record in plan.done.values()
        if "failed" in record
    ]
