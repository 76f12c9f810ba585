"""Each form of the row functions against plain float64 formulas, on every shape that branches.

The native form is among them where it was built. Where it has to be, ``GUMBELPOOL_BACKEND=native``
makes the import of gumbelpool fail without it.
"""

import itertools

import oracle
import pytest
import torch

from gumbelpool import rows
from gumbelpool.estimators import ESTIMATORS, softmax_vjp
from gumbelpool.rows import reference
from gumbelpool.rows.reference import Estimate, Table

FORMS = {"reference": reference} | ({} if rows.native is None else {"native": rows.native})
DTYPES = {"float32": torch.float32, "float64": torch.float64}
# One row, part of a tile, many tiles; one column, parts of a vector, narrow and wide tiles.
CLUSTERS = (1, 2, 7, 8, 20, 33, 64, 65, 95, 96, 1000)
SHAPES = [*itertools.product((0, 1, 5), (1, 20, 1000)), *itertools.product((300,), CLUSTERS)]
LARGE = [(11_000, 20, 2), (310, 1000, 3)]  # enough for as many threads
SEED = torch.tensor(2**62 + 12345)

forms = pytest.mark.parametrize("form", FORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
shapes = pytest.mark.parametrize(
    ("R", "K", "threads"), [(*shape, 1) for shape in SHAPES] + LARGE, indirect=["threads"]
)


@pytest.fixture
def threads(request, monkeypatch):
    """How many threads the native form is told to use; torch keeps its own."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


def graphs(R):
    """A graph for each of R rows; of five, the first is empty, one in the middle too."""
    return torch.tensor([1, 1, 2, 4, 4, 4, 4, 4])[torch.arange(R) * 8 // max(R, 1)]


def random_logits(R, K, dtype, spread=3.0):
    """Logits, some of which are −∞."""
    logits = spread * torch.randn(R, K, dtype=dtype)
    excluded = torch.rand(R, K) < 0.2
    excluded[:, 0] = False
    return logits.masked_fill_(excluded, -torch.inf)


def assert_close(actual, expected, *, size=1e-3):
    """Equal up to roundings of ``actual``'s dtype, of numbers as large as each row's largest."""
    size = size + expected.abs().amax(-1, keepdim=True)
    tolerance = 300 * torch.finfo(actual.dtype).eps * size
    error = (actual.double() - expected.double()).abs()
    assert (error <= tolerance).all(), (error / tolerance).max()


def double(*tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


# --- the draw -----------------------------------------------------------------------------------


@forms
@dtypes
@shapes
def test_a_draw_is_where_the_cumulative_sum_passes_the_uniform(form, dtype, R, K, threads):
    logits = random_logits(R, K, DTYPES[dtype])
    uniform = torch.rand(R, dtype=torch.float64)
    uniform[:2] = torch.tensor([0.0, 1 - 2.0**-53])[:R]
    drawn = FORMS[form].sample_rows(logits.clone(), uniform, graphs(R), None, None)
    probability = torch.softmax(logits.double(), -1)
    above = probability.cumsum(-1).gather(1, drawn.unsqueeze(1)).squeeze(1)
    own = probability.gather(1, drawn.unsqueeze(1)).squeeze(1)
    rounding = 30 * torch.finfo(logits.dtype).eps
    assert drawn.dtype == torch.int64
    assert (own > 0).all()
    assert (uniform < above + rounding).all()
    assert (uniform >= above - own - rounding).all()


@forms
@dtypes
@shapes
def test_without_a_uniform_the_largest_logit_is_drawn(form, dtype, R, K, threads):
    logits = random_logits(R, K, DTYPES[dtype])
    drawn = FORMS[form].sample_rows(logits.clone(), None, graphs(R), None, None)
    assert torch.equal(drawn, logits.argmax(-1))


@forms
@dtypes
@pytest.mark.parametrize("K", CLUSTERS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("argmax", [False, True])
def test_a_row_without_a_softmax_is_told_and_no_other(form, dtype, K, value, argmax):
    logits = torch.randn(40, K, dtype=DTYPES[dtype])
    bad = torch.arange(40) % 3 == 1
    if value == -torch.inf:
        logits[bad] = value
    else:
        logits[bad, torch.randint(0, K, (int(bad.sum()),))] = value
    uniform = None if argmax else torch.rand(40, dtype=torch.float64)
    drawn = FORMS[form].sample_rows(logits, uniform, graphs(40), None, None)
    assert torch.equal(drawn < 0, bad)
    assert (drawn[bad] == -1).all()


@forms
@pytest.mark.parametrize("K", CLUSTERS)
@pytest.mark.parametrize(
    ("dtype", "integer", "bits"), [("float32", torch.int32, 23), ("float64", torch.int64, 52)]
)
@pytest.mark.parametrize("negative", [False, True])
def test_a_nan_is_one_whatever_its_payload(form, K, dtype, integer, bits, negative):
    # float16's becomes one of ones, which once was taken for a number.
    infinity = torch.tensor(-torch.inf if negative else torch.inf, dtype=DTYPES[dtype]).view(
        integer
    )
    for payload in (1, 2 ** (bits - 1), 2 ** (bits - 1) + 1, 2**bits - 1):
        logits = torch.randn(40, K, dtype=DTYPES[dtype])
        logits[7, K // 2] = (infinity + payload).view(DTYPES[dtype])
        assert logits[7].isnan().any()
        for uniform in (None, torch.rand(40, dtype=torch.float64)):
            drawn = FORMS[form].sample_rows(logits, uniform, graphs(40), None, None)
            assert (drawn < 0).nonzero().flatten().tolist() == [7]


@forms
@dtypes
@pytest.mark.parametrize("K", [2, 20, 100, 1000])
def test_only_clusters_of_positive_weight_are_drawn_however_far_apart_logits_are(form, dtype, K):
    logits = torch.full((500, K), -2000.0, dtype=DTYPES[dtype])
    logits[:, ::7] = 800.0
    logits[:, 0] = -torch.inf
    logits[:, 1] = 800.0
    uniform = torch.linspace(0, 1 - 2.0**-53, 500, dtype=torch.float64)
    drawn = FORMS[form].sample_rows(logits.clone(), uniform, graphs(500), None, None)
    assert (logits.gather(1, drawn.unsqueeze(1)) == 800).all()
    assert drawn[0] == 1


@forms
@dtypes
@shapes
@pytest.mark.parametrize("which", ["entropy", "usage", "both"])
def test_entropy_and_usage_are_added_to_their_graphs(form, dtype, R, K, threads, which):
    logits, batch = random_logits(R, K, DTYPES[dtype]), graphs(R)
    before = torch.rand(5, dtype=torch.float64), torch.rand(5, K, dtype=torch.float64)
    entropy, usage = before[0].clone(), before[1].clone()
    FORMS[form].sample_rows(
        logits.clone(),
        torch.rand(R, dtype=torch.float64),
        batch.int() if which == "usage" else batch,
        None if which == "usage" else entropy,
        None if which == "entropy" else usage,
    )
    probability = torch.softmax(logits.double(), -1)
    each = torch.special.entr(probability).sum(-1)
    if which != "usage":
        assert_close(entropy.to(logits.dtype), before[0].index_add(0, batch, each))
    if which != "entropy":
        assert_close(usage.to(logits.dtype), before[1].index_add(0, batch, probability))


@forms
@pytest.mark.parametrize("threads", [3], indirect=True)
def test_usage_of_one_graph_in_many_parts(form, threads):
    logits = random_logits(16_000, 20, torch.float64)
    usage = torch.zeros(1, 20, dtype=torch.float64)
    batch = torch.zeros(16_000, dtype=torch.int64)
    FORMS[form].sample_rows(logits.clone(), torch.rand(16_000).double(), batch, None, usage)
    assert_close(usage[0], torch.softmax(logits, -1).sum(0))


# --- looking at edges ---------------------------------------------------------------------------

GRAPHS = {
    "good": ([0, 0, 2, 2], [[0, 1, 2], [1, 0, 3]], 3),
    "no edges": ([0, 0, 2, 2], [[], []], 3),
    "no nodes": ([], [[], []], 3),
    "an edge without a node": ([], [[0], [0]], 3),
    "a descent": ([0, 1, 0, 2], [[0], [0]], 3),
    "a graph below": ([-1, 0, 0, 2], [[1], [1]], 3),
    "a graph beyond": ([0, 0, 2, 3], [[0], [0]], 3),
    "a source below": ([0, 0, 2, 2], [[0, -1], [0, 0]], 3),
    "a target beyond": ([0, 0, 2, 2], [[0, 1], [0, 4]], 3),
    "an end far beyond": ([0, 0, 2, 2], [[0, 2**40], [0, 0]], 3),
    "an edge between two graphs": ([0, 0, 2, 2], [[0, 1], [0, 2]], 3),
}


@forms
@pytest.mark.parametrize("case", GRAPHS)
@pytest.mark.parametrize("good", [0, 300_000])
def test_graphs_are_checked(form, case, good):
    batch, edges, num_graphs = (torch.tensor(each, dtype=torch.int64) for each in GRAPHS[case])
    edges = torch.cat([torch.zeros(2, good if len(batch) else 0, dtype=torch.int64), edges], 1)
    valid = FORMS[form].check_graphs(edges, batch, int(num_graphs))
    assert valid == (case in ("good", "no edges", "no nodes"))


# --- merging and summing ------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("E", [0, 1, 500, 100_000])
@pytest.mark.parametrize(("num_major", "num_minor"), [(1, 1), (60, 20), (3000, 1000)])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_edges_are_merged_by_their_keys(form, E, num_major, num_minor, positions, threads):
    N = 77
    edge_index = torch.randint(0, N, (2, E))
    major, minor = torch.randint(0, num_major, (N,)), torch.randint(0, num_minor, (N,))
    each = major[edge_index[0]] * num_minor + minor[edge_index[1]]
    merge = FORMS[form].merge_edges
    pairs, count, position = merge(edge_index, major, minor, num_major, num_minor, positions)
    expected = torch.unique(each, return_inverse=True, return_counts=True)
    assert torch.equal(pairs, torch.stack([expected[0] // num_minor, expected[0] % num_minor]))
    assert torch.equal(count.long(), expected[2])
    assert (position is not None) == positions
    if positions:
        assert torch.equal(position.long(), expected[1])
    for tensor in (count, position):
        assert tensor is None or tensor.dtype == torch.int32


@forms
@dtypes
@pytest.mark.parametrize("M", [0, 1, 300, 20_000])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (64,), (3, 5), (0,)])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_rows_are_summed_in_float64(form, dtype, M, shape, index, threads):
    values, to = torch.randn(M, *shape, dtype=DTYPES[dtype]), torch.randint(0, 11, (M,))
    total = FORMS[form].sum_rows(values, to.to(index), 13)
    expected = torch.zeros(13, *shape, dtype=torch.float64).index_add(0, to, values.double())
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-10)
    half = FORMS[form].sum_rows(values.half(), to.to(index), 13)
    assert half.dtype == torch.float64
    assert half.shape == expected.shape


# --- the gradient of the draw -------------------------------------------------------------------


@forms
@dtypes
@shapes
@pytest.mark.parametrize(
    ("C", "bias", "kept"), [(1, False, 1.0), (13, True, 0.6), (64, True, 1.0), (64, False, 0.0)]
)
def test_products_with_the_supernodes_of_a_rows_own_graph(
    form, dtype, R, K, threads, C, bias, kept
):
    R = max(R, 1)
    batch = graphs(R)
    supernode = (torch.rand(5 * K) < kept).nonzero().squeeze(1)
    x = torch.randn(R, C, dtype=DTYPES[dtype])
    matrix = torch.randn(len(supernode), C, dtype=x.dtype)
    offset = torch.randn(len(supernode), dtype=x.dtype) if bias else None
    g = torch.full((R, K), torch.nan, dtype=x.dtype)
    FORMS[form].multiply_rows_(g, x, matrix, offset, supernode, batch, 5)
    expected = torch.zeros(R, K, dtype=torch.float64)
    for graph in range(5):
        own, columns = batch == graph, supernode // K == graph
        product = x[own].double() @ matrix[columns].double().t()
        if offset is not None:
            product += offset[columns].double()
        part = torch.zeros(int(own.sum()), K, dtype=torch.float64)
        part[:, supernode[columns] % K] = product
        expected[own] = part
    assert_close(g, expected, size=1.0)
    assert (g[expected == 0] == 0).all()


@forms
@dtypes
@shapes
@pytest.mark.parametrize(
    ("table", "valued"),
    [("dense", False), ("dense", True), (torch.int32, True), (torch.int64, False)],
)
def test_edges_add_the_rows_of_a_table(form, dtype, R, K, threads, valued, table):
    R, E = max(R, 1), 0 if R == 5 else 3 * R + 40
    N, first_row, B = R + 9, 4, 2
    near, far = torch.randint(first_row, first_row + R, (E,)), torch.randint(0, N, (E,))
    far[::5] = near[::5]
    slot = torch.randint(0, B * K, (N,))
    value = torch.randn(E, dtype=DTYPES[dtype]) if valued else None
    entries = torch.randn(B * K + B, K, dtype=DTYPES[dtype])
    entries *= torch.rand(B * K + B, K) < 0.3
    g = torch.randn(R, K, dtype=DTYPES[dtype])
    row = torch.where(near == far, B * K + slot[far] // K, slot[far])
    step = entries[row].double() * (1 if value is None else value.double().unsqueeze(1))
    expected = g.double().index_add(0, near - first_row, step)
    full = Table(entries, None, None, B * K)
    if table != "dense":
        count = (entries != 0).sum(1)
        pointer = torch.cat([count[:0], torch.zeros(1, dtype=torch.int64), count]).cumsum(0)
        column = (entries != 0).nonzero()[:, 1]
        full = Table(entries[entries != 0], pointer.to(table), column.to(table), B * K)
    FORMS[form].add_edges_(g, first_row, near, far, value, slot, full)
    assert_close(g, expected, size=1.0)


def expected_gradient(g, logits, cluster, first_row, estimate, batch, entropy_slope, usage_slope):
    def noise(sample):
        return reference.exponential_noise(estimate.seed, sample, first_row, logits).double()

    name, tau, _ = estimate
    g, theta, entropy_slope, usage_slope = double(g, logits, entropy_slope, usage_slope)
    total = ESTIMATORS[name](g, theta, cluster, tau, noise)
    probability = torch.softmax(theta, -1)
    log_probability = torch.log_softmax(theta, -1).masked_fill(theta == -torch.inf, 0)
    if usage_slope is not None:
        total = total + softmax_vjp(probability, usage_slope[batch])
    if entropy_slope is not None:
        slope = -log_probability * entropy_slope[batch].unsqueeze(1)
        total = total + softmax_vjp(probability, slope)
    return total


def draws(logits):
    return torch.softmax(logits.double(), -1).multinomial(1).squeeze(1)


@forms
@dtypes
@shapes
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_by_each_estimator(form, dtype, R, K, threads, estimator):
    if estimator == "gumbel_rao":
        R = min(R, 80)
    logits = random_logits(R, K, DTYPES[dtype])
    cluster = draws(logits) if R else torch.zeros(0, dtype=torch.int64)
    batch, g = graphs(R), torch.randn(R, K, dtype=logits.dtype)
    slopes = torch.randn(5, dtype=logits.dtype), torch.randn(5, K, dtype=logits.dtype)
    for tau, entropy, usage in ((1.0, 0, 0), (1e4, 0, 0), (0.5, 0, 1), (3.0, 1, 1)):
        estimate = Estimate(estimator, tau, SEED)
        rest = (cluster, 17, estimate, batch)
        rest += (slopes[0] if entropy else None, slopes[1] if usage else None)
        actual = g.clone()
        FORMS[form].row_gradient_(actual, logits.clone(), *rest)
        size = 3 / tau + (30 if entropy or usage else 0)
        assert_close(actual, expected_gradient(g, logits, *rest), size=size)
        if not (entropy or usage):
            assert (actual[logits == -torch.inf] == 0).all()


@forms
@dtypes
@pytest.mark.parametrize("K", [2, 20, 100])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("tau", [0.5, 1.0, 1e4, 1e6])
def test_gradients_of_logits_hundreds_apart(form, dtype, K, estimator, tau):
    logits = random_logits(50, K, DTYPES[dtype], spread=300.0)
    rest = (draws(logits), 0, Estimate(estimator, tau, SEED), graphs(50))
    rest += (torch.randn(5, dtype=logits.dtype), torch.randn(5, K, dtype=logits.dtype))
    g = torch.randn(50, K, dtype=logits.dtype)
    actual = g.clone()
    FORMS[form].row_gradient_(actual, logits.clone(), *rest)
    # An exponent of hundreds has an absolute rounding of hundreds of units in the last place.
    assert_close(actual, expected_gradient(g, logits, *rest), size=300.0)


@forms
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_may_be_indexed_by_int32(form, estimator):
    logits, batch = random_logits(30, 6, torch.float64), graphs(30)
    rest = (draws(logits), 0, Estimate(estimator, 1.0, SEED))
    slopes = (torch.randn(5).double(), torch.randn(5, 6).double())
    g = torch.randn(30, 6).double()
    narrow, wide = g.clone(), g.clone()
    FORMS[form].row_gradient_(narrow, logits.clone(), *rest, batch.int(), *slopes)
    FORMS[form].row_gradient_(wide, logits.clone(), *rest, batch, *slopes)
    assert torch.equal(narrow, wide)


# --- noise --------------------------------------------------------------------------------------


@forms
@dtypes
@pytest.mark.parametrize("sample", [0, 3])
def test_noise_is_that_of_the_oracle(form, dtype, sample):
    like = torch.empty(40, 30, dtype=DTYPES[dtype])
    noise = FORMS[form].exponential_noise(SEED, sample, 5, like)
    expected = oracle.exponential_noise(int(SEED), sample, 45, 30)[5:]
    # Near one the logarithm is as wrong as its argument is.
    tolerance = 4 * torch.finfo(like.dtype).eps
    torch.testing.assert_close(noise.double(), expected, rtol=tolerance, atol=tolerance)
    assert noise.dtype == like.dtype


@forms
@dtypes
def test_noise_is_positive_and_exponential(form, dtype):
    noise = FORMS[form].exponential_noise(SEED, 0, 0, torch.empty(3000, 100, dtype=DTYPES[dtype]))
    assert (noise > 0).all()
    assert noise.isfinite().all()
    share = noise.double().flatten().sort().values
    law = 1 - torch.exp(-share)
    steps = torch.arange(1, len(law) + 1, dtype=torch.float64) / len(law)
    assert (law - steps).abs().max() < 1.7 / len(law) ** 0.5  # Kolmogorov–Smirnov


# --- what the native form refuses or leaves to the reference ------------------------------------


@forms
def test_an_index_out_of_bounds_is_an_error(form):
    module, two = FORMS[form], torch.tensor([0, 2])
    edges, slot = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 1])
    table = Table(torch.randn(3, 2), None, None, 2)
    estimate = Estimate("gumbel", 1.0, SEED)
    for bad in (2, -1, 2**40):
        outside = torch.tensor([0, bad])
        with pytest.raises((IndexError, RuntimeError)):
            module.sum_rows(torch.randn(2, 3), outside, 2)
        with pytest.raises((IndexError, RuntimeError)):
            module.merge_edges(torch.stack([slot, outside]), slot, slot, 2, 2)
        with pytest.raises((IndexError, RuntimeError)):
            module.add_edges_(torch.randn(2, 2), 0, slot, outside, None, slot, table)
        with pytest.raises((IndexError, RuntimeError)):
            module.row_gradient_(
                torch.randn(2, 2), torch.randn(2, 2), outside, 0, estimate, slot, None, None
            )
    with pytest.raises((IndexError, RuntimeError)):
        module.sample_rows(torch.randn(2, 3), None, two, torch.zeros(2, dtype=torch.float64), None)
    with pytest.raises((IndexError, RuntimeError)):
        module.merge_edges(edges, slot, slot, 2, 2)


@forms
@pytest.mark.parametrize("bad", [2, -1, 10**12])
def test_a_graph_out_of_bounds_anywhere_is_an_error(form, bad):
    batch = torch.zeros(200, dtype=torch.int64)
    batch[100] = bad
    logits, entropy = torch.randn(200, 3), torch.zeros(2, dtype=torch.float64)
    with pytest.raises((IndexError, RuntimeError)):
        FORMS[form].sample_rows(logits, None, batch, entropy, None)
    with pytest.raises((IndexError, RuntimeError)):
        FORMS[form].row_gradient_(
            torch.randn(200, 3), logits, torch.zeros_like(batch), 0,
            Estimate("gumbel", 1.0, SEED), batch, torch.randn(2), None,
        )  # fmt: skip


@forms
def test_what_is_not_contiguous_gives_the_same(form):
    logits, batch = random_logits(6, 40, torch.float32).t(), graphs(40)
    uniform = torch.rand(80, dtype=torch.float64)[::2]
    drawn = FORMS[form].sample_rows(logits, uniform, batch, None, None)
    whole = FORMS[form].sample_rows(logits.contiguous(), uniform.contiguous(), batch, None, None)
    assert torch.equal(drawn, whole)
    values = torch.randn(5, 40).t()
    total = FORMS[form].sum_rows(values, batch, 5)
    assert torch.equal(total, FORMS[form].sum_rows(values.contiguous(), batch, 5))


# --- the choice ---------------------------------------------------------------------------------


def test_a_form_may_be_forced_for_a_while():
    before = rows.backend()
    for form, module in FORMS.items():
        with rows.use(form):
            assert rows.backend() == form
            assert rows.of(torch.empty(1)) is module
        assert rows.backend() == before
    unknown = 'must be "native" or "reference"; got \'fast\''
    with pytest.raises(ValueError, match=unknown), rows.use("fast"):
        pass


def test_native_rows_are_for_cpu_tensors():
    assert rows.of(torch.empty(1, device="meta")) is reference
