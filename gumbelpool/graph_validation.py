"""Checks of edges and batches, the tensors that make graphs; see :mod:`gumbelpool.validation`."""

import torch
from torch import Tensor

from gumbelpool.switch import data_checks_enabled
from gumbelpool.validation import (
    MAX_SUPERNODES,
    check_finite,
    check_floating,
    check_int64,
    check_length,
    check_num_supernodes,
    check_range,
    check_tensor,
)


def check_edges(
    edge_index: object, edge_weight: object, edge_attr: object, num_nodes: int | None
) -> None:
    """Checks ``[2, E]`` edges with their weights ``[E]`` and features ``[E, D]``.

    Without a number of nodes, an edge end may be whatever is not negative.
    """
    check_edge_shapes(edge_index, edge_weight, edge_attr)
    assert isinstance(edge_index, Tensor)
    check_edge_ends(edge_index, MAX_SUPERNODES if num_nodes is None else num_nodes)
    check_finite("edge_weight", edge_weight)


def check_edge_shapes(edge_index: object, edge_weight: object, edge_attr: object) -> None:
    """Checks the types and shapes of edges, their weights and their features."""
    check_tensor("edge_index", edge_index, "[2, E]", 2)
    assert isinstance(edge_index, Tensor)
    if edge_index.size(0) != 2:
        raise ValueError(f"edge_index must have shape [2, E]; got {list(edge_index.shape)}")
    check_int64("edge_index", edge_index)
    for name, value, shape, dim in (
        ("edge_weight", edge_weight, "[E]", 1),
        ("edge_attr", edge_attr, "[E, D]", 2),
    ):
        if value is not None:
            check_tensor(name, value, shape, dim)
            assert isinstance(value, Tensor)
            if name == "edge_weight" and value.dtype == torch.int64:
                raise TypeError(
                    "edge_weight must be floating point; got torch.int64 "
                    "(a batch vector is passed as batch=)"
                )
            check_floating(name, value)
            if value.size(0) != edge_index.size(1):
                raise ValueError(
                    f"{name} must have a row per edge, {edge_index.size(1)}; "
                    f"got {list(value.shape)}"
                )


def check_edge_ends(edge_index: Tensor, num_nodes: int) -> None:
    """Checks that every edge's ends are among the nodes."""
    check_range("edge_index", edge_index, num_nodes, "the nodes")


def check_batch(batch: object, batch_size: object, num_nodes: int | None, other: str = "x") -> None:
    """Checks a sorted batch vector ``[N]`` and the number of graphs, either of them optional.

    N is that of the rows of the ``other`` argument, or whatever it is.
    """
    check_batch_shape(batch, batch_size, num_nodes, other)
    if isinstance(batch, Tensor):
        check_batch_order(batch, batch_size if isinstance(batch_size, int) else None)


def check_batch_shape(
    batch: object, batch_size: object, num_nodes: int | None, other: str = "x"
) -> None:
    """Checks the types and shapes of a batch vector and of the number of graphs."""
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(f"batch_size must be an int; got {batch_size!r}")
        if batch_size < 0 or (batch is None and batch_size != 1):
            expected = "1 where batch is None" if batch is None else "at least 0"
            raise ValueError(f"batch_size must be {expected}; got {batch_size}")
        check_num_supernodes(batch_size, "batch_size")
    if batch is None:
        return
    check_tensor("batch", batch, "[N]", 1)
    assert isinstance(batch, Tensor)
    check_int64("batch", batch)
    if num_nodes is not None:
        check_length("batch", batch, other, num_nodes)


def check_batch_order(batch: Tensor, batch_size: int | None) -> None:
    """Checks that a batch vector ascends within [0, batch_size)."""
    if data_checks_enabled() and batch.numel() > 0:
        if bool((batch[1:] < batch[:-1]).any()):
            raise ValueError("batch must be sorted in ascending order; got a descent in it")
        first, last = int(batch[0]), int(batch[-1])
        if first < 0:
            raise ValueError(f"batch must not be negative; got {first}")
        if batch_size is not None and last >= batch_size:
            raise ValueError(f"batch must lie in [0, batch_size), {batch_size}; got {last}")


def check_num_graphs(num_graphs: int, num_clusters: int) -> None:
    """Checks that a pair of supernode ids fits an int64 key."""
    if num_graphs * num_clusters > MAX_SUPERNODES:
        raise ValueError(
            f"batch_size times num_clusters must be at most {MAX_SUPERNODES}, so that a pair of "
            f"supernodes fits an int64; got {num_graphs} times {num_clusters}"
        )


def check_within_graphs(edge_index: Tensor, batch: Tensor) -> None:
    """Checks that no edge joins two graphs."""
    if data_checks_enabled():
        source, target = edge_index
        between = batch.index_select(0, source) != batch.index_select(0, target)
        if bool(between.any()):
            edge = int(between.nonzero()[0])
            source, target = edge_index[:, edge].tolist()
            raise ValueError(
                "edge_index must not join two graphs of the batch; "
                f"edge {edge} joins node {source} of graph {int(batch[source])} "
                f"and node {target} of graph {int(batch[target])}"
            )


def check_one_graph_each(graph: Tensor, batch: Tensor) -> None:
    """Checks that the graph of each node's supernode is the node's own."""
    if data_checks_enabled():
        shared = graph != batch
        if bool(shared.any()):
            node = int(shared.nonzero()[0])
            raise ValueError(
                "cluster must not share a supernode between graphs; "
                f"that of node {node} of graph {int(batch[node])} "
                f"has members of graph {int(graph[node])}"
            )
