"""The recipes of the README that other parts of PyG, captum and ONNX take part in, executed."""

import os

import pytest
import torch
from test_adjacency import needs_torch_sparse
from test_readme import run_python_blocks
from torch_geometric.data import Batch, Data
from torch_geometric.explain import CaptumExplainer, Explainer, GNNExplainer
from torch_geometric.nn import GCNConv, summary
from torch_geometric.utils import erdos_renyi_graph

from gumbelpool import DenseDiffPool, GumbelPool

LAYERS = [GumbelPool, DenseDiffPool]
README = run_python_blocks()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]


def needs(name):
    """Imports what CI has, and must have where the extras are asked for."""
    if os.environ.get("GUMBELPOOL_REQUIRE_SPARSE"):
        __import__(name)
    else:
        pytest.importorskip(name)


def graphs():
    torch.manual_seed(0)
    data = [Data(x=torch.randn(n, 7), edge_index=erdos_renyi_graph(n, 0.3)) for n in (12, 9, 15)]
    return Batch.from_data_list(data)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_matrix_of_to_sparse_tensor_is_pooled_to_one_of_its_kind(layer):
    data = graphs()
    conv, pool = GCNConv(7, 7, add_self_loops=False), layer(7, 4).eval()
    found = README["pool_matrix"](data.clone(), conv, pool)
    given = README["ToSparseTensor"]()(data.clone())
    assert type(found.adj_t) is type(given.adj_t)
    assert set(found.keys()) == {"x", "adj_t", "batch"}
    expected = pool(conv(data.x, data.edge_index), data.edge_index)
    torch.testing.assert_close(found.x, expected.x)
    torch.testing.assert_close(found.adj_t.to_dense(), expected.adj_t().to_dense())


@needs_torch_sparse
@pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without a 'pyg-lib'")
@pytest.mark.parametrize("layer", LAYERS)
def test_neighborhoods_of_a_large_graph_are_mini_batches(layer):
    torch.manual_seed(0)
    graph = Data(x=torch.randn(200, 7), edge_index=erdos_renyi_graph(200, 0.05))
    conv, pool = GCNConv(7, 5), layer(5, 4)
    optimizer, seen = torch.optim.Adam([*conv.parameters(), *pool.parameters()], lr=0.01), []
    for seeds, rows, loss in README["pool_neighborhoods"](graph, conv, pool, batch_size=50):
        seen += seeds.tolist()
        assert rows.shape == (50, 5)
        optimizer.zero_grad()
        (rows.square().mean() + loss).backward()
        optimizer.step()
    assert sorted(seen) == list(range(200))
    assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())


def test_sequential_trains_and_hands_on_the_losses():
    data, tower = graphs(), README["tower"]
    x, loss = tower(data.x, data.edge_index, None, data.batch)
    assert x.shape == (3, 64)
    assert loss > 0
    (x.sum() + loss).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tower.parameters())


def test_summary_shows_the_pool_and_what_it_gives():
    needs("tabulate")
    data = graphs()
    table = summary(README["tower"], data.x, data.edge_index, None, data.batch)
    (row,) = [line for line in table.splitlines() if "GumbelPool" in line]
    assert "[36, 64], [2, " in row  # what comes
    assert "[60, 64], [2, " in row  # three graphs of 20 supernodes
    assert "1,300" in row


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("edges", [None, "object"])
@pytest.mark.parametrize("algorithm", ["gnnexplainer", "IntegratedGradients", "Saliency"])
def test_explanations_of_fixed_draws_are_reproducible(algorithm, edges, sample):
    if algorithm != "gnnexplainer":
        needs("captum")
    torch.manual_seed(0)
    data, net = graphs(), README["FixedNet"](7, 2).eval()
    net.pool1.sample_in_eval = net.pool2.sample_in_eval = sample
    net.conv3.explain = False
    first, again = (
        explain(net, algorithm, edges)(data.x, data.edge_index, batch=data.batch) for _ in range(2)
    )
    assert first.node_mask.shape == data.x.shape
    assert first.node_mask.isfinite().all()
    assert first.node_mask.abs().sum() > 0
    if edges:
        assert first.edge_mask.shape == (data.num_edges,)
        assert first.edge_mask.abs().sum() > 0
    for name in ("prediction", "node_mask", "edge_mask"):
        torch.testing.assert_close(first.get(name), again.get(name), msg=name)


def explain(net, algorithm, edges):
    torch.manual_seed(5)
    known = algorithm == "gnnexplainer"
    return Explainer(
        net,
        algorithm=GNNExplainer(epochs=5) if known else CaptumExplainer(algorithm),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type=edges,
        model_config={
            "mode": "multiclass_classification",
            "task_level": "graph",
            "return_type": "raw",
        },
    )


def test_draws_differ_without_the_generator_and_not_with_it():
    data, net = graphs(), README["FixedNet"](7, 2).eval()
    arguments = data.x, data.edge_index, data.batch
    before = net(*arguments)
    torch.testing.assert_close(net(*arguments), before, rtol=0, atol=0)
    assert not torch.equal(README["Net"].forward(net, *arguments)[0], before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", LAYERS)
def test_onnx_names_an_operator_that_it_has_no_form_for(layer):
    needs("onnxscript")
    from torch.onnx.errors import OnnxExporterError

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = layer(7, 4)

        def forward(self, x, edge_index, batch):
            return self.pool(x, edge_index, batch=batch, batch_size=3).x

    data = graphs()
    arguments = data.x, data.edge_index, data.batch
    with pytest.raises(OnnxExporterError) as error:
        torch.onnx.export(Pooled().eval(), arguments, dynamo=True, verbose=False)
    assert any(name in str(error.value.__cause__) for name in ("searchsorted", "gumbelpool"))
