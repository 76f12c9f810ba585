"""The draw follows softmax exactly, and the conditional Gumbel noise has the claimed law."""

import math

import oracle
import pytest
import torch
from conftest import exponential, generator, injected, rand, randn
from scipy import stats

from gumbelpool import GumbelPool, estimators, sample_clusters, sampling
from gumbelpool.rows import reference

LAST = 1 - 2.0**-53  # the largest uniform there is
SIGNIFICANT = 1e-4


def draws(logits: torch.Tensor, rows: int, chunk: int, seed: int = 0) -> torch.Tensor:
    """Many draws from one row of logits."""
    random = generator(seed)
    return torch.cat(
        [
            sample_clusters(logits.expand(chunk, -1).contiguous(), generator=random)
            for _ in range(rows // chunk)
        ]
    )


def chi_square_p(cluster, probability, cell) -> float:
    """p-value of the draws against `probability`, with clusters pooled into cells."""
    cells = int(cell.max()) + 1
    observed = torch.bincount(cell[cluster], minlength=cells).double()
    expected = torch.zeros(cells).double().index_add_(0, cell, probability) * len(cluster)
    assert expected.min() > 5
    return stats.chisquare(observed.numpy(), expected.numpy(), sum_check=False).pvalue


# K, draws, rows per call, cells of the test
LAWS = [(2, 40_000, 40_000, 2), (10, 40_000, 40_000, 10), (1000, 20_000, 10_000, 100)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("K", "rows", "chunk", "cells"), LAWS)
def test_draws_follow_softmax(K, rows, chunk, cells, dtype):
    logits = randn(K, seed=K)
    cluster = draws(logits.to(dtype), rows, chunk)
    assert cluster.dtype == torch.long
    assert cluster.shape == (rows,)
    cell = torch.arange(K) * cells // K
    assert chi_square_p(cluster, torch.softmax(logits, 0), cell) > SIGNIFICANT


def test_draws_follow_softmax_over_a_hundred_thousand_clusters():
    K = 100_000
    logits = randn(K, seed=1)
    cluster = draws(logits.float(), 1000, 100)
    p = torch.softmax(logits, 0)
    neighbours = torch.arange(K) * 20 // K
    scattered = torch.arange(K) % 20
    by_size = torch.empty(K, dtype=torch.long)
    by_size[p.argsort()] = (p.sort().values.cumsum(0) * 20).long().clamp_(max=19)
    for cell in (neighbours, scattered, by_size):
        assert chi_square_p(cluster, p, cell) > SIGNIFICANT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_follow_the_softmax_of_those_logits(dtype):
    logits = randn(300, seed=1).to(dtype)
    cluster = draws(logits, 40_000, 20_000)
    cell = torch.arange(300) * 60 // 300
    assert chi_square_p(cluster, torch.softmax(logits.double(), 0), cell) > SIGNIFICANT


def test_rows_are_independent():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(40_000, 3)
    cluster = sample_clusters(logits, generator=generator(0))
    p = torch.softmax(logits[0].double(), 0)
    pair = cluster[:-1:2] * 3 + cluster[1::2]
    assert chi_square_p(pair, torch.outer(p, p).flatten(), torch.arange(9)) > SIGNIFICANT


def test_each_row_follows_its_own_logits():
    logits = randn(4, 5, seed=1)
    cluster = sample_clusters(logits.repeat(10_000, 1), generator=generator(0)).view(-1, 4)
    for i in range(4):
        p = torch.softmax(logits[i], 0)
        assert chi_square_p(cluster[:, i], p, torch.arange(5)) > SIGNIFICANT


@pytest.mark.parametrize("options", [{}, {"block_size": 1000}, {"ratio": 0.0001}])
def test_the_layer_draws_from_its_softmax(options):
    N = 30_000
    logits = randn(6, seed=1)
    pool = GumbelPool(1, 6, losses=(), drop_empty=False, **options)
    out = pool(
        torch.ones(N, 1),
        torch.empty(2, 0, dtype=torch.long),
        logits=logits.expand(N, 6),
        generator=generator(0),
    )
    used = 3 if "ratio" in options else 6
    assert out.cluster.max() < used
    p = torch.softmax(logits[:used], 0)
    assert chi_square_p(out.cluster, p, torch.arange(used)) > SIGNIFICANT


@pytest.mark.parametrize("K", [1, 3, 50])
def test_first_cluster_whose_cumulative_probability_exceeds_the_uniform(K):
    logits, uniforms = 2 * randn(200, K, seed=1), rand(200, seed=2)
    with injected(uniforms):
        assert torch.equal(sample_clusters(logits), oracle.draw(logits, uniforms))


HOLES = {
    "leading": [0, 1, 2],
    "trailing": [7, 8, 9],
    "both-ends": [0, 1, 8, 9],
    "middle": [3, 4],
    "all-but-first": list(range(1, 10)),
    "all-but-last": list(range(9)),
}


@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, 1 - 2.0**-24, LAST])
@pytest.mark.parametrize("holes", HOLES.values(), ids=HOLES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_impossible_clusters_are_never_drawn_at_the_boundaries(dtype, holes, uniform):
    logits = (3 * randn(400, 10, seed=1)).to(dtype)
    logits[:, holes] = -math.inf
    with injected(torch.full((400,), uniform).double()):
        cluster = sample_clusters(logits)
    assert ((cluster >= 0) & (cluster < 10)).all()
    assert torch.isfinite(logits[torch.arange(400), cluster]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", [1000, 100_000])
def test_largest_uniform_stays_in_range_for_many_clusters(K, dtype):
    """Here the rounded cumulative sum may end below the uniform."""
    logits = randn(4, K, seed=1).to(dtype)
    logits[:, -3:] = -math.inf
    for uniform in (0.0, LAST):
        with injected(torch.full((4,), uniform).double()):
            cluster = sample_clusters(logits)
        assert torch.isfinite(logits[torch.arange(4), cluster]).all()
        assert (cluster == 0).all() if uniform == 0 else (cluster > 0.99 * K).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cluster_of_probability_two_to_the_minus_thirty_is_reachable(dtype):
    """Its slice of [0, 1) is narrower than the spacing of float32 numbers there."""
    logits = torch.tensor([[0.0, -30 * math.log(2), 0.0]], dtype=dtype)
    p = torch.softmax(logits[0].double(), 0)
    with injected(p[:1] + p[1] / 2):
        assert sample_clusters(logits).tolist() == [1]


def test_underflowing_clusters_are_never_drawn():
    """exp(−2000) is zero in every dtype: at both ends of the uniform the draw is possible."""
    logits = torch.tensor([[-2000.0, 0.0, 0.0, -2000.0]])
    for uniform, want in ((0.0, 1), (LAST, 2)):
        with injected(torch.tensor([uniform]).double()):
            assert sample_clusters(logits).tolist() == [want]


@pytest.mark.parametrize("shift", [-65536.0, -1024.0, 1024.0, 65536.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shifting_logits_changes_no_draw(shift, dtype):
    logits = (torch.randint(-64, 64, (500, 8)) / 16).to(dtype)  # exact after the shift
    with injected(rand(500, seed=1)):
        assert torch.equal(sample_clusters(logits), sample_clusters(logits + shift))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_largest_logits_of_a_dtype_draw_the_argmax(dtype):
    big = torch.finfo(dtype).max
    logits = torch.tensor(
        [[-big, 0, big], [big, -big, -big], [-math.inf, -big, -math.inf]], dtype=dtype
    )
    assert sample_clusters(logits).tolist() == [2, 0, 1]


def test_sample_clusters_repeats_with_its_generator_and_ignores_the_global_one():
    logits = randn(500, 8, seed=1)
    first = sample_clusters(logits, generator=generator(3))
    torch.manual_seed(99)
    assert torch.equal(sample_clusters(logits, generator=generator(3)), first)
    assert not torch.equal(sample_clusters(logits, generator=generator(4)), first)
    torch.manual_seed(5)
    by_global = sample_clusters(logits)
    torch.manual_seed(5)
    assert torch.equal(sample_clusters(logits), by_global)


def test_sample_clusters_of_no_rows():
    assert sample_clusters(torch.empty(0, 5)).shape == (0,)


def test_sample_clusters_leaves_its_input_alone():
    logits = randn(50, 8, seed=1).requires_grad_()
    before = logits.detach().clone()
    assert not sample_clusters(logits).requires_grad
    assert torch.equal(logits.detach(), before)


# --- noise given the argmax ----------------------------------------------------------------------


def test_conditional_gumbel_equals_its_formula():
    logits, cluster = 2 * randn(9, 6, seed=1), torch.arange(9) % 6
    noise = exponential(9, 6, seed=2)
    torch.testing.assert_close(
        estimators.conditional_gumbel(logits, cluster, noise),
        oracle.conditional_gumbel(logits, cluster, noise),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_argmax_of_conditional_gumbel_is_the_draw(scale, dtype):
    logits = (scale * randn(5000, 8, seed=1)).to(dtype)
    cluster = sample_clusters(logits, generator=generator(0))
    perturbed = estimators.conditional_gumbel(
        logits, cluster, exponential(5000, 8, seed=2).to(dtype).clamp(min=1e-30)
    )
    assert torch.isfinite(perturbed).all()
    top = perturbed.max(1).values
    assert torch.equal(perturbed[torch.arange(5000), cluster], top)


def test_conditional_gumbel_keeps_impossible_clusters_impossible():
    logits = randn(50, 6, seed=1)
    logits[:, 2] = -math.inf
    cluster = sample_clusters(logits)
    perturbed = estimators.conditional_gumbel(logits, cluster, exponential(50, 6, seed=2))
    assert (perturbed[:, 2] == -math.inf).all()
    assert torch.isfinite(perturbed[:, [0, 1, 3, 4, 5]]).all()


def test_conditional_gumbel_over_a_drawn_cluster_is_gumbel():
    """γ | c with c ~ Categorical(softmax θ) is plain Gumbel(0, 1) noise, in every coordinate."""
    N, K = 20_000, 4
    logits = randn(1, K, seed=3).expand(N, K)
    cluster = sample_clusters(logits, generator=generator(0))
    gamma = estimators.conditional_gumbel(logits, cluster, exponential(N, K, seed=4)) - logits
    for k in range(K):
        assert stats.kstest(gamma[:, k].numpy(), "gumbel_r").pvalue > SIGNIFICANT
    correlation = torch.corrcoef(gamma.T) - torch.eye(K).double()
    assert correlation.abs().max() < 5 / math.sqrt(N)


@pytest.mark.parametrize("c", [0, 2])
def test_conditional_gumbel_is_gumbel_noise_selected_by_its_argmax(c):
    """Against rejection: keep the plain Gumbel draws whose argmax is c."""
    logits = randn(1, 4, seed=3)
    plain = logits - exponential(60_000, 4, seed=5).log()
    kept = plain[plain.argmax(1) == c]
    assert len(kept) > 2000
    cluster = torch.full((20_000,), c)
    conditional = estimators.conditional_gumbel(
        logits.expand(20_000, 4), cluster, exponential(20_000, 4, seed=6)
    )
    for k in range(4):
        test = stats.ks_2samp(kept[:, k].numpy(), conditional[:, k].numpy())
        assert test.pvalue > SIGNIFICANT
    gaps = [(t[:, c : c + 1] - t).flatten().numpy() for t in (kept, conditional)]
    assert stats.ks_2samp(*gaps).pvalue > SIGNIFICANT / 10


def test_own_noise_has_the_promised_laws():
    uniforms, seed = sampling.draw_randomness(40_000, torch.device("cpu"), generator(0))
    assert seed.dtype == torch.int64
    assert uniforms.dtype == torch.float64
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert stats.kstest(uniforms.numpy(), "uniform").pvalue > SIGNIFICANT
    for dtype in (torch.float32, torch.float64):
        noise = reference.exponential_noise(seed, 0, 0, torch.empty(4000, 10, dtype=dtype))
        assert noise.dtype == dtype
        assert noise.shape == (4000, 10)
        assert noise.min() > 0
        assert stats.kstest(noise.flatten().double().numpy(), "expon").pvalue > SIGNIFICANT


def test_backward_noise_is_conditioned_on_the_draw_of_the_same_pass():
    """The mean gumbel gradient over many passes is that of plain Gumbel-softmax samples."""
    K, passes = 3, 6000
    row, slope = randn(1, K, seed=7), randn(K, seed=8)
    logits = row.repeat(passes, 1).requires_grad_()
    pool = GumbelPool(1, K, estimator="gumbel", losses=(), drop_empty=False).double()
    x = torch.ones(passes, 1).double()
    out = pool(x, torch.empty(2, 0, dtype=torch.long), logits=logits, generator=generator(0))
    (out.x[:, 0] * slope).sum().backward()

    leaf = row.repeat(passes, 1).requires_grad_()
    gumbel = -exponential(passes, K, seed=9).log()
    (torch.softmax(leaf + gumbel, 1) @ slope).sum().backward()
    error = ((logits.grad.var(0) + leaf.grad.var(0)) / passes).sqrt()
    assert ((logits.grad.mean(0) - leaf.grad.mean(0)).abs() < 4 * error).all()
