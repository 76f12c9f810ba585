"""What is done to a block of rows: fused C++ on a CPU, plain torch on any device.

:mod:`.reference` says what each function does. Which form runs is chosen here, call by call: the
native one for float32 and float64 on a CPU where it was built. The environment variable
``GUMBELPOOL_BACKEND``, "native" or "reference", forces one of them; so does :func:`use`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from gumbelpool.rows import reference
from gumbelpool.rows.reference import Estimate, Table

_missing: ImportError | None = None
try:
    from gumbelpool.rows import native
except ImportError as error:  # installed without a compiler
    native, _missing = reference, error  # type: ignore[misc]

__all__ = [
    "Estimate",
    "Table",
    "add_edges_",
    "backend",
    "merge_edges",
    "multiply_rows_",
    "row_gradient_",
    "sample_rows",
    "sum_rows",
    "use",
]

VARIABLE = "GUMBELPOOL_BACKEND"


def _checked(name: str, origin: str) -> str:
    if name not in ("native", "reference"):
        raise ValueError(f'{origin} must be "native" or "reference"; got {name!r}')
    if name == "native" and native is reference:
        raise ImportError(
            f'{origin} is "native", but gumbelpool was installed without its native part. With a '
            'C++ compiler present, "pip install --force-reinstall --no-deps ." in its source '
            "folder builds it"
        ) from _missing
    return name


_default = "reference" if native is reference else "native"
if os.environ.get(VARIABLE):
    _default = _checked(os.environ[VARIABLE], VARIABLE)
_used: ContextVar[str] = ContextVar("gumbelpool_backend", default=_default)


def backend() -> str:
    """The form that runs for float32 and float64 on a CPU: "native" or "reference"."""
    return _used.get()


@contextmanager
def use(name: str) -> Iterator[None]:
    """Forces "native" or "reference" within a ``with`` block.

    Raises:
        ValueError: For any other name.
        ImportError: For "native" where it was not built.
    """
    token = _used.set(_checked(name, "backend"))
    try:
        yield
    finally:
        _used.reset(token)


def _is_native(like: Tensor) -> bool:
    return _used.get() == "native" and like.is_cpu


def sample_rows(
    logits: Tensor,
    uniform: Tensor | None,
    batch: Tensor,
    entropy: Tensor | None,
    usage: Tensor | None,
) -> Tensor:
    """See :func:`.reference.sample_rows`."""
    run = native.sample_rows if _is_native(logits) else reference.sample_rows
    return run(logits, uniform, batch, entropy, usage)


def merge_edges(
    edge_index: Tensor, major: Tensor, minor: Tensor, num_major: int, num_minor: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`.reference.merge_edges`."""
    run = native.merge_edges if _is_native(edge_index) else reference.merge_edges
    return run(edge_index, major, minor, num_major, num_minor)


def sum_rows(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """See :func:`.reference.sum_rows`."""
    run = native.sum_rows if _is_native(values) else reference.sum_rows
    return run(values, index, num_rows)


def multiply_rows_(
    g: Tensor,
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    supernode: Tensor,
    batch: Tensor,
    num_graphs: int,
) -> None:
    """See :func:`.reference.multiply_rows_`."""
    run = native.multiply_rows_ if _is_native(g) else reference.multiply_rows_
    run(g, x, matrix, bias, supernode, batch, num_graphs)


def add_edges_(
    g: Tensor,
    first_row: int,
    near: Tensor,
    far: Tensor,
    value: Tensor | None,
    slot: Tensor,
    table: Table,
) -> None:
    """See :func:`.reference.add_edges_`."""
    run = native.add_edges_ if _is_native(g) else reference.add_edges_
    run(g, first_row, near, far, value, slot, table)


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
    """See :func:`.reference.row_gradient_`."""
    run = native.row_gradient_ if _is_native(g) else reference.row_gradient_
    run(g, logits, cluster, first_row, estimate, batch, entropy_slope, usage_slope)
