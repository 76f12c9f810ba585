"""The pooling layer: validate, draw, reduce, connect, losses."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from gumbelpool import op
from gumbelpool.base import ClusterPool
from gumbelpool.inputs import Inputs, cluster_limit, read_inputs
from gumbelpool.losses import GraphStatistics, mean_losses
from gumbelpool.options import check_generator, check_not_transformed
from gumbelpool.output import PoolOutput, output_for
from gumbelpool.plan import Plan, Pooled, rows_per_block
from gumbelpool.sampling import draw_randomness
from gumbelpool.validation import check_head


class GumbelPool(ClusterPool):
    r"""Pools every graph to at most K supernodes by sampling one cluster per node.

    DiffPool (`Ying et al. 2018 <https://arxiv.org/abs/1806.08804>`_) with a sampled, one-hot
    assignment in place of the soft one, and a straight-through gradient:

    .. math::
        c_i &\sim \mathrm{Categorical}(\mathrm{softmax}(\theta_i)), \qquad
        S_{ik} = [c_i = k]

        X' &= S^{\top} X, \qquad A' = S^{\top} A S

    The pooled graph is sparse: its edges are the image of the input's, so there are never more of
    them. The draw is exact, and the gradient is the full one,
    :math:`\partial L / \partial S_{ik}` for every k, through the features, the pooled edge weights
    and features, and the losses.

    Args:
        in_channels (int, optional): Channels of the features that the assignment is computed
            from: of ``x``, or of ``assign_x`` where that is given. ``-1`` takes them from the first
            call; ``None`` makes no head, so that every call must give ``logits``, and no parameter
            is without use.
        num_clusters (int): K, the clusters per graph (an upper bound where ``ratio`` is given).
        ratio (float, optional): Graph g may use
            :math:`K_g = \min(K, \max(1, \lceil \mathrm{ratio} \cdot n_g \rceil))` clusters.
            (default: ``None``, K for every graph)
        estimator (str): How :math:`\partial L / \partial S` becomes
            :math:`\partial L / \partial \theta`: ``"gumbel"``, ``"gumbel_rao"``,
            ``"straight_through"``, ``"gst"`` or ``"reinmax"``; see
            :mod:`gumbelpool.estimators`. (default: ``"gumbel"``)
        tau (float): Temperature of the estimator; it does not change the draw. A plain attribute,
            so that a schedule may set it. (default: ``1.0``)
        aggr (str): ``"sum"`` or ``"mean"`` of the members' features. (default: ``"sum"``)
        losses (tuple of str): Any of ``"link"`` (clusters should follow the edges), ``"entropy"``
            (assignments should be sure), ``"balance"`` (all clusters should be used) and
            ``"modularity"`` (clusters should hold more edges than their degrees account for;
            directed, weighted, with weights that are not negative); ``()`` for none. Without
            ``"balance"`` assignments collapse: docs/results.md, "Use of clusters". To cluster a
            graph take ``("modularity", "balance")``: docs/results.md, "Clusters that follow the
            graph". (default: ``("link", "entropy", "balance")``)
        drop_empty (bool): ``False`` keeps all K (or K_g) supernodes of every graph, with members
            or without, so that clusters that a draw leaves empty have a gradient too
            (docs/theory.md, section 5) and a mean over supernodes has the same divisor in every
            draw; without ``ratio`` shapes are then static. ``True`` leaves out those without
            members, for the smallest pooled graph. (default: ``False``)
        remove_self_loops (bool): Leaves edges inside a supernode out. (default: ``False``)
        weighted (bool): ``False`` for a binary pooled graph: ``edge_weight`` is ``None``.
            (default: ``True``)
        sample_in_eval (bool): Samples in ``eval()`` too, where otherwise each node takes its most
            likely cluster. Where assignments are undecided, the mean of a few sampled passes is
            the more accurate: docs/results.md, "Draws in training and in testing".
            (default: ``False``)
        bias (bool): Whether the assignment head has a bias. (default: ``True``)
        block_size (int, optional): Rows of the assignment that are held at a time.
            Neither the draws nor an estimator's noise depend on it.
            (default: ``None``, as many as stay in cache)

    Attributes:
        lin (torch.nn.Linear): The assignment head, ``in_channels`` to ``num_clusters``. Another
            module may be put in its place; it is called with ``x`` or ``assign_x``, still
            ``[N, in_channels]``, and its scores, ``[N, K]``, are then held whole.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range or not among its choices.

    Example:
        >>> pool = GumbelPool(64, num_clusters=20)
        >>> out = pool(x, edge_index, batch=batch)
        >>> x = conv(out.x, out.edge_index, out.edge_weight)
        >>> loss = task_loss + 0.1 * out.loss
    """

    def __init__(
        self,
        in_channels: int | None,
        num_clusters: int,
        *,
        ratio: float | None = None,
        estimator: str = "gumbel",
        tau: float = 1.0,
        aggr: str = "sum",
        losses: Sequence[str] = ("link", "entropy", "balance"),
        drop_empty: bool = False,
        remove_self_loops: bool = False,
        weighted: bool = True,
        sample_in_eval: bool = False,
        bias: bool = True,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_clusters = num_clusters
        self.ratio = ratio
        self.estimator = estimator
        self.tau = tau
        self.aggr = aggr
        self.losses = losses
        self.drop_empty = drop_empty
        self.remove_self_loops = remove_self_loops
        self.weighted = weighted
        self.sample_in_eval = sample_in_eval
        self.block_size = block_size
        self.make_head(bias)

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        edge_attr: Tensor | None = None,
        logits: Tensor | None = None,
        assign_x: Tensor | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> PoolOutput:
        r"""Pools a batch of graphs.

        Args:
            x: Node features, ``[N, F]``; F is ``in_channels`` unless ``logits`` or ``assign_x`` is
                given.
            edge_index: Edges ``[2, E]``, int64, as (source, target); or an ``EdgeIndex``; or
                :math:`A^\top` as a ``SparseTensor`` or ``torch.sparse`` matrix with the edge
                weights (or features) for its values. An edge that is listed twice counts twice;
                for the ``link`` loss coalesce first, since ‖A‖ is summed over the list.
            edge_weight: ``[E]``. (default: ones)
            batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
            edge_attr: Edge features, ``[E, D]``, summed into the pooled edges.
            logits: Assignment scores, ``[N, K]``, in place of ``lin(assign_x)``.
            assign_x: Features to be scored in place of ``x``, ``[N, in_channels]``, such as the
                output of a pooling GNN.
            batch_size: The number of graphs B, when the last ones may be empty; saves a device
                sync. (default: read from ``batch``)
            generator: Source of randomness, on the device of ``x``. (default: torch's own)

        Returns:
            :class:`~gumbelpool.PoolOutput`, in the dtype of the inputs.

        Raises:
            TypeError: If an argument has the wrong type or dtype.
            ValueError: If shapes disagree, an edge end lies outside [0, N) or joins two graphs,
                ``batch`` is unsorted or negative, a row of logits has no softmax, or ``losses``
                has ``"modularity"`` and a weight is negative.
        """
        check_not_transformed("GumbelPool")
        inputs = read_inputs(
            x, (edge_index, edge_weight, edge_attr), batch, batch_size, logits, assign_x,
            self.in_channels, self.num_clusters,
        )  # fmt: skip
        check_generator(generator, x.device)
        inputs = self.scored_inputs(inputs, logits)
        sample = self.training or self.sample_in_eval
        uniform, seed = draw_randomness(x.size(0) if sample else None, x.device, generator)
        inputs = inputs._replace(uniform=uniform, seed=seed)
        pooled = op.pool(self.plan_for(x.device), inputs)
        if not sample:
            mean_entropy = pooled.entropy.sum() / max(x.size(0), 1)
            graph = pooled.supernode // self.num_clusters
            self.say_if_collapsed(pooled.size, graph, mean_entropy, inputs.limit)
        return self.output_of(output_for(edge_index), pooled, inputs, weight_sum)

    def scored_inputs(self, inputs: Inputs, logits: Tensor | None) -> Inputs:
        """Adds the head, or its scores, and how many clusters each graph may use."""
        if logits is None:
            self.prepare_head(inputs.scored)
        if logits is None and self.head_is_plain():
            check_head(self.lin.weight, inputs.scored.size(1), self.num_clusters, inputs.x.device)
            inputs = inputs._replace(weight=self.lin.weight, bias=self.lin.bias)
        elif logits is None:
            inputs = inputs._replace(source=self.scores(inputs.scored))
        limit = cluster_limit(inputs.num_nodes, self.ratio, self.num_clusters)
        return inputs._replace(limit=limit)

    def plan_for(self, device: torch.device) -> Plan:
        """What the options say, for tensors on a device."""
        return Plan(
            num_clusters=self.num_clusters,
            estimator=self.estimator,
            tau=float(self.tau),
            drop_empty=self.drop_empty,
            remove_self_loops=self.remove_self_loops,
            losses=list(self.losses),
            block_size=self.block_size or rows_per_block(self.num_clusters, device),
        )

    def output_of(
        self,
        form: type[PoolOutput],
        pooled: Pooled,
        inputs: Inputs,
        weight_sum: Callable[[Pooled, Inputs, int], Tensor],
    ) -> PoolOutput:
        """What the caller gets; ``weight_sum`` gives Σ w^power of each graph."""
        pooled_x, weight = pooled.x, inputs.edge_weight
        if self.aggr == "mean":
            pooled_x = pooled_x / pooled.size.clamp(min=1).unsqueeze(1)
        dtype = inputs.x.dtype
        weight_dtype = dtype if weight is None else weight.dtype
        attr = inputs.edge_attr
        statistics = self._statistics(pooled, inputs, weight_sum)
        return form(
            x=pooled_x.to(dtype),
            edge_index=pooled.edge_index,
            edge_weight=pooled.edge_weight.to(weight_dtype) if self.weighted else None,
            batch=pooled.supernode // self.num_clusters,
            edge_attr=None if attr is None else pooled.edge_attr.to(attr.dtype),
            cluster=pooled.cluster,
            losses=mean_losses(self.losses, statistics, inputs.dtype),
        )

    def _statistics(
        self,
        pooled: Pooled,
        inputs: Inputs,
        weight_sum: Callable[[Pooled, Inputs, int], Tensor],
    ) -> GraphStatistics:
        """‖A − SSᵀ‖² = ‖A‖² − 2 Σ_ij A_ij [c_i=c_j] + Σ_k n_k² for the one-hot S."""
        square = residual = weight = None
        if "link" in self.losses:
            square = weight_sum(pooled, inputs, 2)
            residual = torch.add(square + pooled.pairs, pooled.inside, alpha=-2)
        if "modularity" in self.losses:
            weight = weight_sum(pooled, inputs, 1)
        limit = inputs.limit
        if limit is None and "balance" in self.losses:
            limit = torch.full_like(inputs.num_nodes, self.num_clusters)
        return GraphStatistics(
            num_nodes=inputs.num_nodes,
            num_clusters=limit,
            residual=residual,
            weight_square=square,
            entropy=pooled.entropy,
            usage=pooled.usage,
            inside=pooled.inside,
            chance=pooled.chance,
            weight=weight,
        )


def weight_sum(pooled: Pooled, inputs: Inputs, power: int) -> Tensor:
    """Σ w^power of each graph, ``[B]``, float64; an edge counts as often as it is listed."""
    if inputs.edge_weight is None:
        return pooled.num_edges
    weight = inputs.edge_weight.double() ** power
    if inputs.num_graphs == 1:
        return weight.sum().unsqueeze(0)
    graph = inputs.batch.index_select(0, inputs.edge_index[0])
    return weight.new_zeros(inputs.num_graphs).index_add(0, graph, weight)
