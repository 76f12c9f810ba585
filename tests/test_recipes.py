"""The recipes of the README, executed: compiled models, heterogeneous and large graphs."""

import shutil

import pytest
import torch
from test_readme import run_python_blocks
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.index import index2ptr
from torch_geometric.loader import ClusterData, ClusterLoader
from torch_geometric.utils import erdos_renyi_graph, sort_edge_index, stochastic_blockmodel_graph

from gumbelpool import DenseDiffPool, GumbelPool

LAYERS = [GumbelPool, DenseDiffPool]
TRACED = [  # what torch's compiler and PyG warn of on their own account
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def traced(test):
    for mark in TRACED:
        test = mark(test)
    return test


README = run_python_blocks()


def make_net(layer, train, **options):
    torch.manual_seed(0)
    net = README["Net"](7, 2).train(train)
    net.pool1 = layer(64, num_clusters=6, remove_self_loops=True, **options)
    net.pool1.train(train)
    for pool in (net.pool1, net.pool2):
        if isinstance(pool, GumbelPool):
            pool.drop_empty = False
    return net


def make_arguments(num_nodes, num_graphs):
    torch.manual_seed(num_nodes)
    batch = Batch.from_data_list(
        [
            Data(x=torch.randn(num_nodes, 7), edge_index=erdos_renyi_graph(num_nodes, 0.3))
            for _ in range(num_graphs)
        ]
    )
    return batch.x, batch.edge_index, batch.batch, num_graphs


def result(net, layer, arguments):
    torch.manual_seed(1)
    scores, loss = layer(*arguments)
    parameters = list(net.parameters())
    total = scores.square().sum() + loss
    return scores, loss, torch.autograd.grad(total, parameters)


@traced
@pytest.mark.parametrize(
    ("layer", "backend", "train"),
    [
        (GumbelPool, "aot_eager", True),
        (GumbelPool, "aot_eager", False),
        (GumbelPool, "inductor", True),
        (DenseDiffPool, "aot_eager", True),  # half a minute each
    ],
)
def test_the_model_of_the_readme_is_one_compiled_graph(layer, backend, train):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    torch.compiler.reset()
    net = make_net(layer, train)
    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=True)
    for arguments in (make_arguments(12, 4), make_arguments(9, 3)):
        torch.testing.assert_close(
            result(net, compiled, arguments), result(net, net, arguments), rtol=1e-3, atol=1e-4
        )


@traced
@pytest.mark.parametrize("layer", LAYERS)
def test_the_model_of_the_readme_is_exported(layer):
    net, dynamic = make_net(layer, False), torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic}, {1: dynamic}, {0: dynamic}, None)
    saved = torch.export.export(net, make_arguments(12, 4), dynamic_shapes=shapes, strict=False)
    arguments = make_arguments(9, 4)
    torch.manual_seed(1)
    out = saved.module()(*arguments)
    torch.manual_seed(1)
    torch.testing.assert_close(out, net(*arguments))


@traced
def test_ratio_is_compiled_where_the_model_says_that_there_is_more_than_one_row():
    """Without that, torch's batch normalization asks how many there are."""
    torch.compiler.reset()
    net = make_net(GumbelPool, True, ratio=0.5)
    pool = net.pool1.forward

    def pool_to_several(*arguments, **options):
        out = pool(*arguments, **options)
        torch._check(out.x.size(0) > 1)
        return out

    net.pool1.forward = pool_to_several
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    arguments = make_arguments(12, 4)
    torch.testing.assert_close(
        result(net, compiled, arguments), result(net, net, arguments), rtol=1e-3, atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_is_scripted_says_what_to_do_instead(layer):
    with pytest.raises(RuntimeError, match=f"{layer.__name__} cannot be scripted"):
        torch.jit.script(torch.nn.Sequential(layer(3, 2)))


def test_a_heterogeneous_graph_is_pooled_as_a_homogeneous_one():
    torch.manual_seed(0)
    data = HeteroData()
    data["author"].x, data["paper"].x = torch.randn(8, 5), torch.randn(12, 5)
    ends = torch.stack([torch.randint(8, (30,)), torch.randint(12, (30,))])
    data["author", "writes", "paper"].edge_index = ends
    data["paper", "cites", "paper"].edge_index = torch.randint(12, (2, 20))
    out, cluster = README["pool_heterogeneous"](data, GumbelPool(5, 4))
    assert out.x.size(0) <= 4
    assert {kind: len(ids) for kind, ids in cluster.items()} == {"author": 8, "paper": 12}
    lifted = out.unpool()
    torch.testing.assert_close(lifted[:8], out.x[cluster["author"]])
    torch.testing.assert_close(lifted[8:], out.x[cluster["paper"]])


def large_graph():
    torch.manual_seed(0)
    inside, outside = 0.2, 0.01
    matrix = torch.full((4, 4), outside).fill_diagonal_(inside)
    edge_index = stochastic_blockmodel_graph([50] * 4, matrix)
    return Data(
        x=torch.randn(200, 5), edge_index=edge_index, y=torch.arange(4).repeat_interleave(50)
    )


def train_on(outputs, pool):
    """Trains on a stream of what the pool gives, and counts the nodes."""
    optimizer, seen = torch.optim.Adam(pool.parameters(), lr=0.01), 0
    for out in outputs:
        seen += out.cluster.numel()
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())
    return seen


def test_random_parts_of_a_large_graph_are_mini_batches():
    pool = GumbelPool(5, 4)
    assert train_on(README["pool_parts"](large_graph(), pool, num_parts=4), pool) == 200


def metis(self, edge_index, num_nodes):
    """What `ClusterData` asks pyg-lib for, which comes without a wheel for every torch."""
    pymetis = pytest.importorskip("pymetis")
    row, col = sort_edge_index(edge_index, num_nodes=num_nodes)
    pointer = index2ptr(row, size=num_nodes).numpy()
    adjacency = pymetis.CSRAdjacency(pointer.astype("int32"), col.numpy().astype("int32"))
    return torch.tensor(pymetis.part_graph(self.num_parts, adjacency)[1])


def test_clusters_of_a_large_graph_are_mini_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(ClusterData, "_metis", metis)
    parts = ClusterData(large_graph(), num_parts=4, save_dir=str(tmp_path), log=False)
    for part in parts:  # each is a block of the block model, if METIS found them
        assert part.y.bincount(minlength=4).max() > 0.9 * part.num_nodes
    pool, loader = GumbelPool(5, 4), ClusterLoader(parts, batch_size=2, shuffle=True)
    assert train_on((pool(part.x, part.edge_index) for part in loader), pool) == 200
