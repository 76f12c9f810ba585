"""The streamed pool as one pure operator, for eager and compiled models alike.

Everything that is random goes in, as ``uniform`` and ``seed``. Output shapes depend on the data,
and so do the loops inside; a compiled model keeps the operator whole.
"""

from typing import Any, get_type_hints

import torch
from torch import Tensor

from gumbelpool.core import pool_backward, pool_forward
from gumbelpool.inputs import Inputs, check_data
from gumbelpool.plan import Draw, Plan, Pooled, PooledGradients, narrowest_dtype

_TYPES = {
    Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", float: "float", bool: "bool",
    str: "str", list[str]: "str[]",
}  # fmt: skip


def _schema(*types: type) -> str:
    """The fields of some types, as an operator's schema has them."""
    fields = [field for each in types for field in get_type_hints(each).items()]
    return ", ".join(f"{_TYPES[kind]} {name}" for name, kind in fields)


def _renamed(schema: str, prefix: str) -> str:
    return ", ".join(f"{kind} {prefix}{name}" for kind, name in map(str.split, schema.split(", ")))


_INPUTS, _SETTINGS, _GRADIENTS = (len(each._fields) for each in (Inputs, Plan, PooledGradients))
torch.library.define(
    "gumbelpool::pool",
    f"({_schema(Inputs, Plan)}) -> ({', '.join(['Tensor'] * len(Pooled._fields))})",
)
torch.library.define(
    "gumbelpool::pool_backward",
    f"({_renamed(_schema(PooledGradients), 'grad_')}, {_schema(Inputs, Plan)}, "
    f"{_renamed(_schema(Draw), 'pooled_')}, bool[] needs) -> Tensor[]",
)


def run(*arguments: Any) -> tuple[Tensor, ...]:
    """What ``gumbelpool::pool`` does; the arguments are fields, by the schema."""
    inputs, plan = Inputs(*arguments[:_INPUTS]), Plan(*arguments[_INPUTS:])
    check_data(inputs, plan.losses)
    with torch.autocast(inputs.x.device.type, enabled=False):
        return pool_forward(plan, inputs)


@torch.library.register_fake("gumbelpool::pool")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, plan = Inputs(*arguments[:_INPUTS]), Plan(*arguments[_INPUTS:])
    x, batch, num_graphs, K = inputs.x, inputs.batch, inputs.num_graphs, plan.num_clusters
    context = torch.library.get_ctx()
    num_edges: int | torch.SymInt = context.new_dynamic_size()
    num_supernodes: int | torch.SymInt = num_graphs * K
    if plan.drop_empty or inputs.limit is not None:
        num_supernodes = context.new_dynamic_size()
    channels = 0 if inputs.edge_attr is None else inputs.edge_attr.size(1)
    return Pooled(
        x=x.new_empty(num_supernodes, x.size(1), dtype=inputs.dtype),
        size=x.new_empty(num_supernodes, dtype=inputs.dtype),
        edge_weight=x.new_empty(num_edges, dtype=inputs.dtype),
        edge_attr=x.new_empty(num_edges, channels, dtype=inputs.dtype),
        inside=x.new_empty(num_graphs, dtype=torch.float64),
        pairs=x.new_empty(num_graphs, dtype=torch.float64),
        chance=x.new_empty(num_graphs, dtype=torch.float64),
        entropy=x.new_empty(num_graphs, dtype=torch.float64),
        usage=x.new_empty(num_graphs, K, dtype=torch.float64),
        edge_index=batch.new_empty(2, num_edges),
        cluster=batch.new_empty(x.size(0)),
        supernode=batch.new_empty(num_supernodes),
        num_edges=x.new_empty(num_graphs, dtype=torch.float64),
        local=batch.new_empty(x.size(0), dtype=narrowest_dtype(K)),
        logits=x.new_empty(context.new_dynamic_size(), K, dtype=inputs.dtype),
    )


def run_backward(*arguments: Any) -> list[Tensor]:
    """What ``gumbelpool::pool_backward`` does: the gradients of the inputs that need one."""
    grad, inputs, plan, (*draw, needs) = _backward_arguments(arguments)
    with torch.autocast(inputs.x.device.type, enabled=False):
        gradients = pool_backward(plan, inputs, Draw(*draw), grad, Inputs(*needs))
    return [
        torch.zeros_like(tensor) if gradient is None else gradient.contiguous()
        for tensor, gradient, need in zip(inputs, gradients, needs, strict=True)
        if need and tensor is not None
    ]


@torch.library.register_fake("gumbelpool::pool_backward")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    _, inputs, _, (*_, needs) = _backward_arguments(arguments)
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, need in zip(inputs, needs, strict=True)
        if need and tensor is not None
    ]


def _backward_arguments(
    arguments: tuple[Any, ...],
) -> tuple[PooledGradients, Inputs, Plan, tuple[Any, ...]]:
    inputs, plan = _GRADIENTS + _INPUTS, _GRADIENTS + _INPUTS + _SETTINGS
    return (
        PooledGradients(*arguments[:_GRADIENTS]),
        Inputs(*arguments[_GRADIENTS:inputs]),
        Plan(*arguments[inputs:plan]),
        arguments[plan:],
    )


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            pooled = Pooled(*torch.ops.gumbelpool.pool(*arguments))
        ctx.plan = arguments[_INPUTS:]
        saved = Inputs(*arguments[:_INPUTS])._replace(uniform=None)  # the draw is in local
        ctx.save_for_backward(*saved, *Draw.of(pooled))
        ctx.mark_non_differentiable(*pooled[_GRADIENTS:])
        ctx.set_materialize_grads(False)
        return tuple(pooled)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint unpacks each tensor once
        inputs, draw = saved[:_INPUTS], saved[_INPUTS:]
        needs = list(ctx.needs_input_grad[:_INPUTS])
        gradients = iter(
            torch.ops.gumbelpool.pool_backward(
                *grads[:_GRADIENTS], *inputs, *ctx.plan, *draw, needs
            )
        )
        return (*(next(gradients) if need else None for need in needs), *(None for _ in ctx.plan))


class _PoolBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(torch.ops.gumbelpool.pool_backward(*arguments))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "GumbelPool has no second derivative: its straight-through gradient is not that of a "
            "function which could be differentiated again; leave out create_graph=True"
        )


def _pool_backward(*arguments: Any) -> list[Tensor]:
    return list(_PoolBackward.apply(*arguments))  # type: ignore[no-untyped-call]


for _name, _key, _function in (
    ("pool", "CompositeExplicitAutograd", run),
    ("pool_backward", "CompositeExplicitAutograd", run_backward),
    ("pool", "Autograd", _Pool.apply),
    ("pool_backward", "Autograd", _pool_backward),
):
    # What runs inside is not to be traced where a graph breaks before or after it.
    _untraced = torch.compiler.disable(_function)  # type: ignore[no-untyped-call]
    torch.library.impl(f"gumbelpool::{_name}", _key)(_untraced)


def pool(plan: Plan, inputs: Inputs) -> Pooled:
    """Draws, pools and coarsens, in at least float32."""
    return Pooled(*torch.ops.gumbelpool.pool(*inputs, *plan))


# What else a trace cannot know, for DenseDiffPool: sizes that depend on the data.
torch.library.define("gumbelpool::longest_graph", f"({_schema(Inputs)}, str[] losses) -> Tensor")
torch.library.define("gumbelpool::nonzero", "(Tensor mask) -> Tensor")


@torch.library.impl("gumbelpool::longest_graph", "CompositeExplicitAutograd")
def _longest_graph(*arguments: Any) -> Tensor:
    inputs = Inputs(*arguments[:_INPUTS])
    check_data(inputs, *arguments[_INPUTS:])
    longest = int(inputs.num_nodes.max()) if inputs.num_graphs > 0 else 0
    return inputs.batch.new_empty(max(longest, 2), 0)


@torch.library.register_fake("gumbelpool::longest_graph")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> Tensor:
    return Inputs(*arguments[:_INPUTS]).batch.new_empty(
        torch.library.get_ctx().new_dynamic_size(min=2), 0
    )


@torch.library.impl("gumbelpool::nonzero", "CompositeExplicitAutograd")
def _nonzero(mask: Tensor) -> Tensor:
    return mask.nonzero().contiguous()  # torch gives it by column


@torch.library.register_fake("gumbelpool::nonzero")  # type: ignore[untyped-decorator]
def _(mask: Tensor) -> Tensor:
    size = torch.library.get_ctx().new_dynamic_size()
    return mask.new_empty(size, mask.dim(), dtype=torch.int64)


def longest_graph(inputs: Inputs, losses: list[str]) -> int:
    """Checks the data, and gives the number of nodes of the longest graph, or two if it has fewer.

    A compiler need then not ask whether it is one.
    """
    longest: int = torch.ops.gumbelpool.longest_graph(*inputs, losses).size(0)
    return longest


def nonzero(mask: Tensor) -> Tensor:
    """``mask.nonzero()``, where torch's own would break the graph that is traced."""
    indices: Tensor = torch.ops.gumbelpool.nonzero(mask)
    return indices
