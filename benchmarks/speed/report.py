"""Turns measurements into the tables and plots of docs/results.md."""

import statistics
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ..common import median_range, replace_section, save_figure
from .cases import CASES, GROWTH_CLUSTERS, GROWTH_NODES
from .peers import FLOORS, OURS


class Bar(NamedTuple):
    """What was asked for: a ratio of the medians, on each of the cases, single-threaded."""

    cases: tuple[str, ...]
    peer: str
    what: str  # "faster" and "less memory" are peer / ours, "of its time" is ours / peer
    bound: float


BARS = [
    Bar(("proteins", "dd", "skewed"), "composition", "faster", 2),
    Bar(("many-small",), "composition", "faster", 1.5),
    Bar(("proteins", "skewed"), "tgp diff_u", "faster", 6),
    Bar(("dd",), "tgp diff_u", "faster", 4),
    Bar(("proteins", "dd-128"), "PyG diff", "faster", 25),
    Bar(("proteins", "dd-128"), "PyG diff", "less memory", 5),
    Bar(("dd",), "PyG diff", "faster", 15),
    Bar(("wide",), "composition", "faster", 5),
    Bar(("wide",), "composition", "less memory", 12),
    Bar(("wide-unused",), "composition", "faster", 6),
    Bar(("wide-unused",), "floor + 2 products", "of its time", 2),
]
COLOURS = {"gumbelpool": "#0072B2", "composition": "#D55E00", "floor": "#999999"}
MARKS = {"gumbelpool": "o", "composition": "s", "floor": "^"}


class Results:
    """Measurements by (threads, case, peer), a list of rounds each."""

    def __init__(self, records: list[dict]) -> None:
        self.rounds: dict[tuple[int, str, str], dict[int, dict]] = {}
        self.failed: dict[tuple[int, str, str], str] = {}
        for record in records:
            key = record["threads"], record["case"], record["peer"]
            if "failed" in record:
                self.failed[key] = record["failed"]
            else:
                self.rounds.setdefault(key, {})[record["round"]] = record
        self.threads = sorted({key[0] for key in self.rounds})

    def median(self, key: tuple[int, str, str], field: str) -> float | None:
        """Median over the rounds of a field, or of ``seconds``."""
        values = [value(record, field) for record in self.rounds.get(key, {}).values()]
        return statistics.median(values) if values else None

    def ratios(self, threads: int, case: str, peer: str, field: str) -> list[float]:
        """Peer / ours, round by round."""
        ours = self.rounds.get((threads, case, OURS), {})
        theirs = self.rounds.get((threads, case, peer), {})
        return [
            value(theirs[turn], field) / value(ours[turn], field)
            for turn in sorted(ours.keys() & theirs.keys())
        ]


def value(record: dict, field: str) -> float:
    """A field of a measurement; ``seconds`` are those of a whole step."""
    return record["forward"] + record["backward"] if field == "seconds" else record[field]


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bytes(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"


def case_table(results: Results, case: str) -> list[str]:
    """One case: all peers, single-threaded and with all cores."""
    peers = list(dict.fromkeys(key[2] for key in results.rounds if key[1] == case))
    peers += [key[2] for key in results.failed if key[1] == case and key[2] not in peers]
    if not peers:
        return []
    record = next(
        record for key, rounds in results.rounds.items() if key[1] == case
        for record in rounds.values()
    )  # fmt: skip
    lines = [
        f"**{case}**: {CASES[case].what}, K={CASES[case].num_clusters:,}"
        f" (graphs: {record['input']}).",
        "",
        "| | threads | forward | backward | time, ours = 1 | peak memory | memory, ours = 1 |"
        " pooled edges |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for peer in peers:
        for threads in results.threads:
            key = threads, case, peer
            if key in results.failed:
                lines.append(f"| {peer} | {threads} | {results.failed[key]} | | | | | |")
            if key not in results.rounds:
                continue
            lines.append(
                f"| {peer} | {threads} | {_seconds(results.median(key, 'forward'))}"
                f" | {_seconds(results.median(key, 'backward'))}"
                f" | {median_range(results.ratios(*key, 'seconds'))}"
                f" | {_bytes(results.median(key, 'peak_bytes'))}"
                f" | {median_range(results.ratios(*key, 'peak_bytes'))}"
                f" | {int(results.median(key, 'pooled_edges') or 0):,} |"
                if peer not in FLOORS
                else f"| {peer} | {threads} | {_seconds(results.median(key, 'seconds'))} | "
                f" | {median_range(results.ratios(*key, 'seconds'))} | | | |"
            )
    return [*lines, ""]


def bars_table(results: Results, threads: int) -> list[str]:
    """What was asked for beside what was measured."""
    lines = ["| case | against | bar | measured | |", "|---|---|---|---|---|"]
    for cases, peer, what, bound in BARS:
        for case in cases:
            field = "peak_bytes" if what == "less memory" else "seconds"
            below = what == "of its time"
            ratios = results.ratios(threads, case, peer, field)
            if below:
                ratios = [1 / ratio for ratio in ratios]
            asked = f"| {case} | {peer} | {'≤' if below else '≥'} {bound} times {what}"
            if not ratios:
                shown = results.failed.get((threads, case, peer), "not measured")
                lines.append(f"{asked} | {shown} | |")
                continue
            middle = statistics.median(ratios)
            met = middle <= bound if below else middle >= bound
            lines.append(f"{asked} | {median_range(ratios)} | {'met' if met else '**missed**'} |")
    for count in results.threads[::-1]:
        rounds = results.rounds.get((count, "products", OURS))
        if rounds:
            ratios = [r["peak_bytes"] / r["input_bytes"] for r in rounds.values()]
            met = "met" if max(ratios) <= 3 else "**missed**"
            seconds = _seconds(results.median((count, "products", OURS), "seconds"))
            lines.append(
                f"| products | its input | completes, ≤ 3 times its bytes | {median_range(ratios)},"
                f" {seconds} with {count} threads | {met} |"
            )
            break
    for name, exponent, bound in exponents(results, threads):
        met = "met" if exponent <= bound else "**missed**"
        lines.append(f"| growth | {name} | exponent ≤ {bound} | {exponent:.2f} | {met} |")
    return [*lines, ""]


def _growth(results: Results, threads: int, axis: str, peer: str, field: str):  # noqa: ANN202
    sizes = GROWTH_NODES if axis == "n" else GROWTH_CLUSTERS
    points = [
        (size, results.median((threads, f"growth-{axis}{size}", peer), field)) for size in sizes
    ]
    return [(size, number) for size, number in points if number is not None]


def exponents(results: Results, threads: int) -> list[tuple[str, float, float]]:
    """Slopes of straight lines through the logarithms."""
    fits = []
    for name, axis, field, bound in (
        ("time in N", "n", "seconds", 1.05),
        ("time in K", "k", "seconds", 1.05),
        ("memory in K", "k", "peak_bytes", 0.3),
    ):
        points = _growth(results, threads, axis, OURS, field)
        if len(points) > 2:
            size, number = np.log(np.array(points)).T
            fits.append((name, float(np.polyfit(size, number, 1)[0]), bound))
    return fits


def plot_growth(results: Results, threads: int, file: Path) -> bool:
    """Time and memory against N and K, log-log."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    drawn = False
    for column, (axis, label) in enumerate(
        (("n", "nodes N (E = 10 N, K = 100)"), ("k", "clusters K (N = 10⁵, E = 10⁶)"))
    ):
        for row, (field, unit, scale) in enumerate(
            (("seconds", "forward and backward, s", 1), ("peak_bytes", "peak memory, MB", 1e-6))
        ):
            panel = panels[row][column]
            for peer in COLOURS:
                points = _growth(results, threads, axis, peer, field)
                if points and not (peer in FLOORS and field == "peak_bytes"):
                    x, y = zip(*points, strict=True)
                    label_of = "GumbelPool" if peer == OURS else peer
                    panel.loglog(
                        x, np.array(y) * scale, marker=MARKS[peer], color=COLOURS[peer],
                        label=label_of,
                    )  # fmt: skip
                    drawn = True
            panel.set_xlabel(label)
            panel.set_ylabel(unit)
            panel.grid(alpha=0.3)
    if drawn:
        panels[0][0].legend(frameon=False)
        save_figure(figure, file)
    plt.close(figure)
    return drawn


def write_report(records: list[dict], docs: Path) -> str:
    """Puts the report between its marks in docs/results.md, and gives its text."""
    results = Results(records)
    if not results.rounds:
        return "nothing was measured"
    threads = results.threads[0]
    lines = [
        "Ratios are within a round of interleaved processes: median (least–most) over the rounds.",
        "Memory is the high-water mark of the resident set above what the imports take, its input",
        "included. A floor has no memory or edges of its own: it only does arithmetic. A ratio",
        "without a spread is of a single round. The bars are checked single-threaded.",
        "",
        *bars_table(results, threads),
    ]
    if plot_growth(results, threads, docs / "growth.svg"):
        lines += ["![time and memory against N and K](growth.svg)", ""]
    for case in CASES:
        if not case.startswith("growth"):
            lines += case_table(results, case)
    text = "\n".join(lines).rstrip()
    replace_section(docs, "benchmark", text)
    return text
