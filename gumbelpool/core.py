r"""The streamed pool: it walks the rows of the assignment in blocks and never holds more of it.

Forward scores a block, draws from it and forgets it, unless it is the only one; of the N×K
assignment only the cluster ids stay. Backward scores each block again, forms the full
straight-through gradient of its rows (every cluster k, not only the drawn one),

.. math::
    g_{ik} = \langle \partial L / \partial X'_k, x_i \rangle
    + \sum_l G_{kl} (A_0 S)_{il} + \sum_l G_{lk} (A_0^\top S)_{il} + a_i G_{kk} + \ldots

with k, l over the clusters of node i's graph, G the gradient of the pooled edge values, A₀ the
edges that are no self-loops and a their self-loops; the dots stand for the sizes n_k and for
the three numbers per graph that the link and modularity losses are made of. All of these are linear
in each row of S (n_k² and vol⁺_k vol⁻_k without the constants that they are for i = j), so that g
needs no further terms. What is done to a block's rows is in :mod:`gumbelpool.rows`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gumbelpool import rows
from gumbelpool.assignment import Assignment, Scorer, blocks, stage
from gumbelpool.edges import Edges, Volumes
from gumbelpool.gradient import AssignmentGradient, Part
from gumbelpool.inputs import Inputs
from gumbelpool.plan import Draw, Plan, Pooled, PooledGradients, narrowest_dtype
from gumbelpool.rows.reference import Estimate
from gumbelpool.validation import check_rows

# --- forward ------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A cluster of each row ``[N]`` int64, ``entropy`` and ``usage``, and the logits to keep."""

    local: Tensor
    entropy: Tensor
    usage: Tensor
    logits: Tensor


class Merged(NamedTuple):
    """The edges between slots, those inside of one included, before slots are left out.

    Attributes:
        edge_index: Slots of their ends, ``[2, E']``, ascending.
        graph: ``[E']``.
        weight: Sums of the weights, or how many edges were merged, ``[E']``, float64.
        attr: Sums of the features, ``[E', D]``, float64, or ``[E', 0]``.
        num_edges: Edges of each graph, ``[B]``, float64.
    """

    edge_index: Tensor
    graph: Tensor
    weight: Tensor
    attr: Tensor
    num_edges: Tensor


def pool_forward(plan: Plan, inputs: Inputs) -> Pooled:
    """Draws, pools and coarsens."""
    with stage("draw"):
        drawn = draw_clusters(plan, inputs)
    nodes = Assignment.of(plan, inputs, drawn.local)
    with stage("merge_edges"):
        merged = merge_edges(plan, inputs, nodes)
    with stage("pool_features"):
        cluster = nodes.row(nodes.slot)
        x = rows.of(inputs.x).sum_rows(inputs.x, cluster, nodes.supernode.numel())
    return finish(plan, inputs, drawn, nodes, merged, cluster, x)


def draw_clusters(plan: Plan, inputs: Inputs) -> Drawn:
    """Draws, block by block."""
    batch, num_graphs = inputs.batch, inputs.num_graphs
    entropy = torch.zeros(num_graphs, dtype=torch.float64, device=batch.device)
    usage = entropy.new_zeros(num_graphs, plan.num_clusters)
    # In eval() it tells whether assignments that are all the same were decided.
    wants_entropy = "entropy" in plan.losses or inputs.uniform is None
    scorer = Scorer(plan, inputs)
    local = torch.empty_like(batch)
    for block in blocks(plan, inputs):
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
    return Drawn(local.clamp_(min=0), entropy, usage, scorer.to_keep())


def merge_edges(plan: Plan, inputs: Inputs, nodes: Assignment) -> Merged:
    """Relabels both ends of every edge, and merges the edges that are then the same."""
    K = plan.num_clusters
    num_slots = inputs.num_graphs * K
    # An edge's ends are in one graph, so its target's cluster tells its target's supernode.
    valued = inputs.edge_weight is not None or inputs.edge_attr is not None
    edge_index, count, position = rows.of(inputs.x).merge_edges(
        inputs.edge_index, nodes.far, nodes.local, num_slots, K, valued
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
    return Merged(edge_index, graph, weight, attr, num_edges)


def finish(
    plan: Plan,
    inputs: Inputs,
    drawn: Drawn,
    nodes: Assignment,
    merged: Merged,
    cluster: Tensor,
    x: Tensor,
) -> Pooled:
    """Puts together what comes out, of the sums over all nodes and edges; x in float64."""
    dtype, K = inputs.dtype, plan.num_clusters
    edge_index, graph, weight, attr, num_edges = merged
    inside, pairs, chance = (torch.zeros_like(num_edges) for _ in range(3))
    if "link" in plan.losses:
        pairs.index_add_(0, nodes.supernode // K, nodes.members.square().double())
    if "link" in plan.losses or "modularity" in plan.losses:
        inside.index_add_(0, graph, weight.where(edge_index[0] == edge_index[1], 0))
    if "modularity" in plan.losses:
        sum_rows, num_slots = rows.of(inputs.x).sum_rows, inputs.num_graphs * K
        out, into = (sum_rows(weight, end, num_slots) for end in edge_index)
        chance = (out * into).view(-1, K).sum(1)
    if plan.remove_self_loops:
        kept = (edge_index[0] != edge_index[1]).nonzero().squeeze(1)
        edge_index = edge_index.index_select(1, kept)
        weight, attr = weight.index_select(0, kept), attr.index_select(0, kept)
    return Pooled(
        x=x.to(dtype),
        size=nodes.members.to(dtype),
        edge_weight=weight.to(dtype),
        edge_attr=attr.to(dtype),
        inside=inside,
        pairs=pairs,
        chance=chance,
        entropy=drawn.entropy,
        usage=drawn.usage,
        edge_index=nodes.row(edge_index.view(-1)).view(2, -1),
        cluster=cluster,
        supernode=nodes.supernode,
        num_edges=num_edges,
        local=nodes.local.to(narrowest_dtype(K)),
        logits=drawn.logits,
    )


# --- backward -----------------------------------------------------------------------------------


def pool_backward(
    plan: Plan, inputs: Inputs, draw: Draw, grad: PooledGradients, needs: Inputs
) -> Inputs:
    """The gradients of the inputs that need one, by ``needs``; the others' are ``None``.

    Where x itself was scored, its gradient is the sum of both.
    """
    nodes = Assignment.of(plan, inputs, draw.local.long())
    edges, volumes = Edges.of(inputs), None
    if grad.chance is not None:
        volumes = Volumes.of(plan, inputs, (edges, edges), nodes.slot, grad.chance)
    part = Part(nodes, (edges, edges), volumes, first_row=0)
    return part_backward(plan, inputs, part, draw, grad, needs)


def part_backward(
    plan: Plan, inputs: Inputs, part: Part, draw: Draw, grad: PooledGradients, needs: Inputs
) -> Inputs:
    """The gradients of some rows, of their edges and, as far as it is theirs, of the head."""
    nodes, edge_index = part.nodes, draw.edge_index
    if nodes.number is not None:
        edge_index = nodes.supernode.index_select(0, edge_index.view(-1)).view(2, -1)
    to = Inputs(*[None] * len(inputs))  # type: ignore[arg-type]
    if needs.x and grad.x is not None:
        to = to._replace(x=grad.x.index_select(0, nodes.row(nodes.slot)))
    if needs.edge_weight or needs.edge_attr:
        with stage("gradient_of_edges"):
            to = _edge_gradients(plan, inputs, part, edge_index, grad, needs, to)
    scored = "x" if inputs.source is None else "source"
    if getattr(needs, scored) or needs.weight or needs.bias:
        with stage("tables"):
            gradient = AssignmentGradient(plan, inputs, part, edge_index, grad)
        scorer = Scorer(plan, inputs, draw.logits)
        to = _score_gradients(scorer, plan, gradient, part.first_row, grad, needs, to)
    cast = (
        None if tensor is None or like is None or not need else tensor.to(like.dtype)
        for tensor, like, need in zip(to, inputs, needs, strict=True)
    )
    return Inputs(*cast)  # type: ignore[arg-type]


def _edge_gradients(
    plan: Plan,
    inputs: Inputs,
    part: Part,
    edge_index: Tensor,
    grad: PooledGradients,
    needs: Inputs,
    to: Inputs,
) -> Inputs:
    """Each edge's gradient is that of the pooled edge that it went to, of ``edge_index``."""
    K, nodes, volumes = plan.num_clusters, part.nodes, part.volumes
    (slot, local), count, position = rows.of(inputs.x).merge_edges(
        inputs.edge_index, nodes.far, nodes.local, inputs.num_graphs * K, K
    )
    assert position is not None
    graph, loop = slot // K, slot % K == local
    kept = (~loop).nonzero().squeeze(1) if plan.remove_self_loops else None
    number = None
    if (count if kept is None else kept).numel() < edge_index.size(1):  # other shards' are there
        key = slot * K + local
        key = key if kept is None else key.index_select(0, kept)
        number = torch.searchsorted(edge_index[0] * K + edge_index[1] % K, key)

    def to_edges(pooled: Tensor | None, channels: tuple[int, ...], own: Tensor | None) -> Tensor:
        each = torch.zeros(count.numel(), *channels, dtype=inputs.dtype, device=count.device)
        if pooled is not None:
            pooled = pooled if number is None else pooled.index_select(0, number)
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
    scorer: Scorer,
    plan: Plan,
    gradient: AssignmentGradient,
    first_row: int,
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
    for block in blocks(plan, inputs):
        logits = scorer.logits(block)
        g = gradient.block(block)
        with stage("row_gradient"):
            rows.of(g).row_gradient_(
                g, logits, gradient.nodes.local[block], first_row + block.start, estimate,
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
