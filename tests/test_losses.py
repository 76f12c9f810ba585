"""The losses: known values, gradients, and independence of what else is in the batch."""

import itertools
import math

import oracle
import pytest
import torch
from conftest import assert_close, injected, make_batch, rand, randn
from torch.autograd import gradcheck

from gumbelpool import DenseDiffPool, GumbelPool, data_checks, expected_modularity

K = 4
ALL = ("link", "entropy", "balance", "modularity")


def test_link_loss_is_the_frobenius_norm_of_the_dense_difference():
    batch = make_batch((8,), weighted=True, loops=True, density=0.6)
    pool = GumbelPool(3, K, losses=("link",), drop_empty=False).double()
    out = pool(**batch.arguments())
    S = oracle.one_hot(out.cluster, K)
    A = oracle.adjacency(8, batch.edge_index, batch.edge_weight)
    assert A.norm() > 1
    assert_close(out.losses["link"].detach(), (A - S @ S.T).norm() / A.norm())


def test_link_loss_of_a_sparse_graph_is_not_scaled_up():
    x, edge_index = randn(2, 3, seed=1), torch.tensor([[0], [1]])
    pool = GumbelPool(3, 2, losses=("link",)).double()
    logits = torch.tensor([[9.0, -9.0], [-9.0, 9.0]]).double()
    out = pool.eval()(x, edge_index, torch.tensor([0.25]).double(), logits=logits)
    assert_close(out.losses["link"].detach(), torch.tensor(0.75**2 + 0.5 + 1).double().sqrt())


def test_link_loss_of_a_perfect_assignment_is_zero_with_zero_gradient():
    edge_index = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 2]])
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).double().requires_grad_()
    pool = GumbelPool(3, 2, losses=("link",)).double().eval()
    out = pool(randn(3, 3, seed=1), edge_index, logits=logits)
    out.loss.backward()
    assert out.loss.item() <= 1e-5
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_entropy_and_balance_at_uniform_logits():
    batch = make_batch((6, 4))
    pool = GumbelPool(3, K, losses=("entropy", "balance")).double()
    out = pool(**batch.arguments(), logits=torch.zeros(10, K).double())
    assert_close(out.losses["entropy"].detach(), torch.tensor(K).double().log())
    assert_close(out.losses["balance"].detach(), torch.tensor(0.0).double())


def test_balance_is_largest_when_one_cluster_takes_all():
    batch = make_batch((6, 4))
    logits = torch.zeros(10, K).double()
    logits[:, 1] = 100.0
    pool = GumbelPool(3, K, losses=("entropy", "balance")).double()
    out = pool(**batch.arguments(), logits=logits)
    assert_close(out.losses["balance"].detach(), torch.tensor(K).double().log())
    assert_close(out.losses["entropy"].detach(), torch.tensor(0.0).double())


TRIANGLES = torch.tensor([[0, 0, 1, 3, 3, 4, 2], [1, 2, 2, 4, 5, 5, 3]])  # joined by one edge


@pytest.mark.parametrize(
    ("clusters", "quality"),
    [([0, 0, 0, 1, 1, 1], 6 / 7 - 0.5), ([2] * 6, 0.0), ([0, 1, 2, 0, 1, 2], -66 / 14**2)],
    ids=["triangles", "one cluster", "across"],
)
@pytest.mark.parametrize("layer", [GumbelPool, DenseDiffPool])
def test_modularity_of_two_triangles(layer, clusters, quality):
    both = torch.cat([TRIANGLES, TRIANGLES.flip(0)], dim=1)
    logits = 99 * oracle.one_hot(torch.tensor(clusters), 3)
    pool = layer(3, 3, losses=("modularity",)).double().eval()
    loss = pool(randn(6, 3, seed=1), both, logits=logits).losses["modularity"]
    assert_close(loss, torch.tensor(-quality, dtype=torch.float64))


def test_modularity_of_a_directed_graph_multiplies_out_degrees_with_in_degrees():
    edge_index = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 2]])
    weight = torch.tensor([3.0, 1.0, 2.0, 4.0]).double()  # of which 0 → 1 and the loop are inside
    logits = oracle.one_hot(torch.tensor([0, 0, 1]), 2)
    pool = GumbelPool(3, 2, losses=("modularity",), remove_self_loops=True).double().eval()
    loss = pool(randn(3, 3, seed=1), edge_index, weight, logits=logits).losses["modularity"]
    assert_close(loss, torch.tensor((6 * 3 + 4 * 7) / 100 - 7 / 10, dtype=torch.float64))


@pytest.mark.parametrize("layer", [GumbelPool, DenseDiffPool])
@pytest.mark.parametrize("weightless", [False, True])
def test_a_graph_without_edges_or_weight_has_modularity_zero(layer, weightless):
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 2]])[:, : 3 if weightless else 0]
    weight = torch.zeros(edge_index.size(1)).double().requires_grad_()
    logits = randn(4, 2, seed=1).requires_grad_()
    pool = layer(3, 2, losses=("modularity",)).double()
    loss = pool(randn(4, 3, seed=1), edge_index, weight, logits=logits).losses["modularity"]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("layer", [GumbelPool, DenseDiffPool])
def test_negative_weights_are_refused_by_modularity_alone(layer):
    x, weight = randn(6, 3, seed=1), torch.linspace(3, -0.5, 7).double()
    layer(3, 2).double()(x, TRIANGLES, weight)
    pool = layer(3, 2, losses=("balance", "modularity")).double()
    with pytest.raises(
        ValueError, match=r"edge_weight must not be negative where losses.*got -0.5"
    ):
        pool(x, TRIANGLES, weight)
    with data_checks(False):
        pool(x, TRIANGLES, weight)


@pytest.mark.parametrize("drop_empty", [False, True])
def test_mean_gradient_of_modularity_is_that_of_the_mean(drop_empty):
    """Over all 3^5 draws, whatever they leave empty: docs/theory.md, section 6."""
    batch = make_batch((5,), weighted="positive", loops=True, density=0.8)
    logits = randn(5, 3, seed=4)
    pool = GumbelPool(
        3, 3, losses=("modularity",), estimator="straight_through", drop_empty=drop_empty
    ).double()
    leaf = logits.clone().requires_grad_()
    mean = expected_modularity(batch.edge_index, leaf.softmax(-1), batch.edge_weight)
    (exact,) = torch.autograd.grad(-mean.sum(), leaf)
    p = logits.softmax(-1)
    middle, total = p.cumsum(1) - 0.5 * p, torch.zeros_like(p)
    for c in itertools.product(range(3), repeat=5):
        leaf = logits.clone().requires_grad_()
        with injected(middle[range(5), c]):
            pool(**batch.arguments(), logits=leaf).loss.backward()
        total += p[range(5), c].prod() * leaf.grad
    assert exact.norm() > 0.01
    assert_close(total, exact)


def test_gradcheck_modularity_of_the_soft_assignment():
    batch = make_batch(weighted="positive", loops=True)
    pool = DenseDiffPool(3, K, losses=("modularity",)).double()
    logits = randn(batch.num_nodes, K, seed=8).requires_grad_()

    def loss(logits, edge_weight):
        given = batch.arguments() | {"edge_weight": edge_weight, "logits": logits}
        return pool(**given).losses["modularity"]

    assert gradcheck(loss, (logits, batch.edge_weight.clone().requires_grad_()))


def test_loss_is_the_sum_of_the_losses():
    batch = make_batch()
    out = GumbelPool(3, K, losses=ALL).double()(**batch.arguments())
    assert_close(out.loss, sum(out.losses.values()))
    none = GumbelPool(3, K, losses=()).double()(**batch.arguments())
    assert none.losses == {}
    assert none.loss.item() == 0.0


@pytest.mark.parametrize("ratio", [None, 0.5])
@pytest.mark.parametrize("name", ["entropy", "balance"])
@pytest.mark.parametrize("block_size", [None, 4])
def test_gradcheck_entropy_and_balance_through_the_layer(name, ratio, block_size):
    batch = make_batch()
    pool = GumbelPool(3, K, losses=ALL, ratio=ratio, block_size=block_size).double()
    logits = randn(batch.num_nodes, K, seed=8).requires_grad_()

    def loss(logits):
        return pool(**batch.arguments(), logits=logits).losses[name]

    assert gradcheck(loss, (logits,))


@pytest.mark.parametrize("ratio", [None, 0.5])
@pytest.mark.parametrize("name", ALL)
def test_a_batch_changes_no_graphs_loss(name, ratio):
    """B · loss of a batch is the sum of the losses of its graphs, empty ones included."""
    batch = make_batch((6, 0, 5, 1, 0, 9), weighted="positive", loops=True)
    pool = GumbelPool(3, K, losses=(name,), ratio=ratio).double()
    uniforms = rand(batch.num_nodes, seed=5)
    with injected(uniforms):
        together = pool(**batch.arguments()).losses[name]
    alone = []
    for g in range(batch.num_graphs):
        with injected(uniforms[batch.batch == g]):
            alone.append(pool(**batch.graph(g).arguments()).losses[name])
    assert_close(together * batch.num_graphs, sum(alone))


@pytest.mark.parametrize("name", ALL)
def test_a_graphs_loss_gradient_does_not_see_the_other_graphs(name):
    pool = GumbelPool(3, K, losses=(name,), estimator="straight_through").double()
    logits, uniforms = randn(11, K, seed=1), rand(11, seed=5)
    batch = make_batch((6, 5), weighted="positive")

    def gradient(part, rows):
        leaf = logits[rows].clone().requires_grad_()
        with injected(uniforms[rows]):
            pool(**part.arguments(), logits=leaf).losses[name].backward()
        return leaf.grad

    both, first = gradient(batch, slice(0, 11)), gradient(batch.graph(0), slice(0, 6))
    assert_close(2 * both[:6], first)


@pytest.mark.parametrize("name", ["entropy", "balance"])
def test_losses_do_not_depend_on_the_draw_or_on_tau(name):
    batch = make_batch()
    logits = randn(batch.num_nodes, K, seed=1)
    values = []
    for seed, tau in ((1, 1.0), (2, 0.1)):
        pool = GumbelPool(3, K, losses=(name,), tau=tau).double()
        with injected(rand(batch.num_nodes, seed=seed)):
            values.append(pool(**batch.arguments(), logits=logits).losses[name])
    assert_close(*values)


@pytest.mark.parametrize("name", ["entropy", "balance"])
@pytest.mark.parametrize("dead", [1, 3])
def test_impossible_clusters_have_no_entropy_and_no_gradient(name, dead):
    batch = make_batch((6, 4))
    raw = randn(10, K, seed=1)
    raw[:, K - dead :] = -math.inf
    leaf, small = raw.clone().requires_grad_(), raw[:, : K - dead].clone().requires_grad_()
    wide = GumbelPool(3, K, losses=(name,)).double()(**batch.arguments(), logits=leaf)
    narrow = GumbelPool(3, K - dead, losses=(name,)).double()(**batch.arguments(), logits=small)
    offset = math.log(K / (K - dead)) if name == "balance" else 0.0
    assert_close(wide.loss, narrow.loss + offset)
    wide.loss.backward()
    narrow.loss.backward()
    assert_close(leaf.grad[:, : K - dead], small.grad)
    assert torch.equal(leaf.grad[:, K - dead :], torch.zeros(10, dead).double())


def test_balance_plus_entropy_is_log_k_minus_mutual_information():
    batch = make_batch((9,))
    logits = 2 * randn(9, K, seed=1)
    pool = GumbelPool(3, K, losses=("entropy", "balance")).double()
    out = pool(**batch.arguments(), logits=logits)
    p = torch.softmax(logits, 1)
    information = (p * (p / p.mean(0)).log()).sum() / 9
    assert_close(out.loss, math.log(K) - information)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_losses_are_at_least_float32(name, dtype):
    batch = make_batch()
    pool = GumbelPool(3, K, losses=(name,)).to(dtype)
    out = pool(batch.x.to(dtype), batch.edge_index, batch=batch.batch, batch_size=5)
    assert out.losses[name].dtype == torch.promote_types(dtype, torch.float32)
    assert out.losses[name].shape == ()
    assert torch.isfinite(out.losses[name])
