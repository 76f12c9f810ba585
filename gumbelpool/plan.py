"""What goes into and comes out of the operator, beside its :class:`~gumbelpool.inputs.Inputs`."""

from typing import NamedTuple

import torch
from torch import Tensor


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
    """What comes out; the fields that :class:`PooledGradients` has are differentiable.

    Attributes:
        x: Sums of the members' features, ``[K', F]``.
        size: Number of members, ``[K']``, float.
        edge_weight: Sums of the merged edges' weights, ``[E']``.
        edge_attr: Sums of the merged edges' features, ``[E', D]``, or ``[E', 0]``.
        inside: Σ_ij A_ij [c_i=c_j] of each graph, ``[B]``, float64.
        pairs: Σ_k n_k² of each graph, ``[B]``, float64, n_k being the members of cluster k.
        chance: Σ_k vol⁺_k vol⁻_k of each graph, ``[B]``, float64, the volumes being the sums of the
            members' out- and in-degrees.
        entropy: Σ_i H(p_i) of each graph, ``[B]``, float64.
        usage: Σ_i p_i of each graph, ``[B, K]``, float64.
        edge_index: ``[2, E']``.
        cluster: Row of ``x`` of each node, ``[N]``.
        supernode: graph · K + cluster of each row of ``x``, ``[K']``, ascending.
        num_edges: Edges of each graph, ``[B]``, float64.
        local: Cluster of each node, ``[N]``, in [0, K), as narrow integers.
        logits: Scores that backward need not compute again, ``[N, K]``, or ``[0, K]``.
    """

    x: Tensor
    size: Tensor
    edge_weight: Tensor
    edge_attr: Tensor
    inside: Tensor
    pairs: Tensor
    chance: Tensor
    entropy: Tensor
    usage: Tensor
    edge_index: Tensor
    cluster: Tensor
    supernode: Tensor
    num_edges: Tensor
    local: Tensor
    logits: Tensor


class Draw(NamedTuple):
    """The fields of :class:`Pooled` that its gradient is made of."""

    edge_index: Tensor
    local: Tensor
    logits: Tensor

    @staticmethod
    def of(pooled: Pooled) -> "Draw":
        """These fields of what came out."""
        return Draw(pooled.edge_index, pooled.local, pooled.logits)


class PooledGradients(NamedTuple):
    """Gradients of the differentiable fields of :class:`Pooled`, each ``None`` where unused."""

    x: Tensor | None
    size: Tensor | None
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    inside: Tensor | None
    pairs: Tensor | None
    chance: Tensor | None
    entropy: Tensor | None
    usage: Tensor | None


def rows_per_block(num_columns: int, device: torch.device) -> int:
    """How many rows of ``num_columns`` entries make a block of the streamed computation.

    On a CPU a block has 2 MB in float32, little beside a graph that needs several, and has rows
    enough for matrix products; on an accelerator it is large enough to keep it busy.
    """
    if device.type == "cpu":
        return max(96, (1 << 19) // max(num_columns, 8))
    return max(1, (1 << 25) // max(num_columns, 1))


def narrowest_dtype(bound: int) -> torch.dtype:
    """The narrowest dtype that holds the integers below ``bound``."""
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if bound <= torch.iinfo(dtype).max + 1:
            return dtype
    return torch.int64
