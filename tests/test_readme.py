"""The README cannot rot: its code runs, and its table of options is the constructor's."""

import inspect
import re
from pathlib import Path

import torch

from gumbelpool import DenseDiffPool, GumbelPool

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def run_python_blocks():
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, namespace)
    return namespace


def test_the_model_of_the_readme_trains_with_either_layer():
    namespace = run_python_blocks()
    x = torch.randn(5, 7)
    edge_index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])
    batch = torch.tensor([0, 0, 0, 1, 1])
    assert isinstance(namespace["model"].pool, DenseDiffPool)
    for model in (namespace["Net"](7, 2), namespace["model"]):
        logits, loss = model(x, edge_index, batch)
        assert logits.shape == (2, 2)
        (logits.square().sum() + loss).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert model.pool.lin.weight.grad.abs().sum() > 0


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
