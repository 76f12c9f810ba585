"""One graph with known classes: a planted partition made here, or a citation graph from files."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
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

    def averaging(self) -> Tensor:
        """The mean over a node and its neighbours, as a matrix."""
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


def averaging(edge_index: Tensor, num_nodes: int, num_columns: int | None = None) -> Tensor:
    """The mean over a node and its neighbours, D⁻¹ (A + I), ``[N, N]`` in CSR form.

    Of a part of a graph there are more columns, for the neighbours that are not among its nodes.

    With it a convolution is one sparse product, where a list of edges would make a message, all
    channels of it, for each.
    """
    row, col = edge_index
    count = torch.bincount(row, minlength=num_nodes)
    pointer = torch.zeros(num_nodes + 1, dtype=torch.int64)
    pointer[1:] = (count + 1).cumsum(0)
    # Edges are sorted by row: each moves by the self-loops of the rows before, which come first.
    column = torch.empty(int(pointer[-1]), dtype=torch.int32)
    column[pointer[:-1]] = torch.arange(num_nodes, dtype=torch.int32)
    column[torch.arange(row.numel()) + row + 1] = col.int()
    size = (num_nodes, num_columns or num_nodes)
    weight = (1 / (count + 1).float()).repeat_interleave(count + 1)
    with warnings.catch_warnings():  # "in beta state"
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(pointer.int(), column, weight, size)


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
