import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import gumbelpool

ROOT = Path(__file__).parent.parent

# PyG itself imports torch_scatter and torch_sparse where they are installed. So both are made
# unimportable, and whoever asks for them is written down.
BLOCK_AND_RECORD = """
import sys

asked = set()

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch_scatter", "torch_sparse"):
            frame = sys._getframe(1)
            while "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            asked.add(frame.f_globals["__name__"].split(".")[0])
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import torch, gumbelpool
pool = gumbelpool.GumbelPool(3, 2)
out = pool(torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]))
(out.x.sum() + out.loss).backward()
gumbelpool.DenseDiffPool(3, 2)(torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]))
assert "torch_geometric" in asked, asked  # the record works
assert "gumbelpool" not in asked, asked
loaded = {name.split(".")[0] for name in sys.modules}
print(*sorted(loaded & {"torch_scatter", "torch_sparse"}))
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_layer_works_without_torch_scatter_and_torch_sparse_and_asks_for_neither():
    assert run(BLOCK_AND_RECORD) == ""


def test_importing_loads_nothing_of_the_extras():
    extras = ["lightning_fabric", "matplotlib", "sklearn", "torchmetrics", "hypothesis", "pytest"]
    loaded = run("import sys, gumbelpool; print(*(m for m in sys.modules if '.' not in m))")
    baseline = run("import sys, torch_geometric; print(*(m for m in sys.modules if '.' not in m))")
    assert not set(extras) & (set(loaded.split()) - set(baseline.split()))


def test_required_dependencies_are_torch_and_torch_geometric_only():
    required = [line for line in metadata.requires("gumbelpool") if "extra ==" not in line]
    assert sorted(re.match(r"[\w-]+", line)[0] for line in required) == ["torch", "torch-geometric"]


def test_every_extra_of_the_contract_exists():
    extras = metadata.metadata("gumbelpool").get_all("Provides-Extra")
    assert {"sparse", "examples", "test", "dev"} <= set(extras)


def test_the_version_of_the_package_is_that_of_its_metadata():
    assert metadata.version("gumbelpool") == gumbelpool.__version__


def test_the_package_is_typed():
    assert Path(gumbelpool.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("name", gumbelpool.__all__)
def test_every_public_name_is_documented(name):
    assert getattr(gumbelpool, name).__doc__


def test_the_tested_versions_satisfy_what_the_package_asks_for():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            pins[match[1].lower()] = match[2]
    from packaging.requirements import Requirement

    for line in metadata.requires("gumbelpool"):
        requirement = Requirement(line)
        if requirement.name != "gumbelpool":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), line


def test_the_oldest_versions_that_are_admitted_are_those_that_ci_tests():
    project = (ROOT / "pyproject.toml").read_text()
    admitted = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE)[1]
    floor = (ROOT / ".ci" / "floor").read_text()
    tested = re.findall(r"\b(torch|torch-geometric)==([\d.]+)", floor)
    assert sorted(re.findall(r'"([\w-]+)>=([\d.]+)"', admitted)) == sorted(tested)
