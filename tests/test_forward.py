"""The layer's output against the dense oracle, for the same draw."""

import oracle
import pytest
import torch
from conftest import assert_close, assert_same_output, injected, make_batch, rand, randn

from gumbelpool import GumbelPool, coarsen_edges, coarsen_nodes, occupancy, unpool

K = 4

GRAPHS = {
    "directed": {},
    "undirected": {"undirected": True},
    "self-loops": {"loops": True},
    "duplicates": {"duplicates": True, "loops": True},
    "weighted": {"weighted": True, "loops": True, "duplicates": True},
    "positive": {"weighted": "positive", "loops": True, "duplicates": True},
    "weighted-undirected": {"weighted": True, "undirected": True},
    "attr": {"attr": 3, "loops": True},
    "attr-weighted": {"attr": 2, "weighted": True, "loops": True, "duplicates": True},
    "attr-no-channels": {"attr": 0},
    "one-graph": {"sizes": (7,), "weighted": True, "attr": 1},
    "first-empty": {"sizes": (0, 4, 5), "weighted": True},
    "no-edges": {"density": 0.0, "weighted": True, "attr": 2},
}
OPTIONS = {
    "default": {},
    "mean": {"aggr": "mean"},
    "drop-empty": {"drop_empty": True},
    "mean-drop-empty": {"aggr": "mean", "drop_empty": True},
    "no-pooled-loops": {"remove_self_loops": True},
    "binary": {"weighted": False},
    "ratio": {"ratio": 0.4},
    "ratio-drop-empty": {"ratio": 0.4, "drop_empty": True, "remove_self_loops": True},
    "no-losses": {"losses": ()},
}


def both(batch, options, *, training=True, **extra):
    """The same draw through the layer and through the oracle."""
    losses = ("link", "entropy", "balance", "modularity")
    if batch.edge_weight is not None and (batch.edge_weight < 0).any():
        losses = losses[:3]
    options = {"losses": losses} | options
    pool = GumbelPool(batch.x.size(1), K, **options).double().train(training)
    uniforms = rand(batch.num_nodes, seed=5)
    with injected(uniforms):
        out = pool(**batch.arguments(), **extra)
    expected, _ = oracle.layer(
        oracle.Config(K, **{k: v for k, v in options.items() if k != "block_size"}),
        None,
        **batch.oracle_arguments(),
        **extra,
        weight=pool.lin.weight,
        bias=pool.lin.bias,
        draw_from=(lambda t: oracle.draw(t, uniforms)) if training else (lambda t: t.argmax(1)),
    )
    return out, expected


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("graphs", GRAPHS.values(), ids=GRAPHS)
def test_output_equals_dense_oracle(graphs, options):
    out, expected = both(make_batch(**graphs), options)
    assert_same_output(out, expected)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_eval_takes_the_argmax(options):
    out, expected = both(make_batch(weighted=True, loops=True), options, training=False)
    assert_same_output(out, expected)


def test_sample_in_eval_samples():
    batch = make_batch()
    pool = GumbelPool(3, K, sample_in_eval=True).double()
    uniforms = rand(batch.num_nodes, seed=5)
    with injected(uniforms):
        sampled, in_eval = pool.train()(**batch.arguments()), pool.eval()(**batch.arguments())
    assert torch.equal(sampled.cluster, in_eval.cluster)


def test_caller_logits_replace_the_head():
    batch = make_batch(weighted=True)
    out, expected = both(batch, {}, logits=2 * randn(batch.num_nodes, K, seed=8))
    assert_same_output(out, expected)


def test_assign_x_is_scored_and_x_is_pooled():
    batch = make_batch(weighted=True)
    out, expected = both(batch, {}, assign_x=2 * randn(batch.num_nodes, 3, seed=8))
    assert_same_output(out, expected)


def test_pooled_features_may_have_other_channels_than_assign_x():
    batch = make_batch(channels=5)
    pool = GumbelPool(3, K).double()
    out = pool(**batch.arguments(), assign_x=randn(batch.num_nodes, 3, seed=8))
    assert_close(out.x, coarsen_nodes(batch.x, out.cluster, len(out.x)))


def test_no_batch_is_one_graph():
    batch = make_batch((7,), weighted=True)
    pool = GumbelPool(3, K).double().eval()
    with_batch = pool(batch.x, batch.edge_index, batch.edge_weight, batch.batch)
    without = pool(batch.x, batch.edge_index, batch.edge_weight)
    assert_same_output(without, with_batch)
    assert torch.equal(without.batch, torch.zeros(len(without.x), dtype=torch.long))


def test_batch_size_is_inferred_when_not_given():
    batch = make_batch((4, 0, 5), weighted=True)
    pool = GumbelPool(3, K).double().eval()
    given = pool(batch.x, batch.edge_index, batch.edge_weight, batch.batch, batch_size=3)
    inferred = pool(batch.x, batch.edge_index, batch.edge_weight, batch.batch)
    assert_same_output(inferred, given)


@pytest.mark.parametrize("block_size", [1, 3, 7, 64])
def test_block_size_changes_no_output(block_size):
    batch = make_batch(weighted=True, attr=2, loops=True)
    out, expected = both(batch, {"block_size": block_size})
    assert_same_output(out, expected)


def test_output_unpacks_and_unpools():
    batch = make_batch(attr=2)
    out = GumbelPool(3, K).double()(**batch.arguments())
    x, edge_index, edge_weight, graph, edge_attr, cluster, losses = out
    assert x is out.x
    assert edge_index is out.edge_index
    assert edge_weight is out.edge_weight
    assert graph is out.batch
    assert edge_attr is out.edge_attr
    assert losses is out.losses
    assert torch.equal(out.unpool(), x[cluster])
    other = randn(len(x), 5, seed=3)
    assert torch.equal(out.unpool(other), other[cluster])
    assert torch.equal(unpool(other, cluster), other[cluster])


def test_zero_weight_edges_still_exist_in_the_pooled_graph():
    edge_index = torch.tensor([[0, 1, 0], [2, 2, 1]])
    weight = torch.tensor([1.0, -1.0, 0.0])
    index, pooled, _ = coarsen_edges(edge_index, torch.tensor([0, 0, 1]), 2, weight)
    assert index.tolist() == [[0, 0], [0, 1]]
    assert pooled.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("num_supernodes", [2, 5, 100_000])
@pytest.mark.parametrize("remove_self_loops", [False, True])
def test_coarsen_edges_equals_dense_product(num_supernodes, remove_self_loops):
    N, E, D = 9, 40, 2
    edge_index = torch.randint(N, (2, E))
    cluster = torch.randint(5, (N,)) * (num_supernodes // 5) if num_supernodes > 5 else None
    cluster = torch.randint(num_supernodes, (N,)) if cluster is None else cluster
    w, attr = randn(E, seed=1), randn(E, D, seed=2)
    index, weight, pooled = coarsen_edges(
        edge_index, cluster, num_supernodes, w, attr, remove_self_loops=remove_self_loops
    )
    want: dict[tuple[int, int], torch.Tensor] = {}
    for e in range(E):
        ends = tuple(cluster[edge_index[:, e]].tolist())
        if remove_self_loops and ends[0] == ends[1]:
            continue
        row = torch.cat([w[e : e + 1], attr[e]])
        want[ends] = want.get(ends, 0) + row
    assert index.T.tolist() == [list(ends) for ends in sorted(want)]
    assert_close(
        torch.cat([weight.unsqueeze(1), pooled], 1), torch.stack([want[e] for e in sorted(want)])
    )


def test_coarsen_edges_counts_merged_edges_without_weights():
    edge_index = torch.tensor([[0, 1, 2, 2, 0], [2, 2, 0, 1, 1]])
    index, weight, attr = coarsen_edges(edge_index, torch.tensor([1, 1, 0]), 2)
    assert index.tolist() == [[0, 1, 1], [1, 0, 1]]
    assert weight.tolist() == [2.0, 2.0, 1.0]
    assert weight.dtype == torch.get_default_dtype()
    assert attr is None


@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_coarsen_nodes_equals_dense_product(aggr):
    x, cluster = randn(9, 3, seed=1), torch.tensor([0, 3, 3, 0, 5, 3, 0, 5, 1])
    assert_close(
        coarsen_nodes(x, cluster, 7, aggr),
        oracle.pool_features(oracle.one_hot(cluster, 7), x, aggr),
    )


def test_occupancy_of_known_assignments():
    cluster = torch.tensor([0, 0, 1, 1, 5, 5, 5, 5, 8, 9, 9, 9])
    batch = torch.tensor([0] * 4 + [1] * 4 + [3] * 4)
    found = occupancy(cluster, batch, 5)
    assert found.used.tolist() == [2, 1, 0, 2, 0]
    assert_close(found.largest_share[[0, 1, 3]].double(), torch.tensor([0.5, 1, 0.75]).double())
    split = torch.tensor([0.25, 0.75]).double()
    perplexity = torch.stack(
        [torch.tensor(2.0), torch.tensor(1.0), oracle.entropy_of(split).exp().float()]
    )
    torch.testing.assert_close(found.perplexity[[0, 1, 3]].float(), perplexity)
    assert all(torch.isfinite(field).all() for field in found)
    assert [len(field) for field in occupancy(cluster)] == [1, 1, 1]
