"""``GumbelPool`` as a pooler of torch-geometric-pool (tgp): importing this registers ``"gumbel"``.

The layer does the work in one call, which is what gives its gradient; tgp's select, reduce, connect
and lift, in ``gumbelpool/tgp/operators.py``, are for those who call them one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from gumbelpool.output import PoolOutput
from gumbelpool.pool import GumbelPool

try:
    from tgp import poolers
    from tgp.select import SelectOutput
    from tgp.src import PoolingOutput, SRCPooling

    from gumbelpool.tgp.operators import (
        GumbelConnect,
        GumbelLift,
        GumbelReduce,
        GumbelSelect,
        as_it_came,
        as_vector,
        selection,
    )
except ImportError as error:
    raise ImportError(
        "gumbelpool.tgp needs torch-geometric-pool and torch-scatter: pip install "
        f"'gumbelpool[tgp]', after torch-scatter as in README.md, \"SparseTensor\" ({error})"
    ) from error

ALIAS = "gumbel"


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
        """The layer, whose options may be set at any time: a call without ``so`` follows them."""
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
            *as_it_came(adj, out.edge_index, out.edge_weight, out.x.size(0), out.x.dtype),
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


# What tgp's `get_pooler`, its cheat sheet and its tests go through; it has no function for this.
poolers.pooler_map[ALIAS] = GumbelPooling
if GumbelPooling.__name__ not in poolers.pooler_classes:
    poolers.pooler_classes.append(GumbelPooling.__name__)
poolers.GumbelPooling = GumbelPooling
