"""Invariants of pooling, over random batches, and reproducibility of the draws."""

import math

import pytest
import torch
from conftest import (
    ESTIMATORS,
    assert_close,
    batches,
    downstream,
    generator,
    injected,
    make_batch,
    rand,
    randn,
)
from hypothesis import given
from hypothesis import strategies as st

from gumbelpool import GumbelPool, occupancy

ALL = ("link", "entropy", "balance")


def pooled(batch, options, uniforms, **extra):
    torch.manual_seed(1)
    pool = GumbelPool(3, losses=ALL, **options).double()
    with injected(uniforms):
        return pool(**batch.arguments(), **extra)


@given(batches())
def test_no_graph_gets_more_edges_than_it_had(case):
    batch = case[0]
    out = pooled(*case)
    for g in range(batch.num_graphs):
        before = len(batch.edges_of(g))
        after = int((out.batch[out.edge_index[0]] == g).sum())
        assert after <= before
        assert after <= int((out.batch == g).sum()) ** 2


@given(batches())
def test_no_pooled_edge_joins_two_graphs_and_no_node_changes_graph(case):
    batch = case[0]
    out = pooled(*case)
    assert torch.equal(out.batch[out.edge_index[0]], out.batch[out.edge_index[1]])
    assert torch.equal(out.batch[out.cluster], batch.batch)
    assert torch.equal(out.batch, out.batch.sort().values)


@given(batches())
def test_total_weight_attributes_and_features_are_conserved(case):
    batch, options, uniforms = case
    out = pooled(batch, options | {"remove_self_loops": False, "aggr": "sum"}, uniforms)
    weight = torch.ones(batch.edge_index.size(1)).double()
    weight = weight if batch.edge_weight is None else batch.edge_weight
    assert_close(out.edge_weight.sum().double(), weight.sum())
    assert_close(out.x.sum(0), batch.x.sum(0))
    if batch.edge_attr is not None:
        assert_close(out.edge_attr.sum(0), batch.edge_attr.sum(0))


@given(batches())
def test_removing_self_loops_removes_exactly_the_diagonal(case):
    batch, options, uniforms = case
    kept = pooled(batch, options | {"remove_self_loops": False}, uniforms)
    out = pooled(batch, options | {"remove_self_loops": True}, uniforms)
    off = kept.edge_index[0] != kept.edge_index[1]
    assert torch.equal(out.edge_index, kept.edge_index[:, off])
    assert_close(out.edge_weight, kept.edge_weight[off])


@given(batches(undirected=True))
def test_symmetric_in_gives_symmetric_out(case):
    """Made symmetric in the weights too: every edge once more, reversed."""
    batch, options, uniforms = case
    index = torch.cat([batch.edge_index, batch.edge_index.flip(0)], 1)
    weight = rand(batch.edge_index.size(1), seed=1).repeat(2)
    pool = GumbelPool(3, **options).double()
    with injected(uniforms):
        out = pool(batch.x, index, weight, batch.batch, batch_size=batch.num_graphs)
    n = len(out.x)
    A = torch.zeros(n, n).double().index_put((*out.edge_index,), out.edge_weight)
    exists = torch.zeros(n, n).double().index_put((*out.edge_index,), torch.tensor(1.0).double())
    assert torch.equal(exists, exists.T)
    assert_close(A, A.T)


@given(batches())
def test_pooled_edges_are_coalesced_and_in_range(case):
    out = pooled(*case)
    n = len(out.x)
    row, col = out.edge_index
    key = row * max(n, 1) + col
    assert (key[1:] > key[:-1]).all()
    assert out.edge_index.dtype == torch.long
    if len(key):
        assert out.edge_index.min() >= 0
        assert out.edge_index.max() < n


@given(batches())
def test_supernodes_are_counted_as_documented(case):
    batch, options, _ = case
    K = options["num_clusters"]
    out = pooled(*case)
    assert len(out.x) == len(out.batch)
    if options["drop_empty"]:
        assert torch.equal(out.cluster.unique(), torch.arange(len(out.x)))
    else:
        ratio = math.inf if options["ratio"] is None else options["ratio"]
        each = [min(K, max(1, ratio * batch.graph(g).num_nodes)) for g in range(batch.num_graphs)]
        each = torch.tensor([math.ceil(limit) for limit in each], dtype=torch.long)
        assert torch.equal(out.batch, torch.arange(batch.num_graphs).repeat_interleave(each))
    for g in range(batch.num_graphs):
        members = out.cluster[batch.batch == g].unique()
        if options["ratio"] is not None:
            assert len(members) <= max(1, math.ceil(options["ratio"] * batch.graph(g).num_nodes))
        assert len(members) <= K


@given(batches())
def test_a_batch_equals_one_graph_at_a_time(case):
    """Same draws: features, edges, clusters, attributes; and B·loss is the sum of the losses."""
    batch, options, uniforms = case
    together = pooled(*case)
    totals = dict.fromkeys(ALL, 0.0)
    nodes = 0
    for g in range(batch.num_graphs):
        alone = pooled(batch.graph(g), options, uniforms[batch.batch == g])
        mine = together.batch == g
        edges = mine[together.edge_index[0]]
        assert_close(together.x[mine], alone.x)
        assert torch.equal(together.edge_index[:, edges] - nodes, alone.edge_index)
        assert_close(together.edge_weight[edges], alone.edge_weight)
        if batch.edge_attr is not None:
            assert_close(together.edge_attr[edges], alone.edge_attr)
        assert torch.equal(together.cluster[batch.batch == g] - nodes, alone.cluster)
        for name in ALL:
            totals[name] = totals[name] + alone.losses[name]
        nodes += len(alone.x)
    for name in ALL:
        assert_close(batch.num_graphs * together.losses[name], totals[name])


@given(batches(), st.integers(0, 1000))
def test_permuting_nodes_permutes_cluster_and_nothing_else(case, seed):
    batch, options, uniforms = case
    logits = randn(batch.num_nodes, options["num_clusters"], seed=3)
    order = torch.cat(  # new position -> old node, inside each graph
        [
            nodes[torch.randperm(len(nodes), generator=generator(seed))]
            for g in range(batch.num_graphs)
            for nodes in [(batch.batch == g).nonzero().flatten()]
        ]
    )
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    plain = pooled(batch, options, uniforms, logits=logits)
    torch.manual_seed(1)
    pool = GumbelPool(3, losses=ALL, **options).double()
    arguments = batch.arguments()
    arguments |= {"x": batch.x[order], "edge_index": position[batch.edge_index]}
    with injected(uniforms[order]):
        out = pool(**arguments, logits=logits[order])
    assert torch.equal(out.cluster, plain.cluster[order])
    assert torch.equal(out.batch, plain.batch)
    assert torch.equal(out.edge_index, plain.edge_index)
    assert_close(out.x, plain.x)
    assert_close(out.edge_weight, plain.edge_weight)
    if batch.edge_attr is not None:
        assert_close(out.edge_attr, plain.edge_attr)
    for name in ALL:
        assert_close(out.losses[name], plain.losses[name])


@given(batches(), st.integers(0, 1000))
def test_permuting_edges_changes_nothing(case, seed):
    batch, options, uniforms = case
    plain = pooled(*case)
    order = torch.randperm(batch.edge_index.size(1), generator=generator(seed))
    arguments = batch.arguments()
    for name in ("edge_weight", "edge_attr"):
        if arguments[name] is not None:
            arguments[name] = arguments[name][order]
    arguments["edge_index"] = batch.edge_index[:, order]
    torch.manual_seed(1)
    pool = GumbelPool(3, losses=ALL, **options).double()
    with injected(uniforms):
        out = pool(**arguments)
    assert torch.equal(out.edge_index, plain.edge_index)
    assert_close(out.edge_weight, plain.edge_weight)
    assert_close(out.loss, plain.loss)


@given(batches(), st.sampled_from(ESTIMATORS))
def test_gradients_are_finite(case, estimator):
    batch, options, _ = case
    pool = GumbelPool(3, losses=ALL, estimator=estimator, **options).double()
    arguments = batch.arguments("x", "edge_weight", "edge_attr")
    downstream(pool(**arguments)).backward()
    for name in ("x", "edge_weight", "edge_attr"):
        grad = None if arguments[name] is None else arguments[name].grad
        assert grad is None or torch.isfinite(grad).all()
    assert torch.isfinite(pool.lin.weight.grad).all()


@given(batches())
def test_occupancy_describes_the_assignment(case):
    batch = case[0]
    out = pooled(*case)
    found = occupancy(out.cluster, batch.batch, batch.num_graphs)
    for g in range(batch.num_graphs):
        members = out.cluster[batch.batch == g]
        counts = members.unique(return_counts=True)[1].double()
        assert found.used[g] == len(counts)
        if len(members):
            share = counts / counts.sum()
            assert_close(found.largest_share[g].double(), share.max(), rtol=1e-6, atol=0)
            perplexity = (-(share * share.log()).sum()).exp()
            assert_close(found.perplexity[g].double(), perplexity, rtol=1e-5, atol=0)


# --- reproducibility -----------------------------------------------------------------------------


def run(pool, batch, random=None):
    """Everything that one training step produces, bit for bit."""
    pool.zero_grad()
    arguments = batch.arguments("x", "edge_weight", "edge_attr")
    out = pool(**arguments, generator=random)
    downstream(out).backward()
    leaves = [arguments[n].grad for n in ("x", "edge_weight", "edge_attr")]
    head = [p.grad.clone() for p in pool.parameters()]
    return [out.x, out.edge_index, out.edge_weight, out.edge_attr, out.cluster, *leaves, *head]


def identical(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


STEP = make_batch((20, 0, 15), weighted=True, attr=2, loops=True)


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_seeded_steps_repeat_bit_for_bit(estimator, block_size):
    pool = GumbelPool(3, 5, estimator=estimator, losses=ALL, block_size=block_size).double()
    torch.manual_seed(3)
    first = run(pool, STEP)
    second = run(pool, STEP)
    torch.manual_seed(3)
    assert identical(run(pool, STEP), first)
    assert not identical(second, first)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_generator_makes_the_step_independent_of_the_global_state(estimator):
    pool = GumbelPool(3, 5, estimator=estimator, losses=ALL).double()
    first = run(pool, STEP, generator(3))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert identical(run(pool, STEP, generator(3)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not identical(run(pool, STEP, generator(4)), first)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_eval_is_deterministic_and_uses_no_randomness(estimator):
    pool = GumbelPool(3, 5, estimator=estimator, losses=ALL).double().eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = pool(**STEP.arguments()), pool(**STEP.arguments())
    assert torch.equal(torch.get_rng_state(), before)
    assert identical(first[:6], second[:6])


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_second_backward_repeats_the_first(estimator, block_size):
    pool = GumbelPool(3, 5, estimator=estimator, losses=ALL, block_size=block_size).double()
    arguments = STEP.arguments("x", "edge_weight", "edge_attr")
    loss = downstream(pool(**arguments))
    leaves = [arguments[n] for n in ("x", "edge_weight", "edge_attr")] + [*pool.parameters()]
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.rand(5)
    assert identical(torch.autograd.grad(loss, leaves), first)


def test_two_passes_have_different_noise():
    """Same draw, two backward passes of two forward passes: the conditional noise is fresh."""
    pool = GumbelPool(3, 5, estimator="gumbel", losses=()).double()
    grads = []
    for seed in range(2):
        pool.zero_grad()
        with injected(rand(STEP.num_nodes, seed=1), seed):
            downstream(pool(**STEP.arguments())).backward()
        grads.append(pool.lin.weight.grad.clone())
    assert not torch.equal(*grads)


def test_blocks_of_one_pass_have_different_noise():
    """Equal rows in different blocks must not share their noise."""
    pool = GumbelPool(1, 4, estimator="gumbel", losses=(), block_size=5).double()
    logits = torch.zeros(20, 4).double().requires_grad_()
    x = torch.ones(20, 1).double()
    with injected(torch.full((20,), 0.1).double()):
        out = pool(x, torch.empty(2, 0, dtype=torch.long), logits=logits)
    (out.x[:, 0] * randn(4, seed=1)).sum().backward()
    assert len(logits.grad.unique(dim=0)) == 20
