import re

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from gumbelpool import (
    DenseDiffPool,
    GumbelPool,
    coarsen_edges,
    coarsen_nodes,
    crispness,
    data_checks,
    occupancy,
    sample_clusters,
    unpool,
)

NAN, INF = float("nan"), float("inf")
X = torch.randn(4, 3)
EDGES = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
BATCH = torch.tensor([0, 0, 1, 1])
CLUSTER = torch.tensor([0, 1, 1, 0])
LAYERS = [GumbelPool, DenseDiffPool]


def with_entry(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


CONSTRUCTOR = [
    ({"in_channels": 0}, ValueError, "in_channels must be at least 1; got 0"),
    ({"in_channels": 2.5}, TypeError, "in_channels must be an int; got 2.5"),
    ({"num_clusters": 0}, ValueError, "num_clusters must be at least 1; got 0"),
    ({"num_clusters": None}, TypeError, "num_clusters must be an int; got None (each node has"),
    ({"num_clusters": True}, TypeError, "num_clusters must be an int; got True"),
    ({"ratio": 0}, ValueError, "ratio must be in (0, 1]; got 0"),
    ({"ratio": 1.5}, ValueError, "ratio must be in (0, 1]; got 1.5"),
    ({"ratio": "half"}, TypeError, "ratio must be a float or None; got 'half'"),
    ({"aggr": "max"}, ValueError, "aggr must be one of 'sum', 'mean'; got 'max'"),
    ({"losses": "link"}, TypeError, "losses must be a tuple of names; got 'link'"),
    ({"losses": ("cut",)}, ValueError, "losses must be one of 'link', 'entropy', 'balance'"),
    ({"losses": ("link", "link")}, ValueError, "losses must not repeat a name"),
    ({"remove_self_loops": None}, TypeError, "remove_self_loops must be True or False; got None"),
]
GUMBEL_ONLY = [
    ({"estimator": "reinforce"}, ValueError, "estimator must be one of 'gumbel', 'gumbel_rao'"),
    ({"tau": 0.0}, ValueError, "tau must be positive and finite; got 0.0"),
    ({"tau": NAN}, ValueError, "tau must be positive and finite; got nan"),
    ({"tau": "cold"}, TypeError, "tau must be a float; got 'cold'"),
    ({"block_size": 0}, ValueError, "block_size must be at least 1; got 0"),
    ({"drop_empty": "no"}, TypeError, "drop_empty must be True or False; got 'no'"),
    ({"weighted": 1}, TypeError, "weighted must be True or False; got 1"),
]


@pytest.mark.parametrize(
    ("layer", "arguments", "error", "message"),
    [(layer, *case) for layer in LAYERS for case in CONSTRUCTOR]
    + [(GumbelPool, *case) for case in GUMBEL_ONLY],
)
def test_bad_constructor_arguments_are_named(layer, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        layer(**{"in_channels": 3, "num_clusters": 2} | arguments)


def test_a_misspelt_option_is_not_swallowed():
    for layer in LAYERS:
        with pytest.raises(TypeError, match="estimater"):
            layer(3, 2, estimater="gumbel")


CALL = [
    ({"x": [1.0]}, TypeError, "x must be a tensor [N, 3]; got list"),
    ({"x": X[0]}, ValueError, "x must have shape [N, 3]; got [3]"),
    ({"x": X.long()}, TypeError, "x must be floating point; got torch.int64"),
    (
        {"x": X[:, :2]},
        ValueError,
        "x must have shape [N, 3]; got [4, 2] (lin scores x, or assign_x where given, and takes "
        "in_channels, 3, of it)",
    ),
    ({"edge_index": EDGES[0]}, ValueError, "edge_index must have shape [2, E]; got [4]"),
    ({"edge_index": EDGES.t()}, ValueError, "edge_index must have shape [2, E]; got [4, 2]"),
    ({"edge_index": EDGES.int()}, TypeError, "edge_index must be int64; got torch.int32"),
    ({"edge_index": EDGES.tolist()}, TypeError, "edge_index must be a tensor [2, E]; got list"),
    (
        {"edge_index": with_entry(EDGES, (0, 0), 4)},
        ValueError,
        "edge_index must lie in [0, 4), the nodes; got 0 to 4",
    ),
    (
        {"edge_index": with_entry(EDGES, (1, 2), -1)},
        ValueError,
        "edge_index must lie in [0, 4), the nodes; got -1 to 3",
    ),
    (
        {"edge_index": with_entry(EDGES, (1, 1), 2)},
        ValueError,
        "edge 1 joins node 1 of graph 0 and node 2 of graph 1",
    ),
    ({"edge_weight": torch.ones(3)}, ValueError, "edge_weight must have a row per edge, 4; got"),
    ({"edge_weight": torch.ones(4, 1)}, ValueError, "edge_weight must have shape [E]; got [4, 1]"),
    (
        {"edge_weight": torch.ones(4).long()},
        TypeError,
        "edge_weight must be floating point; got torch.int64 (a batch vector is passed as batch=)",
    ),
    ({"edge_weight": torch.ones(4).int()}, TypeError, "must be floating point; got torch.int32"),
    ({"generator": 3}, TypeError, "generator must be a torch.Generator or None; got 3"),
    ({"edge_attr": torch.ones(4)}, ValueError, "edge_attr must have shape [E, D]; got [4]"),
    ({"edge_attr": torch.ones(5, 2)}, ValueError, "edge_attr must have a row per edge, 4; got"),
    ({"edge_attr": torch.ones(4, 2).bool()}, TypeError, "edge_attr must be floating point; got"),
    ({"batch": BATCH[:3]}, ValueError, "batch must have as many rows as x, 4; got [3]"),
    ({"batch": BATCH.float()}, TypeError, "batch must be int64; got torch.float32"),
    ({"batch": BATCH.view(2, 2)}, ValueError, "batch must have shape [N]; got [2, 2]"),
    ({"batch": BATCH.flip(0)}, ValueError, "batch must be sorted in ascending order"),
    ({"batch": BATCH - 1}, ValueError, "batch must not be negative; got -1"),
    ({"batch_size": 1}, ValueError, "batch must lie in [0, batch_size), 1; got 1"),
    ({"batch_size": -1}, ValueError, "batch_size must be at least 0; got -1"),
    ({"batch_size": 2.0}, TypeError, "batch_size must be an int; got 2.0"),
    ({"batch": None, "batch_size": 2}, ValueError, "batch_size must be 1 where batch is None"),
    ({"assign_x": X[:3]}, ValueError, "assign_x must have as many rows as x, 4; got [3, 3]"),
    ({"assign_x": X[:, :2]}, ValueError, "assign_x must have shape [N, 3]; got [4, 2]"),
    ({"logits": X}, ValueError, "logits must have shape [N, 2]; got [4, 3]"),
    ({"logits": X[:3, :2]}, ValueError, "logits must have as many rows as x, 4; got [3, 2]"),
    ({"logits": CLUSTER.expand(2, 4).t()}, TypeError, "logits must be floating point; got"),
    ({"logits": X[:, :2], "assign_x": X}, ValueError, "logits and assign_x must not both be given"),
    (
        {"logits": with_entry(X[:, :2], (2, 1), NAN)},
        ValueError,
        "logits must have no NaN and no +inf, and a finite entry in every row; "
        "the largest entry of row 2 is nan",
    ),
    ({"logits": with_entry(X[:, :2], (1, 0), INF)}, ValueError, "entry of row 1 is inf"),
    ({"logits": with_entry(X[:, :2], 3, -INF)}, ValueError, "entry of row 3 is -inf"),
    (
        {"x": with_entry(X, (1, 1), NAN)},
        ValueError,
        "lin(x) must have no NaN and no +inf, and a finite entry in every row; "
        "the largest entry of row 1 is nan",
    ),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("arguments", "error", "message"), CALL)
def test_bad_call_arguments_are_named(layer, arguments, error, message):
    call = {"x": X, "edge_index": EDGES, "batch": BATCH} | arguments
    with pytest.raises(error, match=re.escape(message)):
        layer(3, 2)(**call)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("arguments", "error", "message"), CONSTRUCTOR)
def test_an_option_set_later_is_checked_as_well(layer, arguments, error, message):
    pool = layer(3, 2)
    ((name, value),) = arguments.items()
    before = getattr(pool, name)
    with pytest.raises(error, match=re.escape(message)):
        setattr(pool, name, value)
    assert getattr(pool, name) == before


@pytest.mark.parametrize(("arguments", "error", "message"), GUMBEL_ONLY)
def test_an_option_of_the_draw_set_later_is_checked_as_well(arguments, error, message):
    ((name, value),) = arguments.items()
    with pytest.raises(error, match=re.escape(message)):
        setattr(GumbelPool(3, 2), name, value)


def test_numbers_of_numpy_are_numbers():
    pool = GumbelPool(np.int64(3), np.int32(2), tau=np.float32(0.5), ratio=np.float64(0.5))
    pool.tau = np.float32(0.25)
    assert pool(X, EDGES, batch=BATCH).cluster.shape == (4,)


FUNCTIONS = [
    (lambda: sample_clusters(X[0]), ValueError, "logits must have shape [N, K]; got [3]"),
    (lambda: sample_clusters(X[:, :0]), ValueError, "logits must have at least one column"),
    (lambda: sample_clusters(CLUSTER.view(2, 2)), TypeError, "logits must be floating point"),
    (lambda: sample_clusters(X * NAN), ValueError, "the largest entry of row 0 is nan"),
    (lambda: coarsen_nodes(X[0], CLUSTER, 2), ValueError, "x must have shape [N, F]; got [3]"),
    (lambda: coarsen_nodes(X, CLUSTER[:3], 2), ValueError, "cluster must have as many rows as x"),
    (lambda: coarsen_nodes(X, CLUSTER, 1), ValueError, "cluster must lie in [0, 1)"),
    (lambda: coarsen_nodes(X, CLUSTER.int(), 2), TypeError, "cluster must be int64"),
    (lambda: coarsen_nodes(X, CLUSTER, 2, "max"), ValueError, "aggr must be one of 'sum', 'mean'"),
    (lambda: coarsen_edges(EDGES, CLUSTER - 1, 2), ValueError, "cluster must lie in [0, 2)"),
    (lambda: coarsen_edges(EDGES, CLUSTER[:3], 2), ValueError, "edge_index must lie in [0, 3)"),
    (
        lambda: coarsen_edges(EDGES, CLUSTER, 2, edge_weight=torch.ones(3)),
        ValueError,
        "edge_weight must have a row per edge, 4; got [3]",
    ),
    (
        lambda: coarsen_edges(EDGES, CLUSTER, 3_037_000_500),
        ValueError,
        "num_supernodes must be in [0, 3037000499]",
    ),
    (lambda: unpool(X, CLUSTER + 3), ValueError, "cluster must lie in [0, 4), the supernodes"),
    (lambda: unpool(X, X[0]), TypeError, "cluster must be int64"),
    (lambda: unpool(X.tolist(), CLUSTER), TypeError, "x must be a tensor [K', ...]; got list"),
    (lambda: coarsen_nodes(X, CLUSTER, 2.0), TypeError, "num_supernodes must be an int"),
    (lambda: coarsen_nodes(X, CLUSTER, -1), ValueError, "num_supernodes must be in [0,"),
    (lambda: coarsen_edges(EDGES, CLUSTER, 2.0), TypeError, "num_supernodes must be an int"),
    (
        lambda: GumbelPool(3, 2)(X, EDGES).unpool(X[:0]),
        ValueError,
        "x must have as many rows as the pooled graph",
    ),
    (
        lambda: crispness(X, EDGES, CLUSTER, -torch.ones(4)),
        ValueError,
        "edge_weight must not be negative; got -1.0",
    ),
    (lambda: occupancy(CLUSTER, BATCH.flip(0)), ValueError, "batch must be sorted"),
    (lambda: occupancy(CLUSTER - 1), ValueError, "cluster must not be negative; got -1"),
    (
        lambda: occupancy(CLUSTER, BATCH * 0 + CLUSTER.sort()[0]),
        ValueError,
        "must not share a supernode",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), FUNCTIONS)
def test_bad_arguments_of_the_functions_are_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_data_checks_can_be_switched_off_and_on_again():
    pool = GumbelPool(3, 2)
    between_graphs = with_entry(EDGES, (1, 1), 2)
    with data_checks(False):
        pool(X, between_graphs, batch=BATCH)
        with data_checks(True), pytest.raises(ValueError, match="two graphs"):
            pool(X, between_graphs, batch=BATCH)
        pool(X, between_graphs, batch=BATCH)
    with pytest.raises(ValueError, match="two graphs"):
        pool(X, between_graphs, batch=BATCH)


def test_data_checks_stay_off_until_switched_on():
    try:
        data_checks(False)
        sample_clusters(torch.full((2, 3), NAN))  # whatever it draws, it does not crash
    finally:
        data_checks(True)
    with pytest.raises(ValueError, match="NaN"):
        sample_clusters(torch.full((2, 3), NAN))


def test_data_checks_can_be_switched_off_for_one_function():
    @data_checks(False)
    def draw(logits):
        return sample_clusters(logits)

    nothing = torch.full((2, 3), NAN)
    with pytest.raises(ValueError, match="NaN"):  # decorating switches nothing
        sample_clusters(nothing)
    assert draw(nothing).shape == (2,)
    with pytest.raises(ValueError, match="NaN"):
        sample_clusters(nothing)


# The assignment head


class Doubled(torch.nn.Linear):
    """A head whose weight and bias alone do not tell its scores."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", LAYERS)
def test_another_module_may_be_the_head(layer):
    pool, double = layer(3, 2).eval(), layer(3, 2).eval()
    double.lin = Doubled(3, 2)
    double.load_state_dict(pool.state_dict())
    expected = pool(X, EDGES, batch=BATCH, logits=2 * pool.lin(X))
    for head in (double.lin, torch.nn.Sequential(double.lin)):
        double.lin = head
        out = double(X, EDGES, batch=BATCH)
        torch.testing.assert_close(out.x, expected.x)
        torch.testing.assert_close(out.losses, expected.losses)
        assert repr(double).startswith(layer.__name__)
    double.reset_parameters()
    assert not torch.equal(double.lin[0].weight, pool.lin.weight)


@pytest.mark.parametrize("layer", LAYERS)
def test_hooks_of_the_head_are_called(layer):
    pool, seen = layer(3, 2), []
    hook = pool.lin.register_forward_hook(lambda lin, given, scores: seen.append(scores.shape))
    pool(X, EDGES)
    assert seen == [(4, 2)]
    hook.remove()
    prune.l1_unstructured(pool.lin, "weight", 0.5)
    for _ in range(2):  # the pruned weight is computed anew in every call
        pool(X, EDGES).loss.backward()
    assert pool.lin.weight_orig.grad.isfinite().all()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_head_of_the_wrong_size_or_place_is_named(layer):
    pool = layer(3, 2)
    pool.lin = torch.nn.Linear(3, 5)
    with pytest.raises(ValueError, match="lin must map in_channels, 3, to num_clusters, 2; got"):
        pool(X, EDGES)
    pool.lin = torch.nn.Sequential(torch.nn.Linear(3, 5))
    with pytest.raises(ValueError, match=r"lin\(x\) must have shape \[4, 2\]; got \[4, 5\]"):
        pool(X, EDGES)
    with pytest.raises(ValueError, match="lin must be on the device of x, cpu; got meta"):
        layer(3, 2).to("meta")(X, EDGES)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_features_need_not_have_the_dtype_of_the_head(layer, dtype):
    out = layer(3, 2)(X.to(dtype), EDGES, batch=BATCH)
    assert out.x.dtype == dtype
    out.loss.backward()
