"""The streamed core: every way through it gives the oracle's numbers, in little memory."""

import oracle
import pytest
import torch
from conftest import ESTIMATORS, assert_close, injected, make_batch, rand
from test_gradients import assert_gradients_agree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from gumbelpool import GumbelPool, op, sample_clusters

EVERYTHING = {"weighted": True, "attr": 2, "loops": True, "duplicates": True}

# Sizes that take the core along each of its ways: tables of G dense or by their entries, edges in
# the order in which they came or by blocks, one graph or several.
WAYS = {
    "few clusters": ((6, 0, 5, 1, 9), {"num_clusters": 4}),
    "few clusters, blocks": ((6, 0, 5, 1, 9), {"num_clusters": 4, "block_size": 3}),
    "sparse G": ((6, 0, 5, 1, 9), {"num_clusters": 150}),
    "sparse G, blocks": ((6, 0, 5, 1, 9), {"num_clusters": 150, "block_size": 4}),
    "one graph": ((21,), {"num_clusters": 4}),
    "one graph, sparse G, blocks": ((21,), {"num_clusters": 300, "block_size": 4}),
    "tiles": ((70, 0, 33, 1, 64), {"num_clusters": 5}),
    "tiles, blocks": ((70, 0, 33, 1, 64), {"num_clusters": 5, "block_size": 50}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "options",
    [{}, {"remove_self_loops": True}, {"drop_empty": True}, {"ratio": 0.5, "aggr": "mean"}],
    ids=str,
)
def test_every_way_gives_the_gradient_of_the_oracle(way, options):
    sizes, sizing = way
    density = 0.05 if sum(sizes) > 30 else 0.4
    batch = make_batch(sizes, channels=3, density=density, **EVERYTHING)
    assert_gradients_agree(batch, sizing | options | {"estimator": "gumbel", "tau": 1.0})


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", ["link", "balance", "modularity"])
@pytest.mark.parametrize("weighted", [False, "positive"])
def test_every_way_gives_the_gradient_of_a_loss_alone(way, name, weighted):
    sizes, sizing = way
    options = EVERYTHING | {"weighted": weighted}
    batch = make_batch(sizes, density=0.05 if sum(sizes) > 30 else 0.4, **options)
    assert_gradients_agree(batch, sizing, loss=lambda out: out.losses[name])


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
    assert torch.equal(out.cluster, oracle.draw(logits, uniforms))
    expected = torch.special.entr(logits.softmax(-1)).sum(-1).mean()
    assert_close(out.losses["entropy"].double(), expected, rtol=1e-4, atol=1e-5)
    (out.x.square().sum() + out.loss).backward()
    assert given["x"].grad.isfinite().all()
    assert pool.lin.weight.grad.isfinite().all()


# --- what is kept, and for how long -------------------------------------------------------------


INSIDE = {torch.ops.gumbelpool.pool.default: op.run}
INSIDE[torch.ops.gumbelpool.pool_backward.default] = op.run_backward


class _Largest(TorchDispatchMode):
    """The bytes of the largest memory that any operation used, but for that of some tensors."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in INSIDE:  # of the operator's own operations, not of the operator
            with self:
                return INSIDE[func](*args)
        self.count += 1
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
    n, k, f = 4000, 1500, 4
    x = torch.randn(n, f, requires_grad=True)
    edge_index = torch.randint(0, n, (2, 3 * n))
    logits = torch.randn(n, k) if given == "logits" else None
    losses = ("link", "entropy", "balance", "modularity")
    pool = GumbelPool(f, k, estimator=estimator, losses=losses)
    with _Largest(x, edge_index, *([] if logits is None else [logits])) as largest:
        out = pool(x, edge_index, logits=logits)
        loss = out.x.square().sum() + out.loss
        if used:
            loss = loss + out.edge_weight.square().sum()
        loss.backward()
    # In float32 the assignment has 24 MB, a K×K matrix 9 MB; a block of rows has 2 MB, and its
    # cumulative sums, which are float64, 4 MB.
    assert largest.bytes < 4 * n * k / 5
    assert largest.count > 100  # it has looked inside


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
    pool = GumbelPool(4, 200, estimator=estimator, losses=("link", "entropy", "modularity"))
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


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("block_size", [None, 64])
def test_cuda_gives_the_gradients_of_the_cpu(estimator, block_size):
    batch = make_batch((60, 0, 50, 1, 90), channels=8, density=0.1, **EVERYTHING)
    uniforms = rand(batch.num_nodes, seed=5)
    grads = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        pool = GumbelPool(8, 12, estimator=estimator, block_size=block_size).double().to(device)
        given = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.arguments().items()
        }
        leaves = [given[name].requires_grad_() for name in ("x", "edge_weight", "edge_attr")]
        with injected(uniforms, seed=7):
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
