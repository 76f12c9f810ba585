"""What the processes of a group tell each other, on any backend; every call is made by all."""

from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")
ERRORS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}


class Processes:
    """The processes of a group, each of which makes every one of these calls.

    Args:
        group: The group. (default: all processes)
        device: Where the tensors are that are sent.
    """

    def __init__(self, group: "dist.ProcessGroup | None", device: torch.device) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "torch.distributed must be initialised, by torch.distributed.init_process_group; "
                "torchrun starts the processes"
            )
        self.group, self.device = group, device
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("group must be one that this process is in; got another")

    def together(self, action: Callable[[], Result], alike: Callable[[Result], object]) -> Result:
        """Acts where that may fail: if it does anywhere, all processes raise the error.

        Args:
            action: Gives a result, and tells nothing to another process.
            alike: What of the result must be the same on all processes, as something to print.

        Raises:
            TypeError, ValueError, RuntimeError: Of the first process that failed, on all.
            ValueError: If what must be the same is not.
        """
        problem, said = None, ""
        try:
            result = action()
            said = str(alike(result))
        except Exception as error:
            problem = error
        headers = self.gather_integers([problem is None, crc32(said.encode())])
        if all(fine for fine, _ in headers) and len({said for _, said in headers}) == 1:
            return result
        kind = type(problem).__name__
        all_said: list[tuple[str, str]] = [("", "")] * self.size
        dist.all_gather_object(
            all_said, ("", said) if problem is None else (kind, str(problem)), group=self.group
        )
        for rank, (kind, text) in enumerate(all_said):
            if kind:
                raise ERRORS.get(kind, RuntimeError)(f"process {rank}: {text}") from problem
        each = "; ".join(f"process {rank}: {text}" for rank, (_, text) in enumerate(all_said))
        raise ValueError(f"all processes must call alike; got {each}")

    def gather_integers(self, numbers: list[int]) -> list[list[int]]:
        """The numbers of each process."""
        own = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.group)
        numbers_of_all: list[list[int]] = torch.stack(every).tolist()
        return numbers_of_all

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, of the same shape on all."""
        tensor = tensor.to(self.device)
        group = dist.group.WORLD if self.group is None else self.group
        assert group is not None
        first = dist.get_global_rank(group, 0)
        dist.broadcast(tensor, first, group=self.group)
        return tensor

    def sum(self, *tensors: Tensor) -> list[Tensor]:
        """Each one's sum over the processes; those of one dtype travel together."""
        sums = list(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            chosen = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            flat = torch.cat([tensors[i].reshape(-1) for i in chosen])
            dist.all_reduce(flat, group=self.group)
            parts = torch.split(flat, [tensors[i].numel() for i in chosen])
            for i, part in zip(chosen, parts, strict=True):
                sums[i] = part.view(tensors[i].shape)
        return sums

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Sends to each process the next of the ``rows``, and gives what came, in their order.

        Args:
            rows: ``[Σ sent, ...]``, of any dtype.
            sent: How many rows each process is sent.
            received: How many rows each process sends.

        Returns:
            ``[Σ received, ...]``.
        """
        wire = _bytes(rows)
        came = wire.new_empty(sum(received), wire.size(1))
        dist.all_to_all_single(came, wire, received, sent, group=self.group)
        return _rows(came, rows)

    def collect(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows of all processes, one after the other, of which each has its count."""
        wire = _bytes(rows)
        own = wire.new_zeros(max(counts), wire.size(1))
        own[: wire.size(0)] = wire
        every = [torch.empty_like(own) for _ in counts]
        dist.all_gather(every, own, group=self.group)
        return _rows(torch.cat([part[:n] for part, n in zip(every, counts, strict=True)]), rows)


def _bytes(rows: Tensor) -> Tensor:
    """Rows as bytes, ``[R, ...]`` uint8, which any backend sends."""
    width = prod(rows.shape[1:])
    return rows.detach().reshape(rows.size(0), width).contiguous().view(torch.uint8)


def _rows(wire: Tensor, like: Tensor) -> Tensor:
    return wire.view(like.dtype).view(wire.size(0), *like.shape[1:])


def bounds(counts: list[int]) -> list[int]:
    """Where each process's rows begin, and where the last one's end."""
    return [0, *accumulate(counts)]
