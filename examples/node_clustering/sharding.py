"""One graph over the processes that torchrun starts: what each has, and what one does for all.

Every process reads the whole graph here and keeps a part, as these graphs fit. One that does not
would be read in parts: ``Shard.of`` is all that knows of the whole.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gumbelpool import GumbelPool, PoolOutput
from gumbelpool.distributed import ShardedGraph, pool_sharded

from ..shared.errors import InputError
from .graphs import Averaging, NodeGraph, averaging

Result = TypeVar("Result")


class Shard(NodeGraph):
    """One process's nodes of a graph; `edge_index` are their in-edges, the halo's nodes behind."""

    def __init__(self, name: str, x: Tensor, y: Tensor, sharded: ShardedGraph) -> None:
        super().__init__(name, x, sharded.edge_index, y)
        self.sharded = sharded

    @staticmethod
    def of(graph: NodeGraph, rank: int, world: int) -> "Shard":
        """The part of a process: as many nodes as any other, or one fewer."""
        first, last = (graph.num_nodes * each // world for each in (rank, rank + 1))
        source = graph.edge_index[0]
        own = graph.edge_index[:, (source >= first) & (source < last)]
        sharded = ShardedGraph(own, last - first)
        return Shard(graph.name, graph.x[first:last], graph.y[first:last], sharded)

    def averaging(self) -> Averaging:
        """The mean over a node and its neighbours, of which some are in the halo."""
        columns = self.num_nodes + self.sharded.halo.numel()
        return averaging(self.edge_index.flip(0), self.num_nodes, columns)

    def with_neighbors(self, x: Tensor) -> Tensor:
        """The rows of the own nodes and of the halo."""
        return self.sharded.with_halo(x)

    def normalize(self, norm: nn.Module, x: Tensor) -> Tensor:
        """A batch norm by the mean and variance of the nodes of all processes."""
        if not isinstance(norm, nn.BatchNorm1d):
            return norm(x)
        count = self.sharded.num_nodes
        x = x - self.sharded.sum(x.sum(0)) / count
        variance = self.sharded.sum(x.square().sum(0)) / count
        return x * (variance + norm.eps).rsqrt() * norm.weight + norm.bias

    def pool(self, pool: GumbelPool, x: Tensor) -> PoolOutput:
        """The pooled graph, the same on all processes."""
        return pool_sharded(pool, x, self.sharded)

    def collect(self, rows: Tensor) -> Tensor:
        """The rows of all nodes, on every process."""
        return self.sharded.collect(rows)


class Team:
    """The processes of a run, of which the main one reads and writes; by default this one alone."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.is_main = rank == 0

    def part(self, graph: NodeGraph) -> NodeGraph:
        """What this process has of a graph."""
        return graph if self.size == 1 else Shard.of(graph, self.rank, self.size)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model with the gradients of all processes."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def say(self, text: str) -> None:
        """Print, in the main process."""
        if self.is_main:
            print(text)

    def tell(self, action: Callable[[], Result]) -> Result:
        """What the main process does, and what comes of it on all; if it cannot, all stop."""
        result, problem = None, None
        if self.is_main:
            try:
                result = action()
            except InputError as error:
                problem = error
        if self.size > 1:
            news = [(result, problem is not None)]
            dist.broadcast_object_list(news)
            result, failed = news[0]
            if failed and not self.is_main:
                raise SystemExit(0)  # the main process says what happened
        if problem is not None:
            raise problem
        return result


@contextmanager
def team_of(sharded: bool) -> Iterator[Team]:
    """The processes that torchrun started, where they are to share one graph."""
    if not sharded:
        yield Team()
        return
    if "WORLD_SIZE" not in os.environ:
        raise InputError(
            "--sharded needs torchrun: torchrun --nproc-per-node 2 -m -- examples.node_clustering "
            "--sharded"
        )
    dist.init_process_group("gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
