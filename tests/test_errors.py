"""Arguments at the edges of what a type allows: each is named, none ends in torch's own words."""

import re
from functools import partial

import pytest
import torch
from torch import Tensor

from gumbelpool import (
    DenseDiffPool,
    GumbelPool,
    adjacency_variance,
    coarsen_edges,
    coarsen_nodes,
    crispness,
    expected_adjacency,
    expected_features,
    occupancy,
    sample_clusters,
    samples_for_error,
    unpool,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse .* tensor support is in beta",
    "ignore:Sparse invariant checks are implicitly disabled",
    "ignore:The PyTorch API of nested tensors",
)

NAN, INF = float("nan"), float("inf")
LAYERS = [GumbelPool, DenseDiffPool]
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
BATCH = torch.tensor([0, 0, 1, 1])
CLUSTER = torch.tensor([0, 1, 3, 2])
WEIGHT = torch.ones(4)
ATTR = torch.ones(4, 2)
P = torch.full((4, 2), 0.5)

# Options


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("losses", (["link"],)),
        ("losses", ({"link": 1},)),
        ("losses", {"link"}),
        ("losses", 3),
        ("losses", None),
        ("aggr", ["sum"]),
        ("aggr", None),
        ("ratio", 1 + 0j),
        ("ratio", 10**400),
        ("ratio", torch.tensor(0.5)),
        ("num_clusters", "3"),
        ("num_clusters", torch.tensor(3)),
        ("num_clusters", None),
        ("in_channels", -2),
    ],
)
def test_options_of_an_odd_type_are_named(layer, option, value):
    pool = layer(3, 2)
    with pytest.raises((TypeError, ValueError), match=option):
        setattr(pool, option, value)
    with pytest.raises((TypeError, ValueError), match=option):
        layer(**{"in_channels": 3, "num_clusters": 2} | {option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("estimator", ["gumbel"]),
        ("estimator", {"gumbel"}),
        ("estimator", None),
        ("tau", 10**400),
        ("tau", INF),
        ("tau", 1j),
        ("tau", torch.tensor(1.0)),
        ("block_size", 2.0),
        ("sample_in_eval", "no"),
    ],
)
def test_options_of_the_draw_of_an_odd_type_are_named(option, value):
    with pytest.raises((TypeError, ValueError), match=option):
        setattr(GumbelPool(3, 2), option, value)


@pytest.mark.parametrize("layer", LAYERS)
def test_losses_cannot_be_changed_in_place(layer):
    names = ["link", "entropy"]
    pool = layer(3, 2, losses=names)
    names.append("cut")
    assert pool.losses == ("link", "entropy")
    pool.losses = ["balance"]
    assert pool.losses == ("balance",)
    assert "losses=('balance',)" in repr(pool)
    pool(X, EDGES).loss.backward()


# Tensors of a kind that is not computed with


def nested(layout):
    return lambda tensor: torch.nested.nested_tensor([tensor[:1], tensor[1:]], layout=layout)


def sparse(tensor):
    return tensor.unsqueeze(0).to_sparse() if tensor.dim() == 1 else tensor.to_sparse()


KINDS = {
    "nested": nested(torch.strided),
    "jagged": nested(torch.jagged),
    "sparse": sparse,
    "sparse compressed": lambda tensor: torch.atleast_2d(tensor).to_sparse_csr(),
    "meta": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "float8 of another kind": lambda tensor: tensor.to(torch.float8_e5m2),
    "no dimensions": lambda tensor: tensor.new_zeros(()),
    "too many dimensions": lambda tensor: tensor.reshape(1, 1, *tensor.shape),
    "a list": Tensor.tolist,
    "an array": Tensor.numpy,
    "a number": lambda tensor: 3,
    "a string": lambda tensor: "tensor",
}
LAYER_ARGUMENTS = {
    "x": X, "edge_index": EDGES, "edge_weight": WEIGHT, "batch": BATCH, "edge_attr": ATTR,
    "assign_x": X,
}  # fmt: skip
FUNCTIONS = {
    sample_clusters: {"logits": X},
    coarsen_edges: {
        "edge_index": EDGES, "cluster": CLUSTER, "num_supernodes": 4, "edge_weight": WEIGHT,
        "edge_attr": ATTR,
    },
    coarsen_nodes: {"x": X, "cluster": CLUSTER, "num_supernodes": 4},
    unpool: {"x": X, "cluster": CLUSTER},
    occupancy: {"cluster": CLUSTER, "batch": BATCH},
    crispness: {
        "x": X, "edge_index": EDGES, "cluster": CLUSTER, "edge_weight": WEIGHT, "batch": BATCH,
    },
    expected_features: {"x": X, "probability": P, "batch": BATCH},
    expected_adjacency: {
        "edge_index": EDGES, "probability": P, "edge_weight": WEIGHT, "batch": BATCH,
    },
    adjacency_variance: {
        "edge_index": EDGES, "probability": P, "edge_weight": WEIGHT, "batch": BATCH,
    },
    samples_for_error: {
        "error": 0.1, "failure": 0.1, "num_clusters": 2, "method": "mcdiarmid",
        "edge_index": EDGES, "edge_weight": WEIGHT, "batch": BATCH,
    },
}  # fmt: skip


def assert_named(function, arguments, name, value):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b.* must ") as caught:
        function(**arguments | {name: value})
    assert "; " in str(caught.value), "it says what came"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYER_ARGUMENTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_other_kinds_of_tensors_are_named(layer, name, kind):
    if (name, kind) in {("edge_index", "sparse"), ("edge_index", "sparse compressed")}:
        pytest.skip("is an adjacency")
    assert_named(layer(3, 2), LAYER_ARGUMENTS, name, KINDS[kind](LAYER_ARGUMENTS[name]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_other_kinds_of_logits_are_named(layer, kind):
    arguments = {"x": X, "edge_index": EDGES}
    assert_named(layer(3, 2), arguments, "logits", KINDS[kind](X[:, :2].contiguous()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("function", "name"),
    [(f, n) for f, given in FUNCTIONS.items() for n, v in given.items() if isinstance(v, Tensor)],
)
def test_other_kinds_of_tensors_in_the_functions_are_named(function, name, kind):
    if function is unpool and name == "x" and kind in ("an array", "a list"):
        kind = "a number"
    if function is unpool and name == "x" and kind in ("complex", "too many dimensions"):
        pytest.skip("rows of anything may be lifted")
    if function is unpool and name == "x" and kind.startswith("float8"):
        pytest.skip("rows of anything may be lifted")
    given = FUNCTIONS[function]
    assert_named(function, given, name, KINDS[kind](given[name]))


@pytest.mark.parametrize(
    "adjacency",
    [
        lambda: torch.eye(4).to_sparse(1),
        lambda: torch.ones(4).to_sparse(),
        lambda: torch.tensor(1.0).to_sparse(),
        lambda: torch.eye(4).expand(4, 4, 4).to_sparse(),
        lambda: torch.eye(4).repeat(4, 1, 1).to_sparse_csr(),
        lambda: torch.eye(4).to_sparse_bsr((2, 2)),
        lambda: torch.eye(4).to_sparse_bsc((2, 2)),
        lambda: torch.eye(4).to_sparse().to("meta"),
        lambda: torch.eye(4).to_sparse_csr().to("meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.ones(4, 5).to_sparse_csr(),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_sparse_tensor_that_is_no_adjacency_is_named(layer, adjacency):
    with pytest.raises((TypeError, ValueError), match="edge_index must "):
        layer(3, 2)(X, adjacency())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("values", [torch.ones(4).long(), torch.ones(4).bool(), torch.ones(4) / 0])
def test_values_of_a_sparse_matrix_are_edge_weights(layer, values):
    adjacency = torch.sparse_coo_tensor(EDGES, values, (4, 4))
    with pytest.raises((TypeError, ValueError), match=r"edge_weight must be (floating|finite)"):
        layer(3, 2)(X, adjacency)


# Numbers


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("batch_size", [2**62, 2**63 - 1, 10**30, -(10**30), True, "2", None])
def test_a_batch_size_that_cannot_be_is_named(layer, batch_size):
    if batch_size is None:
        layer(3, 2)(X, EDGES, batch=BATCH, batch_size=batch_size)
        return
    with pytest.raises((TypeError, ValueError), match="batch_size must "):
        layer(3, 2)(X, EDGES, batch=BATCH, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [2**62, 10**30, True, 2.0])
@pytest.mark.parametrize(
    "function", [occupancy, crispness, expected_features, expected_adjacency, adjacency_variance]
)
def test_a_batch_size_that_cannot_be_is_named_by_the_functions(function, batch_size):
    assert_named(function, FUNCTIONS[function], "batch_size", batch_size)


def test_supernodes_too_many_for_a_key_are_named_before_memory_is_taken():
    with pytest.raises(ValueError, match=r"batch_size|num_clusters"):
        GumbelPool(3, 2**10)(X, EDGES, batch=BATCH, batch_size=2**22)


@pytest.mark.parametrize("name", ["num_supernodes"])
@pytest.mark.parametrize("value", [2**62, 10**30, -1, True, 2.0, "2", None, torch.tensor(2)])
def test_a_number_of_supernodes_that_cannot_be_is_named(name, value):
    for function in (coarsen_edges, coarsen_nodes):
        assert_named(function, FUNCTIONS[function], name, value)


@pytest.mark.parametrize("name", ["error", "failure"])
@pytest.mark.parametrize(
    "value", [0, 1, -0.5, 2.0, NAN, INF, 10**400, "0.1", None, 1j, True, [0.1], torch.tensor(0.1)]
)
def test_a_share_that_cannot_be_is_named(name, value):
    assert_named(samples_for_error, FUNCTIONS[samples_for_error], name, value)


@pytest.mark.parametrize(
    "value", [-0.1, 0.3, NAN, INF, "0.1", None, 1j, True, [0.1], torch.zeros(2), torch.tensor(NAN)]
)
def test_a_variance_that_cannot_be_is_named(value):
    call = partial(samples_for_error, 0.1, 0.1, 2, "bernstein")
    assert_named(call, {}, "variance", value)


def test_small_and_large_numbers_of_samples_for_error():
    assert samples_for_error(0.1, 5e-324, 10**200) > samples_for_error(0.1, 0.1, 2)
    assert samples_for_error(0.5, 0.5, 1, "bernstein", variance=torch.tensor([0.25])) >= 1
    assert samples_for_error(0.5, 0.5, 1, "bernstein", variance=0) >= 1
    with pytest.raises(ValueError, match="error must be large enough"):
        samples_for_error(1e-200, 0.1, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", ["hoeffding"]), ("method", None), ("method", "chernoff"), ("num_clusters", 0)],
)
def test_other_arguments_of_samples_for_error_are_named(name, value):
    assert_named(samples_for_error, FUNCTIONS[samples_for_error], name, value)


@pytest.mark.parametrize("value", ["no", 0, None, torch.tensor(True)])
def test_remove_self_loops_of_coarsen_edges_is_a_bool(value):
    assert_named(coarsen_edges, FUNCTIONS[coarsen_edges], "remove_self_loops", value)


@pytest.mark.parametrize("value", [["sum"], None, {"sum"}, "max"])
def test_aggr_of_coarsen_nodes_is_a_name(value):
    assert_named(coarsen_nodes, FUNCTIONS[coarsen_nodes], "aggr", value)


# Data


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_edge_weight_that_is_not_finite_is_named(layer, value):
    weight = WEIGHT.clone()
    weight[2] = value
    message = re.escape(f"edge_weight must be finite; entry 2 is {value}")
    with pytest.raises(ValueError, match=message):
        layer(3, 2)(X, EDGES, weight)
    for function in (coarsen_edges, crispness, expected_adjacency, adjacency_variance):
        with pytest.raises(ValueError, match=message):
            function(**FUNCTIONS[function] | {"edge_weight": weight})
    with pytest.raises(ValueError, match=message):
        samples_for_error(**FUNCTIONS[samples_for_error] | {"edge_weight": weight})


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_scores_that_are_no_numbers_are_named_where_ratio_excludes_them_as_well(
    layer, training, value
):
    pool = layer(3, 5, ratio=0.5).train(training)  # K_g = 1
    logits = torch.zeros(4, 5)
    logits[2, 4] = value
    message = rf"^logits must have no NaN .* the largest entry of row 2 is {value}"
    with pytest.raises(ValueError, match=message):
        pool(X, EDGES, batch=BATCH, logits=logits)
    with torch.no_grad():
        pool.lin.bias[4] = value
    with pytest.raises(ValueError, match=r"^lin\(x\) must have no NaN .* row 0 is"):
        pool(X, EDGES, batch=BATCH)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_row_without_a_score_where_ratio_allows_a_cluster_is_named(layer):
    logits = torch.zeros(4, 5)
    logits[1, 0] = -INF
    with pytest.raises(ValueError, match=r"logits must .* the largest entry of row 1 is -inf"):
        layer(3, 5, ratio=0.5)(X, EDGES, batch=BATCH, logits=logits)


@pytest.mark.parametrize("layer", LAYERS)
def test_minus_infinity_is_a_score_where_ratio_excludes_it(layer):
    logits = torch.zeros(4, 5)
    logits[:, 1:] = -INF
    out = layer(3, 5, ratio=0.5)(X, EDGES, batch=BATCH, logits=logits)
    assert out.cluster.unique().numel() == 2


# Lifting back


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "x must be a tensor [K', ...]; got list"),
        (3, "x must be a tensor [K', ...]; got int"),
        (torch.tensor(1.0), "x must have shape [K', ...]; got []"),
        (torch.zeros(1, 3), "x must have as many rows as the pooled graph"),
        (torch.zeros(4, 3).to_sparse(), "x must be a dense tensor [K', ...]; got layout"),
        (torch.zeros(4, 3, device="meta"), "x must hold data"),
    ],
)
def test_rows_that_cannot_be_lifted_are_named(value, message):
    out = GumbelPool(3, 2, drop_empty=False)(X, EDGES, batch=BATCH)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        out.unpool(value)
    if "pooled graph" not in message:
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            unpool(value, CLUSTER)
