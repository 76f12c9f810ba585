"""The switch of the checks that read the data.

The checks are in :mod:`gumbelpool.validation` and :mod:`gumbelpool.graph_validation`.
"""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# What is on in this context, innermost `with` block last. A thread starts with the default.
_enabled: ContextVar[tuple[bool, ...]] = ContextVar("gumbelpool.data_checks", default=(True,))


class data_checks:  # noqa: N801 - used like torch.set_grad_enabled
    """Switches the checks that read the data on or off: for good, in a ``with`` block, or, as a
    decorator, while a function runs.

    With the checks off, bad data (edge ends out of range, edges between graphs, an unsorted batch,
    NaN) gives undefined results. The switch is local to a thread and to an asyncio task: others
    keep their own, and a new thread starts with the checks on. One instance may be used again,
    also within its own block.

    Args:
        enabled: Whether the checks run from now on.

    Raises:
        TypeError: If ``enabled`` is not a bool.

    Example:
        >>> with gumbelpool.data_checks(False):
        ...     out = pool(x, edge_index, batch=batch, batch_size=32)
    """

    def __init__(self, enabled: bool) -> None:
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled must be True or False; got {enabled!r}")
        self.enabled = enabled
        self._before: bool | None
        *outer, self._before = _enabled.get()
        _enabled.set((*outer, enabled))

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Switches within the function alone."""
        self._undo()

        @functools.wraps(function)
        def switched(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with data_checks(self.enabled):
                return function(*args, **kwargs)

        return switched

    def __enter__(self) -> None:
        """Switches until the block ends."""
        self._undo()
        _enabled.set((*_enabled.get(), self.enabled))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _enabled.set(_enabled.get()[:-1])

    def _undo(self) -> None:
        """Takes back what the constructor did, once: it was not a switch for good."""
        if self._before is not None:
            *outer, _ = _enabled.get()
            _enabled.set((*outer, self._before))
            self._before = None


def data_checks_enabled() -> bool:
    """Whether the checks that read the data are on.

    A trace of ``torch.compile`` has no data; the operator that it calls does the checks.
    """
    return not torch.compiler.is_compiling() and _enabled.get()[-1]
