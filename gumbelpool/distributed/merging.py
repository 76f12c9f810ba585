"""The pooled edges of all shards, merged into one list that every process has."""

import torch
from torch import Tensor

from gumbelpool import rows
from gumbelpool.core import Merged
from gumbelpool.distributed.processes import Processes


def merge_shards(processes: Processes, merged: Merged, num_clusters: int, num_edges: int) -> Merged:
    """Merges what the shards have merged by themselves.

    Each process adds up the entries of some rows of A', which the others send to it, and then tells
    them all what came of it. Sums are float64, as within a shard.

    Args:
        processes: Those that have the shards.
        merged: This one's.
        num_clusters: K.
        num_edges: E, of all shards.
    """
    K, like = num_clusters, merged.weight
    first = [rank * K // processes.size for rank in range(processes.size + 1)]
    position = torch.searchsorted(merged.edge_index[0], torch.tensor(first, device=like.device))
    sent = position.diff().tolist()
    received = [each[processes.rank] for each in processes.gather_integers(sent)]
    wire = _pack(merged.edge_index, merged.weight, merged.attr, K)
    pairs, weight, attr = _unpack(processes.exchange(wire, sent, received), K)

    slot = torch.arange(K, device=like.device)
    start, stop = first[processes.rank : processes.rank + 2]
    pairs, count, position = rows.of(like).merge_edges(pairs, slot - start, slot, stop - start, K)
    pairs[0] += start
    weight, attr = (
        rows.of(like).sum_rows(each, position, count.numel()) for each in (weight, attr)
    )
    wire = _pack(pairs, weight, attr, K)
    counts = [number for (number,) in processes.gather_integers([count.numel()])]
    pairs, weight, attr = _unpack(processes.collect(wire, counts), K)
    graph = torch.zeros_like(pairs[0])
    return Merged(pairs, graph, weight, attr, torch.full_like(merged.num_edges, num_edges))


def _pack(pairs: Tensor, weight: Tensor, attr: Tensor, num_clusters: int) -> Tensor:
    """One row per edge: its key, and the bits of its weight and features, ``[E', 2 + D]`` int64."""
    key = pairs[0] * num_clusters + pairs[1]
    values = torch.cat([weight.unsqueeze(1), attr], dim=1).view(torch.int64)
    return torch.cat([key.unsqueeze(1), values], dim=1)


def _unpack(wire: Tensor, num_clusters: int) -> tuple[Tensor, Tensor, Tensor]:
    key, values = wire[:, 0], wire[:, 1:].contiguous().view(torch.float64)
    pairs = torch.stack([key // num_clusters, key % num_clusters])
    return pairs, values[:, 0].contiguous(), values[:, 1:].contiguous()
