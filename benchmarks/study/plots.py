"""Draws the plots of the study for docs/: SVG, in colours that colour-blind readers can tell."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ..common import save_figure
from .experiments import EXPERIMENTS
from .plan import LEVELS, POOLERS, SAMPLES, Plan
from .results import Runs, accuracies, collect, standard_error, succeeded

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, PINK, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#777777",
)  # fmt: skip
Style = tuple[str, str, str]  # colour, line, label
SETTINGS: dict[str, Style] = {
    "gumbel": (BLUE, "-", "gumbel (link, entropy, balance)"),
    "losses: link, entropy": (SKY, "--", "gumbel, without balance"),
    "losses: none": (GREY, ":", "gumbel, no loss"),
    "head: orthogonal": (GREEN, "-.", "gumbel, orthogonal head"),
    "head: cosine": (PINK, "--", "gumbel, cosine head"),
    "diffpool": (ORANGE, "-", "diffpool"),
}
ESTIMATED: dict[str, Style] = {
    "gumbel": (BLUE, "-", "gumbel"),
    "estimator: gumbel_rao": (SKY, "--", "gumbel_rao"),
    "estimator: straight_through": (GREEN, "-.", "straight_through"),
    "estimator: gst": (PINK, "--", "gst"),
    "estimator: reinmax": (GREY, ":", "reinmax"),
    "diffpool": (ORANGE, "-", "diffpool"),
}
TRACED = {  # fields of a run's trace, and what the axis calls them
    "likeliest perplexity": "clusters in effect",
    "likeliest used": "clusters used",
    "likeliest largest_share": "largest share",
    "entropy": "entropy of a node",
}


def main_plot(runs: dict[str, Runs], file: Path) -> None:
    """Accuracy of every pooler on every dataset, with standard errors; gumbel's as a line."""
    if not runs:
        return
    figure, panels = plt.subplots(
        1, len(runs), figsize=(2.2 * len(runs) + 1, 4.2), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    names = list(POOLERS)
    for panel, (dataset, found) in zip(panels[0], runs.items(), strict=True):
        for row, name in enumerate(names):
            values = list(accuracies(found.get(name, {})).values())
            if values:
                colour = BLUE if name.startswith("gumbel") else GREY
                colour = ORANGE if name == "diffpool" else colour
                error = standard_error(values)
                panel.errorbar(np.mean(values), row, xerr=error, fmt="o", color=colour, ms=5)
                if name == "gumbel":
                    panel.axvline(np.mean(values), color=BLUE, alpha=0.3, zorder=0)
        panel.set_title(dataset, fontsize=10)
        panel.set_xlabel("test accuracy, %", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].invert_yaxis()
    save_figure(figure, file)


def samples_plot(plan: Plan, file: Path) -> None:
    """Accuracy against draws in testing, a line per number of draws in training."""
    datasets = EXPERIMENTS["samples"][1]
    found = {dataset: collect(plan, plan.samples(dataset)) for dataset in datasets}
    found = {dataset: runs for dataset, runs in found.items() if len(runs) > 1}
    if not found:
        return
    figure, panels = plt.subplots(
        1, len(found), figsize=(5 * len(found), 3.8), layout="constrained", squeeze=False
    )
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(SAMPLES)))
    for panel, (dataset, runs) in zip(panels[0], found.items(), strict=True):
        for turn, (name, folds) in enumerate(runs.items()):
            done = succeeded(folds).values()
            values = [[100 * r["sampled"][str(m)]["accuracy"] for r in done] for m in SAMPLES]
            panel.errorbar(
                np.array(SAMPLES) * 1.06 ** (turn - 2),  # side by side
                [np.mean(v) for v in values], [standard_error(v) for v in values],
                marker="osD^v"[turn], color=shades[turn], label=f"{name} in training", capsize=2,
            )  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.set_xticks(SAMPLES, map(str, SAMPLES))
        panel.set_xlabel("draws averaged in testing")
        panel.set_ylabel("test accuracy, %")
        panel.set_title(dataset)
        panel.grid(alpha=0.3)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save_figure(figure, file)


def collapse_plot(plan: Plan, styles: dict[str, Style], file: Path) -> None:
    """Use of the likeliest clusters and entropy of a node, epoch by epoch."""
    datasets = EXPERIMENTS["collapse"][1]
    found = {dataset: collect(plan, plan.collapse(dataset)) for dataset in datasets}
    found = {dataset: runs for dataset, runs in found.items() if runs}
    if not found:
        return
    figure, panels = plt.subplots(
        len(TRACED), len(found), figsize=(3.3 * len(found), 2.2 * len(TRACED)), sharex="col",
        sharey="row", layout="constrained", squeeze=False,
    )  # fmt: skip
    for column, (dataset, runs) in enumerate(found.items()):
        for row, (field, label) in enumerate(TRACED.items()):
            panel = panels[row][column]
            for name, (colour, style, label_of) in styles.items():
                mean = _mean_trace(runs.get(name, {}), field)
                panel.plot(range(len(mean)), mean, style, color=colour, label=label_of)
            panel.grid(alpha=0.3)
            panels[row][0].set_ylabel(label)
        panels[0][column].set_title(dataset)
        panels[-1][column].set_xlabel("epoch")
    for panel in panels[:, 0]:
        panel.set_ylim(bottom=0)  # of its whole row
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save_figure(figure, file)


def _mean_trace(folds: dict[int, dict[str, Any]], field: str) -> list[float]:
    """Mean over the folds, up to the shortest training."""
    traces = [[point[field] for point in record["trace"]] for record in succeeded(folds).values()]
    return [float(np.mean(points)) for points in zip(*traces, strict=False)]


def depth_plot(plan: Plan, file: Path) -> None:
    """Accuracy, memory and pooled edges against the number of levels."""
    datasets = EXPERIMENTS["depth"][1]
    found = {dataset: collect(plan, plan.depth(dataset)) for dataset in datasets}
    found = {dataset: runs for dataset, runs in found.items() if runs}
    if not found:
        return
    figure, panels = plt.subplots(
        len(found), 3, figsize=(9.5, 2.8 * len(found)), layout="constrained", squeeze=False
    )
    fields = (
        ("test accuracy, %", lambda record: 100 * record["test_accuracy"]),
        ("peak memory, MB", lambda record: record["peak_bytes"] / 1e6),
        ("pooled edges per graph", lambda record: sum(record["edges"][1:])),
    )
    for row, (dataset, runs) in enumerate(found.items()):
        for panel, (label, field) in zip(panels[row], fields, strict=True):
            for pool, colour, mark in (("gumbel", BLUE, "o"), ("diffpool", ORANGE, "s")):
                points = [
                    (levels, [field(r) for r in succeeded(runs[f"{pool}, {levels}"]).values()])
                    for levels in LEVELS
                    if succeeded(runs.get(f"{pool}, {levels}", {}))
                ]
                if points:
                    levels, values = zip(*points, strict=True)
                    errors = [standard_error(v) for v in values]
                    panel.errorbar(
                        levels, [np.mean(v) for v in values], errors, color=colour, marker=mark,
                        label=pool,
                    )  # fmt: skip
            panel.set_xlabel("pooling levels")
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            if not label.startswith("test"):
                panel.set_ylim(bottom=0)
        panels[row][0].set_title(dataset, loc="left")
    panels[0][0].legend(frameon=False)
    save_figure(figure, file)


def draw_all(plan: Plan, runs: dict[str, Runs], docs: Path) -> None:
    """Those plots for which there are runs."""
    main_plot(runs, docs / "accuracy.svg")
    samples_plot(plan, docs / "samples.svg")
    collapse_plot(plan, SETTINGS, docs / "collapse.svg")
    collapse_plot(plan, ESTIMATED, docs / "collapse-estimators.svg")
    depth_plot(plan, docs / "depth.svg")
