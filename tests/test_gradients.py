"""The layer's gradient for one draw, against g by autograd through the dense multilinear form."""

import itertools

import oracle
import pytest
import torch
from conftest import (
    ESTIMATORS,
    Batch,
    assert_close,
    batches,
    downstream,
    injected,
    make_batch,
    noise_of,
    rand,
    randn,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from gumbelpool import GumbelPool, coarsen_edges, coarsen_nodes, estimators, unpool

K = 4
ALL = ("link", "entropy", "balance", "modularity")
LEAVES = ("x", "edge_weight", "edge_attr")

GRAPHS = {
    "plain": {},
    "weighted": {"weighted": True},
    "everything": {"weighted": True, "attr": 2, "loops": True, "duplicates": True},
    "attr-unweighted": {"attr": 3, "loops": True},
    "undirected": {"weighted": True, "undirected": True, "loops": True},
    "positive": {"weighted": "positive", "attr": 2, "loops": True, "duplicates": True},
}
OPTIONS = {
    "default": {},
    "cold": {"tau": 0.6},
    "mean": {"aggr": "mean"},
    "drop-empty": {"drop_empty": True},
    "mean-drop-empty": {"aggr": "mean", "drop_empty": True, "tau": 1.7},
    "no-pooled-loops": {"remove_self_loops": True},
    "binary": {"weighted": False},
    "ratio": {"ratio": 0.5, "tau": 0.8},
    "ratio-drop-empty": {"ratio": 0.5, "drop_empty": True},
    "no-bias": {"bias": False},
    "no-losses": {"losses": ()},
}


def has_negative_weights(batch: Batch) -> bool:
    return batch.edge_weight is not None and bool((batch.edge_weight < 0).any())


def assert_gradients_agree(
    batch: Batch, options: dict, *, training=True, loss=downstream, extra=(), scale=1.0
):
    """Run layer and oracle with one draw and one noise; compare every gradient."""
    losses = ALL[:3] if has_negative_weights(batch) else ALL
    options = {"losses": losses, "num_clusters": K, "estimator": "gumbel"} | options
    pool = GumbelPool(batch.x.size(1), **options).double().train(training)
    config = {k: v for k, v in options.items() if k not in ("bias", "block_size")}
    clusters = options["num_clusters"]
    uniforms = rand(batch.num_nodes, seed=5)
    given = batch.arguments(*LEAVES)
    for name in extra:
        width = clusters if name == "logits" else batch.x.size(1)
        given[name] = (scale * randn(batch.num_nodes, width, seed=8)).requires_grad_()
    # Without a draw nothing is left to chance, the noise included.
    seed = 12345678901234 if training else 0
    noise = noise_of(seed, options["estimator"], batch.num_nodes, clusters)
    with injected(uniforms, seed):
        out = pool(**given)
        loss(out).backward()

    expected, grads = oracle.layer(
        oracle.Config(**config),
        loss,
        **batch.oracle_arguments(),
        **{name: given[name] for name in extra},
        weight=pool.lin.weight,
        bias=pool.lin.bias,
        draw_from=(lambda t: oracle.draw(t, uniforms)) if training else (lambda t: t.argmax(1)),
        noise=noise,
    )
    assert torch.equal(out.cluster, expected.cluster)
    leaves = {n: given[n] for n in (*LEAVES, *extra) if given[n] is not None}
    leaves |= {f"lin.{n}": p for n, p in pool.lin.named_parameters() if "logits" not in extra}
    assert set(leaves) == set(grads)
    for name, leaf in leaves.items():
        have = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert_close(have, grads[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("estimator", ["gumbel", "reinmax"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("graphs", GRAPHS.values(), ids=GRAPHS)
def test_gradients_equal_dense_oracle(graphs, options, estimator):
    assert_gradients_agree(make_batch(**graphs), options | {"estimator": estimator})


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_of_every_estimator_equal_dense_oracle(options, estimator):
    options = {"tau": 0.7} | options | {"estimator": estimator}
    assert_gradients_agree(make_batch(**GRAPHS["everything"]), options)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_in_eval_are_those_of_the_argmax(estimator):
    batch = make_batch(**GRAPHS["everything"])
    assert_gradients_agree(batch, {"estimator": estimator, "tau": 0.7}, training=False)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("block_size", [1, 3, 7, 12, 64])
def test_block_size_changes_no_gradient(block_size, estimator):
    batch = make_batch(**GRAPHS["everything"])
    options = {"estimator": estimator, "block_size": block_size, "tau": 0.7, "aggr": "mean"}
    assert_gradients_agree(batch, options)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("ratio", [None, 0.5])
@pytest.mark.parametrize("block_size", [None, 3])
def test_gradients_of_caller_logits(estimator, ratio, block_size):
    batch = make_batch(**GRAPHS["everything"])
    options = {"estimator": estimator, "tau": 0.7, "ratio": ratio, "block_size": block_size}
    assert_gradients_agree(batch, options, extra=("logits",), scale=2.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_gradients_of_assign_x(estimator, aggr):
    batch = make_batch(**GRAPHS["everything"])
    assert_gradients_agree(batch, {"estimator": estimator, "aggr": aggr}, extra=("assign_x",))


@given(batches(), st.sampled_from(ESTIMATORS), st.sampled_from([0.4, 1.0, 2.0]))
def test_gradients_of_random_batches_equal_dense_oracle(case, estimator, tau):
    batch, options, _ = case
    assert_gradients_agree(batch, options | {"estimator": estimator, "tau": tau})


TERMS = {
    "x": lambda out: torch.sin(out.x).sum(),
    "edge_weight": lambda out: torch.sin(out.edge_weight).sum(),
    "edge_attr": lambda out: torch.sin(out.edge_attr).sum(),
    "link": lambda out: out.losses["link"],
    "entropy": lambda out: out.losses["entropy"],
    "balance": lambda out: out.losses["balance"],
    "modularity": lambda out: out.losses["modularity"],
}


@pytest.mark.parametrize("graphs", [{}, {"ratio": 0.5}], ids=["K", "ratio"])
@pytest.mark.parametrize("estimator", ["straight_through", "reinmax"])
@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_each_term_of_the_gradient_alone(term, estimator, graphs):
    batch = make_batch(**GRAPHS["positive"])
    assert_gradients_agree(batch, graphs | {"estimator": estimator}, loss=term)


@pytest.mark.parametrize("sizes", [(9,), (2, 2, 2, 2), (0, 3, 0, 6), (30, 20)])
@pytest.mark.parametrize("estimator", ["gumbel", "straight_through"])
def test_gradients_for_other_batches(sizes, estimator):
    batch = make_batch(sizes, weighted=True, attr=1, loops=True, density=0.3, seed=3)
    assert_gradients_agree(batch, {"estimator": estimator, "aggr": "mean", "tau": 1.4})


@pytest.mark.parametrize("name", ["x", "edge_weight", "edge_attr", "logits"])
def test_gradient_of_one_leaf_alone(name):
    """What requires a gradient must not change what the gradient is."""
    batch = make_batch(**GRAPHS["positive"])
    pool = GumbelPool(3, K, estimator="reinmax", losses=ALL).double()
    logits = randn(batch.num_nodes, K, seed=8)
    uniforms = rand(batch.num_nodes, seed=5)

    def run(*leaves):
        given = batch.arguments() | {"logits": logits}
        given |= {n: given[n].clone().requires_grad_() for n in leaves}
        with injected(uniforms):
            downstream(pool(**given)).backward()
        return given[name].grad

    assert_close(run(name), run(*LEAVES, "logits"))


def test_frozen_head_gets_no_gradient_and_the_input_still_does():
    batch = make_batch(weighted=True)
    pool = GumbelPool(3, K, estimator="gst").double()
    full, frozen = batch.arguments("x"), batch.arguments("x")
    with injected(rand(batch.num_nodes, seed=5)):
        downstream(pool(**full)).backward()
        pool.requires_grad_(False).zero_grad()
        downstream(pool(**frozen)).backward()
    assert_close(frozen["x"].grad, full["x"].grad)
    assert pool.lin.weight.grad is None


def test_no_grad_mode_gives_the_same_output():
    batch = make_batch(weighted=True, attr=2)
    pool = GumbelPool(3, K).double()
    with injected(rand(batch.num_nodes, seed=5)):
        with torch.no_grad():
            quiet = pool(**batch.arguments())
        loud = pool(**batch.arguments())
    assert not quiet.x.requires_grad
    assert torch.equal(quiet.x, loud.x)
    assert torch.equal(quiet.edge_weight, loud.edge_weight)


# --- the oracle's own g, and exact enumeration ---------------------------------------------------


def tiny():
    """Four nodes with self-loops and one asymmetric pair; K = 3, so 81 assignments."""
    edge_index = torch.tensor([[0, 1, 2, 3, 1, 0, 2], [1, 0, 1, 2, 1, 3, 2]])
    weight, x, logits = randn(7, seed=1), randn(4, 2, seed=2), randn(4, 3, seed=3)
    return x, edge_index, weight, logits


def assignments(logits):
    """Every assignment with its probability."""
    p = torch.softmax(logits, 1)
    for c in itertools.product(range(logits.size(1)), repeat=len(logits)):
        yield torch.tensor(c), torch.stack([p[i, k] for i, k in enumerate(c)]).prod()


def test_oracle_is_the_expectation_over_every_assignment():
    """The multilinear extension at P is E f(S), for f = SᵀX, SᵀAS by plain products."""
    x, edge_index, weight, logits = tiny()
    A, P = oracle.adjacency(4, edge_index, weight), torch.softmax(logits, 1)
    mean_x, mean_a, mean_gap = 0, 0, 0
    for c, probability in assignments(logits):
        S = oracle.one_hot(c, 3)
        mean_x = mean_x + probability * (S.T @ x)
        mean_a = mean_a + probability * (S.T @ A @ S)
        mean_gap = mean_gap + probability * (A - S @ S.T).square().sum()
    assert_close(oracle.pool_features(P, x, "sum"), mean_x)
    assert_close(oracle.pool_matrix(P, A), mean_a)
    scale = max(1.0, float(weight.norm()))
    assert_close((oracle.link_loss(P, edge_index, weight) * scale) ** 2, mean_gap)


def layer_gradient(c, logits, loss, estimator="straight_through", drop_empty=False):
    """The gradient of ``loss(out)`` with respect to the logits, given the draw ``c``."""
    x, edge_index, weight, _ = tiny()
    probability = torch.softmax(logits, 1)
    middle = probability.cumsum(1) - 0.5 * probability
    pool = GumbelPool(2, 3, estimator=estimator, losses=(), drop_empty=drop_empty).double()
    leaf = logits.clone().requires_grad_()
    with injected(middle[range(4), c]):
        out = pool(x, edge_index, weight, logits=leaf)
    assert torch.equal(c.unique()[out.cluster] if drop_empty else out.cluster, c)
    return torch.autograd.grad(loss(out), leaf)[0]


def test_mean_straight_through_gradient_of_the_layer_is_diffpools_for_a_linear_loss():
    """Through the features: the mean over all 81 draws is the gradient of ⟨C, PᵀX⟩, exactly."""
    x, _, _, logits = tiny()
    C = randn(3, 2, seed=4)
    leaf = logits.clone().requires_grad_()
    diffpool = torch.autograd.grad((C * (torch.softmax(leaf, 1).T @ x)).sum(), leaf)[0]

    mean = torch.zeros_like(logits)
    for c, probability in assignments(logits):
        mean += probability * layer_gradient(c, logits, lambda out: (C * out.x).sum())
    assert_close(mean, diffpool)


def test_mean_straight_through_gradient_is_diffpools_through_the_adjacency():
    """For ⟨M, A'⟩ over all K×K entries, pooled edges or not: exact, self-loops included."""
    _, edge_index, weight, logits = tiny()
    A, M = oracle.adjacency(4, edge_index, weight), randn(3, 3, seed=4)
    leaf = logits.clone().requires_grad_()
    P = torch.softmax(leaf, 1)
    a = torch.diagonal(A)
    diffpool = P.T @ A @ P + torch.diag(P.T @ a) - P.T @ torch.diag(a) @ P
    target = torch.autograd.grad((M * diffpool).sum(), leaf)[0]

    mean = torch.zeros_like(logits)
    for c, probability in assignments(logits):
        S = oracle.one_hot(c, 3).requires_grad_()
        g = torch.autograd.grad((M * oracle.pool_matrix(S, A)).sum(), S)[0]
        mean += probability * estimators.ESTIMATORS["straight_through"](g, logits, c, 1.0, None)
    assert_close(mean, target)


@pytest.mark.parametrize("missing", ["edges", "supernodes"])
@pytest.mark.parametrize("seed", range(10))
def test_what_a_draw_leaves_out_has_no_gradient_which_is_a_bias(missing, seed):
    """docs/theory.md, section 5: linear in all of X' or A', seen only where there is something."""
    x, edge_index, weight, logits = tiny()
    C, M = randn(3, 2, seed=10 + seed), randn(3, 3, seed=30 + seed)
    leaf = logits.clone().requires_grad_()
    P = torch.softmax(leaf, 1)
    pooled = oracle.pool_matrix(P, oracle.adjacency(4, edge_index, weight))
    mean_loss = (M * pooled).sum() if missing == "edges" else (C * (P.T @ x)).sum()
    exact = torch.autograd.grad(mean_loss, leaf)[0]

    mean = torch.zeros_like(logits)
    for c, probability in assignments(logits):
        if missing == "edges":
            mean += probability * layer_gradient(
                c, logits, lambda out: (M[tuple(out.edge_index)] * out.edge_weight).sum()
            )
        else:
            used = c.unique()
            mean += probability * layer_gradient(
                c, logits, lambda out, used=used: (C[used] * out.x).sum(), drop_empty=True
            )
    low, high = (0.18, 0.41) if missing == "edges" else (0.13, 0.28)
    assert low - 0.005 < (mean - exact).norm() / exact.norm() < high + 0.005
    assert torch.cosine_similarity(mean.flatten(), exact.flatten(), dim=0) > 0.955


@pytest.mark.parametrize("total", ["x", "edge_weight"])
def test_a_total_has_a_gradient_only_where_something_is_left_out(total):
    """The totals are the same for all draws, but some see less than K supernodes or K² edges."""
    logits = tiny()[3]
    largest = {True: [], False: []}
    for c, _ in assignments(logits):
        gradient = layer_gradient(
            c, logits, lambda out: getattr(out, total).sum(), drop_empty=total == "x"
        )
        complete = total == "x" and len(c.unique()) == 3
        largest[complete].append(float(gradient.abs().max()))
    assert max(largest[False]) > 0.1
    if total == "x":
        assert max(largest[True]) < 1e-12


QUADRATIC = {  # of degree two in each row, through the features or over all of A'
    "features": lambda x, a, C, M: (x - C).square().sum(),
    "adjacency": lambda x, a, C, M: (a - M).square().sum(),
    "a linear step": lambda x, a, C, M: (C * (a @ x)).sum(),
    "two linear steps": lambda x, a, C, M: (C * (a @ (a @ x))).sum(),
}


@pytest.mark.parametrize("form", QUADRATIC)
def test_mean_reinmax_gradient_is_exact_up_to_degree_two_in_each_row(form):
    """Theorem 6, over all draws of four rows, and where it ends."""
    x, edge_index, weight, logits = tiny()
    A, C, M = oracle.adjacency(4, edge_index, weight), randn(3, 2, seed=4), randn(3, 3, seed=5)
    leaf = logits.clone().requires_grad_()
    P, mean_loss = torch.softmax(leaf, 1), 0
    mean = {"reinmax": torch.zeros_like(logits), "straight_through": torch.zeros_like(logits)}
    for c, probability in assignments(logits):
        S = oracle.one_hot(c, 3).requires_grad_()
        loss = QUADRATIC[form](S.T @ x, oracle.pool_matrix(S, A), C, M)
        g = torch.autograd.grad(loss, S)[0]
        for name, total in mean.items():
            total += probability * estimators.ESTIMATORS[name](g, logits, c, 1.0, None)
        mean_loss = mean_loss + P[range(4), c].prod() * loss.detach()
    exact = torch.autograd.grad(mean_loss, leaf)[0]
    assert (mean["straight_through"] - exact).norm() > 0.05 * exact.norm()
    if form == "two linear steps":
        assert (mean["reinmax"] - exact).norm() > 0.05 * exact.norm()
    else:
        assert_close(mean["reinmax"], exact)


def test_the_layers_mean_reinmax_gradient_is_exact_for_a_quadratic_of_the_features():
    x, _, _, logits = tiny()
    C = randn(3, 2, seed=4)
    leaf = logits.clone().requires_grad_()
    P, mean_loss = torch.softmax(leaf, 1), 0
    mean = torch.zeros_like(logits)
    for c, probability in assignments(logits):
        value = (oracle.one_hot(c, 3).T @ x - C).square().sum()
        mean_loss = mean_loss + P[range(4), c].prod() * value
        mean += probability * layer_gradient(
            c, logits, lambda out: (out.x - C).square().sum(), "reinmax"
        )
    assert_close(mean, torch.autograd.grad(mean_loss, leaf)[0])


# --- gradcheck: functions that are differentiable in the usual sense ------------------------------


@pytest.mark.parametrize("remove_self_loops", [False, True])
@pytest.mark.parametrize("num_supernodes", [3, 5000])
def test_gradcheck_coarsen_edges(num_supernodes, remove_self_loops):
    edge_index, cluster = torch.randint(8, (2, 30)), torch.randint(3, (8,))
    weight = randn(30, seed=1).requires_grad_()
    attr = randn(30, 2, seed=2).requires_grad_()

    def merged(weight, attr):
        return coarsen_edges(
            edge_index, cluster, num_supernodes, weight, attr, remove_self_loops=remove_self_loops
        )[1:]

    assert gradcheck(merged, (weight, attr))


@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_gradcheck_coarsen_nodes(aggr):
    cluster = torch.tensor([0, 3, 3, 0, 1])
    x = randn(5, 2, seed=1).requires_grad_()
    assert gradcheck(lambda x: coarsen_nodes(x, cluster, 5, aggr), (x,))


def test_gradcheck_unpool():
    cluster = torch.tensor([0, 2, 2, 0, 1])
    x = randn(3, 2, seed=1).requires_grad_()
    assert gradcheck(lambda x: unpool(x, cluster), (x,))


@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize("drop_empty", [False, True])
@pytest.mark.parametrize("remove_self_loops", [False, True])
def test_gradcheck_layer_given_logits(aggr, drop_empty, remove_self_loops):
    batch = make_batch(**GRAPHS["positive"])
    pool = GumbelPool(
        3, K, aggr=aggr, drop_empty=drop_empty, remove_self_loops=remove_self_loops,
        losses=("link", "modularity"),
    ).double()  # fmt: skip
    logits = randn(batch.num_nodes, K, seed=8)
    given = batch.arguments(*LEAVES)

    def outputs(x, edge_weight, edge_attr):
        leaves = {"x": x, "edge_weight": edge_weight, "edge_attr": edge_attr}
        with injected(rand(batch.num_nodes, seed=5)):
            out = pool(**(given | leaves), logits=logits)
        return out.x, out.edge_weight, out.edge_attr, *out.losses.values()

    assert gradcheck(outputs, tuple(given[name] for name in LEAVES))
