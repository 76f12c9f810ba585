"""Every way to write an adjacency gives the result of the edge list.

PyG hands sparse matrices over as `adj_t`: entry (i, j) is the edge from j to i.
"""

import os

import pytest
import torch
import torch_geometric.typing
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GraphConv
from torch_geometric.transforms import ToSparseTensor

from gumbelpool import (
    DenseDiffPool,
    GumbelPool,
    adjacency_variance,
    coarsen_edges,
    crispness,
    expected_adjacency,
    samples_for_error,
)

if not torch_geometric.typing.WITH_TORCH_SPARSE and os.environ.get("GUMBELPOOL_REQUIRE_SPARSE"):
    raise RuntimeError("GUMBELPOOL_REQUIRE_SPARSE is set, but torch-sparse is not installed")
needs_torch_sparse = pytest.mark.skipif(
    not torch_geometric.typing.WITH_TORCH_SPARSE, reason="torch-sparse is not installed"
)
N, E, K = 9, 20, 4


@pytest.fixture
def graph():
    """A directed weighted graph without duplicate edges: A and its transpose differ."""
    generator = torch.Generator().manual_seed(0)
    pick = torch.randperm(N * N, generator=generator)[:E].sort().values
    x = torch.randn(N, 3, generator=generator)
    return x, torch.stack([pick // N, pick % N]), torch.rand(E, generator=generator) + 0.5


def as_coo(edge_index, weight):
    return torch.sparse_coo_tensor(edge_index.flip(0), weight, (N, N), check_invariants=True)


def as_csr(edge_index, weight):
    return as_coo(edge_index, weight).coalesce().to_sparse_csr()


def as_csc(edge_index, weight):
    return as_coo(edge_index, weight).coalesce().to_sparse_csc()


def as_sparse_tensor(edge_index, weight):
    from torch_sparse import SparseTensor

    return SparseTensor(row=edge_index[1], col=edge_index[0], value=weight, sparse_sizes=(N, N))


def test_the_functions_take_an_edge_index(graph):
    x, edge_index, weight = graph
    wrapped = EdgeIndex(edge_index.int(), sparse_size=(N, N))
    cluster, probability = torch.arange(N) % K, torch.rand(N, K).softmax(1)
    for function in (
        lambda edges: coarsen_edges(edges, cluster, K, weight)[:2],
        lambda edges: crispness(x, edges, cluster, weight),
        lambda edges: (expected_adjacency(edges, probability, weight),),
        lambda edges: (adjacency_variance(edges, probability, weight),),
        lambda edges: (samples_for_error(0.1, 0.1, K, "mcdiarmid", edge_index=edges),),
    ):
        for found, expected in zip(function(wrapped), function(edge_index), strict=True):
            torch.testing.assert_close(found, expected)


def test_an_edge_index_of_another_number_of_nodes_is_refused(graph):
    x, edge_index, _ = graph
    with pytest.raises(ValueError, match=r"edge_index must be of N nodes, N=9; got \[20, 9\]"):
        GumbelPool(3, K)(x, EdgeIndex(edge_index, sparse_size=(20, N)))


FORMS = [as_coo, as_csr, as_csc, pytest.param(as_sparse_tensor, marks=needs_torch_sparse)]
LAYERS = [GumbelPool(3, K, losses=("link", "entropy", "balance")), DenseDiffPool(3, K)]


def run(pool, *args, **kwargs):
    torch.manual_seed(3)
    return pool(*args, **kwargs)


def assert_same(out, expected):
    for name in ("x", "edge_index", "edge_weight", "batch", "cluster", "edge_attr"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name), msg=name)
    torch.testing.assert_close(out.losses, expected.losses)


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("pool", LAYERS, ids=["gumbel", "diffpool"])
@pytest.mark.parametrize("form", FORMS)
def test_a_transposed_sparse_matrix_equals_its_edge_list(graph, form, pool):
    x, edge_index, weight = graph
    assert_same(run(pool, x, form(edge_index, weight)), run(pool, x, edge_index, weight))


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
def test_values_of_a_sparse_matrix_get_their_gradient(graph, form):
    x, edge_index, weight = graph
    pool = LAYERS[0]
    gradients = []
    for sparse in (True, False):
        leaf = weight.clone().requires_grad_()
        out = run(pool, x, form(edge_index, leaf)) if sparse else run(pool, x, edge_index, leaf)
        (out.edge_weight.sin().sum() + out.loss).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("pool", LAYERS, ids=["gumbel", "diffpool"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_an_edge_index_object_equals_its_edge_list(graph, pool, dtype):
    x, edge_index, weight = graph
    wrapped = EdgeIndex(edge_index.to(dtype), sparse_size=(N, N), sort_order="row")
    out = run(pool, x, wrapped, weight)
    assert type(out.edge_index) is torch.Tensor
    assert_same(out, run(pool, x, edge_index, weight))


def test_an_uncoalesced_matrix_is_not_touched(graph):
    x, edge_index, weight = graph
    adj_t = as_coo(torch.cat([edge_index, edge_index], 1), torch.cat([weight, weight]))
    out = run(LAYERS[0], x, adj_t)
    assert not adj_t.is_coalesced()
    assert_same(out, run(LAYERS[0], x, edge_index, 2 * weight))


@pytest.mark.parametrize("form", [as_coo, pytest.param(as_sparse_tensor, marks=needs_torch_sparse)])
def test_vector_values_are_edge_features(graph, form):
    x, edge_index, _ = graph
    attr = torch.randn(E, 2)
    out = run(LAYERS[0], x, form(edge_index, attr)) if form is as_sparse_tensor else None
    if out is None:
        adj_t = torch.sparse_coo_tensor(edge_index.flip(0), attr, (N, N, 2), check_invariants=True)
        out = run(LAYERS[0], x, adj_t)
    assert_same(out, run(LAYERS[0], x, edge_index, edge_attr=attr))


@needs_torch_sparse
def test_a_sparse_tensor_without_values_counts_edges(graph):
    x, edge_index, _ = graph
    out = run(LAYERS[0], x, as_sparse_tensor(edge_index, None))
    assert_same(out, run(LAYERS[0], x, edge_index))


# The convolution makes a torch.sparse matrix of the SparseTensor, which warns.
@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@needs_torch_sparse
def test_pooling_a_batch_with_adj_t_after_a_convolution_with_adj_t():
    torch.manual_seed(0)
    graphs = [
        Data(x=torch.randn(n, 3), edge_index=torch.randint(n, (2, 3 * n))).coalesce()
        for n in (5, 8)
    ]
    batch = Batch.from_data_list(graphs)
    sparse = Batch.from_data_list([ToSparseTensor()(data.clone()) for data in graphs])
    conv = GraphConv(3, 3)
    out = run(LAYERS[0], conv(sparse.x, sparse.adj_t), sparse.adj_t, batch=sparse.batch)
    expected = run(LAYERS[0], conv(batch.x, batch.edge_index), batch.edge_index, batch=batch.batch)
    assert_same(out, expected)


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["edge_weight", "edge_attr"])
def test_values_beside_a_sparse_matrix_are_refused(graph, form, name):
    x, edge_index, weight = graph
    beside = {"edge_weight": weight, "edge_attr": weight.unsqueeze(1)}[name]
    with pytest.raises(ValueError, match=f"{name} must be the values of the sparse matrix"):
        LAYERS[0](x, form(edge_index, weight), **{name: beside})


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
def test_a_sparse_matrix_of_the_wrong_size_is_refused(graph, form):
    x, edge_index, weight = graph
    with pytest.raises(ValueError, match=r"N×N sparse matrix, N=8; got \[9, 9\]"):
        LAYERS[0](x[:8], form(edge_index, weight))
