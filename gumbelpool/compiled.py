"""The streamed pool as an operator that ``torch.compile`` calls and does not look into.

Its output shapes depend on the data, and so do its loops; a compiled model keeps it whole. In
eager mode the autograd Function of :mod:`gumbelpool.streaming` is called directly.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from gumbelpool.assignment import Inputs, Plan
from gumbelpool.backward import pool_backward
from gumbelpool.coarsen import narrowest_dtype
from gumbelpool.gradient import PooledGradients
from gumbelpool.streaming import Pooled, draw_seed, pool_forward
from gumbelpool.validation import check_batch, check_edges, check_within_graphs

# Two calls draw twice: a compiler must not make them one. (Older torch cannot be told.)
_SEEDED: dict[str, Any] = {}
if "tags" in inspect.signature(torch.library.custom_op).parameters:
    _SEEDED["tags"] = (torch.Tag.nondeterministic_seeded,)

# Operators take no dataclass, hence Plan's fields one by one, and no optional results, hence empty
# tensors in their place.


def _plan(
    num_clusters: int, num_graphs: int, estimator: str, tau: float, sample: bool,
    drop_empty: bool, remove_self_loops: bool, losses: str, block_size: int,
) -> Plan:  # fmt: skip
    return Plan(
        num_clusters, num_graphs, estimator, tau, sample, drop_empty, remove_self_loops,
        tuple(losses.split()), block_size,
    )  # fmt: skip


@torch.library.custom_op("gumbelpool::pool", mutates_args=(), **_SEEDED)
def _pool(
    x: Tensor, edge_index: Tensor, edge_weight: Tensor | None, edge_attr: Tensor | None,
    batch: Tensor, source: Tensor, weight: Tensor | None, bias: Tensor | None,
    limit: Tensor | None,
    num_clusters: int, num_graphs: int, estimator: str, tau: float, sample: bool,
    drop_empty: bool, remove_self_loops: bool, losses: str, block_size: int,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:  # fmt: skip
    # These checks read the data, which a trace does not have.
    check_batch(batch, num_graphs, x.size(0))
    check_edges(edge_index, edge_weight, edge_attr, x.size(0))
    check_within_graphs(edge_index, batch)
    plan = _plan(
        num_clusters, num_graphs, estimator, tau, sample, drop_empty, remove_self_loops, losses,
        block_size,
    )  # fmt: skip
    inputs = Inputs(x, edge_index, edge_weight, edge_attr, batch, source, weight, bias, limit)
    with torch.autocast(x.device.type, enabled=False):
        pooled, local = pool_forward(plan, inputs, None)
    if pooled.edge_attr is None:
        pooled = pooled._replace(edge_attr=pooled.x.new_empty(pooled.edge_index.size(1), 0))
    seed = torch.tensor(draw_seed(None) if sample else 0)
    return (*pooled, local, seed)  # type: ignore[return-value]


@_pool.register_fake
def _(
    x: Tensor, edge_index: Tensor, edge_weight: Tensor | None, edge_attr: Tensor | None,
    batch: Tensor, source: Tensor, weight: Tensor | None, bias: Tensor | None,
    limit: Tensor | None,
    num_clusters: int, num_graphs: int, estimator: str, tau: float, sample: bool,
    drop_empty: bool, remove_self_loops: bool, losses: str, block_size: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = Inputs(x, edge_index, edge_weight, edge_attr, batch, source, weight, bias, limit)
    context = torch.library.get_ctx()
    num_edges = context.new_dynamic_size()
    num_supernodes = context.new_dynamic_size() if drop_empty else num_graphs * num_clusters
    channels = 0 if edge_attr is None else edge_attr.size(1)

    def floats(*shape: int | torch.SymInt) -> Tensor:
        return x.new_empty(shape, dtype=inputs.dtype)

    def integers(*shape: int | torch.SymInt) -> Tensor:
        return batch.new_empty(shape)

    pooled = Pooled(
        x=floats(num_supernodes, x.size(1)),
        size=floats(num_supernodes),
        edge_weight=floats(num_edges),
        edge_attr=floats(num_edges, channels),
        agreement=x.new_empty(num_graphs, dtype=torch.float64),
        entropy=floats(num_graphs),
        usage=floats(num_graphs, num_clusters),
        edge_index=integers(2, num_edges),
        cluster=integers(x.size(0)),
        supernode=integers(num_supernodes),
    )
    local = integers(x.size(0)).to(narrowest_dtype(num_clusters))
    return (*pooled, local, torch.empty((), dtype=torch.int64))  # type: ignore[return-value]


@torch.library.custom_op("gumbelpool::pool_backward", mutates_args=())
def _pool_backward(
    grad_x: Tensor | None, grad_size: Tensor | None, grad_edge_weight: Tensor | None,
    grad_edge_attr: Tensor | None, grad_agreement: Tensor | None, grad_entropy: Tensor | None,
    grad_usage: Tensor | None,
    x: Tensor, edge_index: Tensor, edge_weight: Tensor | None, edge_attr: Tensor | None,
    batch: Tensor, source: Tensor, weight: Tensor | None, bias: Tensor | None,
    limit: Tensor | None, local: Tensor, pooled_edge_index: Tensor, seed: Tensor,
    needs: list[bool],
    num_clusters: int, num_graphs: int, estimator: str, tau: float, sample: bool,
    drop_empty: bool, remove_self_loops: bool, losses: str, block_size: int,
) -> list[Tensor]:  # fmt: skip
    plan = _plan(
        num_clusters, num_graphs, estimator, tau, sample, drop_empty, remove_self_loops, losses,
        block_size,
    )  # fmt: skip
    inputs = Inputs(x, edge_index, edge_weight, edge_attr, batch, source, weight, bias, limit)
    wanted = Inputs(*needs)  # type: ignore[arg-type]
    gradients = pool_backward(
        plan, inputs, local, pooled_edge_index, int(seed),
        PooledGradients(grad_x, grad_size, grad_edge_weight, grad_edge_attr, grad_agreement),
        grad_entropy, grad_usage, wanted, scored_x=False,
    )  # fmt: skip
    return [
        torch.zeros_like(tensor) if gradient is None else gradient.contiguous()
        for tensor, gradient, need in zip(inputs, gradients, wanted, strict=True)
        if need and tensor is not None
    ]


@_pool_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    inputs, needs = arguments[7:16], arguments[19]
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, need in zip(inputs, needs, strict=True)
        if need
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, edge_index, cluster, supernode, local, seed = output
    ctx.save_for_backward(*inputs[:9], local, edge_index, seed)
    ctx.plan = inputs[9:]
    ctx.mark_non_differentiable(edge_index, cluster, supernode, local, seed)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:9])
    if ctx.saved_tensors[3] is None:
        grads = (*grads[:3], None, *grads[4:])
    gradients = iter(_pool_backward(*grads[:7], *ctx.saved_tensors, needs, *ctx.plan))
    return (*(next(gradients) if need else None for need in needs), *(None for _ in ctx.plan))


_pool.register_autograd(_backward, setup_context=_setup_context)


def compiled_pool(plan: Plan, inputs: Inputs) -> Pooled:
    """What :func:`gumbelpool.streaming.streamed_pool` does, for a trace."""
    *pooled, _, _ = _pool(
        *inputs, plan.num_clusters, plan.num_graphs, plan.estimator, plan.tau, plan.sample,
        plan.drop_empty, plan.remove_self_loops, " ".join(plan.losses), plan.block_size,
    )  # fmt: skip
    result = Pooled(*pooled)
    return result if inputs.edge_attr is not None else result._replace(edge_attr=None)
