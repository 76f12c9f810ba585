"""The layer inside torch.compile: one graph, the same numbers, the same errors."""

import shutil

import pytest
import torch
from conftest import ESTIMATORS, assert_close, generator, make_batch

from gumbelpool import DenseDiffPool, GumbelPool

# What torch's compiler warns of on its own account, as it looks at every object of a frame.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    ),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def run(pool, layer, batch, seed=1):
    given = batch.arguments("x", "edge_weight", "edge_attr")
    torch.manual_seed(seed)
    out = layer(**given)
    loss = out.x.square().sum() + out.loss
    for value in (out.edge_weight, out.edge_attr):
        if value is not None:
            loss = loss + value.square().sum()
    leaves = [given[n] for n in ("x", "edge_weight", "edge_attr") if given[n] is not None]
    return out, torch.autograd.grad(loss, [*leaves, *pool.parameters()])


def assert_same(pool, layer, batch):
    out, grads = run(pool, layer, batch)
    expected, wanted = run(pool, pool, batch)
    for name in ("cluster", "batch", "edge_index"):
        assert torch.equal(getattr(out, name), getattr(expected, name)), name
    for have, want in zip(grads, wanted, strict=True):
        assert_close(have, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_graph_serves_batches_of_any_size(backend):
    pool = GumbelPool(3, 4).double()
    layer = torch.compile(pool, fullgraph=True, backend=backend, dynamic=True)
    for sizes in [(6, 5), (9, 4), (2, 12)]:
        assert_same(pool, layer, make_batch(sizes, weighted=True, attr=2, loops=True))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_empty": False, "aggr": "mean"},
        {"ratio": 0.5, "losses": ("balance",), "remove_self_loops": True},
        {"losses": (), "bias": False, "weighted": False},
        {"losses": ("modularity", "balance"), "drop_empty": True},
    ],
    ids=str,
)
def test_compiled_options_equal_eager_ones(options, estimator):
    pool = GumbelPool(3, 4, estimator=estimator, **options).double()
    layer = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert_same(pool, layer, make_batch((6, 5), weighted="positive"))
    assert_same(pool, layer, make_batch((6, 5), undirected=True))


def test_eval_is_compiled_too():
    pool = GumbelPool(3, 4).double().eval()
    assert_same(pool, torch.compile(pool, fullgraph=True, backend="aot_eager"), make_batch((6, 5)))


def test_two_calls_draw_twice():
    pool = GumbelPool(3, 50).double()
    layer = torch.compile(pool, fullgraph=True, backend="aot_eager")
    given = make_batch((30,)).arguments()
    assert not torch.equal(layer(**given).cluster, layer(**given).cluster)


def test_bad_data_is_an_error_in_a_compiled_layer():
    layer = torch.compile(GumbelPool(3, 4).double(), fullgraph=True, backend="aot_eager")
    given = make_batch((6, 5)).arguments()
    layer(**given)
    far = given["edge_index"].clone()
    far[1, 0] = 99
    with pytest.raises(ValueError, match="edge_index must lie in"):
        layer(**given | {"edge_index": far})
    between = given["edge_index"].clone()
    between[:, 0] = torch.tensor([0, 10])
    with pytest.raises(ValueError, match="must not join two graphs"):
        layer(**given | {"edge_index": between})
    with pytest.raises(ValueError, match="batch must be sorted"):
        layer(**given | {"batch": given["batch"].flip(0)})


@pytest.mark.parametrize("kind", [GumbelPool, DenseDiffPool])
def test_negative_weights_for_modularity_are_an_error_in_a_compiled_layer(kind):
    pool = kind(3, 4, losses=("modularity",)).double()
    layer = torch.compile(pool, fullgraph=True, backend="aot_eager")
    given = make_batch((6, 5), weighted="positive").arguments()
    assert_close(layer(**given).loss.isfinite().all(), torch.tensor(True))
    with pytest.raises(ValueError, match="edge_weight must not be negative where losses"):
        layer(**given | {"edge_weight": -given["edge_weight"]})


@pytest.mark.parametrize(
    "arguments", [{"batch_size": None}, {"generator": generator(3)}], ids=["no size", "generator"]
)
def test_what_cannot_be_traced_falls_back_to_eager(arguments):
    pool = GumbelPool(3, 4).double()
    layer = torch.compile(pool, backend="aot_eager")
    given = make_batch((6, 5)).arguments() | arguments
    if "generator" in arguments:
        torch.manual_seed(1)
        out = layer(**given)
        expected = pool(**given | {"generator": generator(3)})
    else:
        torch.manual_seed(1)
        out = layer(**given)
        torch.manual_seed(1)
        expected = pool(**given)
    assert torch.equal(out.cluster, expected.cluster)
