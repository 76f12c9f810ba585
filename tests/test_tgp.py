"""The pooler inside torch-geometric-pool: its own checks of every pooler, and what is ours to keep.

tgp's own test suite goes through all of `pooler_map`; what it asks of a sparse pooler is asked here
in our own words, with every other alias taken out.
"""

import contextlib
import io
import os
import subprocess
import sys

import pytest
import torch
from conftest import assert_close, generator, make_batch
from test_adjacency import needs_torch_sparse
from torch_geometric.nn import GCNConv

from gumbelpool import GumbelPool

if not os.environ.get("GUMBELPOOL_REQUIRE_SPARSE"):
    pytest.importorskip("tgp", reason="torch-geometric-pool is not installed")
    pytest.importorskip("torch_scatter", reason="torch-geometric-pool needs torch-scatter")

from tgp import poolers
from tgp.poolers import get_pooler, pooler_map
from tgp.select import SelectOutput
from tgp.src import PoolingOutput
from tgp.utils.cheatsheet import get_pooler_cheatsheet, print_cheatsheet

from gumbelpool import tgp as ours

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta"),
    # tgp makes its sparse assignments without saying whether to check them.
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
GRAPHS = make_batch((6, 5, 7, 3), weighted="positive", undirected=True)
N, F = GRAPHS.x.shape
# What tgp gives every pooler, of which each takes what its constructor names.
EVERY = {
    "in_channels": F,
    "ratio": 0.5,
    "k": N // 2,
    "cached": True,
    "lift": "precomputed",
    "s_inv_op": "transpose",
    "lift_red_op": "mean",
    "loss_coeff": 1.0,
    "remove_self_loops": True,
    "scorer": "degree",
    "reduce": "sum",
}


@pytest.fixture(autouse=True)
def _only_gumbel(monkeypatch):
    for name in set(pooler_map) - {"gumbel"}:
        monkeypatch.delitem(pooler_map, name)


def make(**options):
    return get_pooler("gumbel", in_channels=F, k=4, **options).double()


def call(pooler, **options):
    arguments = {"x": GRAPHS.x, "adj": GRAPHS.edge_index, "edge_weight": GRAPHS.edge_weight}
    return pooler(**arguments | {"batch": GRAPHS.batch} | options)


def test_it_pools_convolves_lifts_and_is_reset_as_every_pooler_is():
    pooler = get_pooler("gumbel", **EVERY).double().eval()
    out = call(pooler)
    assert isinstance(out, PoolingOutput)
    assert isinstance(out.so, SelectOutput)
    assert 1 <= out.so.num_supernodes == out.x.size(0) <= 4 * EVERY["k"]
    assert out.edge_weight.numel() == out.edge_index.size(1)
    x = GCNConv(F, F).double()(out.x, out.edge_index)
    lifted = pooler(x=x, so=out.so, lifting=True)
    assert lifted.shape == (out.so.num_nodes, F) == (N, F)
    torch.testing.assert_close(lifted, x[out.so.cluster_index])
    assert all(isinstance(loss, torch.Tensor) for loss in out.loss.values())
    assert "gumbelpooling" in repr(pooler).lower()
    pooler.clear_cache()
    before = pooler.layer.lin.weight.clone()
    pooler.reset_parameters()
    assert not torch.equal(before, pooler.layer.lin.weight)
    assert isinstance(pooler(x=GRAPHS.x, adj=GRAPHS.edge_index, batch=GRAPHS.batch), PoolingOutput)


def test_a_wrong_name_and_a_missing_argument_are_named():
    with pytest.raises(ValueError, match="Unknown pooler_name='other'"):
        get_pooler("other")
    with pytest.raises(TypeError, match=r"pooler 'gumbel' \(GumbelPooling\): k"):
        get_pooler("gumbel", in_channels=F)


def test_it_is_trainable_sparse_has_losses_and_cannot_be_precomputed():
    pooler = get_pooler("gumbel", k=3, in_channels=16, scorer="degree")
    assert pooler.is_trainable
    assert pooler.is_sparse
    assert pooler.has_loss
    assert not pooler.is_precoarsenable
    assert not make(losses=()).has_loss


@needs_torch_sparse
def test_a_sparse_tensor_comes_back_as_one():
    from torch_sparse import SparseTensor

    adj = SparseTensor.from_edge_index(GRAPHS.edge_index, GRAPHS.edge_weight, (N, N))
    pooler = get_pooler("gumbel", **EVERY).double().eval()
    x, adj, mask = pooler.preprocessing(
        x=GRAPHS.x, edge_index=adj, edge_weight=None, batch=GRAPHS.batch, use_cache=False
    )
    assert isinstance(adj, SparseTensor)
    out = pooler(x=x, adj=adj, batch=GRAPHS.batch, mask=mask)
    assert isinstance(out.edge_index, SparseTensor)
    assert out.edge_weight is None
    plain = call(pooler)
    expected = torch.sparse_coo_tensor(plain.edge_index, plain.edge_weight, 2 * [len(plain.x)])
    assert_close(out.edge_index.to_dense(), expected.to_dense())
    assert pooler(x=out.x, so=out.so, lifting=True).shape == (N, F)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_matrix_comes_back_as_one(layout):
    adj = torch.sparse_coo_tensor(GRAPHS.edge_index.flip(0), GRAPHS.edge_weight, (N, N))
    pooler = make().eval()
    out = pooler(x=GRAPHS.x, adj=adj.coalesce().to_sparse(layout=layout), batch=GRAPHS.batch)
    assert out.edge_index.layout == layout
    assert out.edge_weight is None
    plain = call(pooler)
    found = out.edge_index.to_dense().T[tuple(plain.edge_index)]
    assert_close(found, plain.edge_weight)


def test_the_cheat_sheet_has_its_row():
    ((name, class_name, sparse, trainable, aux_loss, papers),) = get_pooler_cheatsheet()
    assert (name, class_name) == ("gumbel", "GumbelPooling")
    assert sparse is trainable is aux_loss is True
    assert papers[0] == "https://arxiv.org/abs/1806.08804"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        print_cheatsheet()
    assert "GumbelPooling" in printed.getvalue()
    assert "GumbelPooling" in poolers.pooler_classes
    assert poolers.GumbelPooling is pooler_map["gumbel"] is ours.GumbelPooling


def test_every_option_of_the_layer_passes_get_pooler():
    """Which drops what `getfullargspec().args` does not list: keyword-only arguments."""
    given = {
        "ratio": 0.5,
        "estimator": "reinmax",
        "tau": 0.7,
        "aggr": "mean",
        "losses": ("balance",),
        "drop_empty": False,
        "remove_self_loops": False,
        "weighted": False,
        "sample_in_eval": True,
        "block_size": 8,
    }
    layer = make(**given, bias=False).layer
    assert {name: getattr(layer, name) for name in given} == given
    assert layer.lin.bias is None
    assert set(GumbelPool.__init__.__kwdefaults__) == {*given, "bias"}
    named = ours.GumbelPooling.get_signature().args
    assert {*given, "bias", "in_channels", "k"} < set(named)


@pytest.mark.parametrize("drop_empty", [True, False])
@pytest.mark.parametrize("estimator", ["gumbel", "straight_through", "reinmax"])
def test_output_gradient_and_losses_are_those_of_the_layer(estimator, drop_empty):
    options = {"estimator": estimator, "drop_empty": drop_empty, "remove_self_loops": True}
    pooler, layer = make(**options), GumbelPool(F, 4, **options).double()
    layer.load_state_dict(pooler.layer.state_dict())
    gradients = []
    for weight, pool in ((pooler.layer.lin.weight, pooler), (layer.lin.weight, layer)):
        x, w = GRAPHS.x.clone().requires_grad_(), GRAPHS.edge_weight.clone().requires_grad_()
        out = pool(x, GRAPHS.edge_index, w, batch=GRAPHS.batch, generator=generator(3))
        losses = out.loss if pool is pooler else out.losses
        assert list(losses) == ["link", "entropy", "balance"]
        total = out.x.sin().sum() + out.edge_weight.tanh().sum() + sum(losses.values())
        gradients.append(torch.autograd.grad(total, [x, w, weight]))
    torch.testing.assert_close(*gradients)
    assert gradients[0][2].abs().sum() > 0


def test_loss_coeff_scales_the_losses_and_none_are_none():
    one, tenth = make(), make(loss_coeff=0.1)
    tenth.load_state_dict(one.state_dict())
    losses = [call(pooler, generator=generator(1)).loss for pooler in (one, tenth)]
    for name in ("link", "entropy", "balance"):
        assert_close(losses[1][name], 0.1 * losses[0][name])
    out = call(make(losses=()))
    assert out.loss is None
    assert out.get_loss_value() == 0


def test_cluster_ids_are_compact_and_every_supernode_has_its_graph():
    pooler = get_pooler("gumbel", in_channels=F, k=16).double()
    out = call(pooler)
    used = out.so.cluster_index.unique()
    assert torch.equal(used, torch.arange(out.so.num_supernodes))
    assert out.x.size(0) == out.so.num_supernodes == out.batch.numel() < 4 * 16
    assert torch.equal(out.batch[out.so.cluster_index], GRAPHS.batch)
    assert out.so.is_expressive
    assert out.mask is None
    whole = call(get_pooler("gumbel", in_channels=F, k=16, drop_empty=False).double())
    assert whole.x.size(0) == whole.so.num_supernodes == 4 * 16


@pytest.mark.parametrize("drop_empty", [True, False])
@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_the_operators_one_by_one_give_what_the_call_gives(aggr, drop_empty):
    pooler = make(aggr=aggr, drop_empty=drop_empty).eval()
    out = call(pooler)
    so = pooler.select(x=GRAPHS.x, edge_index=GRAPHS.edge_index, batch=GRAPHS.batch)
    assert torch.equal(so.cluster_index, out.so.cluster_index)
    x, batch = pooler.reduce(x=GRAPHS.x, so=so, batch=GRAPHS.batch)
    edge_index, edge_weight = pooler.connect(
        edge_index=GRAPHS.edge_index, so=so, edge_weight=GRAPHS.edge_weight, batch_pooled=batch
    )
    again = call(pooler, so=so)  # the same, in one call
    for name, value in {"x": x, "batch": batch, "edge_index": edge_index}.items():
        assert_close(value, getattr(out, name))
        assert_close(getattr(again, name), value)
    assert_close(edge_weight, out.edge_weight)
    assert_close(again.edge_weight, edge_weight)
    assert again.loss is None
    lifted = pooler.lift(x_pool=x, so=so, batch=GRAPHS.batch, batch_pooled=batch)
    assert_close(lifted, x[so.cluster_index])


def test_a_selection_may_be_moved_and_copied():
    so = call(make()).so
    for other in (so.clone(), so.to("cpu"), so.clone().detach()):
        assert torch.equal(other.cluster_index, so.cluster_index)


def test_one_graph_without_a_batch_has_none_and_weights_may_be_a_column():
    pooler = make().eval()
    out = pooler(x=GRAPHS.x, adj=GRAPHS.edge_index, edge_weight=GRAPHS.edge_weight.unsqueeze(1))
    assert out.batch is None
    assert_close(out.edge_weight, call(pooler, batch=torch.zeros_like(GRAPHS.batch)).edge_weight)
    assert out.as_data().num_nodes == out.x.size(0)


def test_two_levels_train_and_the_lifted_features_have_a_gradient():
    torch.manual_seed(0)
    fine, coarse, conv = make(), get_pooler("gumbel", in_channels=F, k=2).double(), GCNConv(F, F)
    conv.double()
    first = call(fine)
    x = conv(first.x, first.edge_index, first.edge_weight).relu()
    second = coarse(x=x, adj=first.edge_index, edge_weight=first.edge_weight, batch=first.batch)
    lifted = fine(x=coarse(x=second.x, so=second.so, lifting=True), so=first.so, lifting=True)
    assert lifted.shape == GRAPHS.x.shape
    losses = [*first.get_loss_value(), *second.get_loss_value()]
    (lifted.square().sum() + sum(losses)).backward()
    for module in (fine, coarse, conv):
        for parameter in module.parameters():
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().sum() > 0


def test_what_is_missing_or_cannot_be_is_named():
    pooler = make()
    with pytest.raises(ValueError, match="so must be given to lift"):
        pooler(x=GRAPHS.x, lifting=True)
    with pytest.raises(ValueError, match="adj must be given to pool"):
        pooler(x=GRAPHS.x)
    with pytest.raises(ValueError, match=r"mask must be None.*got a tensor of shape \[1, 21\]"):
        call(pooler, mask=torch.ones(1, N, dtype=torch.bool))
    with pytest.raises(TypeError, match="unexpected keyword argument 'atn'"):
        call(pooler, atn=GRAPHS.x)


def test_the_pooler_is_shown_with_its_options():
    assert repr(make(estimator="gst", aggr="mean")) == (
        "GumbelPooling(\n"
        "\tselect=GumbelSelect(3, num_clusters=4, estimator='gst', aggr='mean', drop_empty=True,"
        " remove_self_loops=True)\n"
        "\treduce=GumbelReduce(aggr='mean')\n"
        "\tlift=GumbelLift()\n"
        "\tconnect=GumbelConnect(remove_self_loops=True, weighted=True)\n"
        "\tloss_coeff=1.0\n"
        ")"
    )


@pytest.mark.parametrize("missing", ["tgp", "torch_scatter"])
def test_without_the_extra_it_says_what_to_install(missing):
    code = f"import sys; sys.modules['{missing}'] = None; import gumbelpool.tgp"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error = run.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: gumbelpool.tgp needs torch-geometric-pool")
    assert "pip install 'gumbelpool[tgp]'" in error
    assert missing in error
