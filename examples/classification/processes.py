"""What one of the processes of a run does for all."""

from collections.abc import Callable

from lightning_fabric import Fabric

from ..shared.errors import InputError


def in_main_process(fabric: Fabric, action: Callable[[], object]) -> None:
    """Act in one process while the others wait; if it cannot be done, all of them stop."""
    problem = None
    if fabric.is_global_zero:
        try:
            action()
        except InputError as error:
            problem = error
    if fabric.broadcast(problem is not None):
        # The main process says what happened; Fabric kills it if another one fails.
        raise problem or SystemExit(0)
