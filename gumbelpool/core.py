r"""The streamed pool: it walks the rows of the assignment in blocks and never holds more of it.

Forward scores a block, draws from it and forgets it; of the N×K assignment only the cluster ids
stay. Backward scores each block again, forms the full straight-through gradient of its rows (every
cluster k, not only the drawn one),

.. math::
    g_{ik} = \langle \partial L / \partial X'_k, x_i \rangle
    + \sum_l G_{kl} (A_0 S)_{il} + \sum_l G_{lk} (A_0^\top S)_{il} + a_i G_{kk} + \ldots

with k, l over the clusters of node i's graph, G the gradient of the pooled edge values, A₀ the
edges that are no self-loops and a their self-loops; the dots stand for the sizes n_k and the
agreement that the link loss is made of. All of these are linear in each row of S, so that g needs
no further terms. What is done to a block's rows is in :mod:`gumbelpool.rows`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gumbelpool import rows
from gumbelpool.coarsen import count_rows
from gumbelpool.inputs import Inputs
from gumbelpool.rows.reference import Estimate, Table, index_dtype, split_keys
from gumbelpool.validation import check_rows

FILL = 16  # a table may have this many times more entries than are not zero
SMALL = 1 << 16  # or this many entries in any case


class Plan(NamedTuple):
    """The settings of one forward pass.

    Attributes:
        num_clusters: K.
        estimator: A name in ``ESTIMATORS``.
        tau: Its temperature.
        drop_empty: Whether supernodes without members are left out.
        remove_self_loops: Whether pooled self-loops are left out.
        losses: The names of the losses, so that no statistic is computed in vain.
        block_size: Rows per block.
    """

    num_clusters: int
    estimator: str
    tau: float
    drop_empty: bool
    remove_self_loops: bool
    losses: list[str]
    block_size: int


class Pooled(NamedTuple):
    """What comes out; every float tensor is differentiable.

    Attributes:
        x: Sums of the members' features, ``[K', F]``.
        size: Number of members, ``[K']``, float.
        edge_weight: Sums of the merged edges' weights, ``[E']``.
        edge_attr: Sums of the merged edges' features, ``[E', D]``, or ``[E', 0]``.
        agreement: Σ_ij A_ij [c_i=c_j] − ½ Σ_{i≠j} [c_i=c_j] of each graph, ``[B]``, float64.
        entropy: Σ_i H(p_i) of each graph, ``[B]``, float64.
        usage: Σ_i p_i of each graph, ``[B, K]``, float64.
        edge_index: ``[2, E']``.
        cluster: Row of ``x`` of each node, ``[N]``.
        supernode: graph · K + cluster of each row of ``x``, ``[K']``, ascending.
        local: Cluster of each node, ``[N]``, in [0, K), as narrow integers.
    """

    x: Tensor
    size: Tensor
    edge_weight: Tensor
    edge_attr: Tensor
    agreement: Tensor
    entropy: Tensor
    usage: Tensor
    edge_index: Tensor
    cluster: Tensor
    supernode: Tensor
    local: Tensor


class PooledGradients(NamedTuple):
    """Gradients of the differentiable fields of :class:`Pooled`, each ``None`` where unused."""

    x: Tensor | None
    size: Tensor | None
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    agreement: Tensor | None
    entropy: Tensor | None
    usage: Tensor | None


def rows_per_block(num_columns: int, device: torch.device) -> int:
    """How many rows of ``num_columns`` entries make a block of the streamed computation.

    On a CPU a few blocks fit the second-level cache, yet have rows enough for matrix products; on
    an accelerator a block is large enough to keep it busy.
    """
    if device.type == "cpu":
        return max(96, (1 << 18) // max(num_columns, 16))
    return max(1, (1 << 25) // max(num_columns, 1))


def narrowest_dtype(bound: int) -> torch.dtype:
    """The narrowest dtype that holds the integers below ``bound``."""
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if bound <= torch.iinfo(dtype).max + 1:
            return dtype
    return torch.int64


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
    """Gives the logits of one block of rows at a time, in the same memory each time."""

    def __init__(self, plan: Plan, inputs: Inputs) -> None:
        self.inputs, self.dtype = inputs, inputs.dtype
        self.weight = None if inputs.weight is None else inputs.weight.to(self.dtype)
        self.bias = None if inputs.bias is None else inputs.bias.to(self.dtype)
        num_rows = min(plan.block_size, inputs.x.size(0))
        self.memory = inputs.x.new_empty(num_rows, plan.num_clusters, dtype=self.dtype)

    def features(self, block: slice) -> Tensor:
        """The rows of what is scored, in the dtype that is computed in."""
        return self.inputs.scored[block].to(self.dtype)

    def logits(self, block: slice) -> Tensor:
        """The logits, −∞ where a graph may not use a cluster; valid until the next call."""
        logits = self.memory[: block.stop - block.start]
        if self.weight is None:
            logits.copy_(self.inputs.scored[block])
        elif self.bias is None:
            torch.mm(self.features(block), self.weight.t(), out=logits)
        else:
            torch.addmm(self.bias, self.features(block), self.weight.t(), out=logits)
        if self.inputs.limit is not None:
            column = torch.arange(logits.size(1), device=logits.device)
            limit = self.inputs.limit.index_select(0, self.inputs.batch[block]).unsqueeze(1)
            logits.masked_fill_(column >= limit, -torch.inf)
        return logits


def _blocks(plan: Plan, inputs: Inputs) -> Iterator[slice]:
    num_rows = inputs.x.size(0)
    for start in range(0, num_rows, plan.block_size):
        yield slice(start, min(start + plan.block_size, num_rows))


# --- forward ------------------------------------------------------------------------------------


def pool_forward(plan: Plan, inputs: Inputs) -> Pooled:
    """Draws, pools and coarsens."""
    dtype, K = inputs.dtype, plan.num_clusters
    with record_function("gumbelpool::draw"):
        local, entropy, usage = _draw(plan, inputs)
    nodes = _Assignment.of(plan, inputs, local)
    num_slots = inputs.num_graphs * K
    with record_function("gumbelpool::merge_edges"):
        # An edge's ends are in one graph, so its target's cluster tells its target's supernode.
        valued = inputs.edge_weight is not None or inputs.edge_attr is not None
        key, count, position = rows.of(inputs.x).merge_edges(
            inputs.edge_index, nodes.slot, local, num_slots, K, valued
        )
        edge_index = split_keys(key, K)
        graph = edge_index[0] // K
        if inputs.num_graphs > 1:
            edge_index[1].add_(graph, alpha=K)
        weight = count.double()
        if inputs.edge_weight is not None and position is not None:
            weight = rows.of(inputs.x).sum_rows(inputs.edge_weight, position, key.numel())
        attr = weight.new_empty(key.numel(), 0)
        if inputs.edge_attr is not None and position is not None:
            attr = rows.of(inputs.x).sum_rows(inputs.edge_attr, position, key.numel())
    agreement = weight.new_zeros(inputs.num_graphs)
    if "link" in plan.losses:
        pairs = nodes.members * (nodes.members - 1)
        agreement.index_add_(0, nodes.supernode // K, pairs.double(), alpha=-0.5)
        inside = weight.where(edge_index[0] == edge_index[1], 0)
        agreement.index_add_(0, graph, inside)
    if plan.remove_self_loops:
        kept = (edge_index[0] != edge_index[1]).nonzero().squeeze(1)
        edge_index = edge_index.index_select(1, kept)
        weight, attr = weight.index_select(0, kept), attr.index_select(0, kept)
    with record_function("gumbelpool::pool_features"):
        cluster = nodes.row(nodes.slot)
        x = rows.of(inputs.x).sum_rows(inputs.x, cluster, nodes.supernode.numel()).to(dtype)
    return Pooled(
        x=x,
        size=nodes.members.to(dtype),
        edge_weight=weight.to(dtype),
        edge_attr=attr.to(dtype),
        agreement=agreement,
        entropy=entropy,
        usage=usage,
        edge_index=nodes.row(edge_index.view(-1)).view(2, -1),
        cluster=cluster,
        supernode=nodes.supernode,
        local=local.to(narrowest_dtype(K)),
    )


def _draw(plan: Plan, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """One local cluster id per node ``[N]``, and the statistics ``entropy`` and ``usage``."""
    batch, num_graphs = inputs.batch, inputs.num_graphs
    sums = {"dtype": torch.float64, "device": batch.device}
    entropy = torch.zeros(num_graphs, **sums)
    usage = torch.zeros(num_graphs, plan.num_clusters, **sums)
    scorer = _Scorer(plan, inputs)
    local = torch.empty_like(batch)
    for block in _blocks(plan, inputs):
        local[block] = rows.of(inputs.x).sample_rows(
            scorer.logits(block),
            None if inputs.uniform is None else inputs.uniform[block],
            batch[block],
            entropy if "entropy" in plan.losses else None,
            usage if "balance" in plan.losses else None,
        )
    check_rows(
        local < 0,
        "logits" if inputs.weight is None else "lin(x)",
        lambda row: scorer.logits(slice(row, row + 1)).amax(),
    )
    return local.clamp_(min=0), entropy, usage


# --- backward -----------------------------------------------------------------------------------


def pool_backward(
    plan: Plan, inputs: Inputs, pooled: tuple[Tensor, Tensor], grad: PooledGradients, needs: Inputs
) -> Inputs:
    """The gradients of the inputs that need one, by ``needs``; the others' are ``None``.

    Of what came out of :func:`pool_forward`, ``pooled`` holds ``local`` and ``edge_index``. Where x
    itself was scored, x's gradient is the sum of both.
    """
    nodes = _Assignment.of(plan, inputs, pooled[0].long())
    edge_index = nodes.supernode.index_select(0, pooled[1].view(-1)).view(2, -1)
    to = Inputs(*[None] * len(inputs))  # type: ignore[arg-type]
    if needs.x and grad.x is not None:
        to = to._replace(x=grad.x.index_select(0, nodes.row(nodes.slot)))
    if needs.edge_weight or needs.edge_attr:
        with record_function("gumbelpool::gradient_of_edges"):
            to = _edge_gradients(plan, inputs, nodes, grad, needs, to)
    scored = "x" if inputs.source is None else "source"
    if getattr(needs, scored) or needs.weight or needs.bias:
        with record_function("gumbelpool::tables"):
            gradient = _AssignmentGradient(plan, inputs, nodes, edge_index, grad)
        to = _score_gradients(plan, inputs, gradient, grad, needs, to)
    cast = (
        None if tensor is None or not need else tensor.to(like.dtype)
        for tensor, like, need in zip(to, inputs, needs, strict=True)
    )
    return Inputs(*cast)  # type: ignore[arg-type]


def _edge_gradients(
    plan: Plan,
    inputs: Inputs,
    nodes: _Assignment,
    grad: PooledGradients,
    needs: Inputs,
    to: Inputs,
) -> Inputs:
    """Each edge's gradient is that of the pooled edge that it went to."""
    K = plan.num_clusters
    key, _, position = rows.of(inputs.x).merge_edges(
        inputs.edge_index, nodes.slot, nodes.local, inputs.num_graphs * K, K
    )
    assert position is not None
    slot, local = split_keys(key, K)
    loop = slot % K == local
    kept = (~loop).nonzero().squeeze(1) if plan.remove_self_loops else None

    def to_edges(pooled: Tensor | None, channels: tuple[int, ...], own: Tensor | None) -> Tensor:
        each = torch.zeros(key.numel(), *channels, dtype=inputs.dtype, device=key.device)
        if pooled is not None:
            each = pooled if kept is None else each.index_copy_(0, kept, pooled)
        if own is not None:
            each = each + own.index_select(0, slot // K) * loop
        return each.index_select(0, position)

    if needs.edge_weight:
        to = to._replace(edge_weight=to_edges(grad.edge_weight, (), grad.agreement))
    if needs.edge_attr and inputs.edge_attr is not None:
        channels = tuple(inputs.edge_attr.shape[1:])
        to = to._replace(edge_attr=to_edges(grad.edge_attr, channels, None))
    return to


def _score_gradients(
    plan: Plan,
    inputs: Inputs,
    gradient: "_AssignmentGradient",
    grad: PooledGradients,
    needs: Inputs,
    to: Inputs,
) -> Inputs:
    """Adds the gradients of what is scored, of the head and of its bias, block by block."""
    scorer, dtype = _Scorer(plan, inputs), inputs.dtype
    assert inputs.seed is not None
    estimate = Estimate(plan.estimator, plan.tau, inputs.seed)
    scored = "x" if inputs.source is None else "source"
    to_scored = getattr(to, scored)
    if to_scored is None and getattr(needs, scored):
        to_scored = torch.zeros_like(inputs.scored, dtype=dtype)
    weight, to_weight, to_bias = scorer.weight, None, None
    if weight is not None and needs.weight:
        to_weight = torch.zeros_like(weight.t(), memory_format=torch.contiguous_format)
    if scorer.bias is not None and needs.bias:
        to_bias = torch.zeros_like(scorer.bias)
    usage = None if grad.usage is None else grad.usage.to(dtype)
    entropy = None if grad.entropy is None else grad.entropy.to(dtype)
    for block in _blocks(plan, inputs):
        logits = scorer.logits(block)
        g = gradient.block(block)
        with record_function("gumbelpool::row_gradient"):
            rows.of(g).row_gradient_(
                g, logits, gradient.nodes.local[block], block.start, estimate,
                inputs.batch[block], entropy, usage,
            )  # fmt: skip
        if to_scored is not None and weight is None:
            to_scored[block] = g
        elif to_scored is not None:
            to_scored[block].addmm_(g, weight)
        if to_weight is not None:  # transposed, which is the faster product
            to_weight.addmm_(scorer.features(block).t(), g)
        if to_bias is not None:
            to_bias += g.sum(0)
    if to_weight is not None:
        to_weight = to_weight.t()
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
    ) -> None:
        self.plan, self.inputs, self.nodes, self.dtype = plan, inputs, nodes, inputs.dtype
        self.agreement = None if grad.agreement is None else grad.agreement.to(self.dtype)
        graph = nodes.supernode // plan.num_clusters

        # What all nodes of a graph share: the gradient of the sizes, and of ½ Σ n_k (n_k − 1).
        self.matrix, self.shared = grad.x, grad.size
        if self.agreement is not None:
            pairs = -self.agreement.index_select(0, graph) * nodes.members
            self.shared = pairs if self.shared is None else self.shared + pairs
        if inputs.num_graphs == 1 and nodes.number is not None:
            self.matrix, self.shared = self._all_slots(self.matrix), self._all_slots(self.shared)

        num_rows = min(plan.block_size, inputs.x.size(0))
        self.memory = inputs.x.new_empty(num_rows, plan.num_clusters, dtype=self.dtype)
        self.edges = _Edges(plan, inputs) if inputs.edge_index.size(1) > 0 else None
        self.channels: list[tuple[Tensor | None, tuple[Table, Table]]] = []
        tables = _Tables(plan, inputs, nodes, edge_index)
        if grad.edge_weight is not None or self.agreement is not None:
            both = tables.of(grad.edge_weight, self.agreement)
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
        g, nodes, batch = self.memory[: block.stop - block.start], self.nodes, self.inputs.batch
        with record_function("gumbelpool::products"):
            self._multiply(g, block)
        if self.agreement is not None:
            own = self.agreement.index_select(0, batch[block])
            g.scatter_add_(1, nodes.local[block].unsqueeze(1), own.unsqueeze(1))
        if self.edges is not None and self.channels:
            with record_function("gumbelpool::add_edges"):
                for end in (0, 1):
                    near, far, edges = self.edges.of(block, end)
                    for value, tables in self.channels:
                        if value is not None:
                            value = (value if edges is None else value[edges]).to(self.dtype)
                        table = tables[end]
                        rows.of(g).add_edges_(g, block.start, near, far, value, nodes.slot, table)
        return g

    def _multiply(self, g: Tensor, block: slice) -> None:
        """Writes ⟨∂L/∂X'_k, x_i⟩, and what the nodes of a graph share, to g."""
        matrix, shared, inputs = self.matrix, self.shared, self.inputs
        if matrix is None and shared is None:
            g.zero_()
        elif inputs.num_graphs > 1:
            if matrix is None:
                matrix = g.new_zeros(self.nodes.supernode.numel(), 0)
            x = inputs.x[block, : matrix.size(1)].to(self.dtype)
            rows.of(g).multiply_rows_(
                g, x, matrix, shared, self.nodes.supernode, inputs.batch[block], inputs.num_graphs
            )
        elif matrix is None:
            g.copy_(shared)
        elif shared is None:
            torch.mm(inputs.x[block].to(self.dtype), matrix.t(), out=g)
        else:
            torch.addmm(shared, inputs.x[block].to(self.dtype), matrix.t(), out=g)


class _Edges:
    """The edges by the block that the node at one of their ends is in, 0 for the source."""

    def __init__(self, plan: Plan, inputs: Inputs) -> None:
        self.edge_index, self.block_size = inputs.edge_index, plan.block_size
        self.order: list[Tensor | None] = [None, None]
        self.bounds: list[list[int]] = []
        num_nodes = inputs.x.size(0)
        if num_nodes <= plan.block_size:
            return
        first = torch.arange(0, num_nodes + plan.block_size, plan.block_size)
        first = first.to(self.edge_index.device)
        for end, near in enumerate(self.edge_index):
            if not bool((near[1:] >= near[:-1]).all()):
                near, order = near.to(index_dtype(num_nodes)).sort()
                self.order[end] = order.to(index_dtype(near.numel()))
            self.bounds.append(torch.searchsorted(near, first.to(near.dtype)).tolist())

    def of(self, block: slice, end: int) -> tuple[Tensor, Tensor, slice | Tensor | None]:
        """The near and far nodes of a block's edges, and which edges these are; None for all."""
        near, far = self.edge_index[end], self.edge_index[1 - end]
        if not self.bounds:
            return near, far, None
        index, order = block.start // self.block_size, self.order[end]
        own = slice(*self.bounds[end][index : index + 2])
        if order is None:
            return near[own], far[own], own
        edges = order[own].long()
        return near.index_select(0, edges), far.index_select(0, edges), edges


class _Tables:
    """The gradient G of the pooled edges, as tables by the slot at an edge's far end."""

    def __init__(self, plan: Plan, inputs: Inputs, nodes: _Assignment, edge_index: Tensor) -> None:
        self.K, self.num_graphs = plan.num_clusters, inputs.num_graphs
        self.supernode, (self.source, self.target) = nodes.supernode, edge_index
        self.num_slots = self.num_graphs * self.K

    def of(self, grad: Tensor | None, agreement: Tensor | None) -> tuple[Table, Table]:
        """The tables for an edge's source and for its target.

        Args:
            grad: Gradient of the pooled edges' values, ``[E']``, if any.
            agreement: Gradient of the agreement that the link loss is made of, ``[B]``, if any: on
                the whole diagonal.
        """
        num_entries = 0 if grad is None else grad.numel()
        if (self.num_slots + self.num_graphs) * self.K <= max(SMALL, FILL * num_entries):
            return self._dense(grad, agreement)
        return self._sparse(grad, agreement)

    def _dense(self, grad: Tensor | None, agreement: Tensor | None) -> tuple[Table, Table]:
        K, B = self.K, self.num_graphs
        like = grad if grad is not None else agreement
        assert like is not None
        tables = like.new_zeros(2, self.num_slots + B, K)
        columns, matrix = (table[: self.num_slots].view(B, K, K) for table in tables)
        if grad is not None:
            matrix.view(-1).index_copy_(0, self.source * K + self.target % K, grad)
            tables[0, self.num_slots :] = matrix.diagonal(dim1=1, dim2=2)
        if agreement is not None:
            matrix.diagonal(dim1=1, dim2=2).add_(agreement.unsqueeze(1))
        columns.copy_(matrix.transpose(1, 2))
        first, second = (Table(table, None, None, self.num_slots) for table in tables)
        return first, second

    def _sparse(self, grad: Tensor | None, agreement: Tensor | None) -> tuple[Table, Table]:
        K = self.K
        parts: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]
        if grad is not None:
            inside = (self.source == self.target).nonzero().squeeze(1)
            loops = self.source.index_select(0, inside)
            own = grad.index_select(0, inside)
            parts[0] += [
                (self.target, self.source % K, grad),
                (self.num_slots + loops // K, loops % K, own),
            ]
            parts[1] += [(self.source, self.target % K, grad)]
        if agreement is not None:
            diagonal = agreement.index_select(0, self.supernode // K)
            for part in parts:
                part.append((self.supernode, self.supernode % K, diagonal))
        first, second = (self._by_row(part) for part in parts)
        return first, second

    def _by_row(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Table:
        row, column, value = (torch.cat(part) for part in zip(*parts, strict=True))
        row, order = row.sort(stable=True)
        every = torch.arange(self.num_slots + self.num_graphs + 1, device=row.device)
        pointer = torch.searchsorted(row, every)
        return Table(value[order], pointer, column[order], self.num_slots)
