"""One graph with known classes: a planted partition made here, or a citation graph from files."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.io import read_planetoid_data
from torch_geometric.utils import to_undirected

from gumbelpool import GumbelPool, PoolOutput

from ..shared.errors import InputError
from .planted import Planted, planted_partition

EMBEDDED = "sbm"
PLANETOID = ("Cora", "CiteSeer", "PubMed")
PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
SBM = Planted(num_nodes=1000, num_clusters=8, mean_degree=10, mixing=0.3, signal=0.15)


@dataclass
class NodeGraph:
    """An undirected graph.

    Attributes:
        name: Of the dataset.
        x: Node features, ``[N, F]``.
        edge_index: Every edge in both directions and once, sorted, no self-loops, ``[2, E]``.
        y: The class of each node, ``[N]``; what a clustering is measured by.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    y: Tensor

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.size(0)

    @property
    def num_classes(self) -> int:
        """Classes."""
        return int(self.y.max()) + 1

    # What needs the other nodes. A part of a graph (sharding.py) has them from other processes.

    def averaging(self) -> "Averaging":
        """The mean over a node and its neighbours."""
        return averaging(self.edge_index, self.num_nodes)

    def with_neighbors(self, x: Tensor) -> Tensor:
        """The rows that `averaging` takes, for those of the nodes."""
        return x

    def normalize(self, norm: nn.Module, x: Tensor) -> Tensor:
        """A batch norm of the nodes."""
        return norm(x)

    def pool(self, pool: GumbelPool, x: Tensor) -> PoolOutput:
        """The pooled graph."""
        return pool(x, self.edge_index)

    def collect(self, rows: Tensor) -> Tensor:
        """The rows of all nodes of the graph."""
        return rows


class Averaging(NamedTuple):
    """The mean over a node and its neighbours, D⁻¹ (A + I).

    With it a convolution is one sparse product, where a list of edges would make a message, all
    channels of it, for each. `EdgeIndex` knows that an undirected graph is its own transpose, which
    a sparse matrix would make anew for each gradient.

    Attributes:
        edges: A + I, ``[2, E + N]``.
        share: Of each of those that a node averages, ``[N, 1]``.
    """

    edges: EdgeIndex
    share: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The means of rows of all nodes, ``[N, F]``."""
        return self.edges.matmul(x).mul_(self.share)


def averaging(edge_index: Tensor, num_nodes: int, num_columns: int | None = None) -> Averaging:
    """The mean over a node and its neighbours, from edges sorted by row.

    Of a part of a graph there are more columns, for the neighbours that are not among its nodes.
    """
    row, col = edge_index
    count = torch.bincount(row, minlength=num_nodes) + 1
    # Each edge moves by the self-loops of the rows before and its own, which come first.
    column = torch.empty(row.numel() + num_nodes, dtype=torch.int32)
    column[count.cumsum(0) - count] = torch.arange(num_nodes, dtype=torch.int32)
    column[torch.arange(row.numel()) + row + 1] = col.int()
    edges = EdgeIndex(
        torch.stack([torch.arange(num_nodes, dtype=torch.int32).repeat_interleave(count), column]),
        sparse_size=(num_nodes, num_columns or num_nodes),
        sort_order="row",
        is_undirected=num_columns is None,
    )
    with warnings.catch_warnings():  # of sparse matrices in general, once
        warnings.simplefilter("ignore", UserWarning)
        edges.to_sparse_csr()
    return Averaging(edges, (1 / count.float())[:, None])


def load(name: str, root: Path | None) -> NodeGraph:
    """Make the embedded graph, or read one of Planetoid's from ``root/NAME/raw``."""
    if name == EMBEDDED:
        return NodeGraph(name, *planted_partition(SBM, seed=0))
    if name not in PLANETOID:
        raise InputError(f"--dataset is {EMBEDDED}, {', '.join(PLANETOID)}; got {name!r}")
    if root is None:
        raise InputError(f"--dataset {name} needs --root DIR, the folder that holds {name}/raw/")
    raw = root / name / "raw"
    for part in PARTS:
        if not (raw / f"ind.{name.lower()}.{part}").exists():
            raise InputError(
                f"no dataset {name} under {root}: no file {raw}/ind.{name.lower()}.{part}"
            )
    try:
        with warnings.catch_warnings():  # of NumPy, on pickles of its first versions
            warnings.simplefilter("ignore")
            data = read_planetoid_data(str(raw), name)
    except Exception as error:  # unpickling and parsing: each has its own errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read {name} from {raw}: {reason}") from error
    edge_index = data.edge_index[:, data.edge_index[0] != data.edge_index[1]]
    edge_index = to_undirected(edge_index, num_nodes=data.num_nodes)
    return NodeGraph(name, data.x, edge_index, data.y)
