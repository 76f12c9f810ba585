"""Nodes, edges and supernodes, drawn: what the pictures of the examples have in common."""

import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; the marker tells repeats apart.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
MARKERS = ("o", "s", "D", "^", "v", "p", "h", "*")
DROPPED = "#E6E6E6"


def png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    plt.close(figure)
    return content.getvalue()


def gather(
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


def counted(number: int, what: str) -> str:
    """Say "1 node" or "2 nodes"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def lines(edge_index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One line [2, L] for each pair of nodes that edges join, as strong as the strongest."""
    between = edge_index[0] != edge_index[1]
    ends, line = np.unique(np.sort(edge_index[:, between], axis=0), axis=1, return_inverse=True)
    strength = np.zeros(ends.shape[1])
    np.maximum.at(strength, line.ravel(), np.abs(weight[between]))
    return ends, strength


def draw_lines(axes: Axes, position: np.ndarray, ends: np.ndarray, strength: np.ndarray) -> None:
    """Draw lines as wide and dark as they are strong."""
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


def draw_nodes(
    axes: Axes,
    position: np.ndarray,
    members: np.ndarray,
    fill: np.ndarray,
    outline: np.ndarray | None,
) -> None:
    """Draw nodes in the colour and marker of `fill`; those below 0 are dropped, in grey.

    Args:
        axes: Where.
        position: ``[N, 2]``.
        members: The input nodes that each stands for, ``[N]``.
        fill: A number for the colour and the marker, ``[N]``.
        outline: A number for the colour of the outline, ``[N]``.
    """
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
