"""The row functions in C++, for float32 and float64 on a CPU: same arguments, same results.

What comes in is checked here, cheaply, and goes to :mod:`gumbelpool.rows._native` as addresses and
sizes. What does not fit (see :func:`_fits`) goes to the reference.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

import gumbelpool.rows._native as _native
from gumbelpool.estimators import GST_GAP, RAO_SAMPLES
from gumbelpool.rows import reference
from gumbelpool.rows.merging import bucket_limit
from gumbelpool.rows.reference import Estimate, Table

FLOATS = (torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)
ESTIMATORS = ("gumbel", "gumbel_rao", "straight_through", "gst", "reinmax")  # as in native.cpp


def _of_dtype(name: str) -> dict[torch.dtype, Callable[..., None]]:
    return {dtype: getattr(_native, f"{name}_{str(dtype)[6:]}") for dtype in FLOATS}


_sample_rows = _of_dtype("sample_rows")
_sum_rows = _of_dtype("sum_rows")
_multiply_rows = _of_dtype("multiply_rows")
_add_edges = _of_dtype("add_edges")
_row_gradient = _of_dtype("row_gradient")
_fill_noise = _of_dtype("fill_noise")


def _fits(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether all have the dtype, and their entries one after the other in the CPU's memory."""
    for tensor in tensors:
        if tensor is not None and not (
            tensor.dtype is dtype and tensor.is_cpu and tensor.is_contiguous()
        ):
            return False
    return True


def _fits_index(*tensors: Tensor | None) -> bool:
    for tensor in tensors:
        if tensor is not None and not (
            tensor.dtype in INTEGERS and tensor.is_cpu and tensor.is_contiguous()
        ):
            return False
    return True


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _is_wide(index: Tensor | None) -> bool:
    return index is not None and index.dtype is torch.int64


def sample_rows(
    logits: Tensor,
    uniform: Tensor | None,
    batch: Tensor,
    entropy: Tensor | None,
    usage: Tensor | None,
) -> Tensor:
    """See :func:`gumbelpool.rows.reference.sample_rows`."""
    if not (
        logits.dtype in FLOATS
        and _fits(logits.dtype, logits)
        and _fits(torch.float64, uniform, entropy, usage)
        and _fits_index(batch)
    ):
        return reference.sample_rows(logits, uniform, batch, entropy, usage)
    num_rows, num_columns = logits.shape
    sums = entropy if entropy is not None else usage
    cluster = torch.empty(num_rows, dtype=torch.int64)
    _sample_rows[logits.dtype](
        logits.data_ptr(), _address(uniform), batch.data_ptr(), _is_wide(batch),
        _address(entropy), _address(usage), cluster.data_ptr(), num_rows, num_columns,
        -1 if sums is None else sums.size(0), torch.get_num_threads(),
    )  # fmt: skip
    return cluster


def check_graphs(edge_index: Tensor, batch: Tensor, num_graphs: int) -> bool:
    """See :func:`gumbelpool.rows.reference.check_graphs`."""
    if not _fits(torch.int64, edge_index, batch):
        return reference.check_graphs(edge_index, batch, num_graphs)
    valid: bool = _native.check_graphs(
        edge_index.data_ptr(), batch.data_ptr(), num_graphs, edge_index.size(1), batch.size(0),
        torch.get_num_threads(),
    )  # fmt: skip
    return valid


def merge_edges(
    edge_index: Tensor,
    major: Tensor,
    minor: Tensor,
    num_major: int,
    num_minor: int,
    positions: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See :func:`gumbelpool.rows.reference.merge_edges`, which does what has to be sorted."""
    num_keys, num_edges = num_major * num_minor, edge_index.size(1)
    if not (
        num_keys <= bucket_limit(num_edges)
        and max(num_keys, num_edges) < 2**31
        and _fits(torch.int64, edge_index, major, minor)
    ):
        return reference.merge_edges(edge_index, major, minor, num_major, num_minor, positions)
    num_nodes, threads = min(major.size(0), minor.size(0)), torch.get_num_threads()
    bucket = torch.zeros(num_keys, dtype=torch.int32)
    position = torch.empty(num_edges, dtype=torch.int32) if positions else None
    distinct = _native.count_keys(
        edge_index.data_ptr(), major.data_ptr(), minor.data_ptr(), num_major, num_minor,
        bucket.data_ptr(), _address(position), num_edges, num_nodes, threads,
    )  # fmt: skip
    pairs = torch.empty(2, distinct, dtype=torch.int64)
    count = torch.empty(distinct, dtype=torch.int32)
    _native.list_keys(
        bucket.data_ptr(), _address(position), pairs.data_ptr(), count.data_ptr(), num_minor,
        distinct, num_edges, threads,
    )  # fmt: skip
    return pairs, count, position


def sum_rows(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """See :func:`gumbelpool.rows.reference.sum_rows`."""
    if not (values.dtype in FLOATS and _fits(values.dtype, values) and _fits_index(index)):
        return reference.sum_rows(values, index, num_rows)
    shape = (num_rows, *values.shape[1:])
    total = torch.zeros(shape, dtype=torch.float64)
    _sum_rows[values.dtype](
        values.data_ptr(), index.data_ptr(), _is_wide(index), total.data_ptr(), values.size(0),
        math.prod(shape[1:]), num_rows, torch.get_num_threads(),
    )  # fmt: skip
    return total


def multiply_rows_(
    g: Tensor,
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    supernode: Tensor,
    batch: Tensor,
    num_graphs: int,
) -> None:
    """See :func:`gumbelpool.rows.reference.multiply_rows_`."""
    if not (
        g.dtype in FLOATS
        and _fits(g.dtype, g, x, matrix, bias)
        and _fits(torch.int64, supernode, batch)
    ):
        return reference.multiply_rows_(g, x, matrix, bias, supernode, batch, num_graphs)
    _multiply_rows[g.dtype](
        g.data_ptr(), x.data_ptr(), matrix.data_ptr(), _address(bias), supernode.data_ptr(),
        batch.data_ptr(), g.size(0), g.size(1), x.size(1), supernode.size(0),
        torch.get_num_threads(),
    )  # fmt: skip
    return None


def add_edges_(
    g: Tensor,
    first_row: int,
    near: Tensor,
    far: Tensor,
    value: Tensor | None,
    slot: Tensor,
    table: Table,
) -> None:
    """See :func:`gumbelpool.rows.reference.add_edges_`."""
    pointer, column = table.pointer, table.column
    if not (
        g.dtype in FLOATS
        and _fits(g.dtype, g, table.value, value)
        and _fits(torch.int64, near, far, slot)
        and _fits_index(pointer, column)
    ):
        return reference.add_edges_(g, first_row, near, far, value, slot, table)
    _add_edges[g.dtype](
        g.data_ptr(), first_row, near.data_ptr(), far.data_ptr(), _address(value),
        slot.data_ptr(), table.value.data_ptr(), _address(pointer), _is_wide(pointer),
        _address(column), _is_wide(column), table.num_slots,
        table.value.size(0) if pointer is None else pointer.size(0) - 1,
        g.size(0), g.size(1), near.size(0), slot.size(0), torch.get_num_threads(),
    )  # fmt: skip
    return None


def row_gradient_(
    g: Tensor,
    logits: Tensor,
    cluster: Tensor,
    first_row: int,
    estimate: Estimate,
    batch: Tensor,
    entropy_slope: Tensor | None,
    usage_slope: Tensor | None,
) -> None:
    """See :func:`gumbelpool.rows.reference.row_gradient_`."""
    if not (
        g.dtype in FLOATS
        and _fits(g.dtype, g, logits, entropy_slope, usage_slope)
        and _fits(torch.int64, cluster, estimate.seed)
        and _fits_index(batch)
    ):
        return reference.row_gradient_(
            g, logits, cluster, first_row, estimate, batch, entropy_slope, usage_slope
        )
    sums = entropy_slope if entropy_slope is not None else usage_slope
    _row_gradient[g.dtype](
        g.data_ptr(), logits.data_ptr(), cluster.data_ptr(), first_row,
        ESTIMATORS.index(estimate.name), RAO_SAMPLES if estimate.name == "gumbel_rao" else 1,
        GST_GAP, estimate.tau, estimate.seed.data_ptr(), batch.data_ptr(), _is_wide(batch),
        _address(entropy_slope), _address(usage_slope), g.size(0), g.size(1),
        -1 if sums is None else sums.size(0), torch.get_num_threads(),
    )  # fmt: skip
    return None


def exponential_noise(seed: Tensor, sample: int, first_row: int, like: Tensor) -> Tensor:
    """See :func:`gumbelpool.rows.reference.exponential_noise`; for tests."""
    noise = torch.empty_like(like)
    _fill_noise[like.dtype](int(seed), sample, first_row, noise.data_ptr(), *like.shape)
    return noise
