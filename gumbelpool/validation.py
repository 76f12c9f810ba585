"""Checks of single tensors. Each error names the argument, what was expected, what came.

Checks of types and shapes cost nothing and always run. Checks that read the data (a pass over it,
and on a GPU a device sync) run unless :class:`~gumbelpool.data_checks` switches them off. Checks of
edges and batches are in :mod:`gumbelpool.graph_validation`, of options in
:mod:`gumbelpool.options`.
"""

import math
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from gumbelpool.switch import data_checks_enabled

MAX_SUPERNODES = math.isqrt(torch.iinfo(torch.int64).max)  # a pair of ids must fit an int64
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check_dense(name: str, value: object, shape: str) -> None:
    """Checks a tensor that is no more than numbers in memory, one for each index."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor {shape}; got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name} must be a tensor {shape}; got a nested tensor")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor {shape}; got layout {value.layout}")
    if value.device.type == "meta":
        raise ValueError(f"{name} must hold data; got a tensor on the meta device")


def check_tensor(name: str, value: object, shape: str, dim: int) -> None:
    """Checks a dense tensor of so many dimensions."""
    _check_dense(name, value, shape)
    assert isinstance(value, Tensor)
    if value.dim() != dim:
        raise ValueError(f"{name} must have shape {shape}; got {list(value.shape)}")


def check_floating(name: str, value: Tensor) -> None:
    """Checks for a floating dtype that can be computed with."""
    if value.dtype not in FLOATING:
        size = ", of 16 bits or more" if value.is_floating_point() else ""
        raise TypeError(f"{name} must be floating point{size}; got {value.dtype}")


def check_int64(name: str, value: Tensor) -> None:
    """Checks for int64."""
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must be int64; got {value.dtype}")


def check_range(name: str, value: Tensor, bound: int, meaning: str) -> None:
    """Checks that all entries are in [0, bound); ``meaning`` says what has so many."""
    if data_checks_enabled() and value.numel() > 0:
        low, high = (int(end) for end in value.aminmax())
        if low < 0 or high >= bound:
            raise ValueError(f"{name} must lie in [0, {bound}), {meaning}; got {low} to {high}")


def check_features(
    name: str, x: object, channels: int | None = None, symbol: str = "F", hint: str = ""
) -> None:
    """Checks a floating ``[N, F]``, where F must be ``channels`` if that is given."""
    shape = f"[N, {symbol if channels is None else channels}]"
    check_tensor(name, x, shape, 2)
    assert isinstance(x, Tensor)
    check_floating(name, x)
    if channels is not None and x.size(1) != channels:
        raise ValueError(f"{name} must have shape {shape}; got {list(x.shape)}{hint}")


def check_supernode_rows(name: str, value: object) -> None:
    """Checks a tensor ``[K', ...]`` of whatever dtype."""
    _check_dense(name, value, "[K', ...]")
    assert isinstance(value, Tensor)
    if value.dim() == 0:
        raise ValueError(f"{name} must have shape [K', ...]; got []")


def check_length(name: str, value: Tensor, other: str, length: int) -> None:
    """Checks that the rows of an argument number those of another."""
    if value.size(0) != length:
        raise ValueError(
            f"{name} must have as many rows as {other}, {length}; got {list(value.shape)}"
        )


def check_devices(x: Tensor, of: str = "x", **others: Tensor | None) -> None:
    """Checks that all tensors are where ``x`` is."""
    for name, value in others.items():
        if value is not None and value.device != x.device:
            raise ValueError(
                f"{name} must be on the device of {of}, {x.device}; got {value.device}"
            )


def check_logits(logits: object, num_clusters: int | None = None) -> None:
    """Checks floating ``[N, K]`` scores, K ≥ 1."""
    check_features("logits", logits, num_clusters, "K")
    assert isinstance(logits, Tensor)
    if logits.size(1) < 1:
        raise ValueError(f"logits must have at least one column; got {list(logits.shape)}")


def check_scores(scores: object, x: Tensor, num_clusters: int) -> None:
    """Checks what a head gives for the rows of ``x``: floating ``[N, K]``, on their device."""
    name, shape = "lin(x)", [x.size(0), num_clusters]
    if isinstance(scores, Tensor) and scores.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}; got {scores.device}")
    _check_dense(name, scores, str(shape))
    assert isinstance(scores, Tensor)
    if list(scores.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}; got {list(scores.shape)}")
    check_floating(name, scores)


def check_head(weight: Tensor, in_channels: int, num_clusters: int, device: torch.device) -> None:
    """Checks that an assignment head has the layer's size and is where the features are."""
    if weight.shape != (num_clusters, in_channels):
        raise ValueError(
            f"lin must map in_channels, {in_channels}, to num_clusters, {num_clusters}; "
            f"got a weight of shape {list(weight.shape)}"
        )
    if weight.device != device:
        raise ValueError(f"lin must be on the device of x, {device}; got {weight.device}")


def check_row_maximum(
    maximum: Tensor, name: str = "logits", everywhere: Tensor | None = None
) -> None:
    """Checks the largest score of each row, ``[N]``: finite, or the row has no softmax.

    Where ``ratio`` excludes clusters, ``maximum`` is that of the others and ``everywhere`` that of
    all: a NaN or +∞ is an error wherever it is.
    """
    if everywhere is not None:
        maximum = torch.where(everywhere < math.inf, maximum, everywhere)
    check_rows(~maximum.isfinite(), name, maximum.__getitem__)


def check_rows(bad: Tensor, name: str, largest: Callable[[int], Tensor]) -> None:
    """Checks that no row is ``bad``, ``[N]``: has no softmax. ``largest`` gives a row's maximum."""
    if data_checks_enabled() and bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} must have no NaN and no +inf, and a finite entry in every row; "
            f"the largest entry of row {row} is {float(largest(row).detach())}"
        )


def check_cluster(
    cluster: object, num_supernodes: int | None, num_nodes: int | None = None
) -> None:
    """Checks supernode ids ``[N]``, which are below ``num_supernodes`` if that is given."""
    check_tensor("cluster", cluster, "[N]", 1)
    assert isinstance(cluster, Tensor)
    check_int64("cluster", cluster)
    if num_nodes is not None:
        check_length("cluster", cluster, "x", num_nodes)
    if num_supernodes is not None:
        check_range("cluster", cluster, num_supernodes, "the supernodes")
    elif data_checks_enabled() and cluster.numel() > 0 and int(cluster.min()) < 0:
        raise ValueError(f"cluster must not be negative; got {int(cluster.min())}")


def check_finite(name: str, value: object) -> None:
    """Checks weights that must be finite, or None."""
    if data_checks_enabled() and isinstance(value, Tensor):
        bad = ~value.detach().isfinite()
        if bool(bad.any()):
            entry = int(bad.nonzero()[0])
            raise ValueError(
                f"{name} must be finite; entry {entry} is {float(value.detach()[entry])}"
            )


def check_not_negative(name: str, value: Tensor | None, where: str = "") -> None:
    """Checks weights that must not be negative, or not ``where`` something needs that."""
    if data_checks_enabled() and value is not None and bool((value < 0).any()):
        raise ValueError(f"{name} must not be negative{where}; got {float(value.min())}")


def check_probability(probability: Tensor) -> None:
    """Checks that each row is a distribution, up to what rounding does to a softmax."""
    if data_checks_enabled() and probability.numel() > 0:
        rows = probability.detach().double()
        slack = 4 * torch.finfo(probability.dtype).eps * max(probability.size(1), 8)
        bad = (rows < 0).any(1) | ~((rows.sum(1) - 1).abs() <= slack)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(
                "probability must have rows that are not negative and sum to one, such as "
                f"softmax(logits); row {row} has a sum of {float(rows[row].sum()):g} "
                f"and a least entry of {float(rows[row].min()):g}"
            )


def check_num_supernodes(num_supernodes: object, name: str = "num_supernodes") -> None:
    """Checks that a pair of supernode ids fits an int64 key."""
    if isinstance(num_supernodes, bool) or not isinstance(num_supernodes, Integral):
        raise TypeError(f"{name} must be an int; got {num_supernodes!r}")
    if not 0 <= int(num_supernodes) <= MAX_SUPERNODES:
        raise ValueError(
            f"{name} must be in [0, {MAX_SUPERNODES}], so that a pair of supernodes fits an "
            f"int64; got {num_supernodes}"
        )
