"""Memory for the temporaries of a block of rows, which the next block takes again.

Fresh memory of a megabyte costs more than what is computed in it: the allocator returns it to the
system, which hands it out again page by page. What ``empty()`` gives within a ``frame()`` is valid
until that ends; elsewhere ``empty()`` is ``torch.empty``, and so it is on an accelerator, whose
allocator keeps its memory anyway. Each thread keeps the buffers of its last block, up to ``KEPT``.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

KEPT = 1 << 24  # bytes


class _Scratch(threading.local):
    """Buffers in the order in which a block asks for them, and how many of them are in use."""

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor] = []
        self.views: list[torch.Tensor] = []
        self.used = 0
        self.depth = 0


_scratch = _Scratch()


@contextmanager
def frame() -> Iterator[None]:
    """Gives back at its end what was asked for within it."""
    used = _scratch.used
    _scratch.depth += 1
    try:
        yield
    finally:
        _scratch.used = used
        _scratch.depth -= 1
        if _scratch.depth == 0 and sum(map(torch.numel, _scratch.buffers)) > KEPT:
            _scratch.buffers, _scratch.views = [], []


def empty(
    num_rows: int, num_columns: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """An uninitialised ``[num_rows, num_columns]``."""
    buffers, views, used = _scratch.buffers, _scratch.views, _scratch.used
    if _scratch.depth == 0 or device.type != "cpu":
        return torch.empty(num_rows, num_columns, dtype=dtype, device=device)
    _scratch.used += 1
    size = num_rows * num_columns * dtype.itemsize
    if used == len(buffers) or buffers[used].numel() < size:
        buffers[used:] = [torch.empty(size, dtype=torch.uint8)]
        views[used:] = [buffers[used].view(dtype).view(num_rows, num_columns)]
    view = views[used]
    if view.shape != (num_rows, num_columns) or view.dtype != dtype:
        view = views[used] = buffers[used][:size].view(dtype).view(num_rows, num_columns)
    return view


def empty_like(tensor: torch.Tensor) -> torch.Tensor:
    """An uninitialised, contiguous tensor of the same shape ``[rows, columns]``."""
    return empty(tensor.size(0), tensor.size(1), tensor.dtype, tensor.device)
