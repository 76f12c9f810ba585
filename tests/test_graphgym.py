"""GraphGym itself, by YAML files: both layers on a TU dataset in its own format."""

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from conftest import make_batch

if not os.environ.get("GUMBELPOOL_REQUIRE_SPARSE"):
    pytest.importorskip("pytorch_lightning", reason="the extra graphgym is not installed")
    pytest.importorskip("yacs", reason="the extra graphgym is not installed")

from torch_geometric.data import Batch, Data
from torch_geometric.graphgym import cfg, register

from gumbelpool import DenseDiffPool, GumbelPool, graphgym

EXAMPLE = Path(__file__).parent.parent / "examples" / "graphgym.yaml"
GRAPHS, SIZE = 60, 12


@pytest.fixture(autouse=True)
def _config():
    """GraphGym's configuration is global."""
    before = cfg.clone()
    yield
    cfg.merge_from_other_cfg(before)


@pytest.fixture
def dataset(tmp_path):
    """Rings in the files of a TU dataset; a class has more of one node label."""
    raw = tmp_path / "data" / "RINGS" / "raw"
    raw.mkdir(parents=True)
    node = torch.arange(GRAPHS * SIZE).view(GRAPHS, SIZE)
    ring = torch.stack([node, node.roll(1, 1)]).flatten(1).T
    edges = torch.cat([ring, ring.flip(1)]) + 1
    classes = torch.arange(GRAPHS) % 2
    labels = torch.rand(GRAPHS, SIZE, generator=torch.Generator().manual_seed(0))
    columns = {
        "A": edges,
        "graph_indicator": torch.arange(1, GRAPHS + 1).repeat_interleave(SIZE).unsqueeze(1),
        "graph_labels": classes.unsqueeze(1),
        "node_labels": (labels < 0.2 + 0.6 * classes.unsqueeze(1)).long().view(-1, 1),
    }
    for name, rows in columns.items():
        lines = (", ".join(str(entry) for entry in row) for row in rows.tolist())
        (raw / f"RINGS_{name}.txt").write_text("\n".join(lines) + "\n")
    return raw.parent.parent


def run(out_dir, *options):
    """What the command writes: the statistics of each epoch, by split."""
    command = ["-m", "gumbelpool.graphgym", "--cfg", str(EXAMPLE), "--repeat", "1"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command, "out_dir", str(out_dir), *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = out_dir / "graphgym" / "0"
    return {
        split: [
            json.loads(line) for line in (folder / split / "stats.json").read_text().splitlines()
        ]
        for split in ("train", "val", "test")
    }


@pytest.mark.parametrize("layer", ["GumbelPool", "DenseDiffPool"])
def test_a_yaml_file_trains_either_layer_on_a_tu_dataset(layer, dataset, tmp_path):
    written = run(
        tmp_path / "out", "dataset.name", "RINGS", "dataset.dir", str(dataset),
        "gumbelpool.layer", layer, "gumbelpool.num_clusters", "[6, 3]", "optim.max_epoch", "15",
        "train.batch_size", "16", "gnn.dim_inner", "16",
    )  # fmt: skip
    train = [epoch["loss"] for epoch in written["train"]]
    assert len(train) == len(written["val"]) == 15
    assert train[-1] < 0.8 * train[0]
    assert written["train"][-1]["accuracy"] > 0.75
    assert 0 <= written["test"][0]["accuracy"] <= 1


def test_the_example_trains_on_mutag(tmp_path):
    folder = os.environ.get("GUMBELPOOL_TEST_DATA")
    if not folder:
        pytest.skip("GUMBELPOOL_TEST_DATA does not name a folder with MUTAG.zip")
    with ZipFile(Path(folder) / "MUTAG.zip") as file:
        file.extractall(tmp_path / "data")
    written = run(tmp_path / "out", "dataset.dir", str(tmp_path / "data"), "optim.max_epoch", "8")
    assert written["train"][-1]["loss"] < written["train"][0]["loss"]
    assert written["train"][-1]["accuracy"] > 0.7  # two thirds are of one class
    assert len(written["test"]) == 1


def test_the_group_has_every_option_of_the_layer():
    options = graphgym.options_of(GumbelPool)
    assert {"estimator", "tau", "losses", "block_size"} < set(options)
    assert set(cfg.gumbelpool) == {*options, "layer", "num_clusters", "loss_weight"}
    assert register.network_dict["gumbelpool"] is graphgym.HierarchicalNet
    assert register.config_dict["gumbelpool"] is graphgym.set_config
    cfg.gumbelpool.update(estimator="gst", losses=["balance"], ratio=0.5, num_clusters=[4, 3, 2])
    net = graphgym.HierarchicalNet(5, 2)
    assert [pool.num_clusters for pool in net.pools] == [4, 3, 2]
    for pool in net.pools:
        assert (pool.estimator, pool.losses, pool.ratio) == ("gst", ("balance",), 0.5)
        assert pool.remove_self_loops
        assert pool.sample_in_eval
    cfg.gumbelpool.layer = "DenseDiffPool"
    assert isinstance(graphgym.HierarchicalNet(5, 2).pools[0], DenseDiffPool)
    cfg.gumbelpool.layer = "TopK"
    with pytest.raises(ValueError, match=r"gumbelpool\.layer must be one of 'GumbelPool', 'Dense"):
        graphgym.HierarchicalNet(5, 2)


def graphs():
    batch = make_batch((6, 5, 7))
    parts = [batch.graph(g) for g in range(3)]
    data = [Data(x=p.x.float(), edge_index=p.edge_index, y=torch.tensor([0])) for p in parts]
    return Batch.from_data_list(data)


def test_the_gradient_is_that_of_the_task_and_of_the_weighted_losses():
    torch.manual_seed(0)
    net, batch, gradients = graphgym.HierarchicalNet(3, 2), graphs(), []
    for weight in (0.0, 0.3):
        net.loss_weight = weight
        torch.manual_seed(1)
        prediction, y = net(batch)
        total = torch.nn.functional.cross_entropy(prediction, y)
        gradients.append(torch.autograd.grad(total, list(net.parameters())))
    losses = []
    for pool in net.pools:
        pool.register_forward_hook(lambda module, given, out: losses.append(out.loss))
    torch.manual_seed(1)
    net(batch)
    parameters = list(net.parameters())
    own = torch.autograd.grad(sum(losses), parameters, allow_unused=True)
    for task, both, loss in zip(*gradients, own, strict=True):
        expected = task if loss is None else task + 0.3 * loss
        torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-5)
    assert any(loss is not None and loss.abs().sum() > 0 for loss in own)


def test_splits_are_of_the_sizes_asked_for_and_follow_the_seed(dataset):
    cfg.dataset.split = [0.7, 0.2, 0.1]
    parts = []
    for cfg.seed in (0, 0, 1):
        data = graphgym.load_tu("TU", "RINGS", str(dataset))._data
        parts.append([data[key] for key in graphgym.SPLITS])
    assert [len(part) for part in parts[0]] == [42, 12, 6]
    assert torch.cat(parts[0]).sort().values.tolist() == list(range(GRAPHS))
    assert torch.equal(parts[0][0], parts[1][0])
    assert not torch.equal(parts[0][0], parts[2][0])
    assert graphgym.load_tu("PyG", "Cora", "") is None
    cfg.dataset.split = [0.8, 0.2]
    with pytest.raises(ValueError, match=r"dataset\.split must have three parts"):
        graphgym.load_tu("TU", "RINGS", str(dataset))


def test_without_the_extra_it_says_what_to_install():
    code = "import sys; sys.modules['yacs'] = None; import gumbelpool.graphgym"
    error = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    last = error.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: gumbelpool.graphgym needs pytorch-lightning and yacs")
    assert "pip install 'gumbelpool[graphgym]'" in last
