"""Sums of a million terms, values near the ends of a dtype, and temperatures far from one."""

import math

import oracle
import pytest
import torch
from conftest import (
    ESTIMATORS,
    assert_close,
    downstream,
    generator,
    injected,
    make_batch,
    rand,
    randn,
)

from gumbelpool import GumbelPool, coarsen_edges, coarsen_nodes

MILLION = 1_000_000
NO_EDGES = torch.empty(2, 0, dtype=torch.long)


def relative_error(actual, expected):
    return float(((actual.double() - expected).abs() / expected.abs()).max())


def cosine(one, other):
    one, other = one.double().flatten(), other.double().flatten()
    return float((one / one.norm()) @ (other / other.norm()))


@pytest.fixture(scope="module")
def level():
    """A million rows of nearly equal scores, the two losses of p in float64, and the gradients."""
    logits = 1e-3 * torch.randn(MILLION, 10, generator=generator(3))
    theta = logits.double().requires_grad_()
    logp = theta.log_softmax(-1)
    mean = logp.exp().mean(0)
    entropy = -(logp.exp() * logp).sum(-1).mean()
    balance = (mean * (mean * 10).log()).sum()
    (by_balance,) = torch.autograd.grad(balance, theta, retain_graph=True)
    (by_entropy,) = torch.autograd.grad(entropy, theta)
    return logits, float(entropy.detach()), float(balance.detach()), by_entropy, by_balance


@pytest.mark.parametrize("num_graphs", [1, 2])
def test_losses_of_a_million_undecided_nodes_are_those_of_float64(level, num_graphs):
    """The second graph, if there is one, is empty."""
    logits, entropy, balance, by_entropy, by_balance = level
    batch = torch.zeros(MILLION, dtype=torch.long) if num_graphs > 1 else None
    pool = GumbelPool(10, 10, losses=("entropy", "balance"))
    theta = logits.clone().requires_grad_()
    out = pool(theta.detach()[:, :1], NO_EDGES, batch=batch, batch_size=num_graphs, logits=theta)
    assert abs(num_graphs * float(out.losses["entropy"].detach()) - entropy) <= 1e-5
    assert float(out.losses["balance"].detach()) >= -1e-9
    assert abs(num_graphs * float(out.losses["balance"].detach()) - balance) <= 1e-9
    for name, expected in (("entropy", by_entropy), ("balance", by_balance)):
        (gradient,) = torch.autograd.grad(out.losses[name], theta, retain_graph=True)
        assert cosine(gradient, expected) > 0.999
        assert abs(float(gradient.double().norm() * num_graphs / expected.norm()) - 1) < 1e-2


@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_features_of_a_million_nodes_add_up_to_those_of_float64(aggr):
    x = 1 + 0.1 * torch.randn(MILLION, 2, generator=generator(1))
    logits = torch.randn(MILLION, 3, generator=generator(2))
    pool = GumbelPool(2, 3, aggr=aggr, losses=(), drop_empty=False)
    out = pool(x, NO_EDGES, logits=logits)
    exact = torch.zeros(3, 2).double().index_add(0, out.cluster, x.double())
    if aggr == "mean":
        exact /= out.cluster.bincount(minlength=3).unsqueeze(1)
    assert relative_error(out.x, exact) < 1e-6
    assert relative_error(coarsen_nodes(x, out.cluster, 3, aggr), exact) < 1e-6


@pytest.mark.parametrize("num_clusters", [2, 20_000])
def test_a_million_merged_edges_add_up_to_those_of_float64(num_clusters):
    """Whether pairs of clusters are few enough for a bucket each, or are sorted."""
    random = generator(4)
    nodes = torch.arange(100)
    edges = torch.randint(100, (2, MILLION), generator=random)
    weight = 1 + 0.1 * torch.randn(MILLION, generator=random)
    attr = 1 + 0.1 * torch.randn(MILLION, 2, generator=random)
    logits = torch.zeros(100, num_clusters)
    logits[nodes, nodes % 2] = 1.0
    pool = GumbelPool(1, num_clusters, losses=("link",), drop_empty=False).eval()
    out = pool(nodes.view(-1, 1).float(), edges, weight, edge_attr=attr, logits=logits)
    key = out.cluster[edges[0]] * 2 + out.cluster[edges[1]]
    exact_weight = torch.zeros(4).double().index_add(0, key, weight.double())
    exact_attr = torch.zeros(4, 2).double().index_add(0, key, attr.double())
    assert out.edge_index.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert relative_error(out.edge_weight, exact_weight) < 1e-6
    assert relative_error(out.edge_attr, exact_attr) < 1e-6
    _, coarse_weight, coarse_attr = coarsen_edges(edges, out.cluster, num_clusters, weight, attr)
    assert relative_error(coarse_weight, exact_weight) < 1e-6
    assert relative_error(coarse_attr, exact_attr) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "heavy", "tolerance"),
    [
        (torch.float16, 300.0, 1e-3),
        (torch.bfloat16, 300.0, 1e-2),
        (torch.float32, 1e20, 1e-6),
        (torch.float32, 1e-20, 1e-6),
        (torch.float64, 1e100, 1e-12),
    ],
)
@pytest.mark.parametrize("num_graphs", [1, 2])
def test_link_of_weights_whose_squares_leave_the_dtype(dtype, heavy, tolerance, num_graphs):
    """The second graph, if there is one, is empty."""
    batch = make_batch((12,), loops=True, seed=6)
    E = batch.edge_index.size(1)
    weight = heavy * (1 + torch.rand(E, generator=generator(1)).round(decimals=1).double())
    weight = weight.to(dtype).requires_grad_()
    x, logits = batch.x.to(dtype), randn(12, 3, seed=2).to(dtype)
    pool = GumbelPool(3, 3, losses=("link",), drop_empty=False).eval()
    graphs = {"batch": batch.batch, "batch_size": 2} if num_graphs == 2 else {}
    out = pool(x, batch.edge_index, weight, logits=logits, **graphs)

    exact = weight.detach().double().requires_grad_()
    S = oracle.one_hot(out.cluster, 3)
    expected = oracle.link_loss(S, batch.edge_index, exact) / num_graphs
    expected.backward()
    loss = out.losses["link"]
    assert loss.isfinite()
    assert_close(loss.detach().double(), expected.detach(), rtol=tolerance, atol=0)
    loss.backward()
    assert_close(weight.grad.double(), exact.grad, rtol=10 * tolerance, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "heavy", "tolerance"),
    [
        (torch.float16, 300.0, 1e-3),
        (torch.float16, 1e-3, 1e-3),
        (torch.bfloat16, 300.0, 1e-2),
        (torch.float32, 1e30, 1e-5),
        (torch.float32, 1e-30, 1e-5),
        (torch.float64, 1e100, 1e-10),
        (torch.float64, 1e-100, 1e-10),
    ],
)
def test_modularity_of_weights_near_the_ends_of_the_dtype(dtype, heavy, tolerance):
    """Q does not depend on the unit of the weights, and neither does its gradient by the scores."""
    batch = make_batch((12,), loops=True, seed=6)
    weight = 1 + rand(batch.edge_index.size(1), seed=1)
    scaled = (heavy * weight).to(dtype)
    x, uniforms = batch.x.to(dtype), rand(12, seed=3)
    logits = randn(12, 3, seed=2).to(dtype)
    pool = GumbelPool(3, 3, losses=("modularity",), estimator="straight_through")
    values, gradients = [], []
    for x_, weight_ in ((x, scaled), (x.double(), scaled.double() / heavy)):
        leaf = logits.to(weight_.dtype).detach().requires_grad_()
        with injected(uniforms):
            loss = pool(x_, batch.edge_index, weight_, logits=leaf).loss
        loss.backward()
        values.append(loss.detach().double())
        gradients.append(leaf.grad.double())
    assert_close(*values, rtol=tolerance, atol=tolerance)
    assert_close(*gradients, rtol=10 * tolerance, atol=tolerance * float(gradients[1].abs().max()))


def test_modularity_of_a_million_nodes_is_that_of_float64():
    """Two stars, whose hubs have degrees beyond what float32 counts to one by one with weights."""
    leaves = torch.arange(2, MILLION)
    hub, weight = leaves % 2, 1 + 0.1 * torch.rand(MILLION - 2, generator=generator(1))
    edges = torch.stack([torch.cat([leaves, hub]), torch.cat([hub, leaves])])
    both = weight.repeat(2)
    cluster = torch.randint(3, (MILLION,), generator=generator(2))
    logits = torch.nn.functional.one_hot(cluster, 3).float()
    pool = GumbelPool(1, 3, losses=("modularity",)).eval()
    loss = pool(logits[:, :1], edges, both, logits=logits).loss

    total = both.double().sum()
    inside = both.double()[cluster[edges[0]] == cluster[edges[1]]].sum()
    volume = torch.zeros(3).double().index_add(0, cluster[edges[0]], both.double())
    expected = (volume / total).square().sum() - inside / total
    assert abs(float(loss.detach()) - float(expected)) < 1e-7


def close_scores(num_rows, num_columns, size):
    """Rows of which the two leading scores differ by at most 1e-6, and where the largest is."""
    random = generator(5)
    scores = size * (torch.rand(num_rows, num_columns, generator=random) - 2)
    first, second = torch.rand(num_rows, num_columns, generator=random).topk(2).indices.T
    rows, top = torch.arange(num_rows), size * torch.rand(num_rows, generator=random)
    below = top - 1e-6 * torch.rand(num_rows, generator=random)
    scores[rows, first] = top
    scores[rows, second] = torch.minimum(below, top.nextafter(torch.tensor(-math.inf)))
    assert torch.equal(scores.argmax(1), first)
    return scores, first


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0])
def test_eval_takes_the_largest_score_however_close_the_next_is(size):
    logits, largest = close_scores(200_000, 5, size)
    pool = GumbelPool(1, 5, losses=(), drop_empty=False).eval()
    assert torch.equal(pool(logits[:, :1], NO_EDGES, logits=logits).cluster, largest)


@pytest.mark.parametrize("num_clusters", [4, 8])
@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0])
def test_eval_takes_the_largest_score_of_the_head_however_close_the_next_is(size, num_clusters):
    """A head that copies its channels, with more clusters than those or as many."""
    x, largest = close_scores(200_000, 4, size)
    pool = GumbelPool(4, num_clusters, losses=(), drop_empty=False).eval()
    with torch.no_grad():
        pool.lin.bias.fill_(-1e3)
        pool.lin.bias[:4] = 0
        pool.lin.weight.copy_(torch.eye(4).repeat(2, 1)[:num_clusters])
    assert torch.equal(pool(x, NO_EDGES).cluster, largest)


@pytest.mark.parametrize("tau", [1e3, 1e6])
@pytest.mark.parametrize("excluded_by", ["ratio", "logits"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_high_temperature_does_not_let_excluded_clusters_in(estimator, excluded_by, tau):
    K, batch = 6, make_batch((9, 0, 7), weighted=True, loops=True, seed=8)
    logits = 300 * randn(batch.num_nodes, K, seed=4)
    options = {"num_clusters": K, "estimator": estimator, "tau": tau, "drop_empty": False}
    options["losses"] = ("link", "entropy", "balance")
    excluded = torch.zeros(batch.num_nodes, K, dtype=torch.bool)
    if excluded_by == "ratio":
        options["ratio"] = 0.5  # K_g = 5 and 4
        excluded[:9, 5:] = True
        excluded[9:, 4:] = True
    else:
        excluded = randn(batch.num_nodes, K, seed=5) > 0.5
        excluded[:, 2] = False
        logits = logits.masked_fill(excluded, -math.inf)

    for dtype in (torch.float64, torch.float32):
        theta = logits.to(dtype, copy=True).requires_grad_()
        given = batch.arguments()
        given |= {name: given[name].to(dtype) for name in ("x", "edge_weight")}
        out = GumbelPool(3, **options)(**given, logits=theta, generator=generator(1))
        downstream(out).backward()
        assert theta.grad.isfinite().all()
        assert (theta.grad[excluded] == 0).all()
        assert (theta.grad[~excluded] != 0).any()
        local = out.cluster - torch.searchsorted(out.batch, batch.batch)
        assert not excluded[torch.arange(batch.num_nodes), local].any()
        if estimator in ("gumbel", "gumbel_rao"):
            continue  # the noise is the layer's own
        _, expected = oracle.layer(
            oracle.Config(**options), downstream, **batch.oracle_arguments(),
            logits=theta.detach(), draw_from=lambda _, local=local: local,
        )  # fmt: skip
        largest = expected["logits"].abs().max()
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        assert (theta.grad - expected["logits"]).abs().max() <= tolerance * largest
