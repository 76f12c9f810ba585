"""Crispness against networkx and definitions, graph by graph."""

import networkx as nx
import pytest
import torch
from conftest import assert_close, make_batch, randn
from torch_geometric.utils import to_undirected

from gumbelpool import GumbelPool, crispness


def to_networkx(batch, cluster, directed):
    graph = (nx.DiGraph if directed else nx.Graph)()
    graph.add_nodes_from(range(batch.num_nodes))
    weights = (
        torch.ones(batch.edge_index.size(1)) if batch.edge_weight is None else batch.edge_weight
    )
    for (i, j), w in zip(batch.edge_index.T.tolist(), weights.tolist(), strict=True):
        graph.add_edge(i, j, weight=w)
    sets = [set((cluster == c).nonzero().flatten().tolist()) for c in cluster.unique().tolist()]
    return graph, sets


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("directed", [False, True])
def test_modularity_and_conductance_are_those_of_networkx(directed, seed):
    batch = make_batch((14,), undirected=not directed, density=0.3, seed=seed)
    cluster = torch.randint(0, 4, (14,))
    graph, sets = to_networkx(batch, cluster, directed)
    found = crispness(batch.x, batch.edge_index, cluster)
    assert_close(found.modularity[0].item(), nx.community.modularity(graph, sets))
    if not directed:
        volumes = [sum(d for _, d in graph.degree(s)) for s in sets]
        each = [
            nx.conductance(graph, s)
            for s, volume in zip(sets, volumes, strict=True)
            if 0 < volume < sum(volumes)
        ]
        assert_close(found.conductance[0].item(), sum(each) / len(each))
    row, col = batch.edge_index
    assert_close(found.cut[0].item(), float((cluster[row] != cluster[col]).double().mean()))
    pairs = len(set(zip(cluster[row].tolist(), cluster[col].tolist(), strict=True)))
    assert_close(found.density[0].item(), pairs / len(sets) ** 2)


def test_variance_within_clusters_by_definition():
    x, cluster = randn(12, 3, seed=0), torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 1, 3, 3, 3])
    within = sum((x[cluster == c] - x[cluster == c].mean(0)).square().sum() for c in range(4))
    total = (x - x.mean(0)).square().sum()
    found = crispness(x, torch.empty(2, 0, dtype=torch.long), cluster)
    assert_close(found.within_variance[0], within / total)
    assert [float(v) for v in found[1:]] == [0, 0, 0, 0]


def test_two_cliques_are_crisp_and_one_cluster_is_not():
    pairs = torch.combinations(torch.arange(5)).T
    edge_index = to_undirected(torch.cat([pairs, pairs + 5, torch.tensor([[0], [5]])], dim=1))
    x = torch.tensor([[1.0]] * 5 + [[-1.0]] * 5)
    cliques = crispness(x, edge_index, torch.tensor([7] * 5 + [3] * 5))
    assert cliques.within_variance.item() == 0
    assert cliques.cut.item() == pytest.approx(1 / 21)
    assert cliques.modularity.item() == pytest.approx(20 / 21 - 0.5)
    assert cliques.density.item() == 1
    one = crispness(x, edge_index, torch.zeros(10, dtype=torch.long))
    assert [field.item() for field in one] == pytest.approx([1, 0, 0, 0, 1])


def test_each_graph_is_measured_alone():
    batch = make_batch((6, 0, 9, 1, 0), undirected=True)
    out = GumbelPool(3, 4).double()(**batch.arguments())
    given = {"batch": batch.batch, "batch_size": batch.num_graphs}
    found = crispness(batch.x, batch.edge_index, out.cluster, **given)
    for g in range(batch.num_graphs):
        alone = batch.graph(g)
        own = crispness(alone.x, alone.edge_index, out.cluster[batch.batch == g])
        for name, value in found._asdict().items():
            assert_close(
                value[g], getattr(own, name)[0], msg=lambda text, name=name: f"{name}: {text}"
            )


def test_weights_count():
    batch = make_batch((12,), undirected=True, seed=2)
    weight = torch.rand(batch.edge_index.size(1)).double()
    twice = torch.cat([batch.edge_index, batch.edge_index], dim=1)
    cluster = torch.randint(0, 3, (12,))
    one = crispness(batch.x, batch.edge_index, cluster, 2 * weight)
    two = crispness(batch.x, twice, cluster, torch.cat([weight, weight]))
    for a, b in zip(one, two, strict=True):
        assert_close(a, b)


def test_bad_arguments_are_named():
    batch = make_batch((6, 5))
    with pytest.raises(ValueError, match="cluster must not share a supernode"):
        crispness(batch.x, batch.edge_index, torch.zeros(11, dtype=torch.long), batch=batch.batch)
    with pytest.raises(ValueError, match="cluster must have as many rows"):
        crispness(batch.x, batch.edge_index, torch.zeros(3, dtype=torch.long))
