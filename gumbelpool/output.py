"""What every pooling layer of this package returns, and the graphs that PyG makes of it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.typing import Adj

from gumbelpool.adjacency import FORMS, form_of, to_adj_t
from gumbelpool.coarsen import unpool
from gumbelpool.diagnostics import Occupancy, occupancy
from gumbelpool.graph_validation import check_batch_order
from gumbelpool.options import check_in
from gumbelpool.validation import check_length, check_supernode_rows


class PoolOutput(NamedTuple):
    r"""A pooled batch of graphs, in the field order of PyG's sparse poolers.

    Attributes:
        x: Pooled features, ``[K', F]``.
        edge_index: Coalesced pooled edges, ``[2, E']``, int64: sorted by (row, col), no duplicates.
        edge_weight: Sum of the merged weights, ``[E']``, or ``None`` for a binary pooled graph.
        batch: Graph of each supernode, ``[K']``, int64; all zeros where the input had no batch.
        edge_attr: Sum of the merged edge features, ``[E', D]``, or ``None``.
        cluster: Row of ``x`` that each node went to, ``[N]``, int64.
        losses: Auxiliary losses, scalars by name.
    """

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    batch: Tensor
    edge_attr: Tensor | None
    cluster: Tensor
    losses: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The sum of ``losses``, a zero where there are none."""
        zero = self.x.new_zeros(())
        return sum(self.losses.values(), zero)

    def unpool(self, x: Tensor | None = None) -> Tensor:
        """Gives each node the row of its supernode.

        Args:
            x: Rows per supernode, ``[K', ...]``. (default: the pooled features)

        Returns:
            ``x[cluster]``, of shape ``[N, ...]``.

        Raises:
            TypeError: If ``x`` is not a dense tensor.
            ValueError: If ``x`` has not a row for each supernode.
        """
        if x is None:
            x = self.x
        check_supernode_rows("x", x)
        check_length("x", x, "the pooled graph", self.x.size(0))
        return unpool(x, self.cluster)

    def occupancy(self, batch_size: int | None = None) -> Occupancy:
        """Measures how many supernodes each graph uses, and how evenly.

        Args:
            batch_size: The number of graphs B. (default: up to the last graph with a row in ``x``,
                which is all of them unless ``drop_empty=True``)

        Returns:
            :class:`~gumbelpool.Occupancy`, ``[B]`` each; zeros for a graph without nodes.
        """
        if batch_size is None:
            batch_size = self._num_graphs()
        return occupancy(self.cluster, self.batch[self.cluster], batch_size)

    @property
    def form(self) -> str:
        """How the adjacency came that was pooled.

        ``"edge_index"``, ``"EdgeIndex"``, ``"SparseTensor"`` or, for a ``torch.sparse`` matrix,
        ``"coo"``, ``"csr"`` or ``"csc"``. ``edge_index`` is a plain tensor whatever the form.
        """
        return "edge_index"

    def adj_t(self, form: str | None = None) -> Adj:
        r"""The pooled edges as the matrix :math:`A'^{\top}` that PyG's convolutions take.

        Args:
            form: ``"coo"``, ``"csr"``, ``"csc"`` (of ``torch.sparse``) or ``"SparseTensor"``.
                (default: that of the adjacency that came, ``"csr"`` where it came as edges)

        Returns:
            ``[K', K']``, with an entry (target, source) for every edge: its weight, or its features
            where the matrix that came had features for its values. Of a binary pooled graph a
            ``SparseTensor`` has no values, a ``torch.sparse`` matrix ones.

        Raises:
            ValueError: If ``form`` is none of these.
            ImportError: If it is ``"SparseTensor"`` and torch-sparse is not installed.
        """
        came_as_edges = self.form in FORMS[:2]
        if form is None:
            form = "csr" if came_as_edges else self.form
        check_in("form", form, allowed=FORMS[2:])
        features = self.edge_attr is not None and not came_as_edges
        value = self.edge_attr if features else self.edge_weight
        return to_adj_t(form, self.edge_index, value, self.x.size(0), self.x.dtype)

    def to_data(self) -> Data:
        """The pooled graphs as one ``Data``, with the adjacency in the form that came.

        Returns:
            ``x`` and ``batch``; with ``edge_index``, ``edge_weight`` and ``edge_attr`` (where there
            are any) if edges came, an ``EdgeIndex`` for an ``EdgeIndex``; with :meth:`adj_t` if a
            matrix came.
        """
        data = self._one_graph()
        data.batch = self.batch
        return data

    def to_data_list(self, batch_size: int | None = None) -> list[Data]:
        """The pooled graphs one by one, each as :meth:`to_data` without ``batch``.

        ``Batch.from_data_list`` makes the batch of them again.

        Args:
            batch_size: The number of graphs B. (default: up to the last graph with a row in ``x``,
                which is all of them unless ``drop_empty=True``)

        Returns:
            B graphs, whose supernodes are numbered from zero.

        Raises:
            ValueError: If there are more graphs than ``batch_size``.
        """
        if batch_size is None:
            batch_size = self._num_graphs()
        check_batch_order(self.batch, batch_size)
        graph = self.batch[self.edge_index[0]]  # sorted, as the edges are by source
        counts = (torch.bincount(of, minlength=batch_size).tolist() for of in (self.batch, graph))
        graphs, node, edge = [], 0, 0
        for num_nodes, num_edges in zip(*counts, strict=True):
            own = slice(edge, edge + num_edges)
            part = self._replace(
                x=self.x[node : node + num_nodes],
                edge_index=self.edge_index[:, own] - node,
                edge_weight=None if self.edge_weight is None else self.edge_weight[own],
                edge_attr=None if self.edge_attr is None else self.edge_attr[own],
            )
            graphs.append(part._one_graph())
            node, edge = node + num_nodes, edge + num_edges
        return graphs

    def _one_graph(self) -> Data:
        """All rows and edges as one graph, without ``batch``."""
        if self.form not in FORMS[:2]:
            return Data(x=self.x, adj_t=self.adj_t())
        edge_index = self.edge_index
        if self.form == "EdgeIndex":
            size = (self.x.size(0), self.x.size(0))
            edge_index = EdgeIndex(edge_index, sparse_size=size, sort_order="row")
        data = Data(x=self.x, edge_index=edge_index)
        for name in ("edge_weight", "edge_attr"):
            if getattr(self, name) is not None:
                data[name] = getattr(self, name)
        return data

    def _num_graphs(self) -> int:
        return int(self.batch[-1]) + 1 if self.batch.numel() > 0 else 0


# A class for each form, so that the tuple keeps the fields that it has and still knows.
class EdgeIndexOutput(PoolOutput):
    """The output for an ``EdgeIndex``."""

    form = "EdgeIndex"


class SparseTensorOutput(PoolOutput):
    """The output for a ``SparseTensor``."""

    form = "SparseTensor"


class CooOutput(PoolOutput):
    """The output for a ``torch.sparse`` matrix, COO."""

    form = "coo"


class CsrOutput(PoolOutput):
    """The output for a ``torch.sparse`` matrix, CSR."""

    form = "csr"


class CscOutput(PoolOutput):
    """The output for a ``torch.sparse`` matrix, CSC."""

    form = "csc"


_OUTPUTS = dict(
    zip(
        FORMS,
        (PoolOutput, EdgeIndexOutput, SparseTensorOutput, CooOutput, CsrOutput, CscOutput),
        strict=True,
    )
)


def output_for(adjacency: Adj) -> type[PoolOutput]:
    """The class of the output for an adjacency: one that knows in which form it came."""
    return _OUTPUTS[form_of(adjacency)]
