"""The baseline: PyG's dense DiffPool behind the call and the output of ``GumbelPool``."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import dense_diff_pool
from torch_geometric.typing import Adj

from gumbelpool import op
from gumbelpool.base import ClusterPool
from gumbelpool.inputs import cluster_limit, read_inputs
from gumbelpool.losses import GraphStatistics, mean_losses
from gumbelpool.options import check_generator
from gumbelpool.output import PoolOutput, output_for
from gumbelpool.validation import check_head, check_row_maximum


class DenseDiffPool(ClusterPool):
    r"""Pools every graph to K supernodes by a soft assignment (PyG's ``dense_diff_pool``).

    .. math::
        S = \mathrm{softmax}(\theta), \qquad X' = S^{\top} X, \qquad A' = S^{\top} A S

    (`Ying et al. 2018 <https://arxiv.org/abs/1806.08804>`_). Takes the same call as
    :class:`~gumbelpool.GumbelPool` and the constructor options that mean something for a soft
    assignment, so that either stands in for the other. The pooled graph holds all K² edges of
    every graph, self-loops and zeros included; memory grows with B·(max n)². The losses are those
    of ``GumbelPool`` taken at the soft S (PyG's own depend on the padding of the batch), but that
    an edge listed twice is one edge of the summed weight; and by default they are DiffPool's own
    two. A graph has rows for its K_g supernodes only. ``PoolOutput.unpool`` takes the row of each
    node's most likely supernode; that is not S x.

    Args:
        in_channels (int, optional): Channels of the features that the assignment is computed
            from; ``-1`` and ``None`` as in :class:`~gumbelpool.GumbelPool`.
        num_clusters (int): K, the supernodes per graph (an upper bound where ``ratio`` is given).
        ratio (float, optional): Graph g has
            :math:`K_g = \min(K, \max(1, \lceil \mathrm{ratio} \cdot n_g \rceil))` supernodes.
            (default: ``None``, K for every graph)
        aggr (str): ``"sum"`` of the members' features, or their ``"mean"`` weighted by S.
            (default: ``"sum"``)
        losses (tuple of str): Any of ``"link"``, ``"entropy"``, ``"balance"`` and
            ``"modularity"``; ``()`` for none. (default: ``("link", "entropy")``)
        remove_self_loops (bool): Leaves the diagonal of A' out. (default: ``False``)
        bias (bool): Whether the assignment head has a bias. (default: ``True``)

    Attributes:
        lin (torch.nn.Linear): The assignment head, ``in_channels`` to ``num_clusters``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range or not among its choices.
    """

    def __init__(
        self,
        in_channels: int | None,
        num_clusters: int,
        *,
        ratio: float | None = None,
        aggr: str = "sum",
        losses: Sequence[str] = ("link", "entropy"),
        remove_self_loops: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_clusters = num_clusters
        self.ratio = ratio
        self.aggr = aggr
        self.losses = losses
        self.remove_self_loops = remove_self_loops
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
        """Pools a batch of graphs.

        Args:
            x: Node features, ``[N, F]``; F is ``in_channels`` unless ``logits`` or ``assign_x`` is
                given.
            edge_index: As in :class:`~gumbelpool.GumbelPool`.
            edge_weight: ``[E]``. (default: ones)
            batch: Graph of each node, ``[N]``, int64, sorted. (default: one graph)
            edge_attr: Edge features, ``[E, D]``.
            logits: Assignment scores, ``[N, K]``, in place of ``lin(assign_x)``.
            assign_x: Features to be scored in place of ``x``, ``[N, in_channels]``.
            batch_size: The number of graphs B. (default: read from ``batch``)
            generator: Has no effect, since nothing is drawn; here so that the call is the same.

        Returns:
            :class:`~gumbelpool.PoolOutput`, where ``cluster`` is the most likely supernode of each
            node.

        Raises:
            TypeError: If an argument has the wrong type or dtype.
            ValueError: As in :class:`~gumbelpool.GumbelPool`.
        """
        check_generator(generator)
        inputs = read_inputs(
            x, (edge_index, edge_weight, edge_attr), batch, batch_size, logits, assign_x,
            self.in_channels, self.num_clusters,
        )  # fmt: skip
        n = op.longest_graph(inputs, list(self.losses))  # checks the data too
        K, B, batch = self.num_clusters, inputs.num_graphs, inputs.batch
        weight, edge_attr = inputs.edge_weight, inputs.edge_attr
        if weight is None:
            weight = x.new_ones(inputs.edge_index.size(1))
        values = weight.unsqueeze(1)
        if edge_attr is not None:
            values = torch.cat([values, edge_attr], dim=1)
        theta = self._scores(inputs.scored) if logits is None else logits
        dtype = torch.promote_types(inputs.dtype, theta.dtype)
        theta, everywhere = theta.to(dtype), None
        limit = cluster_limit(inputs.num_nodes, self.ratio, K)
        allowed = torch.ones(B, K, dtype=torch.bool, device=x.device)
        if limit is not None:
            allowed = torch.arange(K, device=x.device) < limit.unsqueeze(1)
            everywhere = theta.amax(-1)
            theta = theta.masked_fill(~allowed[batch], -torch.inf)
        check_row_maximum(theta.amax(-1), "lin(x)" if logits is None else "logits", everywhere)

        # Nodes and edges at their places in a batch of graphs that are padded to the longest.
        start = inputs.num_nodes.cumsum(0) - inputs.num_nodes
        local = torch.arange(x.size(0), device=x.device) - start.index_select(0, batch)
        place, (row, col) = batch * n + local, inputs.edge_index
        mask = torch.arange(n, device=x.device) < inputs.num_nodes.unsqueeze(1)
        padded_x = _scatter(x.to(dtype), place, B, n)
        padded_theta = _scatter(theta, place, B, n)
        entry = place.index_select(0, row) * n + local.index_select(0, col)
        values = _scatter(values.to(dtype), entry, B, n, n)
        adjacency = values[..., 0]
        pooled_x, pooled_adjacency, _, _ = dense_diff_pool(padded_x, adjacency, padded_theta, mask)
        soft = padded_theta.softmax(-1) * mask.unsqueeze(-1)
        usage = soft.sum(1)
        if self.aggr == "mean":
            pooled_x = pooled_x / usage.clamp(min=torch.finfo(dtype).eps).unsqueeze(-1)

        # All K_g² edges of every graph in sparse form; row-major order is sorted order.
        pairs = allowed.unsqueeze(2) & allowed.unsqueeze(1)
        if self.remove_self_loops:
            pairs = pairs & ~torch.eye(K, dtype=torch.bool, device=x.device)
        graph, source, target = op.nonzero(pairs).unbind(1)
        row = (allowed.flatten().cumsum(0) - 1).view(B, K)
        supernode = torch.arange(B * K, device=x.device)
        if limit is not None:
            supernode = op.nonzero(allowed.flatten()).squeeze(1)
        attr = None
        if edge_attr is not None:
            attr = torch.einsum("bnk,bnmd,bml->bkld", soft, values[..., 1:], soft)
            attr = attr[graph, source, target].to(edge_attr.dtype)

        expected = pooled_adjacency.double()  # its rows and columns sum to the volumes
        residual = (adjacency - soft @ soft.transpose(1, 2)).square().sum((1, 2))
        statistics = GraphStatistics(
            num_nodes=inputs.num_nodes,
            num_clusters=allowed.sum(1),
            residual=residual,
            weight_square=adjacency.square().sum((1, 2)),
            entropy=torch.special.entr(soft.where(soft > 0, torch.ones_like(soft))).sum((1, 2)),
            usage=usage,
            inside=expected.diagonal(dim1=1, dim2=2).sum(1),
            chance=(expected.sum(2) * expected.sum(1)).sum(1),
            weight=adjacency.sum((1, 2), dtype=torch.float64),
        )
        return output_for(edge_index)(
            x=pooled_x.flatten(0, 1).index_select(0, supernode).to(x.dtype),
            edge_index=torch.stack([row[graph, source], row[graph, target]]),
            edge_weight=pooled_adjacency[graph, source, target].to(weight.dtype),
            batch=supernode // K,
            edge_attr=attr,
            cluster=row[batch, theta.argmax(-1)],
            losses=mean_losses(self.losses, statistics, dtype),
        )

    def _scores(self, assign_x: Tensor) -> Tensor:
        """The head's scores; its own dtype need not be that of the features."""
        self.prepare_head(assign_x)
        if not self.head_is_plain():
            return self.scores(assign_x)
        weight, bias = self.lin.weight, self.lin.bias
        check_head(weight, assign_x.size(1), self.num_clusters, assign_x.device)
        dtype = torch.promote_types(assign_x.dtype, weight.dtype)
        return F.linear(
            assign_x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        )


def _scatter(rows: Tensor, index: Tensor, *shape: int) -> Tensor:
    """Sums rows into the entries of a tensor of this shape, each at its flat index."""
    total = rows.new_zeros(math.prod(shape), *rows.shape[1:])
    return total.index_add(0, index, rows).view(*shape, *rows.shape[1:])
