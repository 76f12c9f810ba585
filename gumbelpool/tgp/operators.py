"""Select, reduce, connect and lift of torch-geometric-pool, for one cluster per node."""

import torch
from tgp.connect import Connect
from tgp.lift import Lift
from tgp.reduce import Reduce
from tgp.select import Select, SelectOutput
from torch import Tensor
from torch_geometric.typing import Adj

from gumbelpool.adjacency import FORMS, form_of, to_adj_t, to_edges
from gumbelpool.coarsen import coarsen_edges, coarsen_nodes, unpool
from gumbelpool.output import PoolOutput
from gumbelpool.pool import GumbelPool


class GumbelSelect(Select):  # type: ignore[misc]
    """Draws a cluster for each node; holds the layer, and so all parameters.

    Args:
        layer (GumbelPool): The layer that draws.
    """

    is_dense = False

    def __init__(self, layer: GumbelPool) -> None:
        super().__init__()
        self.layer = layer

    def reset_parameters(self) -> None:
        """Resets the assignment head."""
        self.layer.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Adj | None = None,
        edge_weight: Tensor | None = None,
        *,
        batch: Tensor | None = None,
        num_nodes: int | None = None,
    ) -> SelectOutput:
        """Draws, without pooling: the assignment then has no gradient.

        Args:
            x: Node features, ``[N, in_channels]``.
            edge_index: Has no effect, as scores are of features alone; nor has ``edge_weight``.
            edge_weight: See ``edge_index``.
            batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
            num_nodes: Has no effect: it is the length of ``x``.

        Returns:
            ``SelectOutput`` of N nodes, a one in each row of its sparse ``s``.
        """
        with torch.no_grad():
            nothing = torch.empty(2, 0, dtype=torch.int64, device=x.device)
            return selection(self.layer(x, nothing, batch=batch), batch)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer.extra_repr()})"


class GumbelReduce(Reduce):  # type: ignore[misc]
    """The features of the members of each supernode, added or averaged, whatever the selection.

    Args:
        aggr (str): ``"sum"`` or ``"mean"``. (default: ``"sum"``)
    """

    def __init__(self, aggr: str = "sum") -> None:
        super().__init__()
        self.aggr = aggr

    def forward(
        self, x: Tensor, so: SelectOutput, *, batch: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Reduces ``x``, ``[N, F]``, to ``[K', F]``, with the graph of each, ``[K']``, or ``None``.

        Its gradient is that of ``x`` alone: that of the assignment comes from the pooler's call.
        """
        pooled = coarsen_nodes(x, so.cluster_index, so.num_supernodes, self.aggr)
        batch = so.batch if batch is None else batch
        return pooled, None if batch is None else self.reduce_batch(so, batch)

    @staticmethod
    def reduce_batch(select_output: SelectOutput, batch: Tensor | None) -> Tensor | None:
        """The graph of each supernode, ``[K']``, those without members included."""
        known: Tensor | None = getattr(select_output, "batch_pooled", None)
        if known is None and batch is not None:
            known = Reduce.reduce_batch(select_output, batch)
        return known

    def __repr__(self) -> str:
        return f"{type(self).__name__}(aggr={self.aggr!r})"


class GumbelConnect(Connect):  # type: ignore[misc]
    """The image of the edges under the assignment; there are never more of them.

    Args:
        remove_self_loops (bool): Leaves edges inside a supernode out. (default: ``True``)
        weighted (bool): ``False`` for no edge weights. (default: ``True``)
    """

    def __init__(self, remove_self_loops: bool = True, weighted: bool = True) -> None:
        super().__init__()
        self.remove_self_loops = remove_self_loops
        self.weighted = weighted

    def forward(
        self,
        edge_index: Adj,
        so: SelectOutput,
        *,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        batch_pooled: Tensor | None = None,
    ) -> tuple[Adj, Tensor | None]:
        """Connects the supernodes.

        Args:
            edge_index: As in :class:`~gumbelpool.tgp.GumbelPooling`.
            so: The selection, of N nodes.
            edge_weight: ``[E]`` or ``[E, 1]``. (default: ones)
            batch: Has no effect, nor has ``batch_pooled``: edges stay inside their graph.
            batch_pooled: See ``batch``.

        Returns:
            Edges ``[2, E']`` and their weights ``[E']``, or a matrix and ``None`` where one came.
            Their gradient is that of ``edge_weight`` alone.
        """
        edges = to_edges(edge_index, as_vector(edge_weight), None, so.num_nodes)
        pooled, weight, _ = coarsen_edges(
            edges.edge_index,
            so.cluster_index,
            so.num_supernodes,
            edges.edge_weight,
            remove_self_loops=self.remove_self_loops,
        )
        kept = weight if self.weighted else None
        return as_it_came(edge_index, pooled, kept, so.num_supernodes, weight.dtype)

    def __repr__(self) -> str:
        options = f"remove_self_loops={self.remove_self_loops}, weighted={self.weighted}"
        return f"{type(self).__name__}({options})"


class GumbelLift(Lift):  # type: ignore[misc]
    """Gives each node the row of its supernode."""

    def forward(
        self,
        x_pool: Tensor,
        so: SelectOutput,
        batch: Tensor | None = None,
        batch_pooled: Tensor | None = None,
    ) -> Tensor:
        """Lifts ``[K', ...]`` to ``[N, ...]``; the batch vectors have no effect."""
        return unpool(x_pool, so.cluster_index)


def selection(out: PoolOutput, batch: Tensor | None) -> SelectOutput:
    """What tgp knows of an assignment, for the output of the layer."""
    return SelectOutput(
        cluster_index=out.cluster,
        num_nodes=out.cluster.size(0),
        num_supernodes=out.x.size(0),
        weight=torch.ones_like(out.cluster, dtype=out.x.dtype),
        batch=batch,
        batch_pooled=None if batch is None else out.batch,
    )


def as_vector(edge_weight: Tensor | None) -> Tensor | None:
    """Edge weights ``[E]``, which tgp also takes as ``[E, 1]``."""
    if edge_weight is not None and edge_weight.dim() == 2 and edge_weight.size(1) == 1:
        return edge_weight.squeeze(1)
    return edge_weight


def as_it_came(
    adjacency: Adj,
    edge_index: Tensor,
    edge_weight: Tensor | None,
    num_supernodes: int,
    dtype: torch.dtype,
) -> tuple[Adj, Tensor | None]:
    """Pooled edges and weights, or where a matrix came a matrix of the dtype and ``None``."""
    form = form_of(adjacency)
    if form in FORMS[:2]:
        return edge_index, edge_weight
    return to_adj_t(form, edge_index, edge_weight, num_supernodes, dtype), None
