"""The one edge list behind each way that PyG users write an adjacency, and the way back."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_sparse, to_edge_index

LAYOUTS = {"coo": torch.sparse_coo, "csr": torch.sparse_csr, "csc": torch.sparse_csc}
FORMS = ("edge_index", "EdgeIndex", "SparseTensor", *LAYOUTS)


class Edges(NamedTuple):
    """Edges ``[2, E]`` as (source, target), with weights ``[E]`` and features ``[E, D]``."""

    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None


def edge_list(edge_index: Tensor) -> Tensor:
    """An ``EdgeIndex`` as a plain int64 tensor; anything else as it is."""
    return edge_index.as_tensor().long() if isinstance(edge_index, EdgeIndex) else edge_index


def form_of(adjacency: Adj) -> str:
    """Which of ``FORMS`` an adjacency is written in; ``"edge_index"`` for what is none of them."""
    if isinstance(adjacency, (EdgeIndex, SparseTensor)):
        return "EdgeIndex" if isinstance(adjacency, EdgeIndex) else "SparseTensor"
    layout = getattr(adjacency, "layout", None)
    return next((form for form, known in LAYOUTS.items() if layout == known), "edge_index")


def to_adj_t(
    form: str, edge_index: Tensor, value: Tensor | None, num_nodes: int, dtype: torch.dtype
) -> Adj:
    """The edges as a matrix of one of ``FORMS``, as ``to_edges`` reads it: entry (target, source).

    The edges are sorted and distinct; ``value`` is ``[E]`` or ``[E, D]``. Where it is ``None``, a
    ``SparseTensor`` has no values and a ``torch.sparse`` matrix has ones of the ``dtype``.
    """
    source, target = edge_index
    if form == "SparseTensor":
        sizes = (num_nodes, num_nodes)
        return SparseTensor(row=target, col=source, value=value, sparse_sizes=sizes)
    if value is None:
        value = torch.ones(source.size(0), dtype=dtype, device=source.device)
    if form != "csc":  # which is by source, as the edges are
        order = target.argsort(stable=True)
        source, target, value = source[order], target[order], value[order]
    size = (num_nodes, num_nodes, *value.shape[1:])
    if form == "coo":
        indices = torch.stack([target, source])
        return torch.sparse_coo_tensor(
            indices, value, size, check_invariants=False, is_coalesced=True
        )
    outer, inner = (target, source) if form == "csr" else (source, target)
    start = torch.searchsorted(outer, torch.arange(num_nodes + 1, device=outer.device))
    return torch.sparse_compressed_tensor(
        start, inner, value, size, layout=LAYOUTS[form], check_invariants=False
    )


def to_edges(
    adjacency: Adj, edge_weight: Tensor | None, edge_attr: Tensor | None, num_nodes: int
) -> Edges:
    """Reads an edge list, an ``EdgeIndex``, a ``SparseTensor`` or a ``torch.sparse`` matrix.

    A sparse matrix is read as PyG's message passing reads it, as ``adj_t``: entry (i, j) is the
    edge from j to i. Its values are the edge weights, or with a second dimension the edge
    features; since they come in the matrix's own order, no others may be given beside it.
    """
    if isinstance(adjacency, EdgeIndex):
        sizes = adjacency.sparse_size()
        if any(size not in (None, num_nodes) for size in sizes):
            raise ValueError(f"edge_index must be of N nodes, N={num_nodes}; got {list(sizes)}")
        return Edges(edge_list(adjacency), edge_weight, edge_attr)
    if not is_sparse(adjacency):
        return Edges(adjacency, edge_weight, edge_attr)

    for name, value in (("edge_weight", edge_weight), ("edge_attr", edge_attr)):
        if value is not None:
            raise ValueError(
                f"{name} must be the values of the sparse matrix given as edge_index, "
                f"not an argument beside it; got a tensor of shape {list(value.shape)}"
            )
    is_sparse_tensor = isinstance(adjacency, SparseTensor)
    if not is_sparse_tensor:
        _check_matrix(adjacency)
    size = list(adjacency.sparse_sizes() if is_sparse_tensor else adjacency.shape[:2])
    if size != [num_nodes, num_nodes]:
        raise ValueError(f"edge_index must be an N×N sparse matrix, N={num_nodes}; got {size}")
    if not is_sparse_tensor and adjacency.layout == torch.sparse_coo:
        # PyG's to_edge_index would mark it as coalesced, in place and with no gradient.
        adjacency = adjacency.coalesce()
        edge_index, value = adjacency.indices(), adjacency.values()
    else:
        edge_index, value = to_edge_index(adjacency)
    edge_index = edge_index.detach().flip(0)
    if is_sparse_tensor and not adjacency.has_value():
        return Edges(edge_index, None, None)
    return Edges(edge_index, *((value, None) if value.dim() == 1 else (None, value)))


def _check_matrix(adjacency: Tensor) -> None:
    """Checks that a ``torch.sparse`` tensor is one matrix, whatever its entries are."""
    if adjacency.device.type == "meta":
        raise ValueError("edge_index must hold data; got a matrix on the meta device")
    if adjacency.dim() - adjacency.dense_dim() != 2:  # one of them is a batch, or is missing
        raise ValueError(
            f"edge_index must be an N×N sparse matrix; got shape {list(adjacency.shape)}"
        )
