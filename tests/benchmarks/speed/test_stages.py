"""Stages are what is labelled, whatever the labels are."""

import time

import torch
from torch.profiler import record_function

from benchmarks.speed import peers, stages
from benchmarks.speed.cases import CASES, random_graph


def labelled() -> None:
    """Two stages, the second twice and within a third; and what is none of the package's."""
    with record_function("gumbelpool/draw"):
        time.sleep(0.02)
    with record_function("gumbelpool/merge edges"):
        for _ in range(2):
            with record_function("gumbelpool/sort"):
                time.sleep(0.005)
    with record_function("somebody::else"):
        torch.ones(3).sum()


def test_stages_are_the_labels_of_the_package_with_their_time_and_count():
    found = stages.stages(labelled, steps=3)
    assert list(found) == ["draw", "merge edges", "sort"]
    assert [stage.count for stage in found.values()] == [1, 1, 2]
    assert 0.02 < found["draw"].seconds < 0.2
    assert 0.01 < found["sort"].seconds <= found["merge edges"].seconds
    assert str(stages.Stage(0.0123, 2)) == "12.3 ×2"
    assert str(stages.Stage(0.0123, 1)) == "12.3"


def test_the_two_halves_of_a_step_are_measured_without_the_profiler(monkeypatch):
    monkeypatch.setattr(stages, "profile", None)
    case, graphs = CASES["growth-n1000"], random_graph(100, 500)
    step = peers.gumbelpool(peers.Setting(case, graphs, graphs.features()))
    halves = stages.whole(step, 2)
    assert list(halves) == ["forward", "backward"]
    assert all(half.seconds > 0 for half in halves.values())


def test_stages_of_a_step_and_its_operations_are_tabulated(tmp_path, monkeypatch, capsys):
    asked = ["stages", "--cases", "growth-n1000", "--steps", "1", "--docs", str(tmp_path)]
    monkeypatch.setattr("sys.argv", asked)
    stages.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = dict([cell.strip() for cell in line.split("|")[1:3]] for line in lines)
    assert float(rows["forward"]) > 0
    assert float(rows["backward"]) > 0
    assert int(rows["gumbelpool"].replace(",", "")) > 100  # inside of its operator too
    assert int(rows["composition"].replace(",", "")) > 50
    text = (tmp_path / "results.md").read_text()
    assert "<!-- stages: begin -->" in text
    assert "<!-- operations: begin -->" in text


def test_operations_can_be_counted_alone(tmp_path, monkeypatch, capsys):
    asked = ["stages", "--cases", "growth-n1000", "--count-only", "--docs", str(tmp_path)]
    monkeypatch.setattr("sys.argv", asked)
    stages.main()
    assert "forward |" not in capsys.readouterr().out
    assert "<!-- stages: begin -->" not in (tmp_path / "results.md").read_text()
