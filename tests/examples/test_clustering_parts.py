"""Parts of the node clustering: measures against closed forms, graphs, the start, the picture."""

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import matplotlib.pyplot as plt
import networkx as nx
import pytest
import torch
from torch_geometric.utils import contains_self_loops, degree, is_undirected, to_dense_adj

from examples.node_clustering.baselines import centroids, nearest, smoothed
from examples.node_clustering.graphs import NodeGraph, averaging, load
from examples.node_clustering.metrics import accuracy, conductance, matching, measures, modularity
from examples.node_clustering.models import ClusteringNet, Encoder, Gumbel
from examples.node_clustering.picture import draw_clustering
from examples.node_clustering.planted import Planted, planted_partition
from examples.node_clustering.training import start_from_kmeans


def cliques(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cliques in a ring, one edge from each to the next; and whose clique a node is of."""
    y = torch.arange(count).repeat_interleave(size)
    adjacency = (y[:, None] == y[None]).fill_diagonal_(False)
    for c in range(count):
        i, j = c * size, ((c + 1) % count) * size + 1
        adjacency[i, j] = adjacency[j, i] = True
    return adjacency.nonzero().t().contiguous(), y


def test_modularity_and_conductance_of_cliques_in_a_ring_are_the_closed_forms():
    n, s = 5, 4
    edge_index, y = cliques(n, s)
    inside = s * (s - 1)  # directed, of each clique; two more leave it
    assert modularity(y, edge_index) == pytest.approx(inside / (inside + 2) - 1 / n)
    assert conductance(y, edge_index) == pytest.approx(2 / (inside + 2))
    together = torch.zeros_like(y)
    assert modularity(together, edge_index) == pytest.approx(0)
    assert conductance(together, edge_index) == 0


def test_modularity_is_networkx_s_whatever_the_clusters():
    graph = nx.karate_club_graph()
    edges = torch.tensor(list(graph.edges())).t()
    edge_index = torch.cat([edges, edges.flip(0)], dim=1)
    cluster = torch.randint(4, (34,)) * 3  # numbers that no node has are no clusters
    groups = [set((cluster == k).nonzero().flatten().tolist()) for k in torch.unique(cluster)]
    expected = nx.community.modularity(graph, groups, weight=None)
    assert modularity(cluster, edge_index) == pytest.approx(expected)
    cut = [nx.conductance(graph, group) for group in groups]
    assert conductance(cluster, edge_index) == pytest.approx(sum(cut) / len(cut))


def test_a_renamed_partition_is_perfect_and_a_constant_one_is_not():
    edge_index, y = cliques(3, 4)
    perfect = measures(7 - 2 * y, edge_index, y)
    assert [perfect[name] for name in ("nmi", "ari", "accuracy")] == pytest.approx([1, 1, 1])
    assert perfect["clusters_used"] == 3
    constant = measures(torch.zeros_like(y), edge_index, y)
    assert constant["nmi"] == constant["ari"] == 0
    assert constant["accuracy"] == pytest.approx(1 / 3)


def test_accuracy_matches_clusters_and_classes_one_to_one():
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    cluster = torch.tensor([5, 5, 5, 2, 2, 9])
    # 5 is class 0 and either 2 or 9 is class 1; the other is left over.
    matched, right = matching(cluster, y)
    assert right == 4
    assert matched[5] == 0
    assert sorted(matched.values()) == [0, 1]
    assert accuracy(cluster, y) == pytest.approx(4 / 6)


def test_edges_without_any_have_no_modularity():
    nothing = torch.zeros(2, 0, dtype=torch.long)
    assert modularity(torch.tensor([0, 1]), nothing) == 0
    assert conductance(torch.tensor([0, 1]), nothing) == 0


def test_a_planted_partition_is_what_it_says():
    planted = Planted(20_000, 50, mean_degree=10, mixing=0.2, signal=0.5)
    x, edge_index, y = planted_partition(planted, seed=3)
    assert x.shape == (20_000, 64)
    assert is_undirected(edge_index)
    assert not contains_self_loops(edge_index)
    assert torch.bincount(y).tolist() == [400] * 50
    assert edge_index.size(1) / 20_000 == pytest.approx(10, rel=0.15)
    # An edge within the mixing part stays inside once in 50 times.
    ends = y[edge_index]
    outside = (ends[0] != ends[1]).float().mean().item()
    assert outside == pytest.approx(0.2 * 49 / 50, rel=0.15)
    degrees = degree(edge_index[0], 20_000)
    assert degrees.max() > 8 * degrees.mean()
    centre = torch.stack([x[y == k].mean(0) for k in range(50)])
    assert centre.std() == pytest.approx(0.5, rel=0.1)
    again = planted_partition(planted, seed=3)
    assert all(torch.equal(a, b) for a, b in zip((x, edge_index, y), again, strict=True))


def test_smoothed_features_are_means_over_a_node_and_its_neighbours():
    graph = load("sbm", None)
    dense = to_dense_adj(graph.edge_index)[0] + torch.eye(graph.num_nodes)
    expected = dense / dense.sum(1, keepdim=True)
    torch.testing.assert_close(smoothed(graph, 2), expected @ (expected @ graph.x))


def test_a_start_from_kmeans_begins_with_its_clusters():
    graph = load("sbm", None)
    mean = averaging(graph.edge_index, graph.num_nodes)
    model = ClusteringNet(
        Encoder(64, 64, layers=2, batch_norm=True), Gumbel(64, 8, ("modularity",), "gumbel")
    )
    start_from_kmeans(model, graph, mean, seed=0)
    x = model.encoder(graph, mean).detach()
    neighbors = degree(graph.edge_index[0], graph.num_nodes)
    expected = nearest(x, centroids(x, 8, seed=0, weight=neighbors + 1))
    assert torch.equal(model.clusters(graph, mean), expected)


def test_kmeans_of_weighted_rows_misses_no_cluster_that_its_heavy_rows_have():
    # 40 clusters apart; nine rows in ten are noise that hides them.
    random = torch.Generator().manual_seed(0)
    true = 10 * torch.randn(40, 16, generator=random)
    noise = torch.where(torch.arange(30_000) % 10 == 0, 1.0, 12.0)
    y = torch.randint(40, (30_000,), generator=random)
    x = true[y] + noise[:, None] * torch.randn(30_000, 16, generator=random)
    found = centroids(x, 40, seed=0, weight=noise**-4)
    assert torch.cdist(true, found).min(1).values.max() < 2  # true centres are 17 and more apart
    assert torch.cdist(true, centroids(x, 40, seed=0)).min(1).values.max() > 5


@pytest.mark.parametrize("columns", [None, 9], ids=["undirected", "part of a graph"])
def test_averaging_is_the_dense_mean_and_so_is_its_gradient(columns):
    upper = torch.rand(6, 6).triu(1) < 0.4
    adjacency = (upper | upper.t()).double()
    if columns is not None:
        adjacency = torch.cat([adjacency, (torch.rand(6, 3) < 0.5).double()], dim=1)
    dense = adjacency + torch.eye(6, columns or 6)
    dense /= dense.sum(1, keepdim=True)
    mean = averaging(adjacency.nonzero().t().contiguous(), 6, columns)
    x = torch.randn(dense.size(1), 4, requires_grad=True)
    up = torch.randn(6, 4)
    torch.testing.assert_close(mean(x), dense.float() @ x)
    (gradient,) = torch.autograd.grad(mean(x), x, up)
    torch.testing.assert_close(gradient, dense.float().t() @ up)


def test_the_picture_takes_one_cluster_and_more_clusters_than_colours():
    edge_index, y = cliques(12, 4)
    graph = NodeGraph("ring", torch.randn(48, 2), edge_index, y)
    for cluster, supernodes, edges in ((torch.zeros_like(y), "1 node", "0 edges"),
                                       (y, "12 nodes", "12 edges")):  # fmt: skip
        figure = draw_clustering(graph, cluster, "")
        titles = [panel.get_title() for panel in figure.axes]
        assert titles[0] == "clusters: 48 nodes, 84 edges"
        assert titles[2] == f"pooled: {supernodes}, {edges}"
        plt.close(figure)
