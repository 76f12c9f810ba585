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

from gumbelpool.assignment import Assignment, Inputs, Plan, assign
from gumbelpool.backward import pool_backward
from gumbelpool.coarsen import narrowest_dtype, sum_rows
from gumbelpool.estimators import NEEDS_NOISE
from gumbelpool.gradient import PooledGradients
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
