"""The benchmark runs, continues where it stopped, and writes what it measured."""

import json
import subprocess
import sys

import pytest

from benchmarks.common import ROOT

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def bench(*arguments: object) -> None:
    command = [sys.executable, "-m", "benchmarks.speed.bench", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)


@linux
def test_bench_measures_once_and_reports(tmp_path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    common = ["--cases", "growth-n1000", "--threads", 1, "--out", out, "--docs", docs]
    bench(*common, "--rounds", 1, "--peers", "gumbelpool", "floor")
    first = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["peer"] for line in first] == ["gumbelpool", "floor"]
    for record in map(json.loads, first):
        assert record["forward"] > 0
        assert record["steps"] > 1
    ours = json.loads(first[0])
    assert ours["peak_bytes"] > ours["input_bytes"] > 0
    assert 0 < ours["pooled_edges"] <= 10_000

    # Half a line, as a kill leaves it: that measurement is made again, the others are not.
    (out / "results.jsonl").write_text(first[0] + "\n" + first[1][:20])
    bench(*common, "--rounds", 1, "--peers", "gumbelpool", "floor")
    second = (out / "results.jsonl").read_text().splitlines()
    assert second[0] == first[0]
    assert [json.loads(line)["peer"] for line in second] == ["gumbelpool", "floor"]

    text = (docs / "results.md").read_text()
    assert "| case | against | bar | measured | |" in text
    assert (docs / "growth.svg").exists()
    before = text.replace("# Results", "# Results\n\nWords of an author.")
    (docs / "results.md").write_text(before)
    bench(*common, "--report-only")
    assert (docs / "results.md").read_text() == before


@linux
def test_a_peer_that_fails_is_reported_and_not_repeated(tmp_path):
    common = ["--cases", "growth-n10000", "--threads", 1, "--out", tmp_path, "--docs", tmp_path]
    common += ["--peers", "composition", "--limit-gib", 0.01]
    bench(*common, "--rounds", 2)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert "GiB" in json.loads(lines[0])["failed"]
