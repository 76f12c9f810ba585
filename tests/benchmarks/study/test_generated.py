"""Each generated dataset is what its class says, by another way of finding out."""

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from torch_geometric.data import Data
from torch_geometric.utils import to_networkx, to_scipy_sparse_matrix

from benchmarks.study.generated import GENERATED, generate
from benchmarks.study.generated.multipartite import PARTS, RADIUS

COLOURED = 1  # the column of x that marks coloured nodes


def components(graph: Data, nodes: torch.Tensor | None = None) -> np.ndarray:
    """Sizes of the connected components of a graph, or of some of its nodes, smallest first."""
    matrix = to_scipy_sparse_matrix(graph.edge_index, num_nodes=graph.num_nodes).tocsr()
    if nodes is not None:
        kept = nodes.numpy()
        matrix = matrix[kept][:, kept]
    return np.sort(np.bincount(connected_components(matrix)[1]))


@pytest.mark.parametrize("name", GENERATED)
def test_graphs_are_balanced_undirected_and_made_by_the_seed_alone(name):
    dataset, split = generate(name, 60, seed=3)
    again, _ = generate(name, 30, seed=3)
    other, _ = generate(name, 60, seed=4)
    labels = torch.cat([graph.y for graph in dataset.graphs])
    assert torch.bincount(labels).tolist() == [60 // dataset.num_classes] * dataset.num_classes
    assert sorted(split.train + split.validation + split.test) == list(range(60))
    assert (len(split.train), len(split.validation), len(split.test)) == (36, 6, 18)
    same = 0
    for i, graph in enumerate(dataset.graphs):
        graph.validate()
        assert graph.is_undirected()
        assert graph.is_coalesced()
        assert not graph.has_self_loops()
        assert graph.x.dtype == torch.float32
        if i < 30:  # however many there are
            assert torch.equal(graph.x, again.graphs[i].x)
            assert torch.equal(graph.edge_index, again.graphs[i].edge_index)
        same += torch.equal(graph.edge_index, other.graphs[i].edge_index)
    assert same < 5


@pytest.mark.parametrize("name", ["two-cycles", "cycles"])
def test_class_1_is_two_cycles_and_class_0_one(name):
    graphs = generate(name, 100, seed=0)[0].graphs
    for graph in graphs:
        assert graph.x.size(0) in range(10, 21)
        assert all(degree == 2 for _, degree in to_networkx(graph, to_undirected=True).degree())
        sizes = components(graph)
        assert len(sizes) == 1 + graph.y.item()
        assert sizes[0] >= 3
        if name == "two-cycles":
            assert len(set(sizes)) == 1
    # The size says nothing of the class.
    means = [np.mean([g.num_nodes for g in graphs if g.y == label]) for label in (0, 1)]
    assert abs(means[0] - means[1]) < 2


def test_two_cycles_look_alike_to_the_weisfeiler_leman_test():
    hashes = {}
    for graph in generate("two-cycles", 40, seed=0)[0].graphs:
        assert (graph.x == graph.x[0]).all()
        graph.x = torch.ones_like(graph.x)  # it is random, and of no class
        whole = to_networkx(graph, node_attrs=["x"], to_undirected=True)
        seen = nx.weisfeiler_lehman_graph_hash(whole, node_attr="x", iterations=8)
        hashes.setdefault(graph.num_nodes, set()).add(seen)
    assert all(len(found) == 1 for found in hashes.values())


def test_coloured_nodes_are_one_island_or_two():
    for i, graph in enumerate(generate("colour-grid", 100, seed=0)[0].graphs):
        coloured = graph.x[:, COLOURED] == 1
        assert torch.equal(graph.x.sum(1), torch.ones(graph.num_nodes))
        assert coloured.sum() == graph.num_nodes // 3  # in both classes
        assert len(components(graph, coloured)) == 1 + graph.y.item()
        whole = to_networkx(graph, to_undirected=True)
        if i < 10:
            assert nx.vf2pp_is_isomorphic(whole, nx.grid_2d_graph(8, 8))


def test_parts_have_no_edges_inside_and_lie_where_the_class_puts_them():
    graphs = generate("multipartite", 60 * PARTS, seed=0)[0].graphs
    centres = torch.zeros(PARTS, PARTS, 2)
    for label in range(PARTS):
        features = torch.cat([graph.x for graph in graphs if graph.y == label])
        for part in range(PARTS):
            centres[label, part] = features[features[:, 2] == part, :2].mean(0)
    for graph in graphs:
        part = graph.x[:, 2]
        assert set(part.tolist()) == set(range(PARTS))
        assert (part[graph.edge_index[0]] != part[graph.edge_index[1]]).all()
    # As complex numbers, the centre of part p of class c is RADIUS · exp(2πi (p + c) / PARTS).
    found = torch.view_as_complex(centres)
    turns = torch.arange(PARTS)[:, None] + torch.arange(PARTS)
    expected = torch.polar(torch.tensor(RADIUS), 2 * torch.pi * turns / PARTS)
    assert (found - expected).abs().max() < 0.4  # each a mean of some 180 nodes
