"""What is random in a call for a sharded graph: a part of what one process would draw."""

import torch
from torch import Tensor

from gumbelpool.distributed.graph import ShardedGraph

CHUNK = 1 << 20  # uniforms that are held at a time


def draw_own(graph: ShardedGraph, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The uniforms of this process's nodes, ``[N_r]`` float64, and the seed of the noise.

    They are those that one process would draw from the generator of process 0, which alone moves
    on. Every process goes through those of all nodes, in pieces: what a CPU's generator gives does
    not depend on how it is cut. An accelerator's does, and draws them whole.
    """
    device, own = graph.halo.device, graph.own
    if generator is None:
        index = device.index or 0
        generator = torch.cuda.default_generators[index] if device.type == "cuda" else None
    source = torch.default_generator if generator is None else generator
    state = graph.processes.broadcast(source.get_state()).cpu()
    if graph.processes.rank > 0:
        source = torch.Generator(device)
        source.set_state(state)
    uniform = torch.empty(len(own), dtype=torch.float64, device=device)
    size = CHUNK if device.type == "cpu" else max(graph.num_nodes, 1)
    for start in range(0, graph.num_nodes, size):
        stop = min(start + size, graph.num_nodes)
        drawn = torch.empty(stop - start, dtype=torch.float64, device=device)
        drawn.uniform_(generator=source)
        low, high = max(own.start, start), min(own.stop, stop)
        if low < high:
            uniform[low - own.start : high - own.start] = drawn[low - start : high - start]
    return uniform, torch.randint(2**62, (), device=device, generator=source)
