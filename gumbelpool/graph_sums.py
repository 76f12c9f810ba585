"""Edges, probabilities and sums over each graph of a batch: what the closed forms are made of."""

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from gumbelpool.adjacency import edge_list
from gumbelpool.coarsen import count_rows, sum_rows
from gumbelpool.graph_validation import check_batch, check_edges, check_within_graphs
from gumbelpool.validation import check_devices, check_features, check_length, check_probability


class Edges:
    """Distinct edges without self-loops, the weights of their reverses, and the self-loops."""

    def __init__(self, edge_index: Tensor, weight: Tensor, num_nodes: int) -> None:
        index, weight = coalesce(edge_index, weight, num_nodes)
        loop = index[0] == index[1]
        self.loops = sum_rows(weight[loop], index[0, loop], num_nodes).to(weight.dtype)
        self.index, self.weight = index[:, ~loop], weight[~loop]
        key = self.index[0] * num_nodes + self.index[1]  # ascending, since coalesced
        wanted = self.index[1] * num_nodes + self.index[0]
        at = torch.searchsorted(key, wanted).clamp_(max=max(key.numel() - 1, 0))
        self.reverse = torch.where(key[at] == wanted, self.weight[at], 0)

    def scale(self, sizes: list[int]) -> tuple[Tensor, Tensor]:
        """Makes each graph's weights sum to one, and gives out- and in-degrees, ``[N, 1]`` each."""
        num_nodes = self.loops.numel()
        out, into = (
            sum_rows(self.weight, end, num_nodes).to(self.weight.dtype) + self.loops
            for end in self.index
        )
        total = each_node(sums(out.unsqueeze(1), sizes), sizes)[:, 0]
        share = 1 / total.where(total > 0, 1)
        here = share.index_select(0, self.index[0])
        self.weight, self.reverse = self.weight * here, self.reverse * here
        self.loops = self.loops * share
        return (out * share).unsqueeze(1), (into * share).unsqueeze(1)


def count_graphs(batch: Tensor | None, batch_size: int | None) -> int:
    """B."""
    if batch is None:
        return 1
    if batch_size is None:
        return int(batch[-1]) + 1 if batch.numel() > 0 else 0
    return batch_size


def read_graphs(
    probability: Tensor, num_nodes: int, batch: Tensor | None, batch_size: int | None
) -> tuple[list[int], Tensor]:
    """The number of nodes of each graph, and the graph of each node."""
    check_length("probability", probability, "x", num_nodes)
    check_probability(probability)
    check_batch(batch, batch_size, num_nodes, "probability")
    check_devices(probability, "probability", batch=batch)
    if batch is None:
        return [num_nodes], torch.zeros(num_nodes, dtype=torch.int64, device=probability.device)
    sizes: list[int] = count_rows(batch, count_graphs(batch, batch_size)).tolist()
    return sizes, batch


def read_edges(
    edge_index: Tensor,
    probability: Tensor,
    edge_weight: Tensor | None,
    batch: Tensor | None,
    batch_size: int | None,
) -> tuple[list[int], Edges]:
    """The number of nodes of each graph, and the edges of all."""
    check_features("probability", probability, symbol="K")
    num_nodes = probability.size(0)
    edge_index = edge_list(edge_index)
    check_edges(edge_index, edge_weight, None, num_nodes)
    check_devices(probability, "probability", edge_index=edge_index, edge_weight=edge_weight)
    sizes, graph = read_graphs(probability, num_nodes, batch, batch_size)
    check_within_graphs(edge_index, graph)
    weight = probability.new_ones(edge_index.size(1)) if edge_weight is None else edge_weight
    return sizes, Edges(edge_index, weight.to(probability.dtype), num_nodes)


def multiply(index: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """A Y: each node sums the rows of the nodes that its edges go to."""
    steps = rows.index_select(0, index[1]) * weight.unsqueeze(1)
    return rows.new_zeros(rows.shape).index_add(0, index[0], steps)


def products(left: Tensor, right: Tensor, sizes: list[int]) -> Tensor:
    """YᵀZ of each graph, ``[B, K, ...]``."""
    pairs = zip(torch.split(left, sizes), torch.split(right, sizes), strict=True)
    each = [y.t() @ z for y, z in pairs]
    return torch.stack(each) if each else left.new_zeros(0, left.size(1), right.size(1))


def sums(rows: Tensor, sizes: list[int]) -> Tensor:
    """The sum of each graph's rows, ``[B, K]``."""
    parts = [part.sum(0) for part in torch.split(rows, sizes)]
    return torch.stack(parts) if parts else rows.new_zeros(0, rows.size(1))


def each_node(rows: Tensor, sizes: list[int]) -> Tensor:
    """Each graph's row for each of its nodes."""
    times = torch.tensor(sizes, dtype=torch.int64, device=rows.device)
    return rows.repeat_interleave(times, dim=0)
