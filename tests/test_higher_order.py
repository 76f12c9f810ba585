"""Derivatives of derivatives, torch.func and checkpointing: right, or refused in our own words."""

import pytest
import torch
from conftest import ESTIMATORS, assert_close, downstream, generator, make_batch, randn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gumbelpool import GumbelPool

BATCH = make_batch((9, 7), channels=4, attr=2, weighted=True, loops=True, seed=3)
LEAVES = ("x", "edge_weight", "edge_attr")


def make_pool(**options):
    pool = GumbelPool(4, 3, **({"drop_empty": False} | options)).double()
    with torch.no_grad():
        pool.lin.weight.copy_(randn(3, 4, seed=5))
    return pool


def leaves_of(pool, given):
    named = {name: given[name] for name in LEAVES} | dict(pool.named_parameters())
    if "logits" in given:
        named = {k: v for k, v in named.items() if not k.startswith("lin.")}
        named["logits"] = given["logits"]
    return named


# Second derivatives


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scored", [True, False])
def test_a_second_derivative_is_refused(estimator, scored):
    pool, given = make_pool(estimator=estimator), BATCH.arguments(*LEAVES)
    if not scored:
        given["logits"] = randn(BATCH.num_nodes, 3, seed=6).requires_grad_()
    leaves = leaves_of(pool, given)
    loss = downstream(pool(**given, generator=generator(0)))
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    for gradient in first:
        for leaf in leaves.values():
            with pytest.raises(RuntimeError, match=r"GumbelPool.*second derivative"):
                torch.autograd.grad(gradient.sum(), leaf, retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("name", [*LEAVES, "lin.weight", "lin.bias"])
def test_a_second_derivative_of_one_input_is_refused(name):
    """Also where nothing else requires a gradient."""
    given = BATCH.arguments(*(leaf for leaf in LEAVES if leaf == name))
    pool = make_pool().requires_grad_(False)
    leaf = leaves_of(pool, given)[name].requires_grad_()
    loss = downstream(pool(**given, generator=generator(0)))
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"GumbelPool.*second derivative"):
        torch.autograd.grad(gradient.sum(), leaf)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_a_second_derivative_through_backward_is_refused():
    pool, given = make_pool(), BATCH.arguments(*LEAVES)
    downstream(pool(**given, generator=generator(0))).backward(create_graph=True)
    for leaf in leaves_of(pool, given).values():
        with pytest.raises(RuntimeError, match=r"GumbelPool.*second derivative"):
            torch.autograd.grad(leaf.grad.sum(), leaf, retain_graph=True)
        leaf.grad = None  # breaks the cycle that create_graph makes


def test_create_graph_without_a_second_derivative_gives_the_first():
    pool, given = make_pool(), BATCH.arguments(*LEAVES)
    leaves = list(leaves_of(pool, given).values())
    loss = downstream(pool(**given, generator=generator(0)))
    plain = torch.autograd.grad(loss, leaves, retain_graph=True)
    graphed = torch.autograd.grad(loss, leaves, create_graph=True)
    for one, other in zip(plain, graphed, strict=True):
        assert torch.equal(one, other.detach())


# torch.func


def right_or_refused(function, expected, *words):
    """What it gives is right, or the error says that GumbelPool does not take it, and names why."""
    refusal = None
    try:
        actual = function()
    except RuntimeError as error:
        refusal = str(error)
    if refusal is None:
        assert_close(actual, expected)
    else:
        for word in ("GumbelPool", *words):
            assert word in refusal


@pytest.mark.parametrize("training", [True, False])
def test_vmap_is_right_or_refused(training):
    pool, edges = make_pool(losses=("link", "entropy", "balance")), BATCH.edge_index
    pool.train(training)
    xs = randn(3, BATCH.num_nodes, 4, seed=8)

    def pooled(x):
        draw = generator(0) if training else None
        out = pool(x, edges, batch=BATCH.batch, batch_size=2, generator=draw)
        return out.x, out.losses["balance"]

    expected = tuple(torch.stack(parts) for parts in zip(*map(pooled, xs), strict=True))
    right_or_refused(lambda: torch.func.vmap(pooled, randomness="different")(xs), expected)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_gradients_of_torch_func_are_right_or_refused(transform):
    pool, given = make_pool(), BATCH.arguments("x")

    def loss(x):
        return downstream(pool(**given | {"x": x}, generator=generator(0)))

    (expected,) = torch.autograd.grad(loss(given["x"]), given["x"])
    right_or_refused(lambda: transform(loss)(given["x"].detach()), expected)


def test_a_jacobian_of_torch_func_is_right_or_refused():
    pool, given = make_pool(losses=()), BATCH.arguments("x")

    def features(x):
        return pool(**given | {"x": x}, generator=generator(0)).x[0]

    rows = [
        torch.autograd.grad(entry, given["x"], retain_graph=True)[0]
        for entry in features(given["x"])
    ]
    right_or_refused(lambda: torch.func.jacrev(features)(given["x"].detach()), torch.stack(rows))


def test_gradients_of_the_parameters_by_torch_func_are_right_or_refused():
    pool, given = make_pool(), BATCH.arguments()

    def loss(parameters):
        call = given | {"generator": generator(0)}
        return downstream(torch.func.functional_call(pool, parameters, (), call))

    parameters = {name: value.detach() for name, value in pool.named_parameters()}
    names = dict(pool.named_parameters())
    gradients = torch.autograd.grad(loss(names), list(names.values()))
    expected = dict(zip(names, gradients, strict=True))
    right_or_refused(lambda: torch.func.grad(loss)(parameters), expected)


# Checkpointing


def backward(pool, x, forward) -> list[Tensor]:
    """The gradients of a step that starts from the same state of torch's own generator."""
    x = x.clone().requires_grad_()
    pool.zero_grad()
    torch.manual_seed(7)
    forward(x).backward()
    return [leaf.grad.clone() for leaf in (x, *pool.parameters())]


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("estimator", ["gumbel", "straight_through"])
def test_checkpointing_with_a_generator_is_right_or_refused(estimator, use_reentrant):
    """Checkpointing runs forward twice, and does not know how to rewind a generator."""
    # 64 nodes, so that a second draw differs from the first.
    batch = make_batch((40, 24), channels=4, seed=4)
    pool = make_pool(estimator=estimator)

    def loss(x, random):
        out = pool(x, batch.edge_index, batch=batch.batch, batch_size=2, generator=random)
        return downstream(out)

    def checkpointed(x, random):
        return checkpoint(loss, x, random, use_reentrant=use_reentrant)

    expected = backward(pool, batch.x, lambda x: loss(x, generator(0)))
    right_or_refused(
        lambda: backward(pool, batch.x, lambda x: checkpointed(x, generator(0))),
        expected,
        "generator",
    )


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("estimator", ["gumbel", "straight_through"])
def test_checkpointing_without_a_generator_is_right(estimator, use_reentrant):
    batch = make_batch((40, 24), channels=4, seed=4)
    pool = make_pool(estimator=estimator)

    def loss(x):
        return downstream(pool(x, batch.edge_index, batch=batch.batch, batch_size=2))

    expected = backward(pool, batch.x, loss)
    actual = backward(pool, batch.x, lambda x: checkpoint(loss, x, use_reentrant=use_reentrant))
    assert_close(actual, expected)
