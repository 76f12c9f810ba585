"""The baseline against DiffPool written out graph by graph."""

import pytest
import torch
from torch_geometric.nn import dense_diff_pool

from gumbelpool import DenseDiffPool, GumbelPool
from gumbelpool.output import PoolOutput

K, F, D = 3, 4, 2
SIZES = (5, 1, 0, 7)
ALL = ("link", "entropy", "balance", "modularity")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(SIZES), F, generator=generator, dtype=torch.float64)
    vector = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    edges, start = [], 0
    for size in SIZES:
        if size:
            edges.append(torch.randperm(size * size, generator=generator)[: 3 * size])
            edges[-1] = torch.stack([edges[-1] // size, edges[-1] % size]) + start
        start += size
    edge_index = torch.cat(edges, 1)
    weight = torch.rand(edge_index.size(1), generator=generator, dtype=torch.float64)
    attr = torch.randn(edge_index.size(1), D, generator=generator, dtype=torch.float64)
    return x, edge_index, weight, vector, attr


def dense(edge_index, values, nodes):
    """The N×N matrix of the nodes' own edges."""
    inside = (edge_index[0] >= nodes.start) & (edge_index[0] < nodes.stop)
    row, col = edge_index[:, inside] - nodes.start
    matrix = torch.zeros(len(nodes), len(nodes), *values.shape[1:], dtype=values.dtype)
    return matrix.index_put((row, col), values[inside], accumulate=True)


def graphs():
    start = 0
    for graph, size in enumerate(SIZES):
        yield graph, range(start, start + size)
        start += size


@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_pooling_equals_diffpool_graph_by_graph(batch, aggr):
    x, edge_index, weight, vector, attr = batch
    pool = DenseDiffPool(F, K, aggr=aggr, losses=ALL).double()
    out = pool(x, edge_index, weight, vector, edge_attr=attr, batch_size=len(SIZES))

    losses = torch.zeros(4, dtype=torch.float64)
    assert out.batch.tolist() == [0] * K + [1] * K + [2] * K + [3] * K
    for graph, nodes in graphs():
        S = pool.lin(x[nodes.start : nodes.stop]).softmax(-1)
        pooled_x = S.T @ x[nodes.start : nodes.stop]
        if aggr == "mean":
            pooled_x = pooled_x / S.sum(0).clamp(min=1e-12).unsqueeze(1)
        torch.testing.assert_close(out.x[out.batch == graph], pooled_x)

        A = dense(edge_index, weight, nodes)
        at = torch.arange(K * K) + graph * K * K
        torch.testing.assert_close(out.edge_weight[at].view(K, K), S.T @ A @ S)
        for channel in range(D):
            attr_matrix = dense(edge_index, attr[:, channel], nodes)
            pooled_attr = out.edge_attr[at, channel].view(K, K)
            torch.testing.assert_close(pooled_attr, S.T @ attr_matrix @ S)
        if len(nodes) > 0:
            losses[0] += (A - S @ S.T).norm() / A.norm().clamp(min=1)
            losses[1] += -(S * S.log()).sum(1).mean()
            usage = S.mean(0)
            losses[2] += torch.tensor(K).log() + (usage * usage.log()).sum()
            chance = torch.outer(A.sum(1), A.sum(0)) / A.sum() ** 2
            losses[3] -= (S.T @ (A / A.sum() - chance) @ S).trace()
    mean = losses / len(SIZES)
    torch.testing.assert_close(torch.stack(list(out.losses.values())), mean)


def test_pooling_equals_pyg_on_a_padded_batch_of_equal_graphs():
    torch.manual_seed(0)
    n, B = 6, 3
    x, logits = torch.randn(B, n, F), torch.randn(B, n, K)
    adjacency = (torch.rand(B, n, n) < 0.4).float()
    graph, row, col = adjacency.nonzero(as_tuple=True)
    pooled_x, pooled_adjacency, _, entropy = dense_diff_pool(x, adjacency, logits)
    out = DenseDiffPool(F, K)(
        x.flatten(0, 1),
        torch.stack([graph * n + row, graph * n + col]),
        batch=torch.arange(B).repeat_interleave(n),
        logits=logits.flatten(0, 1),
    )
    torch.testing.assert_close(out.x, pooled_x.flatten(0, 1))
    torch.testing.assert_close(out.edge_weight, pooled_adjacency.flatten())
    torch.testing.assert_close(out.losses["entropy"], entropy)


def test_pooled_edges_are_all_pairs_in_sorted_order(batch):
    x, edge_index, weight, vector, _ = batch
    out = DenseDiffPool(F, K).double()(x, edge_index, weight, vector)
    row, col = out.edge_index
    assert out.edge_index.size(1) == len(SIZES) * K * K
    assert (out.batch[row] == out.batch[col]).all()
    assert (row * out.x.size(0) + col).diff().gt(0).all()
    without_loops = DenseDiffPool(F, K, remove_self_loops=True).double()(
        x, edge_index, weight, vector
    )
    assert without_loops.edge_index.tolist() == out.edge_index[:, row != col].tolist()


def test_ratio_limits_the_supernodes_of_small_graphs(batch):
    x, edge_index, weight, vector, _ = batch
    out = DenseDiffPool(F, K, ratio=0.4, losses=("balance",)).double()(
        x, edge_index, weight, vector, batch_size=4
    )
    assert torch.bincount(out.batch).tolist() == [2, 1, 1, 3]
    assert out.edge_index.size(1) == 4 + 1 + 1 + 9
    torch.testing.assert_close(out.x.sum(0), x.sum(0))
    torch.testing.assert_close(out.edge_weight.sum(), weight.sum())
    assert out.loss.isfinite()


def test_cluster_is_the_likeliest_supernode_of_each_node(batch):
    x, edge_index, weight, vector, _ = batch
    pool = DenseDiffPool(F, K).double()
    out = pool(x, edge_index, weight, vector)
    assert out.cluster.tolist() == (vector * K + pool.lin(x).argmax(-1)).tolist()
    torch.testing.assert_close(out.unpool(), out.x[out.cluster])


def test_level_scores_make_all_supernodes_of_diffpool_alike_and_those_of_a_draw_differ(batch):
    x, edge_index, weight, vector, _ = batch
    logits = torch.zeros(x.size(0), K, dtype=torch.float64, requires_grad=True)
    pools = [layer(F, K, losses=()) for layer in (DenseDiffPool, GumbelPool)]
    torch.manual_seed(0)
    soft, drawn = (
        pool(x, edge_index, weight, vector, logits=logits, batch_size=len(SIZES)) for pool in pools
    )
    largest = soft.x[soft.batch == 3]
    torch.testing.assert_close(largest, largest[:1].expand_as(largest))
    (gradient,) = torch.autograd.grad((soft.x.tanh().sum() + soft.edge_weight.tanh().sum()), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))

    largest = drawn.x[drawn.batch == 3]
    assert torch.pdist(largest).min() > 0.1
    (gradient,) = torch.autograd.grad((drawn.x.tanh().sum()), logits)
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("nodes", [0, 1])
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_degenerate_graphs_give_no_nan(nodes, ratio):
    pool = DenseDiffPool(F, K, ratio=ratio, losses=ALL)
    x = torch.randn(nodes, F, requires_grad=True)
    out = pool(x, torch.empty(2, 0, dtype=torch.int64))
    (out.x.sum() + out.edge_weight.sum() + out.loss).backward()
    assert out.loss.isfinite()
    assert x.grad.isfinite().all()


def test_no_graphs_at_all():
    out = DenseDiffPool(F, K)(
        torch.randn(0, F),
        torch.empty(2, 0, dtype=torch.int64),
        batch=torch.empty(0, dtype=torch.int64),
    )
    assert out.x.shape == (0, F)
    assert out.edge_index.shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_output_keeps_the_dtype(batch, dtype):
    x, edge_index, weight, vector, attr = batch
    pool = DenseDiffPool(F, K).to(dtype)
    out = pool(x.to(dtype), edge_index, weight.to(dtype), vector, edge_attr=attr.to(dtype))
    assert out.x.dtype == out.edge_weight.dtype == out.edge_attr.dtype == dtype


@pytest.mark.parametrize("layer", [GumbelPool, DenseDiffPool])
def test_either_layer_stands_in_for_the_other(layer):
    pool = layer(F, K, ratio=0.5, aggr="mean", losses=("link",), remove_self_loops=True, bias=False)
    pool.reset_parameters()
    out = pool(
        torch.randn(6, F),
        torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]]),
        torch.rand(4),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        edge_attr=torch.rand(4, D),
        assign_x=torch.randn(6, F),
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert isinstance(out, PoolOutput)
    x, edge_index, edge_weight, batch = out[:4]
    assert x.size(0) == batch.size(0)
    assert edge_index.size(1) == edge_weight.size(0) == out.edge_attr.size(0)
    assert list(out.losses) == ["link"]
    torch.testing.assert_close(out.loss, out.losses["link"])


@pytest.mark.parametrize("layer", [GumbelPool, DenseDiffPool])
def test_repr_reproduces_the_layer(layer):
    pool = layer(F, K, ratio=0.5, losses=(), bias=False)
    assert repr(eval(repr(pool))) == repr(pool)
    assert (
        repr(pool) == f"{layer.__name__}({F}, num_clusters={K}, ratio=0.5, losses=(), bias=False)"
    )
    assert repr(layer(F, K)) == f"{layer.__name__}({F}, num_clusters={K})"
