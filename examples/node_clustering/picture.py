"""The picture of a clustering: the graph by cluster and by class, and the pooled graph."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from gumbelpool import coarsen_edges

from ..shared.drawing import COLOURS, MARKERS, counted, draw_lines, draw_nodes, lines
from .graphs import NodeGraph
from .metrics import matching

MOST_LINES = 20_000  # edges that are drawn; of more, a random part
CAPTION = (
    "Each disc is a cluster, its nodes with the most edges in the middle. Left: colour and marker "
    "show the cluster; centre: the known class, in the colour of the cluster it is matched with.\n"
    "Right: each cluster is one node, larger with more members; wider line: more edges between."
)


def draw_clustering(graph: NodeGraph, cluster: Tensor, title: str) -> Figure:
    """Draw it; clusters are placed by the edges between them, all three panels alike."""
    used, local = torch.unique(cluster, return_inverse=True)
    K = used.numel()
    pooled, weight, _ = coarsen_edges(graph.edge_index, local, K)
    members = np.bincount(local.numpy(), minlength=K)
    centre, radius = _discs(K, pooled.numpy(), weight.numpy(), members)
    position = _inside(centre, radius, local.numpy(), graph)
    fills = {
        "clusters": local.numpy(),
        "known classes": _colours(local, graph.y),
    }
    ends, _ = lines(graph.edge_index.numpy(), np.ones(graph.edge_index.size(1)))
    with mpl.rc_context({"font.family": "sans-serif"}):
        figure, axes = plt.subplots(1, 3, figsize=(18, 6.8))
        for panel, (name, fill) in zip(axes, fills.items(), strict=False):
            _draw_graph(panel, position, ends, fill)
            nodes, edges = counted(graph.num_nodes, "node"), counted(ends.shape[1], "edge")
            panel.set_title(f"{name}: {nodes}, {edges}")
        own = pooled[0] != pooled[1]
        ends, strength = lines(pooled[:, own].numpy(), weight[own].numpy())
        draw_lines(axes[2], centre, ends, strength)
        shares = 1 + 40 * members / members.max()
        draw_nodes(axes[2], centre, shares, np.arange(K), None)
        axes[2].set_title(f"pooled: {counted(K, 'node')}, {counted(len(strength), 'edge')}")
        for panel in axes:
            panel.set_aspect("equal")
            panel.set_xlim(axes[0].get_xlim())
            panel.set_ylim(axes[0].get_ylim())
        figure.suptitle(title, fontsize=13)
        figure.text(0.5, 0.015, CAPTION, ha="center", fontsize=9, color="#444444")
        figure.tight_layout(rect=(0, 0.07, 1, 0.99))
    return figure


def _draw_graph(axes: Axes, position: np.ndarray, ends: np.ndarray, fill: np.ndarray) -> None:
    """Many nodes, as dots, and no more lines than can be seen."""
    if ends.shape[1] > MOST_LINES:
        ends = np.random.default_rng(0).choice(ends, MOST_LINES, replace=False, axis=1)
    segments = np.stack([position[ends[0]], position[ends[1]]], axis=1)
    alpha = min(0.4, 1000 / max(len(segments), 1))
    axes.add_collection(LineCollection(segments, linewidths=0.4, colors="#333333", alpha=alpha))
    size = float(np.clip(15_000 / max(len(fill), 1), 2, 40))
    for kind in np.unique(fill):
        colour, marker = COLOURS[kind % len(COLOURS)], MARKERS[kind // len(COLOURS) % len(MARKERS)]
        nodes = position[fill == kind].T
        axes.scatter(
            *nodes, s=size, c=colour, marker=marker, edgecolors="#222222", linewidths=0.2, zorder=2
        )
    axes.set_axis_off()


def _discs(
    K: int, pooled: np.ndarray, weight: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the clusters are, ``[K, 2]``, and how large, pushed apart until none overlap."""
    graph = nx.Graph()
    graph.add_nodes_from(range(K))
    pairs = zip(*pooled, weight, strict=True)
    graph.add_weighted_edges_from((int(i), int(j), w) for i, j, w in pairs if i != j)
    found = nx.spring_layout(graph, seed=0, k=2 / max(K, 1) ** 0.5)
    centre = np.array([found[k] for k in range(K)]).reshape(-1, 2)
    radius = 0.9 * np.sqrt(members / members.sum())
    for _ in range(200):
        gap = centre[:, None] - centre[None]
        distance = np.sqrt((gap**2).sum(2)) + 1e-9
        overlap = np.maximum(1.08 * (radius[:, None] + radius[None]) - distance, 0)
        np.fill_diagonal(overlap, 0)
        if not overlap.any():
            break
        centre = centre + 0.5 * (gap / distance[..., None] * overlap[..., None]).sum(1)
    return centre, radius


def _inside(
    centre: np.ndarray, radius: np.ndarray, local: np.ndarray, graph: NodeGraph
) -> np.ndarray:
    """Each node's place in its cluster's disc, like the seeds of a sunflower, ``[N, 2]``."""
    degree = np.bincount(graph.edge_index[0].numpy(), minlength=graph.num_nodes)
    order = np.lexsort((-degree, local))
    size = np.bincount(local)
    rank = np.empty(len(local))
    rank[order] = np.arange(len(local)) - (np.cumsum(size) - size)[local[order]]
    away = radius[local] * np.sqrt((rank + 0.5) / size[local])
    angle = rank * np.pi * (3 - 5**0.5)
    return centre[local] + away[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _colours(local: Tensor, y: Tensor) -> np.ndarray:
    """A number per class ``[N]``: that of the matched cluster, or one that no cluster has."""
    matched, _ = matching(local, y)
    number = {label: k for k, label in matched.items()}
    spare = int(local.max()) + 1
    for label in torch.unique(y).tolist():
        if label not in number:
            number[label], spare = spare, spare + 1
    return np.array([number[label] for label in y.tolist()])
