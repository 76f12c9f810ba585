"""The picture of the learned hierarchy: a few graphs, one row each, one panel per level."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import nn
from torch_geometric.data import Data

from .models import Prediction

# Okabe and Ito's colours, told apart with any colour vision; the marker tells repeats apart.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
MARKERS = ("o", "s", "D", "^", "v", "p", "h", "*")
DROPPED = "#E6E6E6"
CAPTION = (
    "Colour and marker show a node's cluster. Each cluster is one node of the next panel, in the "
    "same colour, drawn amid its members;\nthere, the outline shows the cluster it goes to next. "
    "Larger node: more input nodes. Wider line: larger edge weight. Light grey: dropped."
)


def draw_hierarchy(
    model: nn.Module, graphs: Sequence[Data], title: str, classes: Sequence[str]
) -> Figure:
    """Draw up to three of the graphs, of different classes, with the clusters at every level.

    Args:
        model: A classifier as in models.py, on the CPU.
        graphs: Those to choose from; of each class the one closest to the usual size is drawn,
            from among those that the model classifies rightly if there are any.
        title: Stands above the picture.
        classes: Name of each class.
    """
    model.eval()
    rows = _choose(graphs, model)
    columns = len(rows[0][1].levels) + 1
    with mpl.rc_context({"font.family": "sans-serif"}):
        figure, axes = plt.subplots(
            len(rows), columns, figsize=(4.8 * columns, 4.2 * len(rows) + 1.2), squeeze=False
        )
        for row, (graph, prediction) in zip(axes, rows, strict=True):
            predicted = int(prediction.logits.argmax())
            _draw_row(row, graph, prediction)
            row[0].set_ylabel(
                f"class: {classes[int(graph.y)]}\npredicted: {classes[predicted]}", fontsize=11
            )
        figure.suptitle(title, fontsize=13, y=0.995)
        figure.text(0.5, 0.012, CAPTION, ha="center", fontsize=9, color="#444444")
        figure.tight_layout(rect=(0, 0.54 / figure.get_figheight(), 1, 0.99))
    return figure


def png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    plt.close(figure)
    return content.getvalue()


def _choose(
    graphs: Sequence[Data], model: nn.Module, limit: int = 3
) -> list[tuple[Data, Prediction]]:
    usual = float(np.median([graph.num_nodes for graph in graphs]))
    chosen: dict[int, tuple[Data, Prediction]] = {}
    fallback: tuple[Data, Prediction] | None = None
    for graph in sorted(graphs, key=lambda graph: abs(graph.num_nodes - usual)):
        label = int(graph.y)
        if label in chosen or len(chosen) == limit:
            continue
        with torch.no_grad():
            batch = graph.edge_index.new_zeros(graph.num_nodes)
            prediction = model(graph.x, graph.edge_index, batch, 1)
        fallback = fallback or (graph, prediction)
        if int(prediction.logits.argmax()) == label:
            chosen[label] = (graph, prediction)
    return [chosen[label] for label in sorted(chosen)] or [fallback]


def _draw_row(row: Sequence[Axes], graph: Data, prediction: Prediction) -> None:
    edge_index = graph.edge_index.numpy()
    weight = np.ones(edge_index.shape[1])
    position = _layout(graph.num_nodes, edge_index)
    members = np.ones(graph.num_nodes)
    low, high = position.min(axis=0), position.max(axis=0)
    margin = 0.12 * (high - low) + 1e-3
    for level, axes in enumerate(row):
        # All panels of a row share the input's coordinates.
        axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axes.set_ylim(low[1] - 2 * margin[1], high[1] + margin[1])
        own = np.arange(len(members))
        following = None
        if level < len(prediction.levels):
            following = prediction.levels[level].cluster.numpy()
        # Input nodes have no colour of their own yet: they take that of their cluster.
        fill = following if level == 0 and following is not None else own
        ends, strength = _lines(edge_index, weight)
        _draw_lines(axes, position, ends, strength)
        _draw_nodes(axes, position, members, fill, following if level else None)
        name = "input" if level == 0 else f"after pooling {level}"
        counts = f"{_count(len(members), 'node')}, {_count(len(strength), 'edge')}"
        axes.set_title(f"{name}: {counts}", fontsize=11)
        if following is None:
            continue
        pooled = prediction.levels[level]
        position, members = _gather(position, members, following, pooled.x.size(0))
        edge_index = pooled.edge_index.numpy()
        weight = np.ones(edge_index.shape[1])
        if pooled.edge_weight is not None:
            weight = pooled.edge_weight.float().numpy()


def _layout(num_nodes: int, edge_index: np.ndarray) -> np.ndarray:
    graph = nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(edge_index.T.tolist())
    found = nx.spring_layout(graph, seed=0, iterations=150, k=2.0 / max(num_nodes, 1) ** 0.5)
    return np.array([found[node] for node in range(num_nodes)]).reshape(-1, 2)


def _gather(
    position: np.ndarray, members: np.ndarray, cluster: np.ndarray, num_supernodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Place each supernode amid its members, and count the input nodes in it."""
    kept = cluster >= 0
    count = np.bincount(cluster[kept], members[kept], num_supernodes)
    size = np.bincount(cluster[kept], minlength=num_supernodes)
    centre = (
        np.stack(
            [np.bincount(cluster[kept], position[kept, axis], num_supernodes) for axis in (0, 1)], 1
        )
        / np.maximum(size, 1)[:, None]
    )
    # Soft poolers have clusters that are no node's first choice: set those aside, in a row.
    empty = np.flatnonzero(size == 0)
    if len(empty) and len(position):
        low, high = position.min(axis=0), position.max(axis=0)
        centre[empty, 0] = np.linspace(low[0], high[0], len(empty))
        centre[empty, 1] = low[1] - 0.15 * (high[1] - low[1])
    return centre, count


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lines(edge_index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One line [2, L] for each pair of nodes that edges join, as strong as the strongest."""
    between = edge_index[0] != edge_index[1]
    ends, line = np.unique(np.sort(edge_index[:, between], axis=0), axis=1, return_inverse=True)
    strength = np.zeros(ends.shape[1])
    np.maximum.at(strength, line.ravel(), np.abs(weight[between]))
    return ends, strength


def _draw_lines(axes: Axes, position: np.ndarray, ends: np.ndarray, strength: np.ndarray) -> None:
    if len(strength):
        strength = strength / max(strength.max(), 1e-12)
        if (strength < 1).any():  # weights differ: let the widths tell
            widths, alphas = 0.2 + 5.0 * strength, 0.15 + 0.7 * strength
        else:
            widths, alphas = np.full(len(strength), 0.8), np.full(len(strength), 0.75)
        segments = np.stack([position[ends[0]], position[ends[1]]], axis=1)
        axes.add_collection(
            LineCollection(segments, linewidths=widths, colors="#333333", alpha=alphas, zorder=1)
        )


def _draw_nodes(
    axes: Axes,
    position: np.ndarray,
    members: np.ndarray,
    fill: np.ndarray,
    outline: np.ndarray | None,
) -> None:
    sizes = np.minimum(40 + 18 * np.maximum(members - 1, 0), 900)
    for marker_index, marker in enumerate(MARKERS):
        nodes = np.flatnonzero((fill >= 0) & (fill // len(COLOURS) % len(MARKERS) == marker_index))
        if len(nodes) == 0:
            continue
        edges = ["#222222"] * len(nodes)
        if outline is not None:
            edges = [COLOURS[k % len(COLOURS)] if k >= 0 else DROPPED for k in outline[nodes]]
        axes.scatter(
            *position[nodes].T,
            s=sizes[nodes],
            c=[COLOURS[k % len(COLOURS)] for k in fill[nodes]],
            marker=marker,
            edgecolors=edges,
            linewidths=0.6 if outline is None else 3.5,
            zorder=2,
        )
    dropped = np.flatnonzero(fill < 0)
    axes.scatter(*position[dropped].T, s=sizes[dropped] * 0.6, c=DROPPED, zorder=1.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#CCCCCC")
