r"""The streamed pool: it walks the rows of the assignment in blocks and never holds more of it.

Forward scores a block, draws from it and forgets it; of the N×K assignment only the cluster ids
stay. Backward scores each block again, forms the full straight-through gradient of its rows (every
cluster k, not only the drawn one),

.. math::
    g_{ik} = \langle \partial L / \partial X'_k, x_i \rangle
    + \sum_l G_{kl} (A_0 S)_{il} + \sum_l G_{lk} (A_0^\top S)_{il} + a_i G_{kk} + \ldots

with k, l over the clusters of node i's graph, G the gradient of the pooled edge values, A₀ the
edges that are no self-loops and a their self-loops; the dots stand for the sizes n_k and for
the three numbers per graph that the link and modularity losses are made of. All of these are linear
in each row of S (n_k² and vol⁺_k vol⁻_k without the constants that they are for i = j), so that g
needs no further terms. What is done to a block's rows is in :mod:`gumbelpool.rows`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gumbelpool import rows
from gumbelpool.coarsen import count_rows
from gumbelpool.edges import EdgeBlocks, Tables, Volumes
from gumbelpool.inputs import Inputs
from gumbelpool.plan import Draw, Plan, Pooled, PooledGradients, narrowest_dtype
from gumbelpool.rows.reference import Estimate, Table
from gumbelpool.validation import check_rows


def _stage(name: str) -> AbstractContextManager[object]:
    """Names a stage in profiles; where nothing is profiled, it costs nothing."""
    if torch._C._autograd._profiler_enabled():
        return record_function(f"gumbelpool::{name}")
    return nullcontext()


class _Assignment(NamedTuple):
    """A draw: local and slot (graph · K + local) of each node; the slots that have a row of X'."""

    local: Tensor
    slot: Tensor
    members: Tensor
    supernode: Tensor
    number: Tensor | None

    @staticmethod
    def of(plan: Plan, inputs: Inputs, local: Tensor) -> "_Assignment":
        slot = inputs.batch * plan.num_clusters + local
        members = count_rows(slot, inputs.num_graphs * plan.num_clusters)
        every = torch.arange(members.numel(), device=slot.device)
        if plan.drop_empty:
            kept = members > 0
        elif inputs.limit is not None:
            graph, cluster = every // plan.num_clusters, every % plan.num_clusters
            kept = cluster < inputs.limit.index_select(0, graph)
        else:
            return _Assignment(local, slot, members, every, None)
        supernode = kept.nonzero().squeeze(1)
        number = torch.cumsum(kept, 0) - 1
        return _Assignment(local, slot, members.index_select(0, supernode), supernode, number)

    def row(self, slot: Tensor) -> Tensor:
        """The row of X' of each of some slots that have one."""
        return slot if self.number is None else self.number.index_select(0, slot)


class _Scorer:
    """Gives the logits of one block of rows at a time, in the same memory each time.

    Those of the head that fill no more than a block are kept from forward to backward.
    """

    def __init__(self, plan: Plan, inputs: Inputs, kept: Tensor | None = None) -> None:
        self.inputs, self.dtype = inputs, inputs.dtype
        self.weight = None if inputs.weight is None else inputs.weight.to(self.dtype)
        self.bias = None if inputs.bias is None else inputs.bias.to(self.dtype)
        self.kept = None if kept is None or kept.size(0) == 0 else kept
        if self.kept is None:
            num_rows = min(plan.block_size, inputs.x.size(0))
            self.memory = inputs.x.new_empty(num_rows, plan.num_clusters, dtype=self.dtype)

    def to_keep(self) -> Tensor:
        """What backward need not score again, ``[N, K]`` or ``[0, K]``."""
        whole = self.memory.size(0) == self.inputs.x.size(0)
        keep = whole and self.weight is not None and self.inputs.limit is None
        return self.memory if keep else self.memory.new_empty(0, self.memory.size(1))

    def features(self, block: slice) -> Tensor:
        """The rows of what is scored, in the dtype that is computed in."""
        return self.inputs.scored[block].to(self.dtype)

    def scores(self, block: slice) -> Tensor:
        """The logits, also of clusters that a graph may not use; valid until the next call."""
        if self.kept is not None:
            return self.kept
        logits = self.memory[: block.stop - block.start]
        if self.weight is None:
            logits.copy_(self.inputs.scored[block])
        elif self.bias is None:
            torch.mm(self.features(block), self.weight.t(), out=logits)
        else:
            torch.addmm(self.bias, self.features(block), self.weight.t(), out=logits)
        return logits

    def logits(self, block: slice) -> Tensor:
        """The logits, −∞ where a graph may not use a cluster; valid until the next call."""
        logits = self.scores(block)
        if self.inputs.limit is not None:
            column = torch.arange(logits.size(1), device=logits.device)
            limit = self.inputs.limit.index_select(0, self.inputs.batch[block]).unsqueeze(1)
            logits.masked_fill_(column >= limit, -torch.inf)
        return logits

    def largest(self, row: int) -> Tensor:
        """The largest logit of a row; a NaN or +∞ also where the graph may not use the cluster."""
        block = slice(row, row + 1)
        everywhere = self.scores(block).amax()
        return torch.where(everywhere < torch.inf, self.logits(block).amax(), everywhere)


def _blocks(plan: Plan, inputs: Inputs) -> Iterator[slice]:
    num_rows = inputs.x.size(0)
    for start in range(0, num_rows, plan.block_size):
        yield slice(start, min(start + plan.block_size, num_rows))


# --- forward ------------------------------------------------------------------------------------


def pool_forward(plan: Plan, inputs: Inputs) -> Pooled:
    """Draws, pools and coarsens."""
    dtype, K = inputs.dtype, plan.num_clusters
    with _stage("draw"):
        local, entropy, usage, logits = _draw(plan, inputs)
    nodes = _Assignment.of(plan, inputs, local)
    num_slots = inputs.num_graphs * K
    with _stage("merge_edges"):
        # An edge's ends are in one graph, so its target's cluster tells its target's supernode.
        valued = inputs.edge_weight is not None or inputs.edge_attr is not None
        edge_index, count, position = rows.of(inputs.x).merge_edges(
            inputs.edge_index, nodes.slot, local, num_slots, K, valued
        )
        first = torch.arange(0, num_slots + 1, K, device=count.device)
        length = torch.searchsorted(edge_index[0], first).diff()
        graph = torch.repeat_interleave(length, output_size=count.numel())
        if inputs.num_graphs > 1:
            edge_index[1].add_(graph, alpha=K)
        weight = count.double()
        num_edges = weight.new_zeros(inputs.num_graphs).index_add_(0, graph, weight)
        if inputs.edge_weight is not None and position is not None:
            weight = rows.of(inputs.x).sum_rows(inputs.edge_weight, position, count.numel())
        attr = weight.new_empty(count.numel(), 0)
        if inputs.edge_attr is not None and position is not None:
            attr = rows.of(inputs.x).sum_rows(inputs.edge_attr, position, count.numel())
    inside, pairs, chance = (torch.zeros_like(num_edges) for _ in range(3))
    if "link" in plan.losses:
        pairs.index_add_(0, nodes.supernode // K, nodes.members.square().double())
    if "link" in plan.losses or "modularity" in plan.losses:
        inside.index_add_(0, graph, weight.where(edge_index[0] == edge_index[1], 0))
    if "modularity" in plan.losses:
        out, into = (rows.of(inputs.x).sum_rows(weight, end, num_slots) for end in edge_index)
        chance = (out * into).view(-1, K).sum(1)
    if plan.remove_self_loops:
        kept = (edge_index[0] != edge_index[1]).nonzero().squeeze(1)
        edge_index = edge_index.index_select(1, kept)
        weight, attr = weight.index_select(0, kept), attr.index_select(0, kept)
    with _stage("pool_features"):
        cluster = nodes.row(nodes.slot)
        x = rows.of(inputs.x).sum_rows(inputs.x, cluster, nodes.supernode.numel()).to(dtype)
    return Pooled(
        x=x,
        size=nodes.members.to(dtype),
        edge_weight=weight.to(dtype),
        edge_attr=attr.to(dtype),
        inside=inside,
        pairs=pairs,
        chance=chance,
        entropy=entropy,
        usage=usage,
        edge_index=nodes.row(edge_index.view(-1)).view(2, -1),
        cluster=cluster,
        supernode=nodes.supernode,
        num_edges=num_edges,
        local=local.to(narrowest_dtype(K)),
        logits=logits,
    )


def _draw(plan: Plan, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One local cluster id per node ``[N]``, ``entropy`` and ``usage``, and the logits to keep."""
    batch, num_graphs = inputs.batch, inputs.num_graphs
    entropy = torch.zeros(num_graphs, dtype=torch.float64, device=batch.device)
    usage = entropy.new_zeros(num_graphs, plan.num_clusters)
    # In eval() it tells whether assignments that are all the same were decided.
    wants_entropy = "entropy" in plan.losses or inputs.uniform is None
    scorer = _Scorer(plan, inputs)
    local = torch.empty_like(batch)
    for block in _blocks(plan, inputs):
        local[block] = rows.of(inputs.x).sample_rows(
            scorer.logits(block),
            None if inputs.uniform is None else inputs.uniform[block],
            batch[block],
            entropy if wants_entropy else None,
            usage if "balance" in plan.losses else None,
        )
        if inputs.limit is not None:  # NaN and +∞ are errors in columns that are not used as well
            local[block].masked_fill_(~(scorer.scores(block).amax(-1) < torch.inf), -1)
    check_rows(
        local < 0,
        "logits" if inputs.weight is None else "lin(x)",
        scorer.largest,
    )
    return local.clamp_(min=0), entropy, usage, scorer.to_keep()


# --- backward -----------------------------------------------------------------------------------


def pool_backward(
    plan: Plan, inputs: Inputs, draw: Draw, grad: PooledGradients, needs: Inputs
) -> Inputs:
    """The gradients of the inputs that need one, by ``needs``; the others' are ``None``.

    Where x itself was scored, its gradient is the sum of both.
    """
    nodes = _Assignment.of(plan, inputs, draw.local.long())
    edge_index = draw.edge_index
    if nodes.number is not None:
        edge_index = nodes.supernode.index_select(0, edge_index.view(-1)).view(2, -1)
    to = Inputs(*[None] * len(inputs))  # type: ignore[arg-type]
    volumes = None
    if grad.chance is not None:
        volumes = Volumes.of(plan, inputs, nodes.slot, grad.chance)
    if needs.x and grad.x is not None:
        to = to._replace(x=grad.x.index_select(0, nodes.row(nodes.slot)))
    if needs.edge_weight or needs.edge_attr:
        with _stage("gradient_of_edges"):
            to = _edge_gradients(plan, inputs, nodes, grad, volumes, needs, to)
    scored = "x" if inputs.source is None else "source"
    if getattr(needs, scored) or needs.weight or needs.bias:
        with _stage("tables"):
            gradient = _AssignmentGradient(plan, inputs, nodes, edge_index, grad, volumes)
        scorer = _Scorer(plan, inputs, draw.logits)
        to = _score_gradients(scorer, plan, gradient, grad, needs, to)
    cast = (
        None if tensor is None or like is None or not need else tensor.to(like.dtype)
        for tensor, like, need in zip(to, inputs, needs, strict=True)
    )
    return Inputs(*cast)  # type: ignore[arg-type]


def _edge_gradients(
    plan: Plan,
    inputs: Inputs,
    nodes: _Assignment,
    grad: PooledGradients,
    volumes: Volumes | None,
    needs: Inputs,
    to: Inputs,
) -> Inputs:
    """Each edge's gradient is that of the pooled edge that it went to."""
    K = plan.num_clusters
    (slot, local), count, position = rows.of(inputs.x).merge_edges(
        inputs.edge_index, nodes.slot, nodes.local, inputs.num_graphs * K, K
    )
    assert position is not None
    graph, loop = slot // K, slot % K == local
    kept = (~loop).nonzero().squeeze(1) if plan.remove_self_loops else None

    def to_edges(pooled: Tensor | None, channels: tuple[int, ...], own: Tensor | None) -> Tensor:
        each = torch.zeros(count.numel(), *channels, dtype=inputs.dtype, device=count.device)
        if pooled is not None:
            each = pooled if kept is None else each.index_copy_(0, kept, pooled)
        if own is not None:
            each = each + own
        return each.index_select(0, position)

    if needs.edge_weight:
        own = None if grad.inside is None else grad.inside.index_select(0, graph) * loop
        if volumes is not None:
            by_volume = volumes.of_pairs(slot, graph * K + local, graph)
            own = by_volume if own is None else own + by_volume
        to = to._replace(edge_weight=to_edges(grad.edge_weight, (), own))
    if needs.edge_attr and inputs.edge_attr is not None:
        channels = tuple(inputs.edge_attr.shape[1:])
        to = to._replace(edge_attr=to_edges(grad.edge_attr, channels, None))
    return to


def _score_gradients(
    scorer: _Scorer,
    plan: Plan,
    gradient: "_AssignmentGradient",
    grad: PooledGradients,
    needs: Inputs,
    to: Inputs,
) -> Inputs:
    """Adds the gradients of what is scored, of the head and of its bias, block by block."""
    inputs, dtype = scorer.inputs, scorer.dtype
    assert inputs.seed is not None
    estimate = Estimate(plan.estimator, plan.tau, inputs.seed)
    scored = "x" if inputs.source is None else "source"
    to_scored = getattr(to, scored)
    if to_scored is None and getattr(needs, scored):
        to_scored = torch.zeros_like(inputs.scored, dtype=dtype)
    weight, to_weight, to_bias = scorer.weight, None, None
    if weight is not None and needs.weight:
        to_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    if scorer.bias is not None and needs.bias:
        to_bias = torch.zeros_like(scorer.bias)
    usage = None if grad.usage is None else grad.usage.to(dtype)
    entropy = None if grad.entropy is None else grad.entropy.to(dtype)
    for block in _blocks(plan, inputs):
        logits = scorer.logits(block)
        g = gradient.block(block)
        with _stage("row_gradient"):
            rows.of(g).row_gradient_(
                g, logits, gradient.nodes.local[block], block.start, estimate,
                inputs.batch[block], entropy, usage,
            )  # fmt: skip
        if to_scored is not None and weight is None:
            to_scored[block] = g
        elif to_scored is not None:
            to_scored[block].addmm_(g, weight)
        if to_weight is not None:
            to_weight.addmm_(g.t(), scorer.features(block))
        if to_bias is not None:
            to_bias += g.sum(0)
    return to._replace(**{scored: to_scored, "weight": to_weight, "bias": to_bias})


class _AssignmentGradient:
    """Prepares what all blocks share, and gives g of one block of rows at a time."""

    def __init__(
        self,
        plan: Plan,
        inputs: Inputs,
        nodes: _Assignment,
        edge_index: Tensor,
        grad: PooledGradients,
        volumes: Volumes | None,
    ) -> None:
        self.plan, self.inputs, self.nodes, self.dtype = plan, inputs, nodes, inputs.dtype
        inside = None if grad.inside is None else grad.inside.to(self.dtype)
        graph = nodes.supernode // plan.num_clusters

        # What all nodes of a graph share, the gradient of the sizes and of Σ n_k², and what their
        # features and degrees are multiplied with; `own` is the part i = j in that, per node.
        self.matrix, self.shared = grad.x, grad.size
        self.num_features = 0 if grad.x is None else grad.x.size(1)
        self.degree: Tensor | None = None
        self.own: Tensor | None = None
        if grad.pairs is not None:
            slope = 2 * grad.pairs.to(self.dtype)
            pairs = slope.index_select(0, graph) * nodes.members
            self.shared = pairs if self.shared is None else self.shared + pairs
            self.own = slope.index_select(0, inputs.batch)
        if volumes is not None:
            self.degree = volumes.degree.to(self.dtype)
            columns = volumes.of_degrees(nodes.supernode, graph).to(self.dtype)
            self.matrix = columns if grad.x is None else torch.cat([grad.x, columns], dim=1)
            own = 2 * volumes.of_nodes(inputs.batch).to(self.dtype)
            self.own = own if self.own is None else self.own + own
        if inputs.num_graphs == 1 and nodes.number is not None:
            self.matrix, self.shared = self._all_slots(self.matrix), self._all_slots(self.shared)

        num_rows = min(plan.block_size, inputs.x.size(0))
        self.memory = inputs.x.new_empty(num_rows, plan.num_clusters, dtype=self.dtype)
        self.edges = EdgeBlocks(plan, inputs) if inputs.edge_index.size(1) > 0 else None
        self.channels: list[tuple[Tensor | None, tuple[Table, Table]]] = []
        tables = Tables(plan, inputs, nodes.supernode, edge_index)
        if grad.edge_weight is not None or inside is not None:
            both = tables.of(grad.edge_weight, inside)
            self.channels.append((inputs.edge_weight, both))
        if grad.edge_attr is not None and inputs.edge_attr is not None:
            for each, value in zip(grad.edge_attr.t(), inputs.edge_attr.t(), strict=True):
                self.channels.append((value, tables.of(each, None)))

    def _all_slots(self, rows_of_supernodes: Tensor | None) -> Tensor | None:
        if rows_of_supernodes is None:
            return None
        shape = (self.plan.num_clusters, *rows_of_supernodes.shape[1:])
        every = rows_of_supernodes.new_zeros(shape)
        return every.index_copy_(0, self.nodes.supernode, rows_of_supernodes)

    def block(self, block: slice) -> Tensor:
        """The rows ``block`` of g, ``[rows, K]``; valid until the next call."""
        g, nodes = self.memory[: block.stop - block.start], self.nodes
        with _stage("products"):
            self._multiply(g, block)
        if self.own is not None:
            own = self.own[block].unsqueeze(1)
            g.scatter_add_(1, nodes.local[block].unsqueeze(1), own.neg())
        if self.edges is not None and self.channels:
            with _stage("add_edges"):
                for end in (0, 1):
                    near, far, edges = self.edges.of(block, end)
                    for value, tables in self.channels:
                        if value is not None:
                            value = (value if edges is None else value[edges]).to(self.dtype)
                        table = tables[end]
                        rows.of(g).add_edges_(g, block.start, near, far, value, nodes.slot, table)
        return g

    def _multiply(self, g: Tensor, block: slice) -> None:
        """Writes ⟨∂L/∂X'_k, x_i⟩, the same of the degrees, and what the nodes share, to g."""
        matrix, shared, inputs = self.matrix, self.shared, self.inputs
        if matrix is None and shared is None:
            g.zero_()
            return
        if matrix is None:
            assert shared is not None
            matrix = g.new_zeros(shared.numel(), 0)
        x = inputs.x[block, : self.num_features].to(self.dtype)
        if self.degree is not None:
            x = torch.cat([x, self.degree[block]], dim=1)
        if inputs.num_graphs > 1:
            rows.of(g).multiply_rows_(
                g, x, matrix, shared, self.nodes.supernode, inputs.batch[block], inputs.num_graphs
            )
        elif shared is None:
            torch.mm(x, matrix.t(), out=g)
        else:
            torch.addmm(shared, x, matrix.t(), out=g)
