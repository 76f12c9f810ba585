"""A run of the study: its number of parameters, its poolers, and the look inside."""

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from benchmarks.study.look import look, similarity
from benchmarks.study.plan import POOLERS
from benchmarks.study.poolers import POOLERS as OFFERED
from benchmarks.study.run import parameters, within_budget
from examples.classification.datasets import load
from examples.classification.described import build_model
from examples.classification.options import parser
from examples.classification.poolers import PoolOptions
from gumbelpool import occupancy


@pytest.mark.parametrize("name", POOLERS)
def test_every_pooler_has_the_reference_s_number_of_parameters(name):
    pytest.importorskip("tgp") if name in ("kmis", "maxcut", "bnpool") else None
    dataset = load("hierarchy", None, num_graphs=10, seed=0)
    args = parser(OFFERED).parse_args(POOLERS[name])
    reference = parameters(build_model(parser(OFFERED).parse_args([]), dataset, OFFERED))
    wanted, args.hidden = within_budget(args, dataset)
    assert wanted == reference
    count = parameters(build_model(args, dataset, OFFERED))
    assert abs(count / reference - 1) <= 0.05


@pytest.mark.parametrize("pool", ["gumbel", "none"])
def test_a_fine_path_is_paid_for_with_width(pool):
    dataset = load("hierarchy", None, num_graphs=10, seed=0)
    args = parser(OFFERED).parse_args(["--pool", pool, "--fine-path"])
    wanted, args.hidden = within_budget(args, dataset)
    count = parameters(build_model(args, dataset, OFFERED))
    assert abs(count / wanted - 1) <= 0.05
    assert args.hidden < 64


@pytest.mark.parametrize(
    "pool", ["gumbel", "gumbel-cosine", "gumbel-keep-empty", "diffpool", "random"]
)
def test_a_look_inside_measures_the_clusters_that_eval_takes_and_changes_nothing(pool):
    dataset = load("hierarchy", None, num_graphs=6, seed=0)
    torch.manual_seed(0)
    model = build_model(parser(OFFERED).parse_args(["--pool", pool]), dataset, OFFERED)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = Batch.from_data_list(dataset.graphs)
    found = look(model, [batch])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert 0 <= found["similarity"] <= 1
    if pool == "random":  # which has no scores, and no likeliest clusters
        assert "entropy" not in found
        assert "likeliest used" not in found
        return
    model.eval()
    level = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs).levels[0]
    assert (level.x.size(0) == 6 * 16) == (pool in ("gumbel-keep-empty", "diffpool"))
    used = occupancy(level.cluster, batch.batch, batch.num_graphs).used
    assert found["likeliest used"] == pytest.approx(used.double().mean().item(), abs=1e-4)
    assert found["drawn used"] > found["likeliest used"]  # of an untrained head
    assert found["drawn edges"] > found["likeliest edges"]
    assert 0 < found["entropy"] <= np.log(16) + 1e-5


def test_a_look_at_several_batches_is_the_mean_over_graphs():
    dataset = load("hierarchy", None, num_graphs=6, seed=0)
    model = build_model(parser(OFFERED).parse_args(["--pool", "diffpool"]), dataset, OFFERED)
    whole = look(model, [Batch.from_data_list(dataset.graphs)])
    parts = look(
        model, [Batch.from_data_list(dataset.graphs[:1]), Batch.from_data_list(dataset.graphs[1:])]
    )
    for name in ("likeliest used", "likeliest modularity", "entropy", "similarity"):
        assert parts[name] == pytest.approx(whole[name], abs=1e-4)


def test_similarity_is_the_mean_cosine_of_pairs():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0], [5.0, 1.0]])
    batch = torch.tensor([0, 0, 0, 0, 1])
    found = similarity(x, batch, 3)
    mean = 2 * 0.5**0.5 / 3
    # A graph without two supernodes says nothing, rather than that they are unlike.
    expected = torch.tensor([mean, np.nan, np.nan], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-6, atol=0)
    # Nor does a lone supernode whose length rounds to a little more or less than one.
    lone = torch.full((1, 3), 1 / 3)
    assert similarity(lone, torch.tensor([0]), 1).isnan().all()


@pytest.mark.parametrize("name", ["kmis", "maxcut", "bnpool"])
def test_peers_clusters_are_rows_of_the_same_graph(name):
    pytest.importorskip("tgp")
    batch = Batch.from_data_list(load("hierarchy", None, num_graphs=5, seed=0).graphs)
    torch.manual_seed(0)
    x = torch.randn(batch.num_nodes, 8, requires_grad=True)
    pool = OFFERED[name].make(8, PoolOptions(num_clusters=6))
    out = pool(x, batch.edge_index, None, batch.batch, batch.num_graphs)
    assert out.cluster.shape == (batch.num_nodes,)
    assert out.cluster.min() >= 0
    assert torch.equal(out.batch[out.cluster], batch.batch)
    assert out.edge_index.max() < out.x.size(0)
    assert out.edge_weight.shape == (out.edge_index.size(1),)
    if name == "maxcut":
        assert torch.bincount(out.batch).tolist() == [6] * 5
    if name == "bnpool":
        assert out.x.size(0) == 5 * 6
    (out.x.sum() + out.loss).backward()
    assert x.grad.abs().sum() > 0
