"""The backward pass of the streamed pool: each block is scored again, and its gradient formed."""

import torch
from torch import Tensor

from gumbelpool import sampling, scratch
from gumbelpool.assignment import Assignment, Inputs, Plan, Scorer, blocks
from gumbelpool.estimators import ESTIMATORS, softmax_vjp
from gumbelpool.gradient import AssignmentGradient, PooledGradients


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
