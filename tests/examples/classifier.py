"""What the tests of the classifier share: how it is called, small networks, awkward graphs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import pytest
import torch
from torch_geometric.data import Batch, Data

from examples.classification.command import main
from examples.classification.models import HierarchicalClassifier
from examples.classification.poolers import POOLERS, PoolOptions

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--num-graphs", "60", "--folds", "3", "--hidden", "8", "--num-clusters", "6", "3"]
SMALL += ["--accelerator", "cpu"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.classification", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: object) -> subprocess.CompletedProcess:
    """Run in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=False, timeout=170,
    )  # fmt: skip


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def one_line_error(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Run in this process, and return what it says on failing."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if not re.match("Processing|Downloading", line)]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def small_model(pool: str, in_channels: int, classes: int, **options) -> HierarchicalClassifier:
    torch.manual_seed(0)
    poolers = [
        POOLERS[pool].make(8, PoolOptions(num_clusters, **options)) for num_clusters in (5, 2)
    ]
    return HierarchicalClassifier(in_channels, classes, poolers, hidden=8, layers=1)


def awkward_batch() -> Batch:
    """Graphs of one node, of no edges, with fewer nodes than clusters, and an isolated node."""
    sizes, edges = (1, 4, 9, 3), ([], [], [(0, 1), (1, 2), (2, 3), (4, 5), (6, 7)], [(0, 2)])
    graphs = []
    for size, pairs in zip(sizes, edges, strict=True):
        both = [(i, j) for i, j in pairs] + [(j, i) for i, j in pairs]
        edge_index = torch.tensor(both, dtype=torch.long).reshape(-1, 2).t()
        graphs.append(
            Data(x=torch.randn(size, 3), edge_index=edge_index, y=torch.tensor([size % 2]))
        )
    return Batch.from_data_list(graphs)


def write_tu_dataset(root: Path, name: str = "PLAIN", num_graphs: int = 30) -> None:
    """Rings and stars in the TU text format, without node labels or attributes."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    pairs, indicator, labels, start = [], [], [], 1
    for g in range(num_graphs):
        n = 5 + g % 4
        if g % 2:
            undirected = [(i, (i + 1) % n) for i in range(n)]
        else:
            undirected = [(0, i) for i in range(1, n)]
        for i, j in undirected:
            pairs += [(start + i, start + j), (start + j, start + i)]
        indicator += [g + 1] * n
        labels.append(g % 2)
        start += n
    (raw / f"{name}_A.txt").write_text("".join(f"{i}, {j}\n" for i, j in pairs))
    (raw / f"{name}_graph_indicator.txt").write_text("".join(f"{g}\n" for g in indicator))
    (raw / f"{name}_graph_labels.txt").write_text("".join(f"{y}\n" for y in labels))
