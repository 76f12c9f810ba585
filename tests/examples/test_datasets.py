"""Graphs and folds: features where there are none, standardisation, disjoint folds."""

import torch
from classifier import results, run, write_tu_dataset
from torch_geometric.data import Data

from examples.classification.datasets import GraphDataset, load, make_splits, standardised


def test_graphs_without_features_get_their_degrees(tmp_path):
    write_tu_dataset(tmp_path)
    dataset = load("PLAIN", tmp_path, num_graphs=0, seed=0)
    assert (len(dataset.graphs), dataset.num_classes, dataset.num_attributes) == (30, 2, 0)
    for graph in dataset.graphs:
        degrees = torch.bincount(graph.edge_index[0], minlength=graph.num_nodes)
        assert torch.equal(graph.x[:, 1:].argmax(dim=1), degrees)
        torch.testing.assert_close(graph.x[:, 0], degrees.float().log1p())


def test_a_dataset_without_features_trains(tmp_path):
    write_tu_dataset(tmp_path / "root")
    out = tmp_path / "out"
    arguments = ["--dataset", "PLAIN", "--root", tmp_path / "root", "--out", out, "--epochs", "2"]
    finished = run(*arguments, "--folds", 3, "--accelerator", "cpu")
    assert finished.returncode == 0, finished.stderr
    assert "Warning" not in finished.stderr
    assert len(results(out)) == 1


def test_attributes_are_standardised_by_the_training_part_alone():
    graphs = [
        Data(x=torch.tensor([[float(v), 1.0]]), edge_index=torch.zeros(2, 0, dtype=torch.long))
        for v in (1, 3, 100)
    ]
    dataset = GraphDataset("x", graphs, 2, num_attributes=1)
    scaled = torch.cat([graph.x for graph in standardised(dataset, [0, 1])])
    torch.testing.assert_close(scaled, torch.tensor([[-1.0, 1.0], [1.0, 1.0], [98.0, 1.0]]))
    assert graphs[0].x[0, 0] == 1.0


def test_folds_are_disjoint_stratified_and_cover_every_graph():
    dataset = load("hierarchy", None, num_graphs=100, seed=0)
    splits = make_splits(dataset, 5, seed=0)
    labels = torch.tensor([int(graph.y) for graph in dataset.graphs])
    assert sorted(i for split in splits for i in split.test) == list(range(100))
    for split in splits:
        assert sorted(split.train + split.validation + split.test) == list(range(100))
        assert torch.bincount(labels[split.test]).tolist() == [4] * 5
        assert set(labels[split.validation].tolist()) == set(range(5))
