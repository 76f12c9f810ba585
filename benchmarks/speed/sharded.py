"""One graph over several processes: a step's time and memory, and what it sends, for the docs.

Every process has as many nodes as every other, so that the graph grows with the processes (weak
scaling). Beside it stands what as many processes take that have a graph each and tell each other
nothing: what they lose by sharing a machine is not the library's.

    python -m benchmarks.speed.sharded
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from gumbelpool import GumbelPool, PoolOutput
from gumbelpool.distributed import ShardedGraph, pool_sharded

from ..common import DOCS, replace_section, resident, restart_high_water

LOSSES = ("link", "entropy", "balance")
STATE = 5056  # bytes of the state of a CPU's generator


@dataclass(frozen=True)
class Setting:
    """What a process has; the graph has as much for each of them."""

    nodes: int = 50_000
    degree: int = 10
    cut: float = 0.05  # of the edges may lead to any process
    channels: int = 64
    clusters: int = 1000
    steps: int = 5


@dataclass(frozen=True)
class Sizes:
    """What the bytes that a process sends in a step are made of.

    Attributes:
        processes: P.
        clusters: K, each of which has a row in the pooled graph.
        channels: F.
        halo: Own nodes, as often as they are in another process's halo.
        cut: Own edges that lead to another process.
        apart: Own edges after merging, of those whose row of A' another process adds up.
        most: Pooled edges that the process with most of them adds up.
        pooled: Pooled edges, of all.
        losses: By name.
        weighted: Whether edges have weights.
        edge_channels: D.
        width: Bytes of the floats that come in, 4 or 8.
    """

    processes: int
    clusters: int
    channels: int
    halo: int
    cut: int
    apart: int
    most: int
    pooled: int
    losses: tuple[str, ...] = LOSSES
    weighted: bool = False
    edge_channels: int = 0
    width: int = 4


def bytes_sent(size: Sizes, first: bool) -> dict[str, float]:
    """What a process sends in a training step whose loss is of all that comes out, by what it is.

    A sum over the processes counts as a ring's, 2 (P − 1) / P of what is summed. The first process
    sends the state of its generator as well.
    """
    P, K, F, D = size.processes, size.clusters, size.channels, size.edge_channels
    others, ring = P - 1, 2 * (P - 1) / P
    link, modularity = ("link" in size.losses), ("modularity" in size.losses)
    scalars = 2 * link + 2 * modularity - (link and modularity) + ("entropy" in size.losses)
    weights = 2 * size.weighted * (link + modularity)  # their sums, forward and backward
    gradient = K * F + size.pooled * (1 + D)
    return {
        "clusters of the halo": size.halo * (1 if K <= 256 else 4),
        "members, entropy, usage": ring * 8 * (2 * K + 1),
        "features": ring * 8 * K * F,
        "merged edges": 8 * (2 + D) * size.apart,
        "pooled edges": 8 * (2 + D) * size.most * others,
        "gradients": ring
        * (size.width * gradient + 8 * (scalars + ("balance" in size.losses) * K)),
        "weights of in-edges": size.cut * size.width * (size.weighted + D),
        "volumes": ring * (16 * K * modularity + 8 * weights),
        "agreement": 8 * others * (2 + 2 + P + 1 + 9) + STATE * others * first,
    }


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Counts, by collective, the bytes that this process hands over for others."""
    sent: dict[str, float] = dict.fromkeys(
        ("all_to_all_single", "all_gather", "all_reduce", "broadcast"), 0.0
    )
    originals = {name: getattr(dist, name) for name in sent}

    def counting(name: str, size: Callable[..., float]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            group = options.get("group")
            sent[name] += size(dist.get_world_size(group), dist.get_rank(group), *arguments)
            return originals[name](*arguments, **options)

        return call

    def to_others(world: int, rank: int, came: Tensor, wire: Tensor, _: Any, out: Any) -> float:
        return wire.nbytes / max(wire.size(0), 1) * (sum(out) - out[rank])

    sizes: dict[str, Callable[..., float]] = {
        "all_to_all_single": to_others,
        "all_gather": lambda world, rank, every, own: own.nbytes * (world - 1),
        "all_reduce": lambda world, rank, tensor: tensor.nbytes * 2 * (world - 1) / world,
        "broadcast": lambda world, rank, tensor, first: tensor.nbytes * (world - 1) * (rank == 0),
    }
    try:
        for name, size in sizes.items():
            setattr(dist, name, counting(name, size))
        yield sent
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def own_edges(setting: Setting, rank: int, world: int) -> Tensor:
    """Random out-edges of a process's nodes, sorted by source; the few cut ones lead anywhere."""
    random = torch.Generator().manual_seed(rank)
    source = torch.arange(setting.nodes).repeat_interleave(setting.degree)
    target = torch.randint(setting.nodes, source.shape, generator=random) + rank * setting.nodes
    anywhere = torch.randint(world * setting.nodes, source.shape, generator=random)
    cut = torch.rand(source.shape, generator=random) < setting.cut
    return torch.stack([source + rank * setting.nodes, torch.where(cut, anywhere, target)])


def step_of(kind: str, setting: Setting) -> Callable[[], PoolOutput]:
    """A step, forward and backward, of one graph "sharded" over all, or of one each, "apart"."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if kind == "sharded" else (0, 1)
    edge_index = own_edges(setting, rank, world)
    torch.manual_seed(0)
    pool = GumbelPool(setting.channels, setting.clusters, losses=LOSSES)
    x = torch.randn(setting.nodes, setting.channels).requires_grad_()
    graph = ShardedGraph(edge_index, setting.nodes) if kind == "sharded" else None

    def step() -> PoolOutput:
        out = pool(x, edge_index) if graph is None else pool_sharded(pool, x, graph)
        (out.x.square().mean() + out.edge_weight.square().mean() + out.loss).backward()
        return out

    return step


def measure(kind: str, setting: Setting) -> dict[str, float]:
    """The median of some steps, the memory that they take, and what is sent in one."""
    before = restart_high_water()
    start = time.perf_counter()
    step = step_of(kind, setting)
    prepared = time.perf_counter() - start
    step()
    seconds, busy = [], []
    for _ in range(setting.steps):
        dist.barrier()
        start, start_busy = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    peak = resident("VmHWM") - before
    with counted() as sent:
        out = step()
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "busy": statistics.median(busy),
        "prepared": prepared,
        "peak_mb": peak / 1e6,
        "sent_mb": sum(sent.values()) / 1e6,
        "pooled_edges": out.edge_index.size(1),
    }


def _start(rank: int, kind: str, world: int, setting: Setting, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", world_size=world, rank=rank)
    torch.save(measure(kind, setting), folder / f"{rank}.pt")
    dist.destroy_process_group()


def run(kind: str, world: int, setting: Setting) -> dict[str, float]:
    """What the slowest of some processes takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.multiprocessing.spawn(_start, (kind, world, setting, folder), nprocs=world)
        results = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    return {key: max(result[key] for result in results) for key in results[0]}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    setting = Setting(**{name: getattr(options, name) for name in asdict(Setting())})
    lines = [
        f"{setting.nodes:,} nodes and {setting.nodes * setting.degree:,} edges per process, "
        f"{setting.cut:.0%} of them to any process; K = {setting.clusters:,}, F = "
        f"{setting.channels}.",
        "",
        "| processes | | s per step (least–most) | s of a processor | MB each | MB sent by each |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for world in options.processes:
        for kind in ("apart", "sharded"):
            found = run(kind, world, setting)
            name = "one graph, sharded" if kind == "sharded" else "a graph each, `GumbelPool`"
            lines.append(
                f"| {world} | {name} | {found['seconds']:.3g} ({found['least']:.3g}–"
                f"{found['most']:.3g}) | {found['busy']:.3g} | {found['peak_mb']:,.0f} | "
                f"{found['sent_mb']:.3g} |"
            )
            print(lines[-1], flush=True)
    replace_section(options.docs, "sharded", "\n".join(lines))


if __name__ == "__main__":
    main()
