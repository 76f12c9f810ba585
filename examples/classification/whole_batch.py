"""A batch in several processes, and a network that trains on it as if it were in one.

Every process has a share of each batch. Three things make a step on the shares the step on the
batch: the loss of a share weighs as much as the share has graphs; batch norm takes its statistics
from all shares; and what is drawn for a node is what one process would draw for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import BatchNorm

from gumbelpool import GumbelPool
from gumbelpool.sampling import draw_randomness


class Share(NamedTuple):
    """What one process has of a batch."""

    batch: Batch
    count: int  # graphs that count: all, or none where one stands in for an empty share
    weight: float  # of their mean, in the mean over all processes


class WholeBatch:
    """Splits batches over processes, and makes a network see them whole.

    Attributes:
        stands_in: Whether the graphs at hand count for nothing. No process can sit a step out:
            where a batch has fewer graphs than there are processes, some go along with another's.
        stream: Number of this process's random stream, after `adapt`.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.stands_in = False
        self.stream = fabric.global_rank

    def shares(
        self, graphs: Sequence[Data], indices: Sequence[int], batch_size: int
    ) -> Iterator[Share]:
        """This process's share of each batch of the graphs with those indices, in their order."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        whole = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
        own = [np.array_split(w, world)[rank].tolist() for w in whole]
        loader = self.fabric.setup_dataloaders(
            DataLoader(graphs, batch_sampler=[o or w[:1] for o, w in zip(own, whole, strict=True)]),
            use_distributed_sampler=False,
        )
        for batch, o, w in zip(loader, own, whole, strict=True):
            yield Share(batch, len(o), len(o) * world / len(w))

    def each(self, shares: Iterable[Share]) -> Iterator[Share]:
        """Go through shares, and let the network know which stand in."""
        for share in shares:
            self.stands_in = share.count == 0
            yield share

    def adapt(self, model: nn.Module) -> None:
        """Let a network see whole batches; to be called before Fabric sets it up."""
        if self.fabric.world_size == 1:
            return
        for parent in list(model.modules()):
            for name, module in parent.named_children():
                if isinstance(module, BatchNorm):
                    setattr(parent, name, WholeBatchNorm(module, self))
        # A GPU draws other numbers for a part of the rows than for all; so does dropout anywhere.
        dropout = any(isinstance(module, nn.Dropout) and module.p for module in model.modules())
        if self.fabric.device.type == "cpu" and not dropout:
            self.stream = 0
            for module in model.modules():
                if isinstance(module, GumbelPool):
                    module.register_forward_pre_hook(self._draw_for_own_rows, with_kwargs=True)

    def _draw_for_own_rows(
        self, pool: GumbelPool, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
        """Give a pool a generator that stands at its rows, and draw for all rows from torch's."""
        if not (pool.training or pool.sample_in_eval):
            return None
        rank = self.fabric.global_rank
        rows = torch.zeros(self.fabric.world_size, dtype=torch.int64)
        rows[rank] = 0 if self.stands_in else args[0].size(0)
        torch.distributed.all_reduce(rows)
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        torch.empty(int(rows[:rank].sum()), dtype=torch.float64).uniform_(generator=generator)
        draw_randomness(int(rows.sum()), rows.device, None)
        return args, kwargs | {"generator": generator}


class WholeBatchNorm(nn.Module):
    """PyG's `BatchNorm` with `allow_single_element`, over the rows of all processes.

    (`torch.nn.SyncBatchNorm` is for GPUs only, and cannot leave out a share that stands in.)
    """

    def __init__(self, norm: BatchNorm, whole: WholeBatch) -> None:
        super().__init__()
        self.module = norm.module  # by the same name in a state_dict
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels] → [N, channels]."""
        norm = self.module
        if not self.training:
            return norm(x)
        rows = x.double()  # so that a variance is the difference of two means without harm
        sums = torch.cat([rows.new_tensor([x.size(0)]), rows.sum(0), rows.square().sum(0)])
        sums = _Sum.apply(sums * (not self.whole.stands_in))
        count, (mean, square) = sums[0], (sums[1:] / sums[0]).view(2, -1)
        if count <= 1:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
            unbiased = variance * count / (count - 1)
            norm.running_var.lerp_(unbiased.to(norm.running_var), norm.momentum)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return ((rows - mean) * scale + norm.bias).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; all of their losses depend on it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)
