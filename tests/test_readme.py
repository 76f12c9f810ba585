"""The README cannot rot: its code runs, and its table of options is the constructor's."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import erdos_renyi_graph, stochastic_blockmodel_graph

from gumbelpool import DenseDiffPool, GumbelPool

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def run_python_blocks():
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, namespace)
    return namespace


@pytest.mark.parametrize("layer", [GumbelPool, DenseDiffPool])
def test_the_model_of_the_readme_trains_with_either_layer(layer):
    """On graphs of either few or many edges: from about log 2 = 0.69, the loss of a coin, down."""
    namespace = run_python_blocks()
    assert isinstance(namespace["model"].pool1, DenseDiffPool)
    torch.manual_seed(0)
    graphs = [
        Data(x=torch.ones(20, 7), edge_index=erdos_renyi_graph(20, 0.1 + 0.3 * label), y=label)
        for label in (0, 1) * 16
    ]
    batch = Batch.from_data_list(graphs)
    model = namespace["Net"](7, 2)
    if layer is DenseDiffPool:
        model.pool1 = layer(64, num_clusters=20, remove_self_loops=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        logits, loss = model(batch.x, batch.edge_index, batch.batch)
        losses.append(torch.nn.functional.cross_entropy(logits, batch.y))
        optimizer.zero_grad()
        (losses[-1] + 0.1 * loss).backward()
        optimizer.step()
    assert losses[0] < 2
    assert sum(losses[-10:]) / 10 < 0.5  # draws are noise, so not of the last alone
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(pool.lin.weight.grad.abs().sum() > 0 for pool in (model.pool1, model.pool2))


def test_the_unet_of_the_readme_learns_the_communities_of_a_graph():
    torch.manual_seed(0)
    y = torch.arange(4).repeat_interleave(20)
    edge_index = stochastic_blockmodel_graph([20] * 4, 0.02 + 0.3 * torch.eye(4))
    x = torch.nn.functional.one_hot(y, 4) + torch.randn(80, 4)
    model = run_python_blocks()["UNet"](4, 4)
    assert isinstance(model.pool, GumbelPool)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        logits, loss = model(x, edge_index)
        optimizer.zero_grad()
        (torch.nn.functional.cross_entropy(logits, y) + 0.1 * loss).backward()
        optimizer.step()
    assert logits.shape == (80, 4)
    assert model.pool.lin.weight.grad.abs().sum() > 0
    assert (model.eval()(x, edge_index)[0].argmax(1) == y).float().mean() > 0.8


def test_the_ten_lines_of_the_readme_find_the_clusters_of_a_graph():
    find_clusters = run_python_blocks()["find_clusters"]  # the blocks draw as well
    torch.manual_seed(0)
    y = torch.arange(4).repeat_interleave(30)
    edge_index = stochastic_blockmodel_graph([30] * 4, 0.02 + 0.3 * torch.eye(4))
    x = torch.nn.functional.one_hot(y, 4) + torch.randn(120, 4)
    cluster = find_clusters(x, edge_index, 4)
    assert cluster.shape == (120,)
    together = torch.stack([torch.bincount(cluster[y == k], minlength=4) for k in range(4)])
    assert together.max(1).values.sum() > 0.9 * 120  # k-means on the features has half of them
    assert together.argmax(1).unique().numel() == 4


def test_the_option_table_lists_every_constructor_option_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", README, re.MULTILINE))
    parameters = inspect.signature(GumbelPool).parameters.values()
    options = {p.name: repr(p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert rows == options


def test_the_docstring_names_every_argument_and_default():
    for layer in (GumbelPool, DenseDiffPool):
        for parameter in inspect.signature(layer).parameters.values():
            text = re.search(
                rf"^    {parameter.name} \(.*?(?=^    \w|\Z)",
                inspect.cleandoc(layer.__doc__),
                re.MULTILINE | re.DOTALL,
            )
            assert text, f"{layer.__name__}: {parameter.name}"
            if parameter.default is not parameter.empty:
                default = repr(parameter.default).replace("'", '"')
                assert f"``{default}" in text[0], f"{layer.__name__}: {parameter.name}"


def test_the_commands_of_the_readme_exist_in_the_makefile():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake (\w+)", "\n".join(re.findall(r"`+[^`]*`+", README)))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
