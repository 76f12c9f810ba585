"""The switch of the checks that read the data; the checks are in :mod:`gumbelpool.validation`."""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_data_checks_enabled = True


class data_checks:  # noqa: N801 - used like torch.set_grad_enabled
    """Switches the checks that read the data on or off: for good, in a ``with`` block, or, as a
    decorator, while a function runs.

    With the checks off, bad data (edge ends out of range, edges between graphs, an unsorted batch,
    NaN) gives undefined results.

    Args:
        enabled: Whether the checks run from now on.

    Example:
        >>> with gumbelpool.data_checks(False):
        ...     out = pool(x, edge_index, batch=batch, batch_size=32)
    """

    def __init__(self, enabled: bool) -> None:
        global _data_checks_enabled
        self.enabled, self.previous = enabled, _data_checks_enabled
        _data_checks_enabled = enabled

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Switches within the function alone."""
        global _data_checks_enabled
        _data_checks_enabled = self.previous

        @functools.wraps(function)
        def switched(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with data_checks(self.enabled):
                return function(*args, **kwargs)

        return switched

    def __enter__(self) -> None:
        """The switch was already thrown by the constructor."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _data_checks_enabled
        _data_checks_enabled = self.previous


def data_checks_enabled() -> bool:
    """Whether the checks that read the data are on.

    A trace of ``torch.compile`` has no data; the operator that it calls does the checks.
    """
    return _data_checks_enabled and not torch.compiler.is_compiling()
