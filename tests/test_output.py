"""PoolOutput, the diagnostics, and the layer inside the rest of PyTorch."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from gumbelpool import GumbelPool, occupancy

X = torch.randn(6, 3)
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
BATCH = torch.tensor([0, 0, 0, 1, 1, 1])


def test_the_output_unpacks_in_pyg_order_and_is_a_pytree():
    out = GumbelPool(3, 2)(X, EDGES, batch=BATCH)
    x, edge_index, edge_weight, batch = out[:4]
    assert x is out.x
    assert edge_index is out.edge_index
    assert edge_weight is out.edge_weight
    assert batch is out.batch
    doubled = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor * 2, out)
    assert type(doubled) is type(out)
    torch.testing.assert_close(doubled.losses["link"], 2 * out.losses["link"])


def test_loss_is_the_sum_of_the_losses_and_zero_without_any():
    out = GumbelPool(3, 2, losses=("link", "entropy", "balance"))(X, EDGES, batch=BATCH)
    assert list(out.losses) == ["link", "entropy", "balance"]
    torch.testing.assert_close(out.loss, sum(out.losses.values()))
    none = GumbelPool(3, 2, losses=())(X, EDGES)
    assert none.losses == {}
    assert none.loss.shape == ()
    assert none.loss == 0


def test_unpool_gives_each_node_the_row_of_its_supernode():
    out = GumbelPool(3, 2)(X, EDGES, batch=BATCH)
    torch.testing.assert_close(out.unpool(), out.x[out.cluster])
    rows = torch.arange(out.x.size(0))
    assert out.unpool(rows).tolist() == out.cluster.tolist()
    assert out.batch[out.cluster].tolist() == BATCH.tolist()


def test_a_binary_pooled_graph_has_no_weights_but_keeps_its_edges():
    weighted, binary = GumbelPool(3, 2), GumbelPool(3, 2, weighted=False)
    binary.load_state_dict(weighted.state_dict())
    weighted.eval(), binary.eval()
    attr = torch.randn(6, 2)
    out = binary(X, EDGES, torch.rand(6), BATCH, edge_attr=attr)
    expected = weighted(X, EDGES, torch.rand(6), BATCH, edge_attr=attr)
    assert out.edge_weight is None
    torch.testing.assert_close(out.edge_index, expected.edge_index)
    torch.testing.assert_close(out.edge_attr, expected.edge_attr)


def test_eval_takes_the_likeliest_cluster_unless_told_to_sample():
    pool = GumbelPool(3, 4, drop_empty=False).eval()
    out = pool(X, EDGES, batch=BATCH)
    assert out.cluster.tolist() == (BATCH * 4 + pool.lin(X).argmax(-1)).tolist()
    sampling = GumbelPool(3, 4, drop_empty=False, sample_in_eval=True).eval()
    draws = {tuple(sampling(X, EDGES).cluster.tolist()) for _ in range(20)}
    assert len(draws) > 1


def test_occupancy_of_known_assignments():
    cluster = torch.tensor([0, 0, 0, 3, 5, 5, 5, 8])
    batch = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3])
    used, largest_share, perplexity = occupancy(cluster, batch, batch_size=5)
    assert used.tolist() == [2, 1, 0, 1, 0]
    assert largest_share.tolist() == [0.75, 1, 0, 1, 0]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(perplexity, torch.tensor([math.exp(entropy), 1, 0, 1, 0]))


def test_occupancy_of_one_graph_and_of_nothing():
    assert occupancy(torch.arange(5)).perplexity.item() == pytest.approx(5)
    empty = torch.empty(0, dtype=torch.int64)
    assert occupancy(empty).used.tolist() == [0]
    assert occupancy(empty, empty, batch_size=2).largest_share.tolist() == [0, 0]


@pytest.mark.parametrize("estimator", ["gumbel", "gumbel_rao", "reinmax"])
def test_checkpointing_gives_the_same_gradient(estimator):
    pool = GumbelPool(3, 2, estimator=estimator)

    def loss(x):
        out = pool(x, EDGES, batch=BATCH)
        return out.x.sin().sum() + out.edge_weight.cos().sum() + out.loss

    gradients = []
    for run in (loss, lambda x: checkpoint(loss, x, use_reentrant=False)):
        torch.manual_seed(5)
        x = X.clone().requires_grad_()
        pool.zero_grad()
        run(x).backward()
        gradients.append((x.grad, pool.lin.weight.grad, pool.lin.bias.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_autocast_pools_in_full_precision():
    pool = GumbelPool(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        out = pool(X, EDGES, batch=BATCH)
    torch.manual_seed(0)
    expected = pool(X, EDGES, batch=BATCH)
    torch.testing.assert_close(out.x, expected.x, rtol=0, atol=0)
    half = pool(X.bfloat16(), EDGES, batch=BATCH)
    assert half.x.dtype == torch.bfloat16
    assert half.edge_weight.dtype == torch.bfloat16


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("estimator", ["gumbel", "straight_through", "reinmax", "gst"])
def test_the_gpu_gives_the_result_of_the_cpu(estimator):
    pool = GumbelPool(3, 2, estimator=estimator, losses=("link", "entropy", "balance")).eval()
    results = []
    for device in ("cpu", "cuda"):
        pool.to(device).zero_grad()
        x = X.to(device).requires_grad_()
        out = pool(x, EDGES.to(device), batch=BATCH.to(device))
        (out.x.sin().sum() + out.edge_weight.cos().sum() + out.loss).backward()
        gradient = () if estimator == "gumbel" else (x.grad, pool.lin.weight.grad)
        results.append([t.cpu() for t in (*out[:4], out.cluster, out.loss, *gradient)])
    torch.testing.assert_close(results[0], results[1])
