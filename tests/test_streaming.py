"""The streamed core: every way through it gives the oracle's numbers, in little memory."""

import contextlib

import oracle
import pytest
import torch
from conftest import ESTIMATORS, assert_close, generator, injected, make_batch, rand, randn
from scipy import stats
from test_gradients import assert_gradients_agree, num_draws
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from gumbelpool import (
    GumbelPool,
    assignment,
    coarsen,
    edge_gradient,
    edge_tables,
    products,
    sample_clusters,
    sampling,
    scratch,
)

EVERYTHING = {"weighted": True, "attr": 2, "loops": True, "duplicates": True}
WAYS = {
    "sparse G": [(edge_tables, {"FILL": 0, "SMALL": 0})],
    "sparse G in parts": [(edge_tables, {"FILL": 0, "SMALL": 0, "EXPANDED": 3})],
    "edges in order": [(edge_gradient, {"FEW": 0})],
    "small windows": [(edge_gradient, {"FEW": 0, "WINDOW": 2})],
    "sparse G, small windows": [
        (edge_gradient, {"FEW": 0, "WINDOW": 2}),
        (edge_tables, {"FILL": 0, "SMALL": 0, "EXPANDED": 3}),
    ],
    "few edges at a time": [(coarsen, {"CHUNK": 3})],
    "sorted keys": [(coarsen, {"SMALL": 0})],
    "sorted keys, few at a time": [(coarsen, {"SMALL": 0, "CHUNK": 3})],
    "padded sorts": [(coarsen, {"RADIX": 40}), (edge_gradient, {"FEW": 0})],
    "few slots filled": [(products, {"SMALL": -1000})],
    "large logits": [(assignment, {"SAFE": 0.0})],
}


@pytest.fixture
def way(request, monkeypatch):
    for module, constants in WAYS[request.param]:
        for name, value in constants.items():
            assert hasattr(module, name)
            monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
@pytest.mark.parametrize("options", [{}, {"block_size": 3}, {"remove_self_loops": True}], ids=str)
@pytest.mark.parametrize("channels", [3, 6], ids=lambda c: f"{c} channels")
def test_every_way_gives_the_gradient_of_the_oracle(way, estimator, options, channels):
    batch = make_batch((6, 0, 5, 1, 9), channels=channels, **EVERYTHING)
    assert_gradients_agree(batch, options | {"estimator": estimator, "tau": 1.0})


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("block_size", [None, 4])
def test_every_way_gives_the_gradient_of_the_link_loss_alone(way, block_size):
    batch = make_batch((6, 0, 5, 1, 9), **EVERYTHING)
    assert_gradients_agree(batch, {"block_size": block_size}, loss=lambda out: out.losses["link"])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("channels", [3, 40])
def test_many_clusters_and_one_graph(estimator, channels):
    batch = make_batch((14,), channels=channels, weighted=True, loops=True)
    assert_gradients_agree(batch, {"estimator": estimator, "num_clusters": 33, "block_size": 5})


@pytest.mark.parametrize("num_clusters", [20, 64, 65, 100, 211])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_without_a_softmax_are_named_however_many_clusters(num_clusters, bad):
    logits = torch.randn(30, num_clusters)
    logits[7, 3] = bad
    x, edge_index = torch.randn(30, 3), torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(ValueError, match=f"the largest entry of row 7 is {bad}"):
        GumbelPool(3, num_clusters)(x, edge_index, logits=logits)
    with pytest.raises(ValueError, match=f"the largest entry of row 7 is {bad}"):
        sample_clusters(logits)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_large_logits_of_many_clusters_overflow_nothing(scale):
    batch = make_batch((30,), weighted=True)
    pool = GumbelPool(3, 20)
    with torch.no_grad():
        pool.lin.weight.mul_(scale)
    given = {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.arguments().items()
    }
    given["x"].requires_grad_()
    uniforms = rand(30, seed=5)
    with injected(uniforms):
        out = pool(**given)
    logits = (batch.x @ pool.lin.weight.double().T + pool.lin.bias.double()).detach()
    assert (logits.abs().max() > 200) == (scale > 1)
    assert torch.equal(out.cluster, oracle.draw(logits, uniforms).unique(return_inverse=True)[1])
    expected = torch.special.entr(logits.softmax(-1)).sum(-1).mean()
    assert_close(out.losses["entropy"].double(), expected, rtol=1e-4, atol=1e-5)
    (out.x.square().sum() + out.loss).backward()
    assert given["x"].grad.isfinite().all()
    assert pool.lin.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "rows", [slice(0, 173), slice(3, 90), slice(0, 1), slice(70, 172)], ids=str
)
def test_tiles_give_the_products_of_graph_after_graph(rows):
    sizes = torch.tensor([5, 0, 70, 33, 1, 64])
    batch = torch.arange(6).repeat_interleave(sizes)
    supernode = torch.tensor([0, 1, 3, 8, 9, 10, 11, 13, 14, 16, 20, 23])
    matrix, x = randn(12, 7, seed=0), randn(173, 7, seed=1)
    both = products.GraphProducts(matrix, supernode, batch, 6, 4)
    expected = torch.zeros(173, 4, dtype=torch.float64)
    for node in range(173):
        for row in range(12):
            if supernode[row] // 4 == batch[node]:
                expected[node, supernode[row] % 4] = x[node] @ matrix[row]
    assert_close(both._graph_by_graph(x[rows], rows), expected[rows])
    assert_close(both._in_tiles(x[rows], rows), expected[rows])


# --- draws of many clusters ---------------------------------------------------------------------


@pytest.mark.parametrize("num_clusters", [64, 65, 96, 97, 1000])
def test_two_step_draw_inverts_the_cumulative_sum(num_clusters):
    weights = rand(500, num_clusters, seed=1) ** 8
    weights[:, ::3] = 0
    uniform = rand(500, seed=2)
    uniform[:4] = torch.tensor([0.0, 1 - 2**-53, 1e-18, 0.5])
    drawn = sampling.draw(weights, uniform.clone())
    assert torch.equal(drawn, oracle.draw(weights.log(), uniform))


@pytest.mark.parametrize("num_clusters", [200, 211])
def test_two_step_draw_never_takes_a_weight_of_zero(num_clusters):
    # Uniforms next to one, where a sum in float32 may be above or below that in float64.
    weights = torch.zeros(4000, num_clusters)
    columns = torch.randint(num_clusters - 40, num_clusters, (4000, 9), generator=generator(0))
    weights.scatter_(1, columns, torch.rand(4000, 9, generator=generator(1)) * 1e-30 + 1e-38)
    weights[::2, -1] = 1e-30  # what follows the last column must not be drawn in its place
    drawn = sampling.draw(weights, 1 - rand(4000, seed=2) * 1e-15)
    assert drawn.max() < num_clusters
    assert (weights.gather(1, drawn.unsqueeze(1)) > 0).all()


# --- noise from a hash --------------------------------------------------------------------------


def test_hashed_noise_is_exponential_and_its_entries_independent():
    noise = torch.stack(
        [sampling.exponential_noise(torch.empty(50, 40), generator(s)) for s in range(400)]
    ).double()
    # 400 × 2000 entries share 400 tables: each column of 400 has independent entries.
    for i, j in [(0, 0), (3, 39), (49, 20)]:
        assert stats.kstest(noise[:, i, j], "expon").pvalue > 1e-4
    uniform = torch.exp(-noise)
    pairs = {
        "in a row": (uniform[:, :, :-1], uniform[:, :, 1:]),
        "in a column": (uniform[:, :-1], uniform[:, 1:]),
        "across": (uniform[:, :-1, :-1], uniform[:, 1:, 1:]),
    }
    for name, (a, b) in pairs.items():
        product = ((a - 0.5) * (b - 0.5)).mean((1, 2))  # one per table, mean 0 if independent
        assert stats.ttest_1samp(product, 0).pvalue > 1e-4, name
        square = ((a - 0.5).square() * (b - 0.5).square()).mean((1, 2)) - 1 / 144
        assert stats.ttest_1samp(square, 0).pvalue > 1e-4, name


def test_hashed_noise_is_positive_finite_and_not_repeated():
    noise = sampling.exponential_noise(torch.empty(2000, 500), generator(0))
    assert 0 < noise.min() < 1e-5
    assert 12 < noise.max() < 23
    assert len(noise.unique()) > 0.9 * len(sampling.exponential_noise(noise, generator(1)).unique())
    assert not torch.equal(noise, sampling.exponential_noise(noise, generator(1)))
    assert torch.equal(noise, sampling.exponential_noise(noise, generator(0)))


def test_gumbel_noise_without_logarithms_is_the_same_softmax():
    logits, exponential = randn(50, 7, seed=0), -rand(50, 7, seed=1).log()
    cluster = torch.randint(0, 7, (50,), generator=generator(2))
    expected = sampling.conditional_gumbel(logits, cluster, exponential).softmax(-1)
    have = sampling.conditional_gumbel_softmax(logits.softmax(-1), cluster, exponential)
    assert_close(have, expected)


# --- scratch memory -----------------------------------------------------------------------------


def test_scratch_memory_is_taken_again_by_the_next_frame_only():
    fresh = scratch.empty(3, 4, torch.float32, torch.device("cpu"))
    assert fresh.data_ptr() != scratch.empty(3, 4, torch.float32, torch.device("cpu")).data_ptr()
    with scratch.frame():
        a, b = scratch.empty_like(fresh), scratch.empty_like(fresh)
        assert a.data_ptr() != b.data_ptr()
        with scratch.frame():
            c = scratch.empty(2, 5, torch.float64, fresh.device)
        d = scratch.empty(2, 2, torch.int32, fresh.device)
        assert c.data_ptr() == d.data_ptr()
        assert d.shape == (2, 2)
        assert d.dtype == torch.int32
        assert len({t.data_ptr() for t in (a, b, d)}) == 3
    with scratch.frame():
        assert scratch.empty_like(fresh).data_ptr() == a.data_ptr()


def test_scratch_memory_survives_an_error():
    with contextlib.suppress(RuntimeError), scratch.frame():
        raise RuntimeError
    assert scratch._scratch.depth == scratch._scratch.used == 0


# --- what is kept, and for how long -------------------------------------------------------------


class _Largest(TorchDispatchMode):
    """The bytes of the largest memory that any operation used, but for that of some tensors."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return out


@pytest.mark.parametrize("given", ["features", "logits"])
@pytest.mark.parametrize("used", [True, False], ids=["weights used", "weights unused"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nothing_of_the_size_of_the_assignment_is_allocated(estimator, used, given):
    n, k, f = 2000, 1500, 4
    x = torch.randn(n, f, requires_grad=True)
    edge_index = torch.randint(0, n, (2, 3 * n))
    logits = torch.randn(n, k) if given == "logits" else None
    pool = GumbelPool(f, k, estimator=estimator, losses=("link", "entropy", "balance"))
    with _Largest(x, edge_index, *([] if logits is None else [logits])) as largest:
        out = pool(x, edge_index, logits=logits)
        loss = out.x.square().sum() + out.loss
        if used:
            loss = loss + out.edge_weight.square().sum()
        loss.backward()
    # In float32 the assignment has 12 MB, a K×K matrix 9 MB; a block of rows has one.
    assert largest.bytes < 4 * n * k / 5


def saved_tensors(pool, **arguments):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = pool(**arguments)
    return out, saved


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_only_inputs_and_narrow_clusters_are_saved(estimator):
    n = 3000
    x = torch.randn(n, 4, requires_grad=True)
    edge_index = torch.randint(0, n, (2, 2 * n))
    pool = GumbelPool(4, 200, estimator=estimator, losses=("link", "entropy"))
    out, saved = saved_tensors(pool, x=x, edge_index=edge_index)
    inputs = {t.data_ptr() for t in (x, edge_index, *pool.parameters())}
    outputs = {out.edge_index.data_ptr()}
    others = [t for t in saved if t.data_ptr() not in inputs | outputs and t.numel() >= n]
    assert [(t.numel(), t.dtype) for t in others if t.dtype != torch.int64] == [(n, torch.uint8)]
    # What int64 there is, is the batch vector that the call leaves out.
    assert all((t == 0).all() for t in others if t.dtype == torch.int64)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_second_backward_gives_the_same_gradient(estimator):
    batch = make_batch(**EVERYTHING)
    given = batch.arguments("x", "edge_weight")
    pool = GumbelPool(3, 4, estimator=estimator).double()
    out = pool(**given)
    loss = out.x.square().sum() + out.edge_weight.square().sum() + out.loss
    leaves = [given["x"], given["edge_weight"], *pool.parameters()]
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_the_same_gradient(estimator, use_reentrant):
    batch = make_batch(**EVERYTHING)
    pool = GumbelPool(3, 4, estimator=estimator).double()

    def run(x, weight):
        given = batch.arguments() | {"x": x, "edge_weight": weight}
        out = pool(**given)
        return out.x.square().sum() + out.edge_weight.square().sum() + out.loss

    grads = []
    for wrap in (run, lambda *a: checkpoint(run, *a, use_reentrant=use_reentrant)):
        given = batch.arguments("x", "edge_weight")
        pool.zero_grad()
        torch.manual_seed(3)
        wrap(given["x"], given["edge_weight"]).backward()
        grads.append([given["x"].grad, given["edge_weight"].grad, pool.lin.weight.grad])
    for have, want in zip(*grads, strict=True):
        assert torch.equal(have, want)


def test_backward_needs_no_noise_that_forward_drew():
    # The estimate must not depend on the state of torch's generator at the time of backward.
    batch = make_batch(**EVERYTHING)
    grads = []
    for disturbance in (0, 5):
        given = batch.arguments("x")
        torch.manual_seed(1)
        pool = GumbelPool(3, 4).double()
        out = pool(**given)
        torch.rand(disturbance)
        out.x.square().sum().backward()
        grads.append(given["x"].grad)
    assert torch.equal(*grads)


def test_injected_noise_reaches_the_estimator_once_per_row():
    batch = make_batch(**EVERYTHING)
    noise = [-rand(batch.num_nodes, 4, seed=9).log()]
    pool = GumbelPool(3, 4, block_size=5).double()
    with injected(rand(batch.num_nodes, seed=5), noise) as served:
        pool(**batch.arguments("x")).x.square().sum().backward()
    assert sum(served) == batch.num_nodes * num_draws("gumbel")


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("block_size", [None, 64])
def test_cuda_gives_the_gradients_of_the_cpu(estimator, block_size):
    batch = make_batch((60, 0, 50, 1, 90), channels=8, density=0.1, **EVERYTHING)
    uniforms = rand(batch.num_nodes, seed=5)
    noise = [-rand(batch.num_nodes, 12, seed=100 + m).log() for m in range(num_draws(estimator))]
    grads = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        pool = GumbelPool(8, 12, estimator=estimator, block_size=block_size).double().to(device)
        given = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.arguments().items()
        }
        leaves = [given[name].requires_grad_() for name in ("x", "edge_weight", "edge_attr")]
        with injected(uniforms, noise):
            out = pool(**given)
            loss = out.x.square().sum() + out.edge_weight.square().sum() + out.loss
            (loss + out.edge_attr.square().sum()).backward()
        grads.append([leaf.grad.cpu() for leaf in leaves] + [pool.lin.weight.grad.cpu()])
    for have, want in zip(*grads, strict=True):
        assert_close(have, want)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_syncs_only_where_shapes_depend_on_the_data():
    import warnings

    import gumbelpool

    batch = make_batch((60, 50, 90), channels=8, density=0.1, weighted=True)
    pool = GumbelPool(8, 12).double().cuda()
    given = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in batch.arguments().items()
    }
    given["x"].requires_grad_()
    counts = {}
    for stage in ("warm up", "forward", "backward"):
        with warnings.catch_warnings(record=True) as caught, gumbelpool.data_checks(False):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                if stage != "backward":
                    out = pool(**given)
                    loss = out.x.square().sum() + out.edge_weight.square().sum() + out.loss
                if stage != "forward":
                    loss.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts[stage] = sum("synchronizing" in str(w.message) for w in caught)
    # Supernodes, pooled edges, and the pooled self-loops; backward: supernodes, and where each
    # block's edges begin, for both ends, and the pooled self-loops.
    assert counts["forward"] <= 3
    assert counts["backward"] <= 5
