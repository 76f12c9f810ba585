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

from gumbelpool import sampling
from gumbelpool.assignment import Plan, Scores, assign, blocks
from gumbelpool.coarsen import MergedEdges, merge_edges, sum_edges, sum_rows
from gumbelpool.estimators import ESTIMATORS, NEEDS_NOISE
from gumbelpool.gradient import AssignmentGradient, PooledGradients
from gumbelpool.validation import check_num_supernodes


class Pooled(NamedTuple):
    """What comes out of the Function; every float tensor is differentiable.

    Attributes:
        x: Sums of the members' features, ``[K', F]``.
        size: Number of members, ``[K']``, float.
        edge_values: Sums of the merged edges' values, ``[E', C]``.
        agreement: Σ_ij A_ij [c_i=c_j] − ½ Σ_{i≠j} [c_i=c_j] of each graph, ``[B]``, float64.
        entropy: Σ_i H(p_i) of each graph, ``[B]``.
        usage: Σ_i p_i of each graph, ``[B, K]``.
        edge_index: ``[2, E']``.
        cluster: Row of ``x`` of each node, ``[N]``.
        supernode: graph · K + cluster of each row of ``x``, ``[K']``, ascending.
    """

    x: Tensor
    size: Tensor
    edge_values: Tensor
    agreement: Tensor
    entropy: Tensor
    usage: Tensor
    edge_index: Tensor
    cluster: Tensor
    supernode: Tensor


class _StreamedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        x: Tensor,
        edge_index: Tensor,
        edge_values: Tensor,
        batch: Tensor,
        source: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        dtype = torch.float32
        for tensor in (x, edge_values, source, weight):
            if tensor is not None:
                dtype = torch.promote_types(dtype, tensor.dtype)
        local, entropy, usage = assign(plan, Scores(source, weight, bias), batch, dtype)
        ctx.seed = None
        if plan.estimator in NEEDS_NOISE and any(ctx.needs_input_grad):
            # Without a draw nothing is left to chance, the gradient included.
            ctx.seed = _draw_seed(plan.generator) if plan.sample else 0

        # Nodes to supernodes.
        num_slots = plan.num_graphs * plan.num_clusters
        check_num_supernodes(num_slots)
        slot = batch * plan.num_clusters + local
        members = torch.bincount(slot, minlength=num_slots)
        if plan.drop_empty:
            supernode = members.nonzero().squeeze(1)
            cluster = ((members > 0).cumsum(0) - 1)[slot]
        else:
            supernode = torch.arange(num_slots, device=x.device)
            cluster = slot
        pooled_x = sum_rows(x.to(dtype), cluster, supernode.numel())

        # Edges to pooled edges.
        merged = merge_edges(edge_index, cluster, supernode.numel(), plan.remove_self_loops)
        pooled_values = sum_edges(edge_values.to(dtype), merged)
        agreement = torch.zeros(plan.num_graphs, dtype=torch.float64, device=x.device)
        if "link" in plan.losses:
            row, col = edge_index
            agreeing = edge_values[:, 0].double() * (cluster[row] == cluster[col])
            agreement.index_add_(0, batch[row], agreeing)
            pairs = (members * (members - 1)).view(plan.num_graphs, plan.num_clusters).sum(1)
            agreement -= pairs / 2

        ctx.plan, ctx.dtype = plan, dtype
        ctx.save_for_backward(
            x, edge_index, edge_values, batch, source, weight, bias,
            local, cluster, supernode, *merged,
        )  # fmt: skip
        ctx.mark_non_differentiable(merged.edge_index, cluster, supernode)
        ctx.set_materialize_grads(False)
        return Pooled(
            x=pooled_x,
            size=members[supernode].to(dtype),
            edge_values=pooled_values,
            agreement=agreement,
            entropy=entropy,
            usage=usage,
            edge_index=merged.edge_index,
            cluster=cluster,
            supernode=supernode,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_x: Tensor | None,
        grad_size: Tensor | None,
        grad_values: Tensor | None,
        grad_agreement: Tensor | None,
        grad_entropy: Tensor | None,
        grad_usage: Tensor | None,
        *unused: None,
    ) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        (x, edge_index, edge_values, batch, source, weight, bias, local, cluster, supernode,
         *merged) = ctx.saved_tensors  # fmt: skip
        merged = MergedEdges(*merged)
        needs_x, needs_values, needs_scores = (
            ctx.needs_input_grad[1], ctx.needs_input_grad[3], any(ctx.needs_input_grad[5:]),
        )  # fmt: skip

        to_x = grad_x[cluster].to(x.dtype) if needs_x and grad_x is not None else None
        to_values = None
        if needs_values:
            to_values = torch.zeros_like(edge_values, dtype=ctx.dtype)
            if grad_values is not None:
                dropped = grad_values.new_zeros(1, grad_values.size(1))
                to_values += torch.cat([grad_values, dropped])[merged.edge_id]
            if grad_agreement is not None:
                row, col = edge_index
                to_values[:, 0] += grad_agreement[batch[row]] * (cluster[row] == cluster[col])
            to_values = to_values.to(edge_values.dtype)

        to_scores: tuple[Tensor | None, ...] = (None, None, None)
        if needs_scores:
            gradient = AssignmentGradient(
                x, edge_index, edge_values, batch, local, cluster, supernode, merged.edge_index,
                PooledGradients(grad_x, grad_size, grad_values, grad_agreement),
                plan.num_graphs, plan.num_clusters, plan.block_size, ctx.dtype,
            )  # fmt: skip
            to_scores = _backward_scores(
                ctx, Scores(source, weight, bias), batch, local, gradient, grad_entropy, grad_usage
            )
        return None, to_x, None, to_values, None, *to_scores


def _backward_scores(
    ctx: Any,
    scores: Scores,
    batch: Tensor,
    local: Tensor,
    gradient: AssignmentGradient,
    grad_entropy: Tensor | None,
    grad_usage: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of the three parts of ``scores``, accumulated over the blocks."""
    plan: Plan = ctx.plan
    source, weight, bias = scores
    estimator = ESTIMATORS[plan.estimator]
    generator = None
    if ctx.seed is not None:
        generator = torch.Generator(source.device).manual_seed(ctx.seed)
    to_source = torch.empty_like(source)
    to_weight = None if weight is None else torch.zeros_like(weight, dtype=ctx.dtype)
    to_bias = None if bias is None else torch.zeros_like(bias, dtype=ctx.dtype)

    for index, rows in enumerate(blocks(batch.numel(), plan.block_size)):
        logits = scores.block(rows, batch, plan.limit, ctx.dtype)

        def noise(logits: Tensor = logits) -> Tensor:
            return sampling.exponential_noise(logits, generator)

        to_logits = estimator(gradient.block(index, rows), logits, local[rows], plan.tau, noise)
        if grad_entropy is not None or grad_usage is not None:
            to_logits += _exact_gradient(logits, batch[rows], grad_entropy, grad_usage)
        if weight is None or to_weight is None:
            to_source[rows] = to_logits
            continue
        to_source[rows] = to_logits @ weight.to(ctx.dtype)
        to_weight += to_logits.t() @ source[rows].to(ctx.dtype)
        if to_bias is not None:
            to_bias += to_logits.sum(0)
    return (
        to_source,
        None if weight is None or to_weight is None else to_weight.to(weight.dtype),
        None if bias is None or to_bias is None else to_bias.to(bias.dtype),
    )


def _exact_gradient(
    logits: Tensor, batch: Tensor, grad_entropy: Tensor | None, grad_usage: Tensor | None
) -> Tensor:
    """The gradient through p itself: of Σ H(p_i) it is −p (log p + H), of Σ p_i it is J(p)."""
    probability = logits.softmax(-1)
    total = torch.zeros_like(probability)
    if grad_entropy is not None:
        entropy = torch.special.entr(probability)
        slope = probability * entropy.sum(-1, keepdim=True) - entropy
        total -= slope * grad_entropy[batch].unsqueeze(1)
    if grad_usage is not None:
        outer = grad_usage[batch]
        total += probability * (outer - (probability * outer).sum(-1, keepdim=True))
    return total


def _draw_seed(generator: torch.Generator | None) -> int:
    """A seed for the noise of backward, so that a second backward sees the same noise."""
    device = torch.device("cpu") if generator is None else generator.device
    return int(torch.randint(2**62, (), device=device, generator=generator))


def streamed_pool(
    plan: Plan, x: Tensor, edge_index: Tensor, edge_values: Tensor, batch: Tensor, scores: Scores
) -> Pooled:
    """Draws, pools and coarsens.

    Args:
        plan: Settings.
        x: Features to be pooled, ``[N, F]``.
        edge_index: ``[2, E]``.
        edge_values: Columns to be summed over merged edges, ``[E, C]``; the first is the weight.
        batch: ``[N]``, sorted.
        scores: The logits, or what they are computed from.

    Returns:
        :class:`Pooled`, in at least float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        return Pooled(*_StreamedPool.apply(plan, x, edge_index, edge_values, batch, *scores))  # type: ignore[no-untyped-call]
