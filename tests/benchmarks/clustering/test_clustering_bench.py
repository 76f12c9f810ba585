"""The benchmark of clustering runs, continues where it stopped, and writes what it measured."""

import json
import subprocess
import sys

import pytest

from benchmarks.clustering.report import bars, exponent, grouped, plot
from benchmarks.common import ROOT

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def bench(*arguments: object) -> None:
    command = [sys.executable, "-m", "benchmarks.clustering", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)


@linux
def test_it_measures_once_goes_on_and_reports(tmp_path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    common = ["--cases", "1e3-k10", "--epochs", 2, "--out", out, "--docs", docs]
    common += ["--methods", "gumbel from k-means", "DMoN from k-means", "kmeans"]
    bench(*common)
    first = (out / "results.jsonl").read_text().splitlines()
    learned, kmeans = map(json.loads, (first[0], first[-1]))
    assert [learned["method"], kmeans["method"]] == ["gumbel from k-means", "kmeans"]
    for record in (learned, kmeans):
        assert record["nmi"] > 0.5
        assert record["modularity"] > 0.4
        assert record["peak_bytes"] > 0
    assert learned["epochs"] == 2
    assert learned["epoch_seconds"] > 0
    assert learned["layer_seconds"] > 0
    assert not list(out.glob("*.ckpt"))

    # Half a line, as a kill leaves it: that measurement is made again, the others are not.
    (out / "results.jsonl").write_text("\n".join(first[:-1]) + "\n" + first[-1][:20])
    bench(*common)
    second = (out / "results.jsonl").read_text().splitlines()
    assert second[:-1] == first[:-1]
    assert json.loads(second[-1])["nmi"] == kmeans["nmi"]

    text = (docs / "results.md").read_text()
    assert "| kmeans | 0." in text
    assert "NMI at least DMoN from k-means's" in text
    bench(*common, "--report-only")
    assert (docs / "results.md").read_text() == text


@linux
def test_what_needs_too_much_memory_is_a_result_and_not_repeated(tmp_path):
    common = ["--cases", "1e4-k10", "--methods", "DMoN", "--epochs", 1, "--limit-gib", 0.3]
    bench(*common, "--out", tmp_path, "--docs", tmp_path, "--seeds", 0, 1)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["failed"] == "needs more than 0.3 GiB"


def record(case: str, method: str, seconds: float = 1.0, seed: int = 0, **rest: float) -> dict:
    numbers = {"nmi": 0.9, "modularity": 0.7, "edges": 1000, "peak_bytes": 1e9}
    return {
        "case": case, "method": method, "seed": seed, "epoch_seconds": seconds, **numbers, **rest
    }  # fmt: skip


def test_bars_are_met_or_missed_by_what_was_measured():
    ours, theirs = "gumbel from k-means", "DMoN from k-means"
    records = [
        record("cora", ours, nmi=0.5), record("cora", ours, seed=1, nmi=0.3),
        record("cora", theirs, nmi=0.39, modularity=0.71),
        record("1e6-k100", ours, nmi=0.94, peak_bytes=9e9), record("1e6-k100", "leiden", nmi=0.96),
    ]  # fmt: skip
    groups, failed = grouped([*records, {"case": "cora", "method": "DMoN", "failed": "x"}])
    assert failed == {("cora", "DMoN"): "x"}
    lines = bars(groups)
    assert any("0.400 against 0.390 | met" in line for line in lines)
    assert any("0.700 against 0.710 | **missed**" in line for line in lines)
    assert any("0.940, Leiden 0.960 | **missed**" in line for line in lines)
    assert any("9.00 GB | **missed**" in line for line in lines)


def test_each_is_taken_at_the_rate_of_its_highest_modularity():
    ours, theirs = "gumbel from k-means", "DMoN from k-means"
    records = [
        record("cora", ours, nmi=0.5), record("cora", ours + ", rate x3", nmi=0.6, modularity=0.6),
        record("cora", theirs, nmi=0.4),
        record("cora", theirs + ", rate x0.3", nmi=0.3, modularity=0.8),
    ]  # fmt: skip
    lines = bars(grouped(records)[0])
    shown = "gumbel from k-means: NMI at least DMoN from k-means, rate x0.3's | 0.500 against 0.300"
    assert any(shown in line for line in lines)


def test_the_exponent_is_the_slope_of_the_logarithms():
    ours = "gumbel from k-means"
    sizes = {"1e4-k100": 9e4, "1e5-k100": 1e6, "1e6-k100": 1e7}
    records = [record(case, ours, (n / 1e5) ** 1.5, edges=n) for case, n in sizes.items()]
    assert exponent(grouped(records)[0], 100) == pytest.approx(1.5)
    assert exponent(grouped(records[:2])[0], 100) is None


def test_the_plot_has_a_line_per_method(tmp_path):
    records = [
        record(case, method, seconds=1.0)
        for case in ("1e4-k100", "1e5-k100") for method in ("gumbel from k-means", "leiden")
    ]  # fmt: skip
    assert plot(grouped([{**r, "seconds": 2.0} for r in records])[0], tmp_path / "plot.svg")
    assert "</svg>" in (tmp_path / "plot.svg").read_text()
    assert not plot({}, tmp_path / "none.svg")
