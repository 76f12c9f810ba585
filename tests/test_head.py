"""The assignment head ``lin``: whatever is put there is called, and what it gives is checked."""

import copy
import re

import pytest
import torch
from conftest import make_batch
from torch.nn.utils import parametrizations, prune

from gumbelpool import DenseDiffPool, GumbelPool

LAYERS = [GumbelPool, DenseDiffPool]
BATCH = make_batch((6, 5), channels=3, seed=2)
ARGUMENTS = {k: v.float() if k == "x" else v for k, v in BATCH.arguments().items()}
N, C, K = BATCH.num_nodes, 3, 4


def make(layer):
    torch.manual_seed(3)
    return layer(C, K).eval()


# Heads that do not give [N, K] scores


class Lambda(torch.nn.Module):
    """A head that is any function of the features."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


WRONG = {
    "too many rows": (lambda x: x.new_zeros(N + 1, K), ValueError, f"shape [{N}, {K}]; got [12,"),
    "too few rows": (lambda x: x.new_zeros(N - 1, K), ValueError, f"shape [{N}, {K}]; got [10,"),
    "one row": (lambda x: x.new_zeros(1, K), ValueError, f"shape [{N}, {K}]; got [1,"),
    "no rows": (lambda x: x.new_zeros(0, K), ValueError, f"shape [{N}, {K}]; got [0,"),
    "too few columns": (lambda x: x.new_zeros(N, K - 1), ValueError, f"{K}]; got [{N}, {K - 1}]"),
    "one column": (lambda x: x.new_zeros(N, 1), ValueError, f"[{N}, {K}]; got [{N}, 1]"),
    "too many columns": (lambda x: x.new_zeros(N, K + 1), ValueError, f"got [{N}, {K + 1}]"),
    "no columns": (lambda x: x.new_zeros(N), ValueError, f"[{N}, {K}]; got [{N}]"),
    "integers": (lambda x: x.new_zeros(N, K).long(), TypeError, "floating point; got torch.int64"),
    "booleans": (lambda x: x.new_zeros(N, K) > 0, TypeError, "floating point; got torch.bool"),
    "complex": (lambda x: x.new_zeros(N, K) + 1j, TypeError, "floating point; got torch.complex64"),
    "a list": (lambda x: x.new_zeros(N, K).tolist(), TypeError, f"[{N}, {K}]; got list"),
    "a tuple": (lambda x: (x.new_zeros(N, K),), TypeError, f"[{N}, {K}]; got tuple"),
    "nothing": (lambda x: None, TypeError, f"[{N}, {K}]; got NoneType"),
    "elsewhere": (lambda x: torch.zeros(N, K, device="meta"), ValueError, "device of x, cpu; got"),
    "not a number": (lambda x: x.new_full((N, K), float("nan")), ValueError, "no NaN"),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", WRONG)
def test_a_head_that_gives_no_scores_is_named(layer, kind):
    function, error, message = WRONG[kind]
    pool = make(layer)
    pool.lin = Lambda(function)
    with pytest.raises(error, match=r"^lin(\(x\))? must .*" + re.escape(message)):
        pool(**ARGUMENTS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_head_of_another_dtype_may_score(layer):
    pool = make(layer)
    pool.lin = Lambda(lambda x: torch.cat([x, -x[:, :1]], dim=1).to(torch.bfloat16))
    assert pool(**ARGUMENTS).x.dtype == torch.float32


@pytest.mark.parametrize("layer", LAYERS)
def test_a_head_is_a_module(layer):
    with pytest.raises(TypeError, match="lin"):
        make(layer).lin = lambda x: x


# Heads that are more than a weight and a bias


def forward_hook(pool):
    pool.lin.register_forward_hook(lambda module, given, scores: -scores)


def forward_pre_hook(pool):
    pool.lin.register_forward_pre_hook(lambda module, given: (-given[0],))


def forward_hook_with_arguments(pool):
    pool.lin.register_forward_hook(
        lambda module, given, named, scores: scores.flip(1), with_kwargs=True
    )


def forward_attribute(pool):
    forward = pool.lin.forward
    pool.lin.forward = lambda x: -forward(x)


def weight_norm(pool):
    parametrizations.weight_norm(pool.lin)
    with torch.no_grad():
        pool.lin.parametrizations.weight.original0.mul_(3)


def spectral_norm(pool):
    parametrizations.spectral_norm(pool.lin)


def pruned(pool):
    prune.l1_unstructured(pool.lin, "weight", 0.5)


def subclass(pool):
    lin = Doubled(C, K)
    lin.load_state_dict(pool.lin.state_dict())
    pool.lin = lin


def lazy(pool):
    pool.lin = torch.nn.LazyLinear(K)


def network(pool):
    pool.lin = torch.nn.Sequential(torch.nn.Linear(C, 7), torch.nn.Tanh(), torch.nn.Linear(7, K))


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x).flip(1)


CHANGES = [
    forward_hook, forward_pre_hook, forward_hook_with_arguments, forward_attribute,
    weight_norm, spectral_norm, pruned, subclass, lazy, network,
]  # fmt: skip


def assert_called(pool):
    """The layer's scores are those of calling its head, and so are their gradients."""
    scores = pool.lin(ARGUMENTS["x"])
    expected = pool(**ARGUMENTS, logits=scores)
    parameters = list(pool.lin.parameters())
    gradients = torch.autograd.grad(expected.loss, parameters, allow_unused=True)
    out = pool(**ARGUMENTS)
    torch.testing.assert_close(out.cluster, expected.cluster)
    torch.testing.assert_close(out.x, expected.x)
    torch.testing.assert_close(out.losses, expected.losses)
    torch.testing.assert_close(
        torch.autograd.grad(out.loss, parameters, allow_unused=True), gradients
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_head_that_is_more_than_its_weight_is_called(layer, change):
    pool = make(layer)
    plain = pool(**ARGUMENTS)
    change(pool)
    assert_called(pool)
    changed = pool(**ARGUMENTS)
    assert any(
        not torch.equal(one, other)
        for one, other in (
            (changed.cluster, plain.cluster),
            (changed.losses["entropy"], plain.losses["entropy"]),
        )
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "backward", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_backward_hooks_of_the_head_are_called(layer, backward):
    pool, seen = make(layer), []
    getattr(pool.lin, backward)(lambda module, *gradients: seen.append(gradients[-1][0].shape))
    x = ARGUMENTS["x"].clone().requires_grad_()
    pool(**ARGUMENTS | {"x": x}).loss.backward()
    assert seen == [(N, K)]


@pytest.mark.parametrize("layer", LAYERS)
def test_hooks_of_all_modules_see_the_head(layer):
    pool, seen = make(layer), []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, result: seen.append(module)
    )
    try:
        pool(**ARGUMENTS)
    finally:
        hook.remove()
    assert seen == [pool.lin, pool]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_head_is_plain_again_once_its_hook_is_removed(layer):
    pool = make(layer)
    plain = pool(**ARGUMENTS)
    hook = pool.lin.register_forward_hook(lambda module, given, scores: -scores)
    hook.remove()
    assert pool.head_is_plain()
    torch.testing.assert_close(pool(**ARGUMENTS).x, plain.x)


# A head that waits for its first call


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_lazy_head_is_that_of_the_channels_of_the_first_call(layer, bias):
    expected = layer(C, K, bias=bias)
    torch.manual_seed(3)
    expected.reset_parameters()
    lazy = layer(-1, K, bias=bias)
    assert repr(lazy).startswith(f"{layer.__name__}(-1, num_clusters={K}")
    twin = copy.deepcopy(lazy)
    lazy.reset_parameters()
    lazy.load_state_dict(lazy.state_dict())
    torch.manual_seed(3)
    lazy.eval()(**ARGUMENTS)
    assert repr(lazy) == repr(expected)
    assert lazy.head_is_plain()
    torch.testing.assert_close(dict(lazy.state_dict()), dict(expected.state_dict()))
    twin.load_state_dict(expected.state_dict())
    torch.testing.assert_close(twin.eval()(**ARGUMENTS).x, expected.eval()(**ARGUMENTS).x)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 3\]"):
        lazy(**ARGUMENTS | {"x": ARGUMENTS["x"][:, :2]})


@pytest.mark.parametrize("layer", LAYERS)
def test_a_lazy_head_takes_the_channels_of_assign_x(layer):
    pool = layer(-1, K)
    pool(**ARGUMENTS, assign_x=torch.randn(N, 5))
    assert (pool.in_channels, pool.lin.in_features) == (5, 5)


@pytest.mark.parametrize("layer", LAYERS)
def test_logits_leave_a_lazy_head_waiting(layer):
    pool = layer(-1, K)
    pool(**ARGUMENTS, logits=torch.randn(N, K))
    assert pool.in_channels == -1


# No head


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_without_in_channels_has_no_parameters_and_takes_logits(layer):
    pool = layer(None, K).eval()
    assert list(pool.parameters()) == []
    assert repr(copy.deepcopy(pool)) == f"{layer.__name__}(None, num_clusters={K})"
    pool.reset_parameters()
    logits = torch.randn(N, K)
    torch.testing.assert_close(
        pool(**ARGUMENTS, logits=logits).x, make(layer)(**ARGUMENTS, logits=logits).x
    )
    for given in ({}, {"assign_x": ARGUMENTS["x"]}):
        with pytest.raises(ValueError, match="logits must be given where in_channels is None"):
            pool(**ARGUMENTS, **given)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_head_may_be_put_where_there_is_none(layer):
    pool, other = layer(None, K).eval(), make(layer)
    pool.lin = other.lin
    torch.testing.assert_close(pool(**ARGUMENTS).x, other(**ARGUMENTS).x)
    with pytest.raises(ValueError, match="lin must map in_channels, 2, to num_clusters, 4"):
        pool(**ARGUMENTS | {"x": ARGUMENTS["x"][:, :2]})
