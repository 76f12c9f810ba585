"""What is done to a block of rows: fused C++ on a CPU, plain torch on any device.

:mod:`.reference` says what each function does. Which form runs is chosen here: the native one on a
CPU where it was built. The environment variable ``GUMBELPOOL_BACKEND``, "native" or "reference",
forces one of them; so does :func:`use`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType

from torch import Tensor

from gumbelpool.rows import reference

VARIABLE = "GUMBELPOOL_BACKEND"

native: ModuleType | None = None
_missing: ImportError | None = None
try:
    native = import_module("gumbelpool.rows.native")
except ImportError as error:  # installed without a compiler
    _missing = error


def _checked(name: str, origin: str) -> str:
    if name not in ("native", "reference"):
        raise ValueError(f'{origin} must be "native" or "reference"; got {name!r}')
    if name == "native" and native is None:
        raise ImportError(
            f'{origin} is "native", but gumbelpool was installed without its native part. With a '
            'C++ compiler present, "pip install --force-reinstall --no-deps ." in its source '
            "folder builds it"
        ) from _missing
    return name


_default = "reference" if native is None else "native"
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


def of(like: Tensor) -> ModuleType:
    """The module that has the row functions for tensors where this one is."""
    return native if native is not None and like.is_cpu and _used.get() == "native" else reference
