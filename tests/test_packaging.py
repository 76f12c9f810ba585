import os
import re
import subprocess
import sys
import tarfile
import zipfile
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


# As where the native rows were not built.
WITHOUT_NATIVE = """
import sys
sys.modules["gumbelpool.rows._native"] = None
import gumbelpool
print(gumbelpool.backend())
"""


def run(*arguments, **environment):
    arguments = ["-c", *arguments] if len(arguments) == 1 else arguments
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    ).stdout.strip()


def error_of(*arguments, **environment):
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(*arguments, **environment)
    return error.value.stderr.strip().splitlines()[-1]


def test_the_layer_works_without_torch_scatter_and_torch_sparse_and_asks_for_neither():
    assert run(BLOCK_AND_RECORD) == ""


def test_importing_loads_nothing_of_the_extras():
    extras = ["lightning_fabric", "matplotlib", "sklearn", "torchmetrics", "hypothesis", "pytest"]
    extras += ["pytorch_lightning", "tgp", "yacs"]
    loaded = run("import sys, gumbelpool; print(*(m for m in sys.modules if '.' not in m))")
    baseline = run("import sys, torch_geometric; print(*(m for m in sys.modules if '.' not in m))")
    assert not set(extras) & (set(loaded.split()) - set(baseline.split()))


def test_required_dependencies_are_torch_and_torch_geometric_only():
    required = [line for line in metadata.requires("gumbelpool") if "extra ==" not in line]
    assert sorted(re.match(r"[\w-]+", line)[0] for line in required) == ["torch", "torch-geometric"]


def test_every_extra_of_the_contract_exists():
    extras = metadata.metadata("gumbelpool").get_all("Provides-Extra")
    assert {"sparse", "tgp", "graphgym", "examples", "test", "dev"} <= set(extras)


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


def test_the_backend_may_be_forced_by_the_environment():
    show = "import gumbelpool; print(gumbelpool.backend())"
    assert run(show, GUMBELPOOL_BACKEND="reference") == "reference"
    assert error_of(show, GUMBELPOOL_BACKEND="fast") == (
        'ValueError: GUMBELPOOL_BACKEND must be "native" or "reference"; got \'fast\''
    )


def test_without_the_native_rows_the_reference_runs():
    assert run(WITHOUT_NATIVE, GUMBELPOOL_BACKEND="") == "reference"
    error = error_of(WITHOUT_NATIVE, GUMBELPOOL_BACKEND="native")
    assert error.startswith('ImportError: GUMBELPOOL_BACKEND is "native", but gumbelpool was')
    assert "pip install" in error


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    code = "import os, sys; from scikit_build_core.build import build_sdist; os.chdir(sys.argv[1])"
    run("-c", f"{code}; build_sdist(sys.argv[2])", str(ROOT), str(folder))
    return next(folder.iterdir())


def test_the_sdist_has_all_that_the_readme_and_the_tests_use(sdist):
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"CMakeLists.txt", "CONTRIBUTING.md", "Makefile", "constraints.txt"} <= names
    assert {"gumbelpool/py.typed", "gumbelpool/rows/native.cpp"} <= names
    for folder in ("benchmarks", "docs", "examples", "gumbelpool", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".svg", ".png"):
                assert path.relative_to(ROOT).as_posix() in names


def test_without_a_compiler_the_wheel_is_that_of_the_python_files(sdist, tmp_path):
    wheel = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    run(*wheel, "-w", str(tmp_path), str(sdist), CC="/nowhere", CXX="/nowhere")
    (path,) = tmp_path.iterdir()
    assert path.name == f"gumbelpool-{gumbelpool.__version__}-py3-none-any.whl"
    packed = {name for name in zipfile.ZipFile(path).namelist() if "dist-info" not in name}
    package = ROOT / "gumbelpool"
    files = [*package.rglob("*.py"), package / "py.typed"]
    assert packed == {file.relative_to(ROOT).as_posix() for file in files}
