"""What came in one form goes out in it: `to_data`, `to_data_list` and `adj_t` of the output."""

import pickle

import pytest
import torch
from conftest import make_batch
from test_adjacency import needs_torch_sparse
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch
from torch_geometric.nn import GraphConv
from torch_geometric.transforms import ToSparseTensor
from torch_geometric.utils import to_dense_adj, to_edge_index

from gumbelpool import DenseDiffPool, GumbelPool, PoolOutput

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta"),
    # PyG's batch of torch.sparse matrices is made without saying whether to check them.
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
GRAPHS = make_batch((6, 0, 5, 1), weighted="positive", attr=2)
N = GRAPHS.num_nodes
LAYOUTS = {"coo": torch.sparse_coo, "csr": torch.sparse_csr, "csc": torch.sparse_csc}
SPARSE_TENSOR = pytest.param("SparseTensor", marks=needs_torch_sparse)
MATRICES = [*LAYOUTS, SPARSE_TENSOR]
LAYERS = [GumbelPool(3, 4, drop_empty=True), GumbelPool(3, 4, ratio=0.5), DenseDiffPool(3, 4)]
LAYERS = [layer.double() for layer in LAYERS]


def write(form, edge_index, weight):
    if form == "edge_index":
        return edge_index
    if form == "EdgeIndex":
        return EdgeIndex(edge_index, sparse_size=(N, N))
    if form == "SparseTensor":
        from torch_sparse import SparseTensor

        return SparseTensor(row=edge_index[1], col=edge_index[0], value=weight, sparse_sizes=(N, N))
    size = (N, N, *weight.shape[1:])
    matrix = torch.sparse_coo_tensor(edge_index.flip(0), weight, size, check_invariants=True)
    matrix = matrix.coalesce()
    return matrix if form == "coo" else matrix.to_sparse(layout=LAYOUTS[form])


def pooled(layer, form, weight=GRAPHS.edge_weight, **options):
    torch.manual_seed(1)
    adjacency = write(form, GRAPHS.edge_index, weight)
    beside = weight if form in ("edge_index", "EdgeIndex") else None
    return layer(GRAPHS.x, adjacency, beside, GRAPHS.batch, batch_size=4, **options)


def dense(adj_t):
    return adj_t.to_dense()


def kind(adjacency):
    return type(adjacency), getattr(adjacency, "layout", None)


def expected_matrix(out, value):
    """Aᵀ, dense."""
    size = (out.x.size(0), out.x.size(0), *value.shape[1:])
    matrix = torch.zeros(size, dtype=value.dtype)
    return matrix.index_put((out.edge_index[1], out.edge_index[0]), value)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", MATRICES)
def test_a_matrix_that_came_goes_out_as_such_a_matrix(layer, form):
    out = pooled(layer, form)
    assert out.form == form
    assert type(out.edge_index) is torch.Tensor
    data = out.to_data()
    assert set(data.keys()) == {"x", "adj_t", "batch"}
    came = write(form, GRAPHS.edge_index, GRAPHS.edge_weight)
    assert kind(data.adj_t) == kind(came)
    assert data.num_nodes == out.x.size(0)
    torch.testing.assert_close(dense(data.adj_t), expected_matrix(out, out.edge_weight))
    torch.testing.assert_close(dense(out.adj_t()), dense(data.adj_t))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["edge_index", "EdgeIndex"])
def test_edges_that_came_go_out_as_such_edges(layer, form):
    out = pooled(layer, form, edge_attr=GRAPHS.edge_attr)
    data = out.to_data()
    assert set(data.keys()) == {"x", "edge_index", "edge_weight", "edge_attr", "batch"}
    assert type(data.edge_index) is (EdgeIndex if form == "EdgeIndex" else torch.Tensor)
    if form == "EdgeIndex":
        assert data.edge_index.validate().is_sorted_by_row
        assert data.edge_index.sparse_size() == (out.x.size(0), out.x.size(0))
    assert torch.equal(data.edge_index, out.edge_index)
    assert data.edge_weight is out.edge_weight
    assert data.edge_attr is out.edge_attr
    assert out.adj_t().layout == torch.sparse_csr
    torch.testing.assert_close(dense(out.adj_t()), expected_matrix(out, out.edge_weight))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["edge_index", "EdgeIndex", *MATRICES])
def test_the_list_of_graphs_is_the_batch_again(layer, form):
    out = pooled(layer, form)
    graphs, data = out.to_data_list(batch_size=4), out.to_data()
    assert len(graphs) == 4
    for g, graph in enumerate(graphs):
        assert graph.num_nodes == int((out.batch == g).sum())
        assert graph.validate()
    again = Batch.from_data_list(graphs)
    assert torch.equal(again.batch, out.batch)
    torch.testing.assert_close(again.x, out.x)
    if form in ("edge_index", "EdgeIndex"):
        assert type(again.edge_index) is type(data.edge_index)
        assert torch.equal(again.edge_index, out.edge_index)
        torch.testing.assert_close(again.edge_weight, out.edge_weight)
    else:
        assert kind(again.adj_t) == kind(data.adj_t)
        torch.testing.assert_close(dense(again.adj_t), dense(data.adj_t))


def test_graphs_are_counted_up_to_the_last_with_a_row():
    out = GumbelPool(3, 4, drop_empty=True).double()(
        GRAPHS.x, GRAPHS.edge_index, batch=GRAPHS.batch, batch_size=6
    )
    assert len(out.to_data_list()) == 4
    assert len(out.to_data_list(batch_size=6)) == 6
    with pytest.raises(ValueError, match="batch"):
        out.to_data_list(batch_size=2)
    nothing = torch.empty(0, 3, dtype=torch.float64)
    empty = LAYERS[0](nothing, torch.empty(2, 0, dtype=torch.long))
    assert empty.to_data_list() == []
    assert empty.to_data().num_nodes == 0
    assert empty.adj_t().shape == (0, 0)


@pytest.mark.parametrize("form", ["coo", SPARSE_TENSOR])
def test_features_that_came_as_values_go_out_as_values(form):
    out = pooled(LAYERS[0], form, GRAPHS.edge_attr)
    matrix = out.to_data().adj_t
    if form == "SparseTensor":
        row, col, value = matrix.coo()
        edge_index = torch.stack([row, col])
    else:
        edge_index, value = to_edge_index(matrix)
    found = to_dense_adj(edge_index, edge_attr=value, max_num_nodes=out.x.size(0))[0]
    torch.testing.assert_close(found, expected_matrix(out, out.edge_attr))


@pytest.mark.parametrize("form", MATRICES)
def test_a_binary_pooled_graph_has_ones_or_no_values(form):
    layer = GumbelPool(3, 4, weighted=False).double()
    out = pooled(layer, form)
    matrix = out.adj_t()
    if form == "SparseTensor":
        assert not matrix.has_value()
    else:
        assert (matrix.values() == 1).all()
        assert (matrix @ out.x).dtype == out.x.dtype
    assert set(pooled(layer, "edge_index").to_data().keys()) == {"x", "edge_index", "batch"}


@pytest.mark.parametrize("form", MATRICES)
def test_the_values_of_the_matrix_have_the_gradient_of_the_weights(form):
    layer = GumbelPool(3, 4).double()
    gradients = []
    for came in (form, "edge_index"):
        weight = GRAPHS.edge_weight.clone().requires_grad_()
        out = pooled(layer, came, weight)
        if came == "edge_index":
            values = out.edge_weight
        elif form == "SparseTensor":
            values = out.adj_t().coo()[2]
        else:
            values = out.adj_t().to_sparse_coo().coalesce().values()
        gradients.append(torch.autograd.grad(values.sin().sum(), [weight, layer.lin.weight]))
    torch.testing.assert_close(*gradients)


@needs_torch_sparse
def test_two_levels_of_adj_t_are_two_levels_of_edges():
    """ToSparseTensor, a convolution, a pool, a convolution on what comes out, a pool again."""
    torch.manual_seed(0)
    conv, fine, coarse = (
        GraphConv(3, 3).double(),
        *(GumbelPool(3, k).double().eval() for k in (4, 2)),
    )
    plain = Batch.from_data_list(PoolOutput(*pooled(LAYERS[0], "edge_index")).to_data_list())
    sparse = ToSparseTensor(attr="edge_weight")(plain.clone())
    first = fine(conv(sparse.x, sparse.adj_t), sparse.adj_t, batch=sparse.batch).to_data()
    out = coarse(conv(first.x, first.adj_t), first.adj_t, batch=first.batch)
    wanted = fine(conv(plain.x, plain.edge_index, plain.edge_weight), plain.edge_index,
                  plain.edge_weight, plain.batch)  # fmt: skip
    x = conv(wanted.x, wanted.edge_index, wanted.edge_weight)
    wanted = coarse(x, wanted.edge_index, wanted.edge_weight, wanted.batch)
    for name in ("x", "edge_index", "edge_weight", "batch"):
        torch.testing.assert_close(getattr(out, name), getattr(wanted, name))


def test_another_form_may_be_asked_for_and_a_wrong_one_is_named():
    out = pooled(LAYERS[0], "csr")
    assert out.adj_t("csc").layout == torch.sparse_csc
    with pytest.raises(ValueError, match="form must be one of 'SparseTensor', 'coo', 'csr', 'csc'"):
        out.adj_t("edge_index")


@pytest.mark.parametrize("form", ["edge_index", "EdgeIndex", *MATRICES])
def test_the_output_of_every_form_unpacks_and_is_replaced_and_pickled_alike(form):
    out = pooled(LAYERS[0], form)
    assert isinstance(out, PoolOutput)
    assert len(out) == 7
    halved = out._replace(x=out.x / 2)
    detached = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, out)
    for other in (halved, detached, pickle.loads(pickle.dumps(detached))):
        assert type(other) is type(out)
        assert other.form == form
