"""Turns measurements into the tables and the plot of docs/results.md."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ..common import median_range, replace_section, save_figure
from .cases import CASES
from .methods import FROM_KMEANS, METHODS, rates_of

Record = dict[str, Any]
Groups = dict[tuple[str, str], list[Record]]  # by case and method, a record per seed

OURS = ("gumbel", "gumbel" + FROM_KMEANS)
DMON = ("DMoN", "DMoN" + FROM_KMEANS)
STYLES = {
    "gumbel from k-means": ("#0072B2", "o", "GumbelPool"),
    "DMoN from k-means": ("#D55E00", "s", "DMoN, PyG"),
    "MinCut from k-means": ("#CC79A7", "D", "MinCut, PyG"),
    "DMoN, tgp from k-means": ("#E69F00", "^", "DMoN, tgp"),
    "MinCut, tgp from k-means": ("#009E73", "v", "MinCut, tgp"),
    "leiden": ("#777777", "x", "Leiden"),
    "kmeans": ("#56B4E9", "+", "k-means"),
}


def grouped(records: list[Record]) -> tuple[Groups, dict[tuple[str, str], str]]:
    """What was measured, the last of each seed, and what failed and why."""
    found: dict[tuple[str, str], dict[int, Record]] = {}
    failed = {}
    for record in records:
        key = record["case"], record["method"]
        if "failed" in record:
            failed[key] = record["failed"]
        else:
            found.setdefault(key, {})[record["seed"]] = record
    return {key: list(seeds.values()) for key, seeds in found.items()}, failed


def mean(records: list[Record], field: str) -> float:
    """Over the seeds."""
    return statistics.mean(record[field] for record in records)


def _spread(records: list[Record], field: str) -> str:
    values = [record[field] for record in records]
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _seconds(records: list[Record], field: str) -> str:
    values = [record[field] for record in records if field in record]
    return f"{median_range([statistics.median(values)])} s" if values else "–"


def _bytes(records: list[Record], field: str) -> str:
    values = [record[field] for record in records if field in record]
    if not values:
        return "–"
    most = max(values)
    return f"{most / 1e6:.0f} MB" if most < 1e9 else f"{most / 1e9:.2f} GB"


def case_table(groups: Groups, failed: dict[tuple[str, str], str], case: str) -> list[str]:
    """All methods on one graph."""
    methods = [m for m in METHODS if (case, m) in groups or (case, m) in failed]
    first = next((groups[case, m][0] for m in methods if (case, m) in groups), None)
    if first is None:
        return []
    seeds = max(len(groups[case, m]) for m in methods if (case, m) in groups)
    lines = [
        f"**{case}**: {CASES[case].what}, {first['nodes']:,} nodes, {first['edges']:,} directed "
        f"edges, K = {CASES[case].num_clusters:,}; {first['budget']} epochs of what learns, "
        f"{seeds} seed{'s' if seeds > 1 else ''}.",
        "",
        "| | NMI | ARI | Q | before: NMI, Q | clusters used | epoch | in all | peak memory | "
        "layer alone |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        if (case, method) not in groups:
            lines.append(f"| {method} | {failed[case, method]} |" + " |" * 8)
            continue
        records = groups[case, method]
        total = [r["seconds"] + r.get("start_seconds", 0) for r in records]
        before = layer = "–"
        if "start_nmi" in records[0]:
            begun = (f"{mean(records, name):.3f}" for name in ("start_nmi", "start_modularity"))
            before = ", ".join(begun)
        if "layer_bytes" in records[0]:
            layer = f"{_seconds(records, 'layer_seconds')}, {_bytes(records, 'layer_bytes')}"
        lines.append(
            f"| {method} | {_spread(records, 'nmi')} | {_spread(records, 'ari')} | "
            f"{_spread(records, 'modularity')} | {before} | "
            f"{mean(records, 'clusters_used'):.0f} | "
            f"{_seconds(records, 'epoch_seconds')} | "
            f"{median_range([statistics.median(total)])} s | "
            f"{_bytes(records, 'peak_bytes')} | {layer} |"
        )
    return [*lines, ""]


def exponent(groups: Groups, num_clusters: int) -> float | None:
    """Slope of log(seconds per epoch) over log(edges), of planted partitions."""
    points = [
        (records[0]["edges"], statistics.median(r["epoch_seconds"] for r in records))
        for (case, method), records in groups.items()
        if method == OURS[1] and case in planted(num_clusters)
    ]
    if len(points) < 3:
        return None
    edges, seconds = np.log(np.array(sorted(points))).T
    return float(np.polyfit(edges, seconds, 1)[0])


def planted(num_clusters: int) -> list[str]:
    """The planted partitions with so many clusters, from small to large."""
    return [c for c in CASES if c.startswith("1e") and CASES[c].num_clusters == num_clusters]


def tuned(groups: Groups, case: str, method: str) -> str | None:
    """The method at that of its rates which has the highest modularity: no labels are asked."""
    measured = [name for name in rates_of(method) if (case, name) in groups]
    return max(measured, key=lambda name: mean(groups[case, name], "modularity"), default=None)


def bars(groups: Groups) -> list[str]:
    """What was asked for beside what was measured."""
    lines = ["| case | bar | measured | |", "|---|---|---|---|"]

    def row(case: str, bar: str, shown: str, met: bool) -> None:
        lines.append(f"| {case} | {bar} | {shown} | {'met' if met else '**missed**'} |")

    for case in CASES:
        for method, other in zip(OURS, DMON, strict=True):
            ours, theirs = tuned(groups, case, method), tuned(groups, case, other)
            if ours is None or theirs is None:
                continue
            for field, name in (("nmi", "NMI"), ("modularity", "Q")):
                here, there = mean(groups[case, ours], field), mean(groups[case, theirs], field)
                shown = f"{here:.3f} against {there:.3f}"
                row(case, f"{ours}: {name} at least {theirs}'s", shown, here >= there)
    for case in CASES:
        here, there = groups.get((case, OURS[1])), groups.get((case, "leiden"))
        if case.startswith("1e6") and here and there:
            found, bound = mean(here, "nmi"), mean(there, "nmi")
            shown = f"{found:.3f}, Leiden {bound:.3f}"
            row(case, "NMI ≥ 0.95 where Leiden has it", shown, found >= 0.95 or bound < 0.95)
            peak = max(record["peak_bytes"] for record in here)
            row(case, "under 8 GB with the network", f"{peak / 1e9:.2f} GB", peak < 8e9)
    for num_clusters in (100, 1000):
        slope = exponent(groups, num_clusters)
        if slope is not None:
            name = f"planted, K = {num_clusters:,}"
            row(name, "time per epoch linear in E: exponent ≤ 1.1", f"{slope:.2f}", slope <= 1.1)
    return [*lines, ""] if len(lines) > 2 else []


def plot(groups: Groups, file: Path, num_clusters: int = 100) -> bool:
    """Time per epoch, time in all, and peak memory against the edges, log-log."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    drawn = False
    for panel, (label, value) in zip(panels, PANELS.items(), strict=True):
        for method, (colour, marker, name) in STYLES.items():
            points = []
            for case in planted(num_clusters):
                for record in groups.get((case, method), [])[:1]:
                    if value(record) is not None:
                        points.append((record["edges"], value(record)))
            if points:
                drawn = True
                panel.loglog(*zip(*points, strict=True), marker=marker, color=colour, label=name)
        panel.set_xlabel(f"directed edges E (N ≈ E / 9, K = {num_clusters:,})")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    if drawn:
        panels[2].legend(frameon=False, fontsize=8)
        save_figure(figure, file)
    plt.close(figure)
    return drawn


PANELS = {
    "seconds per epoch": lambda record: record.get("epoch_seconds"),
    "seconds in all": lambda record: record["seconds"] + record.get("start_seconds", 0),
    "peak memory, MB": lambda record: record["peak_bytes"] / 1e6,
}


def write_report(records: list[Record], docs: Path) -> str:
    """Puts the report between its marks in docs/results.md, and gives its text."""
    groups, failed = grouped(records)
    if not groups:
        return "nothing was measured"
    lines = bars(groups)
    if plot(groups, docs / "clustering.svg"):
        lines += ["![time and memory against the edges](clustering.svg)", ""]
    for case in CASES:
        lines += case_table(groups, failed, case)
    text = "\n".join(lines).rstrip()
    replace_section(docs, "clustering", text)
    return text
