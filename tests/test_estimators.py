"""Each estimator function against explicit Jacobians, and against what its paper promises."""

import math

import oracle
import pytest
import torch
from conftest import ESTIMATORS, assert_close, exponential, randn

from gumbelpool import estimators

N, K = 7, 5


def problem(seed=0):
    g, logits = randn(N, K, seed=seed), 2 * randn(N, K, seed=seed + 1)
    return g, logits, torch.arange(N) % K


def stream(seed=50, shape=(N, K)):
    """A callable that gives independent samples by number, and the list of what it gave."""
    given = []

    def noise(sample):
        assert sample == len(given)
        given.append(exponential(*shape, seed=seed + sample))
        return given[-1]

    return noise, given


def test_table_names_exactly_the_five_estimators():
    assert set(estimators.ESTIMATORS) == set(ESTIMATORS)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_equals_explicit_jacobian(name, tau):
    g, logits, cluster = problem()
    noise, given = stream()
    have = estimators.ESTIMATORS[name](g, logits, cluster, tau, noise)
    assert len(given) == {"gumbel": 1, "gumbel_rao": estimators.RAO_SAMPLES}.get(name, 0)
    assert_close(have, oracle.estimate(name, g, logits, cluster, tau, given))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_impossible_clusters_get_no_gradient(name):
    g, logits, cluster = problem()
    logits[:, 4] = -math.inf
    logits[0, 1:] = -math.inf
    cluster = cluster % 4
    cluster[0] = 0
    noise, given = stream()
    have = estimators.ESTIMATORS[name](g, logits, cluster, 0.7, noise)
    assert torch.equal(
        have[logits == -math.inf], torch.zeros(int((logits == -math.inf).sum())).double()
    )
    assert_close(have[0], torch.zeros(K).double())
    assert_close(have, oracle.estimate(name, g, logits, cluster, 0.7, given))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_constant_gradient_means_nothing(name):
    """Every row of J(q) sums to zero: only differences between clusters count."""
    g, logits, cluster = problem()
    one = estimators.ESTIMATORS[name](g, logits, cluster, 0.7, stream()[0])
    shifted = estimators.ESTIMATORS[name](
        g + randn(N, 1, seed=9), logits, cluster, 0.7, stream()[0]
    )
    assert_close(shifted, one)
    assert_close(one.sum(1), torch.zeros(N).double())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_linear_in_g(name):
    g, logits, cluster = problem()
    f, other = estimators.ESTIMATORS[name], randn(N, K, seed=9)
    combined = f(2 * g - 3 * other, logits, cluster, 0.7, stream()[0])
    separate = [f(v, logits, cluster, 0.7, stream()[0]) for v in (g, other)]
    assert_close(combined, 2 * separate[0] - 3 * separate[1])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_cluster_has_no_gradient(name):
    noise, _ = stream(shape=(N, 1))
    g, cluster = randn(N, 1, seed=1), torch.zeros(N, dtype=torch.long)
    have = estimators.ESTIMATORS[name](g, randn(N, 1, seed=2), cluster, 1.0, noise)
    assert_close(have, torch.zeros(N, 1).double())


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_extreme_logits_stay_finite(name, dtype, scale):
    g, logits, cluster = problem()
    logits = (logits * scale).to(dtype)
    noise = lambda sample: exponential(N, K, seed=3 + sample).to(dtype)  # noqa: E731
    have = estimators.ESTIMATORS[name](g.to(dtype), logits, cluster, 0.5, noise)
    assert torch.isfinite(have).all()


def test_straight_through_is_the_softmax_gradient():
    g, logits, cluster = problem()
    leaf = logits.clone().requires_grad_()
    want = torch.autograd.grad(torch.softmax(leaf / 0.7, 1), leaf, g)[0]
    have = estimators.ESTIMATORS["straight_through"](g, logits, cluster, 0.7, stream()[0])
    assert_close(have, want)


def test_gumbel_is_the_gradient_of_the_relaxed_sample():
    g, logits, cluster = problem()
    noise, given = stream()
    have = estimators.ESTIMATORS["gumbel"](g, logits, cluster, 0.7, noise)
    gamma = estimators.conditional_gumbel(logits, cluster, given[0]) - logits
    leaf = logits.clone().requires_grad_()
    want = torch.autograd.grad(torch.softmax((leaf + gamma) / 0.7, 1), leaf, g)[0]
    assert_close(have, want)


def test_gumbel_rao_is_the_mean_of_gumbel_over_noise():
    g, logits, cluster = problem()
    noise, given = stream()
    have = estimators.ESTIMATORS["gumbel_rao"](g, logits, cluster, 0.7, noise)
    assert len(given) == estimators.RAO_SAMPLES > 1
    each = [
        estimators.ESTIMATORS["gumbel"](g, logits, cluster, 0.7, lambda _, e=e: e) for e in given
    ]
    assert_close(have, torch.stack(each).mean(0))


def test_gst_puts_the_draw_first_by_at_least_the_gap():
    """With m₁ and m₂ the drawn logit is the largest, every other at least 1 below it."""
    g, logits, cluster = problem()
    have = estimators.ESTIMATORS["gst"](g, logits, cluster, 1.0, stream()[0])
    top = logits.max(1, keepdim=True).values
    moved = torch.minimum(logits, top - 1).scatter(1, cluster.unsqueeze(1), top)
    leaf = moved.clone().requires_grad_()
    assert_close(have, torch.autograd.grad(torch.softmax(leaf, 1), leaf, g)[0])


def quadratic():
    """f(S) = sᵀMs + ⟨b, s⟩ of one row, with its exact ∇_θ E f."""
    M, b, logits = randn(K, K, seed=1), randn(K, seed=2), randn(1, K, seed=3)
    f = [M[k, k] + b[k] for k in range(K)]
    leaf = logits.clone().requires_grad_()
    expected = (torch.softmax(leaf, 1)[0] * torch.stack(f)).sum()
    return M, b, logits, torch.autograd.grad(expected, leaf)[0]


def test_mean_reinmax_gradient_is_exact_for_a_quadratic():
    """Second order in f (Liu et al. 2023, theorem 3.1), by enumeration of the K draws."""
    M, b, logits, exact = quadratic()
    mean, first_order = torch.zeros(1, K).double(), torch.zeros(1, K).double()
    for c, p in enumerate(torch.softmax(logits, 1)[0]):
        D = oracle.one_hot(torch.tensor([c]), K)
        g, cluster = D @ (M + M.T) + b, torch.tensor([c])
        mean += p * estimators.ESTIMATORS["reinmax"](g, logits, cluster, 1.0, stream()[0])
        first_order += p * estimators.ESTIMATORS["straight_through"](
            g, logits, cluster, 1.0, stream()[0]
        )
    assert_close(mean, exact)
    assert (first_order - exact).norm() > 0.1 * exact.norm()


def test_gumbel_rao_has_the_mean_of_gumbel_and_less_variance():
    rows = 4000
    g, logits = (randn(1, K, seed=seed).expand(rows, K) for seed in (1, 2))
    cluster = torch.full((rows,), 2)
    one, rao = (
        estimators.ESTIMATORS[name](g, logits, cluster, 0.7, stream(seed, (rows, K))[0])
        for name, seed in (("gumbel", 50), ("gumbel_rao", 500))
    )
    m = estimators.RAO_SAMPLES
    standard_error = (one.var(0) / rows * (1 + 1 / m)).sqrt()
    assert ((one.mean(0) - rao.mean(0)).abs() < 4 * standard_error).all()
    torch.testing.assert_close(rao.var(0), one.var(0) / m, rtol=0.25, atol=0)
