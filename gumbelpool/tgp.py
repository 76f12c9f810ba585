"""``GumbelPool`` as a pooler of torch-geometric-pool (tgp): importing this registers ``"gumbel"``.

The layer does the work in one call, which is what gives its gradient; the operators of tgp's
select, reduce, connect and lift stand beside it for those who call them one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from gumbelpool.adjacency import FORMS, form_of, to_adj_t, to_edges
from gumbelpool.coarsen import coarsen_edges, coarsen_nodes, unpool
from gumbelpool.output import PoolOutput
from gumbelpool.pool import GumbelPool

try:
    from tgp import poolers
    from tgp.connect import Connect
    from tgp.lift import Lift
    from tgp.reduce import Reduce
    from tgp.select import Select, SelectOutput
    from tgp.src import PoolingOutput, SRCPooling
except ImportError as error:
    raise ImportError(
        "gumbelpool.tgp needs torch-geometric-pool and torch-scatter: pip install "
        f"'gumbelpool[tgp]', after torch-scatter as in README.md, \"SparseTensor\" ({error})"
    ) from error

ALIAS = "gumbel"


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
            edge_index: As in :class:`GumbelPooling`.
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
        return as_it_came(edge_index, pooled, weight if self.weighted else None, so.num_supernodes)

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


class GumbelPooling(SRCPooling):  # type: ignore[misc]
    r""":class:`~gumbelpool.GumbelPool` behind the call of torch-geometric-pool.

    DiffPool (`Ying et al. 2018 <https://arxiv.org/abs/1806.08804>`_) with one sampled cluster per
    node (`Jang et al. 2017 <https://arxiv.org/abs/1611.01144>`_,
    `Maddison et al. 2017 <https://arxiv.org/abs/1611.00712>`_) in place of the soft assignment.
    Forward, gradient and losses are the layer's. Two defaults are not, so that the pooler stands
    in for tgp's others: ``drop_empty``, since tgp numbers supernodes by their members, and
    ``remove_self_loops``. All arguments may also be given by position, since ``get_pooler`` drops
    those that may not.

    Args:
        in_channels (int, optional): Channels of ``x``; ``-1`` takes them from the first call.
        k (int): K, the clusters per graph (an upper bound where ``ratio`` is given).
        ratio (float, optional): Graph g may use
            :math:`K_g = \min(K, \max(1, \lceil \mathrm{ratio} \cdot n_g \rceil))` clusters.
            (default: ``None``, K for every graph)
        estimator (str): As in :class:`~gumbelpool.GumbelPool`, as are all that follow but for
            their defaults. (default: ``"gumbel"``)
        tau (float): Temperature of the estimator. (default: ``1.0``)
        aggr (str): ``"sum"`` or ``"mean"``. (default: ``"sum"``)
        losses (tuple of str): Any of the layer's losses.
            (default: ``("link", "entropy", "balance")``)
        drop_empty (bool): ``True`` numbers the supernodes that have members, without gaps.
            ``False`` keeps all K of every graph, so that clusters that a draw leaves empty have a
            gradient too. (default: ``True``)
        remove_self_loops (bool): Leaves edges inside a supernode out. (default: ``True``)
        weighted (bool): ``False`` for no edge weights. (default: ``True``)
        sample_in_eval (bool): Samples in ``eval()`` too. (default: ``False``)
        bias (bool): Whether the assignment head has a bias. (default: ``True``)
        block_size (int, optional): Rows that are held at a time. (default: ``None``)
        loss_coeff (float): Factor of each loss. (default: ``1.0``)

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range or not among its choices.

    Example:
        >>> import gumbelpool.tgp
        >>> pool = get_pooler("gumbel", in_channels=64, k=20)
        >>> out = pool(x=x, adj=edge_index, batch=batch)
        >>> x = pool(x=conv(out.x, out.edge_index, out.edge_weight), so=out.so, lifting=True)
    """

    def __init__(
        self,
        in_channels: int | None,
        k: int,
        ratio: float | None = None,
        estimator: str = "gumbel",
        tau: float = 1.0,
        aggr: str = "sum",
        losses: Sequence[str] = ("link", "entropy", "balance"),
        drop_empty: bool = True,
        remove_self_loops: bool = True,
        weighted: bool = True,
        sample_in_eval: bool = False,
        bias: bool = True,
        block_size: int | None = None,
        loss_coeff: float = 1.0,
    ) -> None:
        layer = GumbelPool(
            in_channels,
            k,
            ratio=ratio,
            estimator=estimator,
            tau=tau,
            aggr=aggr,
            losses=losses,
            drop_empty=drop_empty,
            remove_self_loops=remove_self_loops,
            weighted=weighted,
            sample_in_eval=sample_in_eval,
            bias=bias,
            block_size=block_size,
        )
        super().__init__(
            selector=GumbelSelect(layer),
            reducer=GumbelReduce(aggr),
            lifter=GumbelLift(),
            connector=GumbelConnect(remove_self_loops, weighted),
        )
        self.loss_coeff = loss_coeff

    @property
    def layer(self) -> GumbelPool:
        """The layer, whose options may be set at any time: the call follows them."""
        layer = self.selector.layer
        assert isinstance(layer, GumbelPool)
        return layer

    def forward(
        self,
        x: Tensor,
        adj: Adj | None = None,
        edge_weight: Tensor | None = None,
        so: SelectOutput | None = None,
        batch: Tensor | None = None,
        mask: Tensor | None = None,
        lifting: bool = False,
        batch_pooled: Tensor | None = None,
        logits: Tensor | None = None,
        assign_x: Tensor | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> PoolingOutput | Tensor:
        r"""Pools a batch of graphs, or lifts what was pooled.

        Args:
            x: Node features, ``[N, F]``; to lift, rows per supernode, ``[K', ...]``.
            adj: Edges ``[2, E]``, int64, an ``EdgeIndex``, a ``SparseTensor`` or a
                ``torch.sparse`` matrix. A matrix comes back as one.
            edge_weight: ``[E]`` or ``[E, 1]``; none beside a matrix. (default: ones)
            so: To lift, the selection of the pooled graphs. Otherwise nodes go where it says, and
                nothing is drawn: there are then no losses.
            batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
            mask: ``None``, which is what a sparse pooler's ``preprocessing`` returns.
            lifting: Lifts instead of pooling. (default: ``False``)
            batch_pooled: Has no effect; other poolers ask for it to lift.
            logits: Assignment scores, ``[N, K]``, in place of those of the head.
            assign_x: Features to be scored in place of ``x``, ``[N, in_channels]``.
            batch_size: The number of graphs B. (default: read from ``batch``)
            generator: Source of randomness, on the device of ``x``. (default: torch's own)

        Returns:
            ``PoolingOutput`` with the pooled ``x``, ``[K', F]``; ``edge_index``, ``[2, E']``, and
            ``edge_weight``, ``[E']``, or for a matrix that came the pooled matrix and ``None``;
            ``batch``, ``[K']``, ``None`` where none came; ``so``; and ``loss``, the scalars of
            :meth:`compute_loss`. To lift, a tensor ``[N, ...]``.

        Raises:
            TypeError: If an argument has the wrong type or dtype.
            ValueError: If ``adj`` (to pool) or ``so`` (to lift) is missing, there is a ``mask``,
                or as in :class:`~gumbelpool.GumbelPool`.
        """
        if mask is not None:
            raise ValueError(
                "mask must be None: gumbel is a sparse pooler, whose nodes are told by batch; "
                f"got a tensor of shape {list(mask.shape)}"
            )
        if lifting:
            if so is None:
                raise ValueError("so must be given to lift: it is the so of what was pooled")
            lifted = self.lift(x_pool=x, so=so)
            assert isinstance(lifted, Tensor)
            return lifted
        if adj is None:
            raise ValueError("adj must be given to pool; got None")
        if so is not None:
            pooled_x, pooled_batch = self.reduce(x=x, so=so, batch=batch)
            edges = self.connect(edge_index=adj, so=so, edge_weight=edge_weight)
            return PoolingOutput(pooled_x, *edges, pooled_batch, so)
        out = self.layer(
            x,
            adj,
            as_vector(edge_weight),
            batch,
            logits=logits,
            assign_x=assign_x,
            batch_size=batch_size,
            generator=generator,
        )
        return PoolingOutput(
            out.x,
            *as_it_came(adj, out.edge_index, out.edge_weight, out.x.size(0)),
            None if batch is None else out.batch,
            selection(out, batch),
            self.compute_loss(out),
        )

    def compute_loss(self, out: PoolOutput) -> dict[str, Tensor] | None:
        """The losses of the layer's draw, each times ``loss_coeff``; ``None`` where there are none.

        Args:
            out: The output of ``layer``. The pooler's has its losses already, in ``loss``.

        Returns:
            Scalars by name.
        """
        return {name: self.loss_coeff * loss for name, loss in out.losses.items()} or None

    @property
    def has_loss(self) -> bool:
        """Whether the layer has any losses."""
        return len(self.layer.losses) > 0

    def extra_repr_args(self) -> dict[str, Any]:
        """What the representation shows beside the four operators."""
        return {"loss_coeff": self.loss_coeff}


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
    adjacency: Adj, edge_index: Tensor, edge_weight: Tensor | None, num_supernodes: int
) -> tuple[Adj, Tensor | None]:
    """Pooled edges and weights, or where a matrix came a matrix and ``None``."""
    form = form_of(adjacency)
    if form in FORMS[:2]:
        return edge_index, edge_weight
    return to_adj_t(form, edge_index, edge_weight, num_supernodes), None


# What tgp's `get_pooler`, its cheat sheet and its tests go through; it has no function for this.
poolers.pooler_map[ALIAS] = GumbelPooling
if GumbelPooling.__name__ not in poolers.pooler_classes:
    poolers.pooler_classes.append(GumbelPooling.__name__)
poolers.GumbelPooling = GumbelPooling
