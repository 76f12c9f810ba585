r"""The autograd Function behind ``GumbelPool``: it walks the rows of the assignment in blocks.

Forward scores a block, draws from it and forgets it; of the N×K assignment only the cluster ids
stay. Backward scores each block again, forms the full straight-through gradient
:math:`g = \partial L / \partial S` of its rows (every cluster k, not only the drawn one) and
applies an estimator. Everything that is computed from S here is linear in each row of S, a
self-loop of A and the diagonal of :math:`S S^\top` included, so that g needs no further terms and
is unbiased; what is not linear (means, losses) is built on top by ordinary autograd.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gumbelpool import sampling, scratch
from gumbelpool.adjacency import Edges
from gumbelpool.assignment import Assignment, Plan, Scorer, Scores, assign, blocks
from gumbelpool.coarsen import narrowest_dtype, sum_rows
from gumbelpool.estimators import ESTIMATORS, NEEDS_NOISE, softmax_vjp
from gumbelpool.gradient import AssignmentGradient, PooledGradients
from gumbelpool.validation import check_num_supernodes


class Pooled(NamedTuple):
    """What comes out of the Function; every float tensor is differentiable.

    Attributes:
        x: Sums of the members' features, ``[K', F]``.
        size: Number of members, ``[K']``, float.
        edge_weight: Sums of the merged edges' weights, ``[E']``.
        edge_attr: Sums of the merged edges' features, ``[E', D]``, or ``None``.
        agreement: Σ_ij A_ij [c_i=c_j] − ½ Σ_{i≠j} [c_i=c_j] of each graph, ``[B]``, float64.
        entropy: Σ_i H(p_i) of each graph, ``[B]``.
        usage: Σ_i p_i of each graph, ``[B, K]``.
        edge_index: ``[2, E']``.
        cluster: Row of ``x`` of each node, ``[N]``.
        supernode: graph · K + cluster of each row of ``x``, ``[K']``, ascending.
    """

    x: Tensor
    size: Tensor
    edge_weight: Tensor
    edge_attr: Tensor | None
    agreement: Tensor
    entropy: Tensor
    usage: Tensor
    edge_index: Tensor
    cluster: Tensor
    supernode: Tensor


class Inputs(NamedTuple):
    """What goes into the Function, in its order."""

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    batch: Tensor
    source: Tensor
    weight: Tensor | None
    bias: Tensor | None
    limit: Tensor | None

    @property
    def edges(self) -> Edges:
        """The edges with what they carry."""
        return Edges(self.edge_index, self.edge_weight, self.edge_attr)

    @property
    def scores(self) -> Scores:
        """What the logits are made of."""
        return Scores(self.source, self.weight, self.bias, self.limit)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is computed in."""
        dtype = torch.float32
        for tensor in (self.x, self.edge_weight, self.edge_attr, self.source, self.weight):
            if tensor is not None:
                dtype = torch.promote_types(dtype, tensor.dtype)
        return dtype


def pool_forward(
    plan: Plan, inputs: Inputs, generator: torch.Generator | None
) -> tuple[Pooled, Tensor]:
    """Draws, pools and coarsens; also gives the local cluster ids, as narrow integers."""
    dtype, num_clusters = inputs.dtype, plan.num_clusters
    check_num_supernodes(plan.num_graphs * num_clusters)
    local, entropy, usage = assign(plan, inputs.scores, inputs.batch, dtype, generator)
    assignment = Assignment.of(inputs.batch, local, plan)
    merger = assignment.merge_edges(inputs.edge_index)
    pooled = merger.pairs()
    if plan.num_graphs > 1:
        pooled[1].add_(pooled[0] // num_clusters, alpha=num_clusters)
    loop = pooled[0] == pooled[1]
    if inputs.edge_weight is None:
        edge_weight = merger.count.to(dtype)
    else:
        edge_weight = merger.sum(inputs.edge_weight).to(dtype)
    edge_attr = None if inputs.edge_attr is None else merger.sum(inputs.edge_attr).to(dtype)

    agreement = torch.zeros(plan.num_graphs, dtype=torch.float64, device=local.device)
    if "link" in plan.losses:
        inside = loop.nonzero().squeeze(1)
        graph = pooled[0].index_select(0, inside) // num_clusters
        agreement.index_add_(0, graph, edge_weight.index_select(0, inside).double())
        pairs = (assignment.members * (assignment.members - 1)).double()
        agreement.index_add_(0, assignment.supernode // num_clusters, pairs, alpha=-0.5)
    if plan.remove_self_loops:
        keep = (~loop).nonzero().squeeze(1)
        pooled, edge_weight = pooled.index_select(1, keep), edge_weight.index_select(0, keep)
        edge_attr = None if edge_attr is None else edge_attr.index_select(0, keep)
    if assignment.supernode.numel() < assignment.number.numel():
        pooled = assignment.number.index_select(0, pooled.view(-1)).view(2, -1)
    return Pooled(
        x=sum_rows(inputs.x.to(dtype), assignment.cluster, assignment.supernode.numel()),
        size=assignment.members.to(dtype),
        edge_weight=edge_weight,
        edge_attr=edge_attr,
        agreement=agreement,
        entropy=entropy,
        usage=usage,
        edge_index=pooled,
        cluster=assignment.cluster,
        supernode=assignment.supernode,
    ), local.to(narrowest_dtype(num_clusters))


def pool_backward(
    plan: Plan,
    inputs: Inputs,
    local: Tensor,
    pooled_edge_index: Tensor,
    seed: int | None,
    grad: PooledGradients,
    grad_entropy: Tensor | None,
    grad_usage: Tensor | None,
    needs: Inputs,
    scored_x: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of the inputs that need one, by ``needs``; the others' are ``None``.

    Where x itself was scored (``scored_x``), ``source``'s gradient holds that of ``x`` as well.
    """
    assignment = Assignment.of(inputs.batch, local.long(), plan)
    to_x = to_weight = to_attr = None
    if needs.x and grad.x is not None and not scored_x:
        to_x = grad.x.index_select(0, assignment.cluster).to(inputs.x.dtype)
    if needs.edge_weight or needs.edge_attr:
        to_weight, to_attr = _edge_backward(plan, inputs, assignment, grad, needs)
    to_scores: tuple[Tensor | None, ...] = (None, None, None)
    if needs.source or needs.weight or needs.bias:
        gradient = AssignmentGradient(
            inputs.x, inputs.edges, assignment, pooled_edge_index, grad, plan.block_size,
            inputs.dtype,
        )  # fmt: skip
        to_scores = _score_backward(
            plan, inputs, assignment, gradient, seed, grad_entropy, grad_usage, needs,
            scored_x, grad.x if scored_x else None,
        )  # fmt: skip
    return to_x, None, to_weight, to_attr, None, *to_scores, None


def _edge_backward(
    plan: Plan, inputs: Inputs, assignment: Assignment, grad: PooledGradients, needs: Inputs
) -> tuple[Tensor | None, Tensor | None]:
    """Each edge's gradient is that of the pooled edge that it went to."""
    merger = assignment.merge_edges(inputs.edge_index)
    source, local_target = merger.pairs()
    graph = source // plan.num_clusters
    loop = source - graph * plan.num_clusters == local_target
    kept = (~loop).nonzero().squeeze(1) if plan.remove_self_loops else None

    def to_edges(pooled: Tensor | None, like: Tensor, agreement: Tensor | None) -> Tensor:
        each = like.new_zeros((merger.key.numel(), *like.shape[1:]), dtype=inputs.dtype)
        if pooled is not None:
            each = pooled if kept is None else each.index_copy_(0, kept, pooled)
        if agreement is not None:
            each = each + agreement.index_select(0, graph).to(each.dtype) * loop
        each = each.to(like.dtype)
        gradient = torch.empty_like(like, memory_format=torch.contiguous_format)
        for edges, position in merger.edges():
            own = edges if isinstance(edges, slice) else edges.long()
            gradient[own] = each.index_select(0, position)
        return gradient

    to_weight = to_attr = None
    if needs.edge_weight and inputs.edge_weight is not None:
        to_weight = to_edges(grad.edge_weight, inputs.edge_weight, grad.agreement)
    if needs.edge_attr and inputs.edge_attr is not None:
        to_attr = to_edges(grad.edge_attr, inputs.edge_attr, None)
    return to_weight, to_attr


def _score_backward(
    plan: Plan,
    inputs: Inputs,
    assignment: Assignment,
    gradient: AssignmentGradient,
    seed: int | None,
    grad_entropy: Tensor | None,
    grad_usage: Tensor | None,
    needs: Inputs,
    scored_x: bool,
    grad_x: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of ``source``, ``weight`` and ``bias``, accumulated over the blocks.

    A gradient of the pooled x, if given, is lifted to the nodes and added to that of ``source``.
    """
    source, weight, bias, batch, dtype = (
        inputs.source, inputs.weight, inputs.bias, inputs.batch, inputs.dtype,
    )  # fmt: skip
    estimator = ESTIMATORS[plan.estimator]
    generator = None if seed is None else torch.Generator(source.device).manual_seed(seed)
    scorer = Scorer(inputs.scores, batch, dtype)
    to_source = torch.empty_like(source) if needs.source else None
    # Transposed, which is the faster product.
    to_weight = None if weight is None else weight.new_zeros(weight.t().shape, dtype=dtype)
    to_bias = None if bias is None else torch.zeros_like(bias, dtype=dtype)

    def walk(index: int, rows: slice) -> None:
        features = scorer.features(rows)
        logits, probability, _ = scorer.softmax(rows, features)
        to_logits = estimator(
            gradient.block(index, rows, features if scored_x and scorer.with_ones else None),
            logits,
            assignment.local[rows],
            plan.tau,
            lambda: sampling.exponential_noise(logits, generator),
            probability,
        )
        if grad_entropy is not None or grad_usage is not None:
            _add_exact(to_logits, logits, probability, batch[rows], grad_entropy, grad_usage)
        if weight is None:
            if to_source is not None:
                to_source[rows] = to_logits
            return
        if to_source is not None:
            step = to_source[rows] if to_source.dtype == dtype else None
            step = torch.mm(to_logits, weight.to(dtype), out=step)
            if grad_x is not None:
                lifted = scratch.empty(step.size(0), step.size(1), dtype, step.device)
                step += torch.index_select(grad_x, 0, assignment.cluster[rows], out=lifted)
            if to_source.dtype != dtype:
                to_source[rows] = step
        if to_weight is not None and needs.weight:
            to_weight.addmm_(source[rows].to(dtype).t(), to_logits)
        if to_bias is not None and needs.bias:
            to_bias.add_(to_logits.sum(0))

    with scratch.frame():
        for index, rows in enumerate(blocks(batch.numel(), plan.block_size)):
            with scratch.frame():
                walk(index, rows)
    return (
        to_source,
        to_weight.t().to(weight.dtype) if to_weight is not None and weight is not None else None,
        to_bias.to(bias.dtype) if to_bias is not None and bias is not None else None,
    )


def _add_exact(
    total: Tensor,
    logits: Tensor,
    probability: Tensor,
    batch: Tensor,
    grad_entropy: Tensor | None,
    grad_usage: Tensor | None,
) -> None:
    """Adds the gradient through p itself: of Σ H(p_i) it is J(p) (−θ_i), of Σ p_i it is J(p)."""
    if grad_entropy is not None:
        slope = grad_entropy.index_select(0, batch).unsqueeze(1)
        total -= softmax_vjp(probability, logits.mul_(slope))
    if grad_usage is not None:
        total += softmax_vjp(probability, grad_usage.index_select(0, batch))


class _StreamedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, generator: torch.Generator | None, *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        inputs = Inputs(*tensors)  # type: ignore[arg-type]
        pooled, local = pool_forward(plan, inputs, generator)
        ctx.plan, ctx.seed = plan, None
        ctx.scored_x = inputs.source is inputs.x and inputs.weight is not None
        if plan.estimator in NEEDS_NOISE and any(ctx.needs_input_grad):
            # Without a draw nothing is left to chance, the gradient included.
            ctx.seed = draw_seed(generator) if plan.sample else 0
        ctx.save_for_backward(*inputs, local, pooled.edge_index)
        ctx.mark_non_differentiable(pooled.edge_index, pooled.cluster, pooled.supernode)
        ctx.set_materialize_grads(False)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad = Pooled(*grads)  # type: ignore[arg-type]
        *inputs, local, pooled_edge_index = ctx.saved_tensors
        gradients = pool_backward(
            ctx.plan,
            Inputs(*inputs),
            local,
            pooled_edge_index,
            ctx.seed,
            PooledGradients(grad.x, grad.size, grad.edge_weight, grad.edge_attr, grad.agreement),
            grad.entropy,
            grad.usage,
            Inputs(*ctx.needs_input_grad[2:]),
            ctx.scored_x,
        )
        return None, None, *gradients


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed for the noise of backward, so that a second backward sees the same noise."""
    device = torch.device("cpu") if generator is None else generator.device
    return int(torch.randint(2**62, (), device=device, generator=generator))


def streamed_pool(plan: Plan, inputs: Inputs, generator: torch.Generator | None) -> Pooled:
    """Draws, pools and coarsens, in at least float32."""
    with torch.autocast(inputs.x.device.type, enabled=False):
        return Pooled(*_StreamedPool.apply(plan, generator, *inputs))  # type: ignore[no-untyped-call]
