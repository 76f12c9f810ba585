"""Graphs and folds: the embedded dataset, any TUDataset, splits made here or read from a file.

Whatever is wrong with what the user named ends in an `InputError` whose text is one clear line.
"""

import json
import math
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch_geometric.data import Data
from torch_geometric.datasets import TUDataset
from torch_geometric.utils import degree

from ..shared.errors import FULL, InputError, cannot_write
from . import hierarchy

EMBEDDED = "hierarchy"
MAX_DEGREE = 64  # degrees of this and more share a feature


@dataclass
class GraphDataset:
    """Graphs with features `x` and a class `y`, and what is known of all of them."""

    name: str
    graphs: list[Data]
    num_classes: int
    num_attributes: int  # the leading columns of x that are continuous; standardised per fold

    @property
    def num_features(self) -> int:
        """Columns of x."""
        return self.graphs[0].x.size(1)


class Split(NamedTuple):
    """Graph indices of one fold."""

    train: list[int]
    validation: list[int]
    test: list[int]


def load(name: str, root: Path | None, *, num_graphs: int, seed: int) -> GraphDataset:
    """Load the embedded dataset, or a TUDataset from under `root` (downloaded if not there)."""
    if name == EMBEDDED:
        graphs = hierarchy.hierarchy(num_graphs=num_graphs, seed=seed)
        return GraphDataset(name, graphs, len(hierarchy.CLASSES), num_attributes=0)
    if root is None:
        raise InputError(f"--dataset {name} needs --root DIR, the folder that holds {name}/raw/")
    data = _tu_dataset(name, root)
    graphs = [data.get(i) for i in range(len(data))]
    if any(g.y is None or g.y.is_floating_point() or g.y.numel() != 1 for g in graphs):
        raise InputError(f"{name} has no graph classes (no file {name}_graph_labels.txt)")
    if graphs[0].x is None or graphs[0].x.size(1) == 0:
        graphs = [_with_degrees(graph) for graph in graphs]
        num_attributes = 0
    else:
        num_attributes = data.num_node_attributes
    return GraphDataset(name, graphs, data.num_classes, num_attributes)


def _tu_dataset(name: str, root: Path) -> TUDataset:
    if not re.fullmatch(r"[\w.+-]+", name):
        raise InputError(f"{name!r} is not the name of a TUDataset")
    raw = root / name / "raw"
    present = (raw / f"{name}_A.txt").exists()
    processed = root / name / "processed"
    whole = (processed / "pre_filter.pt").exists()  # the last file that PyG writes
    if not whole:
        shutil.rmtree(processed, ignore_errors=True)
    try:
        return TUDataset(str(root), name, use_node_attr=True)
    except Exception as error:  # fsspec, aiohttp, zipfile, parsing: each has its own errors
        if not whole:  # what was cut short would be taken for the dataset
            shutil.rmtree(processed, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise cannot_write(root / name, error) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        if present:
            raise InputError(f"cannot read {name} from {raw}: {reason}") from error
        for folder in (raw, root / name):  # those that TUDataset made before it failed
            with suppress(OSError):
                folder.rmdir()
        raise InputError(
            f"no dataset {name!r} under {root} (no file {raw / f'{name}_A.txt'}), and "
            f"downloading it failed: {reason}"
        ) from error


def _with_degrees(graph: Data) -> Data:
    """Features for graphs that have none: the degree, one-hot up to a cap, and its logarithm."""
    degrees = degree(graph.edge_index[0], graph.num_nodes)
    one_hot = F.one_hot(degrees.long().clamp(max=MAX_DEGREE), MAX_DEGREE + 1).float()
    x = torch.cat([degrees.log1p()[:, None], one_hot], dim=1)
    return Data(x=x, edge_index=graph.edge_index, y=graph.y)


def standardised(dataset: GraphDataset, train: Sequence[int]) -> list[Data]:
    """The graphs, continuous attributes scaled by the mean and deviation of the training part."""
    graphs = [Data(x=g.x, edge_index=g.edge_index, y=g.y) for g in dataset.graphs]
    columns = dataset.num_attributes
    if columns == 0:
        return graphs
    known = torch.cat([graphs[i].x[:, :columns] for i in train])
    mean, deviation = known.mean(dim=0), known.std(dim=0, correction=0)
    deviation[deviation == 0] = 1.0
    for graph in graphs:
        scaled = (graph.x[:, :columns] - mean) / deviation
        graph.x = torch.cat([scaled, graph.x[:, columns:]], dim=1)
    return graphs


def make_splits(dataset: GraphDataset, folds: int, seed: int) -> list[Split]:
    """Stratified folds; of what is not tested, a stratified ninth part (1/9) is for validation."""
    labels = np.array([int(graph.y) for graph in dataset.graphs])
    fewest = int(np.bincount(labels).min())
    if not 2 <= folds <= fewest:
        raise InputError(
            f"--folds must be between 2 and {fewest}, the size of the smallest class of "
            f"{dataset.name}, and is {folds}"
        )
    splits = []
    outer = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for rest, test in outer.split(labels, labels):
        size = max(math.ceil(len(rest) / 9), dataset.num_classes)
        try:
            train, validation = train_test_split(
                rest, test_size=size, stratify=labels[rest], random_state=seed
            )
        except ValueError as error:
            raise InputError(f"{dataset.name} has too few graphs for {folds} folds") from error
        splits.append(Split(train.tolist(), validation.tolist(), test.tolist()))
    return splits


def read_splits(path: Path, num_graphs: int, folds: int) -> list[Split]:
    """Read a list of {"test": [...], "model_selection": [{"train": [...], "validation": [...]}]}.

    This is the format of Errica et al. (ICLR 2020); of several model selections the first counts.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the splits {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the splits {path} are not JSON: {error}") from error
    if not isinstance(content, list):
        raise InputError(f"the splits {path} are no list of folds")
    if len(content) < folds:
        raise InputError(
            f"the splits {path} have {len(content)} folds, and --folds asks for {folds}"
        )
    return [_read_fold(entry, f"{path}, fold {i}", num_graphs) for i, entry in enumerate(content)]


def _read_fold(entry: object, where: str, num_graphs: int) -> Split:
    try:
        inner = entry["model_selection"][0]
        split = Split(inner["train"], inner["validation"], entry["test"])
    except KeyError as error:
        raise InputError(f"{where}: there is no {error.args[0]!r}") from error
    except (TypeError, IndexError) as error:
        raise InputError(
            f'{where}: expected {{"test": [...], "model_selection": '
            f'[{{"train": [...], "validation": [...]}}]}}'
        ) from error
    seen: dict[int, str] = {}
    for part, indices in split._asdict().items():
        if not isinstance(indices, list) or not indices:
            raise InputError(f"{where}: {part!r} should be a list of graph indices, not empty")
        for index in indices:
            if type(index) is not int or not 0 <= index < num_graphs:
                raise InputError(
                    f"{where}: {index!r} in {part!r} is not a graph index "
                    f"(the dataset has {num_graphs} graphs: 0 to {num_graphs - 1})"
                )
            if index in seen:
                raise InputError(f"{where}: graph {index} is in {seen[index]!r} and in {part!r}")
            seen[index] = part
    return split
