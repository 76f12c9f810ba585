"""Zero-sized and degenerate inputs, every float dtype, and inputs that are not contiguous."""

import math

import pytest
import torch
from conftest import ESTIMATORS, downstream, injected, make_batch, rand, randn

from gumbelpool import (
    GumbelPool,
    coarsen_edges,
    coarsen_nodes,
    occupancy,
    sample_clusters,
    unpool,
)

ALL = ("link", "entropy", "balance", "modularity")
NO_EDGES = torch.empty(2, 0, dtype=torch.long)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def case(sizes, edges=(), **options):
    edge_index = torch.tensor(edges, dtype=torch.long).view(-1, 2).T.contiguous()
    return sizes, edge_index, options


DEGENERATE = {
    "no-nodes": case((0,)),
    "no-graphs": case(()),
    "only-empty-graphs": case((0, 0, 0)),
    "one-node": case((1,)),
    "one-node-with-loop": case((1,), [(0, 0)]),
    "no-edges": case((4, 3)),
    "isolated-nodes": case((4, 3), [(0, 1), (4, 6)]),
    "empty-first-graph": case((0, 3), [(0, 1), (1, 2)]),
    "empty-middle-graph": case((3, 0, 2), [(0, 1), (3, 4)]),
    "empty-last-graphs": case((3, 0, 0), [(0, 1)]),
    "fewer-nodes-than-clusters": case((2, 3), [(0, 1), (2, 4)], num_clusters=50),
    "one-cluster": case((4, 3), [(0, 1), (4, 6), (2, 2)], num_clusters=1),
    "tiny-ratio": case((4, 0, 3), [(0, 1), (4, 6)], ratio=1e-6),
    "ratio-with-no-nodes": case((0, 0), ratio=0.5),
    "no-pooled-edge-left": case((4,), [(0, 1)], num_clusters=1, remove_self_loops=True),
}


@pytest.mark.parametrize("drop_empty", [True, False])
@pytest.mark.parametrize("aggr", ["sum", "mean"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("sizes", "edge_index", "options"), DEGENERATE.values(), ids=list(DEGENERATE)
)
def test_forward_and_backward_of_degenerate_input(
    sizes, edge_index, options, estimator, aggr, drop_empty
):
    N, E, B = sum(sizes), edge_index.size(1), len(sizes)
    options = {"num_clusters": 4} | options
    pool = GumbelPool(
        3, estimator=estimator, aggr=aggr, drop_empty=drop_empty, losses=ALL, **options
    ).double()
    x = randn(N, 3, seed=1).requires_grad_()
    weight, attr = rand(E, seed=2).requires_grad_(), randn(E, 2, seed=3).requires_grad_()
    batch = torch.arange(B).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
    out = pool(x, edge_index, weight, batch, edge_attr=attr, batch_size=B)
    downstream(out).backward()

    K = options["num_clusters"]
    assert out.x.shape == (len(out.batch), 3)
    assert out.edge_index.shape == (2, len(out.edge_weight))
    assert out.edge_attr.shape == (len(out.edge_weight), 2)
    assert out.cluster.shape == (N,)
    if not drop_empty:
        assert len(out.x) == (B if "ratio" in options else B * K)  # at the largest ratio here
    for value in (out.x, out.edge_weight, out.edge_attr, *out.losses.values()):
        assert torch.isfinite(value).all()
    for leaf in (x, weight, attr, *pool.parameters()):
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()
    if N == 0:
        assert out.losses["entropy"].item() == 0.0
        assert out.losses["balance"].item() == 0.0


@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_features_and_attributes_without_channels(aggr):
    """Only the scores have channels: the pooled graph is all there is to pool."""
    batch = make_batch(channels=0, attr=0, weighted="positive")
    pool = GumbelPool(3, 4, aggr=aggr, losses=ALL).double()
    arguments = batch.arguments("x", "edge_weight", "edge_attr")
    score = randn(batch.num_nodes, 3, seed=1).requires_grad_()
    out = pool(**arguments, assign_x=score)
    downstream(out).backward()
    assert out.x.shape == (len(out.batch), 0)
    assert out.edge_attr.shape == (len(out.edge_weight), 0)
    assert torch.isfinite(score.grad).all()
    assert score.grad.any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_nodes_and_no_batch(estimator):
    pool = GumbelPool(3, 4, estimator=estimator, losses=ALL, drop_empty=True)
    x = torch.empty(0, 3, requires_grad=True)
    out = pool(x, NO_EDGES)
    (out.x.sum() + out.loss).backward()
    assert out.x.shape == (0, 3)
    assert out.edge_index.shape == (2, 0)
    assert torch.isfinite(out.loss)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_impossible_logits_give_no_nan(estimator, dtype):
    """Rows with one possible cluster, columns with none, and a row with all but one."""
    batch = make_batch((4, 3), attr=2, loops=True)
    logits = randn(7, 5, seed=1)
    logits[:, 2] = -math.inf
    logits[0, 1:] = -math.inf
    logits[5, :4] = -math.inf
    logits = logits.to(dtype).requires_grad_()
    pool = GumbelPool(3, 5, estimator=estimator, losses=ALL, aggr="mean").to(dtype)
    x = batch.x.to(dtype).requires_grad_()
    out = pool(x, batch.edge_index, batch=batch.batch, logits=logits)
    (out.x.float().square().sum() + out.edge_weight.float().square().sum() + out.loss).backward()
    assert torch.isfinite(out.loss)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2] == 0).all()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("K", [1, 3])
def test_constant_and_huge_logits_give_no_nan(K):
    batch = make_batch((4, 3), weighted="positive")
    for value in (0.0, 1e300, -1e300):
        logits = torch.full((7, K), value, dtype=torch.float64).requires_grad_()
        out = GumbelPool(3, K, losses=ALL).double()(**batch.arguments(), logits=logits)
        downstream(out).backward()
        assert torch.isfinite(out.loss)
        assert torch.isfinite(logits.grad).all()


def test_functional_core_of_nothing():
    none = torch.empty(0, dtype=torch.long)
    index, weight, attr = coarsen_edges(NO_EDGES, none, 0, torch.empty(0), torch.empty(0, 3))
    assert index.shape == (2, 0)
    assert weight.shape == (0,)
    assert attr.shape == (0, 3)
    index, weight, attr = coarsen_edges(NO_EDGES, torch.tensor([0, 1, 0]), 2)
    assert index.shape == (2, 0)
    assert weight.shape == (0,)
    assert attr is None
    for aggr in ("sum", "mean"):
        assert coarsen_nodes(torch.empty(0, 3), none, 0, aggr).shape == (0, 3)
        assert torch.equal(coarsen_nodes(torch.empty(0, 3), none, 2, aggr), torch.zeros(2, 3))
    assert unpool(torch.empty(2, 3), none).shape == (0, 3)
    assert sample_clusters(torch.empty(0, 3)).shape == (0,)
    for field in occupancy(none, none, 2):
        assert field.shape == (2,)
        assert torch.isfinite(field).all()
    assert occupancy(none, none, 2).used.tolist() == [0, 0]


# --- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("weighted", ["positive", False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradients_have_the_inputs_dtype(dtype, weighted, estimator):
    batch = make_batch((6, 5), weighted=weighted, attr=2, loops=True)
    pool = GumbelPool(3, 4, estimator=estimator, losses=ALL).to(dtype)
    leaves = {"x": batch.x, "edge_attr": batch.edge_attr, "edge_weight": batch.edge_weight}
    leaves = {k: v.to(dtype).requires_grad_() for k, v in leaves.items() if v is not None}
    out = pool(**(batch.arguments() | leaves))
    total = sum(v.float().square().sum() for v in (out.x, out.edge_weight, out.edge_attr))
    (total + out.loss).backward()
    for name in ("x", "edge_weight", "edge_attr"):
        assert getattr(out, name).dtype == dtype, name
    for leaf in (*leaves.values(), *pool.parameters()):
        assert leaf.grad.dtype == dtype
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)],
)
def test_lower_precision_agrees_with_float64(dtype, tolerance, estimator):
    """Same draw, inputs exact in the lower precision: only the arithmetic differs."""
    batch = make_batch((12, 9), weighted="positive", loops=True)
    logits = randn(21, 4, seed=8).to(dtype)
    x, weight = batch.x.to(dtype), batch.edge_weight.to(dtype)
    grads = []
    for kind in (torch.float64, dtype):
        pool = GumbelPool(3, 4, estimator=estimator, losses=ALL).to(kind)
        leaf = logits.to(kind).requires_grad_()
        with injected(torch.linspace(0.03, 0.97, 21).double(), seed=7):
            out = pool(x.to(kind), batch.edge_index, weight.to(kind), batch.batch, logits=leaf)
            (
                out.x.sin().sum().double() + out.edge_weight.sin().sum().double() + out.loss
            ).backward()
        grads.append(leaf.grad.double())
    assert (grads[1] - grads[0]).norm() < tolerance * grads[0].norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_accumulated_in_float32(dtype):
    """4096 ones: in half precision a running sum would stop at 2048, in bfloat16 at 256."""
    ones, cluster = torch.ones(4096, 1, dtype=dtype), torch.zeros(4096, dtype=torch.long)
    edge_index = torch.stack([cluster, cluster + 1])
    for num_supernodes in (2, 100_000):
        merged = coarsen_edges(edge_index, torch.tensor([0, 1]), num_supernodes, ones[:, 0], ones)
        assert merged[1].dtype == merged[2].dtype == dtype
        assert merged[1].tolist() == [4096.0]
        assert merged[2].tolist() == [[4096.0]]
    summed = coarsen_nodes(ones, cluster, 1)
    assert summed.dtype == dtype
    assert summed.tolist() == [[4096.0]]
    assert coarsen_nodes(ones, cluster, 1, "mean").tolist() == [[1.0]]

    pool = GumbelPool(1, 1, losses=("link",)).to(dtype)
    chain = torch.stack([torch.arange(4095), torch.arange(1, 4096)])
    out = pool(ones, torch.cat([chain, chain[:, :1]], 1))
    assert out.x.tolist() == [[4096.0]]
    assert out.edge_weight.tolist() == [4096.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mean_of_many_large_features_does_not_overflow(dtype):
    x = torch.full((1000, 2), 1000.0, dtype=dtype)
    cluster = torch.zeros(1000, dtype=torch.long)
    assert coarsen_nodes(x, cluster, 1, "mean").tolist() == x[:1].tolist()


# --- layout --------------------------------------------------------------------------------------


def spread(t):
    """The same values with gaps between them in memory."""
    wide = t.new_zeros(*t.shape[:-1], 2 * t.size(-1)) if t.dim() else t
    wide[..., ::2] = t
    return wide[..., ::2]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_non_contiguous_inputs_give_the_same_result(estimator):
    batch = make_batch(weighted="positive", attr=2, loops=True)
    pool = GumbelPool(3, 4, estimator=estimator, losses=ALL).double()
    logits = randn(batch.num_nodes, 4, seed=8)
    results = []
    for layout in (
        lambda t: t,
        spread,
        lambda t: t.T.contiguous().T if t.dim() == 2 else spread(t),
    ):
        leaves = {
            name: layout(value).detach().requires_grad_()
            for name, value in [
                ("x", batch.x),
                ("edge_weight", batch.edge_weight),
                ("edge_attr", batch.edge_attr),
                ("logits", logits),
            ]
        }
        torch.manual_seed(4)
        out = pool(**(batch.arguments() | leaves | {"edge_index": layout(batch.edge_index)}))
        downstream(out).backward()
        results.append([*out[:6], *(leaf.grad for leaf in leaves.values())])
    for other in results[1:]:
        for have, want in zip(other, results[0], strict=True):
            torch.testing.assert_close(have, want, rtol=1e-12, atol=1e-12)


def test_expanded_downstream_gradient_is_accepted():
    """`sum().backward()` sends an expanded, stride-0 gradient."""
    batch = make_batch(weighted="positive", attr=2)
    pool = GumbelPool(3, 4, estimator="straight_through", losses=()).double()
    grads = []
    for total in (lambda t: t.sum(), lambda t: (t * torch.ones_like(t)).sum()):
        arguments = batch.arguments("x", "edge_weight", "edge_attr")
        with injected(rand(batch.num_nodes, seed=5)):
            out = pool(**arguments)
        (total(out.x) + total(out.edge_weight) + total(out.edge_attr)).backward()
        grads.append(arguments["x"].grad)
    torch.testing.assert_close(*grads)


def test_inputs_are_not_written_to():
    batch = make_batch(weighted="positive", attr=2, loops=True, duplicates=True)
    before = [t.clone() for t in (batch.x, batch.edge_index, batch.edge_weight, batch.edge_attr)]
    pool = GumbelPool(3, 4, losses=ALL, ratio=0.5).double()
    logits = randn(batch.num_nodes, 4, seed=8)
    kept = logits.clone()
    downstream(pool(**batch.arguments("x"), logits=logits)).backward()
    after = (batch.x, batch.edge_index, batch.edge_weight, batch.edge_attr)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert torch.equal(logits, kept)
