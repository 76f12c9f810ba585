"""The picture of the learned hierarchy: a few graphs, one row each, one panel per level."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch_geometric.data import Data

from ..shared.drawing import counted, draw_lines, draw_nodes, gather, lines
from .models import Prediction

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
        ends, strength = lines(edge_index, weight)
        draw_lines(axes, position, ends, strength)
        draw_nodes(axes, position, members, fill, following if level else None)
        name = "input" if level == 0 else f"after pooling {level}"
        counts = f"{counted(len(members), 'node')}, {counted(len(strength), 'edge')}"
        axes.set_title(f"{name}: {counts}", fontsize=11)
        if following is None:
            continue
        pooled = prediction.levels[level]
        position, members = gather(position, members, following, pooled.x.size(0))
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
