"""Wrong input ends in one line that says what is wrong."""

import json

import pytest
from classifier import SMALL, one_line_error, run, write_tu_dataset
from torch_geometric.datasets import TUDataset

from examples.classification.command import main
from examples.classification.poolers import POOLERS
from examples.shared.errors import InputError
from examples.shared.run_folder import RunFolder


def test_flags_of_the_draw_are_refused_where_there_is_none(capsys):
    for flags in (["--train-samples", "2"], ["--tau-end", "0.5"], ["--binary"]):
        assert flags[0] in one_line_error(capsys, "--pool", "diffpool", *flags)


def test_settings_other_than_those_in_out_are_refused(tmp_path, capsys):
    arguments = [*SMALL, "--pool", "none", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    message = one_line_error(capsys, *arguments, "--lr", "0.5")
    assert "lr: 0.003 there, 0.5 here" in message


def test_a_run_that_another_writes_to_is_refused(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.open({}), pytest.raises(InputError, match="another run"), second.open({}):
        pass
    with second.open({}):
        pass


@pytest.mark.parametrize("name", ["NO_SUCH_DATASET", "../x", ""])
def test_a_wrong_dataset_name_or_an_empty_root_is_one_line(name, tmp_path, capsys, monkeypatch):
    def offline(self: TUDataset) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(TUDataset, "download", offline)
    message = one_line_error(capsys, "--dataset", name, "--root", tmp_path, "--out", tmp_path / "o")
    assert repr(name) in message
    assert not list(tmp_path.iterdir())  # nothing left behind


def test_a_tudataset_without_root_is_one_line(capsys):
    assert "--root" in one_line_error(capsys, "--dataset", "PROTEINS")


def test_broken_raw_files_are_one_line(tmp_path, capsys):
    write_tu_dataset(tmp_path)
    (tmp_path / "PLAIN" / "raw" / "PLAIN_A.txt").write_text("1, 2\nnonsense\n")
    assert "cannot read PLAIN" in one_line_error(capsys, "--dataset", "PLAIN", "--root", tmp_path)


def fold(train=(0, 1), validation=(2,), test=(3,)) -> dict:
    inner = {"train": list(train), "validation": list(validation)}
    return {"test": list(test), "model_selection": [inner]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON"),
        ({"test": [0]}, "list of folds"),
        ([fold()], "1 folds, and --folds asks for 2"),
        ([fold(), {"test": [0]}], "fold 1: there is no 'model_selection'"),
        ([fold(), {**fold(), "model_selection": []}], "fold 1: expected"),
        ([fold(), {"model_selection": [{"train": [0], "validation": [1]}]}], "no 'test'"),
        ([fold(), [1, 2]], "fold 1: expected"),
        ([fold(test=[60]), fold()], "fold 0: 60 in 'test' is not a graph index"),
        ([fold(test=[-1]), fold()], "-1 in 'test'"),
        ([fold(test=[0.5]), fold()], "0.5 in 'test'"),
        ([fold(test=[]), fold()], "not empty"),
        ([fold(test=[1]), fold()], "graph 1 is in 'train' and in 'test'"),
        ([fold(train=[2]), fold()], "graph 2 is in 'train' and in 'validation'"),
        ([fold(train=[0, 0]), fold()], "graph 0 is in 'train' and in 'train'"),
    ],
)
def test_broken_splits_are_one_line(content, expected, tmp_path, capsys):
    path = tmp_path / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = ["--num-graphs", 60, "--folds", 2, "--splits", path, "--out", tmp_path / "out"]
    assert expected in one_line_error(capsys, *arguments)


def test_missing_splits_are_one_line(tmp_path, capsys):
    assert "cannot read the splits" in one_line_error(capsys, *SMALL, "--splits", tmp_path / "no")


@pytest.mark.parametrize("flag", ["--out", "--picture"])
def test_an_output_path_below_a_file_is_one_line(flag, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [*SMALL, "--out", tmp_path / "out", flag, tmp_path / "file" / "below"]
    assert "cannot write" in one_line_error(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fold", "3"],
        ["--fold", "x"],
        ["--pool", "none", "--assign-gnn"],
        ["--pool", "mincut", "--ratio", "0.5"],
        ["--losses", "none", "link"],
        ["--num-clusters", "0"],
        ["--num-clusters"],
        ["--pool", "none", "--num-clusters", "--fine-path"],
        ["--picture", "tree.svg"],
        ["--ratio", "1"],
        ["--pool", "nothing"],
        ["--folds", "50"],
        ["--precision", "3-bit"],
        ["--accelerator", "abacus"],
        ["--unknown"],
    ],
)
def test_wrong_flags_are_one_line(arguments, tmp_path, capsys):
    one_line_error(capsys, *SMALL, "--out", tmp_path, *arguments)


def test_a_wrong_call_ends_in_status_2_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    finished = run(*SMALL, "--out", tmp_path / "file" / "below")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: cannot write to --out")
    assert len(finished.stderr.splitlines()) == 1


def test_help_shows_every_pooler_and_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(pool in text for pool in POOLERS)
    assert "default: 16 4" in text
    assert "examples:" in text
