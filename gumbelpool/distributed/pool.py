"""Pools a sharded graph: what ``GumbelPool`` does to its own rows, and the sums over the shards."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gumbelpool import pool as single
from gumbelpool import rows
from gumbelpool.assignment import Assignment
from gumbelpool.coarsen import count_rows
from gumbelpool.core import draw_clusters, finish, merge_edges, part_backward
from gumbelpool.distributed.graph import ShardedGraph
from gumbelpool.distributed.merging import merge_shards
from gumbelpool.distributed.randomness import draw_own
from gumbelpool.edges import Edges, Volumes
from gumbelpool.gradient import Part
from gumbelpool.inputs import Inputs, read_inputs
from gumbelpool.options import check_generator, check_not_transformed
from gumbelpool.output import PoolOutput
from gumbelpool.plan import Draw, Plan, Pooled, PooledGradients
from gumbelpool.rows.merging import index_dtype
from gumbelpool.sampling import check_not_drawn_again
from gumbelpool.validation import check_finite, check_not_negative

_GRADIENTS = len(PooledGradients._fields)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def pool_sharded(
    pool: single.GumbelPool,
    x: Tensor,
    graph: ShardedGraph,
    edge_weight: Tensor | None = None,
    *,
    edge_attr: Tensor | None = None,
    logits: Tensor | None = None,
    assign_x: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> PoolOutput:
    r"""Pools one graph whose nodes are sharded over processes, as ``pool`` would the whole of it.

    All processes of the graph's group call it, with layers of the same options and parameters. The
    pooled graph and the losses come out the same on all of them, and the same as of one process
    that has the whole graph, up to the rounding of sums: the draws are made from the generator of
    process 0, and an estimator's noise is that of a node's number in the whole graph.

    Gradients are those of the *sum* of what the processes call ``backward`` on, and each process
    has those of its own nodes and edges; a parameter's is the part that its nodes have in it. So
    averaged over the processes, as by ``DistributedDataParallel``, the gradients of all parameters,
    before, of and behind the layer, are those of the *mean* of the processes' losses. Where all
    compute the same loss of the pooled graph, that is the one process's gradient; a loss of each
    process's own nodes, after ``out.unpool()``, is to be scaled so that its mean is meant.

    Args:
        pool: The layer; its options, its head and its mode are what counts.
        x: Features of this process's nodes, ``[N_r, F]``.
        graph: The graph.
        edge_weight: Of this process's out-edges, in the order that the graph was made with,
            ``[E_r]``. (default: ones)
        edge_attr: Their features, ``[E_r, D]``.
        logits: Assignment scores, ``[N_r, K]``, in place of ``pool.lin(assign_x)``.
        assign_x: Features to be scored in place of ``x``, ``[N_r, in_channels]``.
        generator: Source of randomness, of which that of process 0 counts. (default: torch's own)

    Returns:
        :class:`~gumbelpool.PoolOutput`; ``cluster``, and with it ``unpool`` and ``occupancy``, is
        of this process's nodes, ``[N_r]``, everything else the same on all processes.

    Raises:
        TypeError: As the layer's call does, on all processes alike: the message begins with the
            process that it is about.
        ValueError: In the same way; and if the processes call with layers of other options, or with
            tensors of other dtypes or channels.
    """
    if not isinstance(graph, ShardedGraph):
        raise TypeError(f"graph must be a ShardedGraph; got {type(graph).__name__}")
    processes = graph.processes

    def read() -> Inputs:
        check_not_transformed("pool_sharded")
        if not isinstance(pool, single.GumbelPool):
            raise TypeError(f"pool must be a GumbelPool; got {type(pool).__name__}")
        graph.check_rows("x", x)
        inputs = read_inputs(
            x, (graph.out_index, edge_weight, edge_attr), None, None, logits, assign_x,
            pool.in_channels, pool.num_clusters,
        )  # fmt: skip
        check_generator(generator, x.device)
        check_not_drawn_again(generator)
        check_finite("edge_weight", edge_weight)
        if "modularity" in pool.losses:
            check_not_negative("edge_weight", edge_weight, " where losses has 'modularity'")
        inputs = inputs._replace(num_nodes=torch.full_like(inputs.num_nodes, graph.num_nodes))
        return pool.scored_inputs(inputs, logits)

    def alike(inputs: Inputs) -> str:
        forms = ", ".join(
            f"{name} {list(tensor.shape[1:])} {tensor.dtype}{' with grad' * tensor.requires_grad}"
            for name, tensor in inputs._asdict().items()
            if tensor is not None and tensor.is_floating_point()
        )
        mode = f"training {pool.training}, grad {torch.is_grad_enabled()}"
        return f"{pool!r}, {mode}, {forms}"

    inputs = processes.together(read, alike)
    sample = pool.training or pool.sample_in_eval
    if sample:
        uniform, seed = draw_own(graph, generator)
    else:
        uniform, seed = None, torch.zeros((), dtype=torch.int64, device=x.device)
    inputs = inputs._replace(uniform=uniform, seed=seed)
    pooled = Pooled(*_Pool.apply(graph, pool.plan_for(x.device), *inputs))  # type: ignore[no-untyped-call]
    if not sample:
        mean_entropy = pooled.entropy.sum() / max(graph.num_nodes, 1)
        one_graph = torch.zeros_like(pooled.supernode)
        pool.say_if_collapsed(pooled.size, one_graph, mean_entropy, inputs.limit, stacklevel=4)

    def weight_sum(pooled: Pooled, inputs: Inputs, power: int) -> Tensor:
        own = single.weight_sum(pooled, inputs, power)
        return own if inputs.edge_weight is None else graph.sum(own)

    return pool.output_of(PoolOutput, pooled, inputs, weight_sum)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: ShardedGraph, plan: Plan, *arguments: Any) -> tuple[Tensor, ...]:
        inputs = Inputs(*arguments)
        with torch.autocast(inputs.x.device.type, enabled=False):
            pooled, members = pool_forward(graph, plan, inputs)
        ctx.graph, ctx.plan = graph, plan
        ctx.forms = [(each.shape, each.dtype) for each in pooled[:_GRADIENTS]]
        saved = inputs._replace(uniform=None)  # the draw is in local
        ctx.save_for_backward(members, *Draw.of(pooled), *saved)
        ctx.mark_non_differentiable(*pooled[_GRADIENTS:])
        ctx.set_materialize_grads(False)
        return tuple(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        members, edge_index, local, logits, *saved = ctx.saved_tensors
        inputs, needs = Inputs(*saved), Inputs(*ctx.needs_input_grad[2:])
        draw = Draw(edge_index, local, logits)
        with torch.autocast(inputs.x.device.type, enabled=False):
            grad = _sum_gradients(ctx.graph, grads[:_GRADIENTS], ctx.forms)
            to = pool_backward(ctx.graph, ctx.plan, inputs, members, draw, grad, needs)
        return (None, None, *to)


def pool_forward(graph: ShardedGraph, plan: Plan, inputs: Inputs) -> tuple[Pooled, Tensor]:
    """Draws the own rows, and pools with all; and how many nodes each cluster has, ``[K]``."""
    processes, K = graph.processes, plan.num_clusters
    drawn = processes.together(lambda: draw_clusters(plan, inputs), lambda _: "")
    everyone = _with_halo(graph, drawn.local, K)
    members = count_rows(drawn.local, K).double()
    members, entropy, usage = processes.sum(members, drawn.entropy, drawn.usage)
    members = members.long()
    drawn = drawn._replace(entropy=entropy, usage=usage)
    nodes = Assignment.numbered(plan, inputs, everyone, drawn.local, everyone, members)
    merged = merge_shards(processes, merge_edges(plan, inputs, nodes), K, graph.num_edges)
    cluster = nodes.row(nodes.slot)
    (x,) = processes.sum(rows.of(inputs.x).sum_rows(inputs.x, cluster, nodes.supernode.numel()))
    return finish(plan, inputs, drawn, nodes, merged, cluster, x), members


def pool_backward(
    graph: ShardedGraph,
    plan: Plan,
    inputs: Inputs,
    members: Tensor,
    draw: Draw,
    grad: PooledGradients,
    needs: Inputs,
) -> Inputs:
    """The gradients of the own rows and edges, and the part that they have in the head's."""
    everyone = draw.local.long()
    own = everyone[: inputs.x.size(0)]
    nodes = Assignment.numbered(plan, inputs, everyone, own, everyone, members)
    with_weight = grad.edge_weight is not None or grad.inside is not None or grad.chance is not None
    into = graph.in_edges(
        inputs.edge_weight if with_weight else None,
        None if grad.edge_attr is None else inputs.edge_attr,
    )
    ends, volumes = (Edges.of(inputs), into), None
    if grad.chance is not None:
        volumes = Volumes.of(plan, inputs, ends, nodes.slot, grad.chance)
        (volume,) = graph.processes.sum(volumes.volume)
        volumes = volumes._replace(volume=volume)
    part = Part(nodes, ends, volumes, first_row=graph.own.start)
    return part_backward(plan, inputs, part, draw, grad, needs)


def _sum_gradients(
    graph: ShardedGraph,
    grads: tuple[Tensor | None, ...],
    forms: list[tuple[torch.Size, torch.dtype]],
) -> PooledGradients:
    """Sums the gradients of what came out, which is one thing, over the processes that have any."""
    processes = graph.processes
    flags = processes.gather_integers([grad is not None for grad in grads])
    present = [any(each) for each in zip(*flags, strict=True)]
    given = [
        torch.zeros(shape, dtype=dtype, device=processes.device) if grad is None else grad
        for grad, (shape, dtype), here in zip(grads, forms, present, strict=True)
        if here
    ]
    sums = iter(processes.sum(*given))
    return PooledGradients(*(next(sums) if here else None for here in present))


def _with_halo(graph: ShardedGraph, local: Tensor, num_clusters: int) -> Tensor:
    """The clusters of the own nodes and, behind them, of the halo, int64."""
    dtype = torch.uint8 if num_clusters <= 256 else index_dtype(num_clusters)
    return torch.cat([local, graph.of_halo(local.to(dtype)).long()])
