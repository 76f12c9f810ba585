"""The embedded dataset: well formed, labelled by its coarse structure, and by nothing else."""

import json

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch_geometric.data import Data
from torch_geometric.utils import degree, to_undirected

from examples.classification import hierarchy
from examples.classification.command import main

NUM_CLASSES = len(hierarchy.CLASSES)
CHANCE = 1 / NUM_CLASSES


@pytest.fixture(scope="module")
def graphs() -> list[Data]:
    return hierarchy.hierarchy(num_graphs=400, seed=3)


def same(a: Data, b: Data) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a.keys())  # noqa: SIM118


def coarse_pairs(graph: Data) -> list[tuple[int, int]]:
    """The pairs of true communities that edges join, lower number first."""
    row, col = graph.community[graph.edge_index]
    return sorted(set(zip(row[row < col].tolist(), col[row < col].tolist(), strict=True)))


def foreign_neighbours(graph: Data) -> torch.Tensor:
    row, col = graph.edge_index
    return degree(row[graph.community[row] != graph.community[col]], graph.num_nodes)


def accuracy(features: list[np.ndarray], graphs: list[Data]) -> float:
    """Cross-validated accuracy of a random forest that predicts the class."""
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    labels = [int(graph.y) for graph in graphs]
    return float(cross_val_score(forest, np.stack(features), labels, cv=folds).mean())


def in_every_class(seed: int) -> list[Data]:
    """The graph that one state of the random generator gives in each class."""
    return [hierarchy._graph(label, np.random.default_rng(seed)) for label in range(NUM_CLASSES)]


def test_seed_decides_every_bit(graphs):
    again = hierarchy.hierarchy(num_graphs=400, seed=3)
    assert all(same(a, b) for a, b in zip(graphs, again, strict=True))
    other = hierarchy.hierarchy(num_graphs=20, seed=4)
    assert not any(same(a, b) for a, b in zip(graphs, other, strict=False))


def test_a_smaller_dataset_is_the_beginning_of_a_larger_one(graphs):
    few = hierarchy.hierarchy(num_graphs=7, seed=3)
    assert len(few) == 7
    assert all(same(a, b) for a, b in zip(few, graphs, strict=False))


def test_global_random_state_plays_no_part_and_stays_untouched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (first,) = hierarchy.hierarchy(num_graphs=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    (second,) = hierarchy.hierarchy(num_graphs=1)
    assert same(first, second)


def test_no_graphs_is_an_empty_list():
    assert hierarchy.hierarchy(num_graphs=0) == []


def test_graphs_are_valid_undirected_coalesced_and_without_self_loops(graphs):
    for graph in graphs:
        assert graph.validate()
        assert graph.x.dtype == torch.float32
        assert graph.x.shape == (graph.num_nodes, hierarchy.NUM_COLOURS)
        assert graph.edge_index.dtype == graph.y.dtype == graph.community.dtype == torch.int64
        assert graph.edge_index.is_contiguous()
        assert graph.y.shape == (1,)
        assert graph.community.shape == (graph.num_nodes,)
        assert graph.is_coalesced()
        assert torch.equal(graph.edge_index, to_undirected(graph.edge_index))
        assert not graph.has_self_loops()


def test_every_community_is_connected_and_so_is_every_graph(graphs):
    for graph in graphs[:50]:
        row, col = graph.edge_index
        inside = graph.community[row] == graph.community[col]
        for edges, expected in ((inside, graph.community), (row >= 0, torch.zeros(1))):
            # Spread the smallest node number along the edges until nothing changes.
            name = torch.arange(graph.num_nodes)
            while True:
                spread = name.scatter_reduce(0, col[edges], name[row[edges]], "amin")
                if torch.equal(spread, name):
                    break
                name = spread
            assert name.unique().numel() == expected.unique().numel()


def test_sizes_stay_in_the_documented_ranges(graphs):
    for graph in graphs:
        sizes = graph.community.bincount()
        assert hierarchy.COMMUNITIES[0] <= len(sizes) <= hierarchy.COMMUNITIES[1]
        assert hierarchy.NODES[0] <= sizes.min() <= sizes.max() <= hierarchy.NODES[1]
        inside = 1 - float(foreign_neighbours(graph).sum()) / graph.num_edges
        assert inside > 0.85  # communities are dense


@pytest.mark.parametrize("num_graphs", [50, 13])
def test_classes_are_balanced(num_graphs):
    labels = [int(graph.y) for graph in hierarchy.hierarchy(num_graphs=num_graphs)]
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    assert counts.max() - counts.min() <= 1


def test_label_is_exactly_how_the_communities_are_wired(graphs):
    for graph in graphs:
        name = hierarchy.CLASSES[int(graph.y)]
        num_communities = int(graph.community.max()) + 1
        assert coarse_pairs(graph) == sorted(hierarchy.contacts(name, num_communities))


@pytest.mark.parametrize("num_communities", hierarchy.COMMUNITIES)
def test_contacts_have_the_shape_that_their_name_says(num_communities):
    m = num_communities
    degrees = {
        "ring": [2] * m,
        "star": [1] * (m - 1) + [m - 1],
        "clique": [m - 1] * m,
        "path": [1] * 2 + [2] * (m - 2),
        "tree": {5: [1, 1, 1, 2, 3], 6: [1, 1, 1, 2, 2, 3]}[m],
    }
    assert set(degrees) == set(hierarchy.CLASSES)
    for name, expected in degrees.items():
        pairs = hierarchy.contacts(name, m)
        assert all(0 <= i < j < m for i, j in pairs)
        assert len(set(pairs)) == len(pairs)
        assert sorted(np.bincount(np.ravel(pairs), minlength=m)) == expected
        reached = {0}
        for _ in range(m):
            reached |= {k for pair in pairs if reached & set(pair) for k in pair}
        assert len(reached) == m


def test_unknown_class_is_refused():
    with pytest.raises(ValueError, match=r"ring, star, clique, path, tree, got 'wheel'"):
        hierarchy.contacts("wheel", 5)


def test_edges_between_communities_are_spread_evenly_over_their_pairs(graphs):
    for graph in graphs:
        row, col = graph.community[graph.edge_index]
        m = int(graph.community.max()) + 1
        weights = (row * m + col)[row < col].bincount()
        weights = weights[weights > 0]
        assert weights.max() - weights.min() <= 2  # a swap makes two edges


@pytest.mark.parametrize("seed", range(40))
def test_class_changes_neither_size_nor_degree_nor_feature_of_any_node(seed):
    first, *others = in_every_class(seed)
    for other in others:
        assert not torch.equal(first.edge_index, other.edge_index)
        assert first.num_edges == other.num_edges
        assert torch.equal(first.x, other.x)
        assert torch.equal(first.community, other.community)
        degrees = [degree(g.edge_index[0], g.num_nodes) for g in (first, other)]
        assert torch.equal(*degrees)
        assert foreign_neighbours(first).sum() == foreign_neighbours(other).sum()


def test_size_degrees_and_features_do_not_predict_the_class(graphs):
    features = []
    for graph in graphs:
        row, col = graph.edge_index
        degrees = degree(row, graph.num_nodes)
        around = torch.zeros_like(graph.x).index_add(0, row, graph.x[col])
        same_colour = (graph.x[row] * graph.x[col]).sum()
        features.append(
            np.concatenate(
                [
                    [graph.num_nodes, graph.num_edges, same_colour / graph.num_edges],
                    [degrees.mean(), degrees.std()],
                    np.bincount(degrees.int().clamp(max=20), minlength=21) / graph.num_nodes,
                    graph.x.mean(dim=0),
                    (graph.x * degrees[:, None]).mean(dim=0),
                    (around / degrees[:, None]).std(dim=0),
                ]
            )
        )
    # The accuracy of guessing among 400 graphs has a standard deviation of 2 points.
    assert accuracy(features, graphs) < 1.3 * CHANCE


def test_the_same_forest_reads_the_class_off_the_coarse_graph(graphs):
    features = []
    for graph in graphs:
        row, col = graph.community[graph.edge_index]
        adjacency = torch.zeros(6, 6).index_put((row, col), torch.ones(())).fill_diagonal_(0)
        features.append(adjacency.sum(dim=1).sort().values.numpy())
    assert accuracy(features, graphs) > 0.99


def test_a_network_learns_the_class_with_learned_clusters_only(tmp_path):
    """The same network, budget and split: without pooling, with random and with learned clusters.

    One level of 16 clusters and 20 epochs; chance is 0.2.
    """
    accuracy = {}
    for pool in ("gumbel", "none", "random"):
        out = tmp_path / pool
        arguments = ["--pool", pool, "--num-clusters", "16", "--epochs", "20", "--out", str(out)]
        assert main([*arguments, "--accelerator", "cpu"]) == 0
        accuracy[pool] = json.loads((out / "results.jsonl").read_text())["test_accuracy"]
    assert accuracy["gumbel"] > 0.7, accuracy
    assert max(accuracy["none"], accuracy["random"]) < accuracy["gumbel"] - 0.3, accuracy
