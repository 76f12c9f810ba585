"""How many draws it takes until their average is DiffPool's: bounds, measurement, and 1/pᴺ.

A random regular graph with random logits is pooled again and again by the package's own parts. For
each number of draws M the largest error of an entry of the averaged pooled adjacency is
measured; the M at which it stays below ε in all but a share δ of the repeats stands beside the
bounds of docs/theory.md, section 4.

    python -m benchmarks.theory.convergence
"""

import argparse
import math
from pathlib import Path

import matplotlib
import networkx as nx
import numpy as np
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor
from tqdm import tqdm

from gumbelpool import (
    adjacency_variance,
    coarsen_edges,
    expected_adjacency,
    sample_clusters,
    samples_for_error,
)

from ..common import DOCS, replace_section, save_figure

SIZES = (10, 100, 1_000, 10_000, 100_000)
DEGREE, CLUSTERS, ERROR, FAILURE = 8, 10, 0.01, 0.05
AT_ONCE = 1_000_000  # nodes in the batch of copies that is drawn at once


def regular_graph(num_nodes: int, seed: int) -> Tensor:
    """Both directions of the edges of a random regular graph."""
    edges = torch.tensor(list(nx.random_regular_graph(DEGREE, num_nodes, seed=seed).edges)).T
    return torch.cat([edges, edges.flip(0)], dim=1)


def average_errors(
    edge_index: Tensor, logits: Tensor, mean: Tensor, most: int, generator: torch.Generator
) -> np.ndarray:
    """Largest error of the average of M draws, relative to all weight, for M = 1 … most."""
    num_nodes, weight = logits.size(0), edge_index.size(1)
    total = torch.zeros_like(mean)
    errors = []
    while len(errors) < most:
        copies = min(most - len(errors), max(1, AT_ONCE // num_nodes))
        cluster = sample_clusters(logits.repeat(copies, 1), generator=generator)
        copy = torch.arange(copies)
        cluster += CLUSTERS * copy.repeat_interleave(num_nodes)
        shift = (num_nodes * copy).repeat_interleave(weight)
        index, merged, _ = coarsen_edges(
            edge_index.repeat(1, copies) + shift, cluster, copies * CLUSTERS
        )
        drawn = torch.zeros(copies, CLUSTERS, CLUSTERS, dtype=torch.float64)
        row, col = index
        drawn[row // CLUSTERS, row % CLUSTERS, col % CLUSTERS] = merged.double()
        sums = total + drawn.cumsum(0)
        count = torch.arange(len(errors) + 1, len(errors) + copies + 1).view(-1, 1, 1)
        errors += ((sums / count - mean).abs().amax((1, 2)) / weight).tolist()
        total = sums[-1]
    return np.array(errors)


def measure(num_nodes: int, repeats: int) -> dict[str, float]:
    """Bounds and measurement on one graph."""
    generator = torch.Generator().manual_seed(num_nodes)
    edge_index = regular_graph(num_nodes, seed=num_nodes)
    logits = torch.randn(num_nodes, CLUSTERS, generator=generator, dtype=torch.float64)
    probability = logits.softmax(-1)
    mean = expected_adjacency(edge_index, probability)[0]
    variance = float(adjacency_variance(edge_index, probability).max()) / edge_index.size(1) ** 2

    def bound(method: str, **known: object) -> int:
        return samples_for_error(ERROR, FAILURE, CLUSTERS, method, **known)

    bernstein = bound("bernstein", variance=variance)
    mcdiarmid = bound("mcdiarmid", edge_index=edge_index)
    most = min(bernstein, mcdiarmid)  # both are proven to be enough
    errors = np.stack(
        [
            average_errors(edge_index, logits, mean, most, generator)
            for _ in tqdm(range(repeats), desc=f"N = {num_nodes:,}", leave=False)
        ]
    )
    high = np.quantile(errors, 1 - FAILURE, axis=0)
    above = np.flatnonzero(high > ERROR)
    # 1/pᴺ: the wait for the likeliest of all assignments.
    digits = -float(probability.amax(1).log10().sum())
    return {
        "N": num_nodes,
        "assignment": digits,
        "hoeffding": bound("hoeffding"),
        "bernstein": bernstein,
        "mcdiarmid": mcdiarmid,
        "measured": int(above[-1]) + 2 if above.size else 1,
        "one draw": float(np.median(errors[:, 0])),
    }


def plot(rows: list[dict[str, float]], file: Path) -> None:
    """Samples against N."""
    figure, panel = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    size = [row["N"] for row in rows]
    for name, label, colour, mark in (
        ("hoeffding", "Hoeffding", "#E69F00", "^"),
        ("mcdiarmid", "McDiarmid", "#D55E00", "s"),
        ("bernstein", "Bernstein", "#009E73", "D"),
        ("measured", "measured", "#0072B2", "o"),
    ):
        panel.loglog(size, [row[name] for row in rows], marker=mark, color=colour, label=label)
    nodes = np.geomspace(size[0], size[-1], 500)
    digits = rows[-1]["assignment"] / size[-1] * nodes  # of each node alike, about
    shown = digits < 12
    panel.loglog(nodes[shown], 10 ** digits[shown], ":", color="#777777", label="1/pᴺ")
    panel.set_ylim(0.8, 1e7)
    panel.set_xlabel("nodes N")
    panel.set_ylabel(f"draws for an error of {ERROR:.0%}")
    panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.3)
    save_figure(figure, file)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    rows = [measure(size, options.repeats) for size in options.sizes]
    lines = [
        f"Draws until every entry of the averaged pooled adjacency is within {ERROR:.0%} of the "
        f"total weight, with probability {1 - FAILURE:.0%}; random regular graphs of degree "
        f"{DEGREE}, K={CLUSTERS}, normal logits, {options.repeats} repeats.",
        "",
        "| N | 1/pᴺ | Hoeffding | McDiarmid | Bernstein | measured | error of one draw |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['N']:,} | 10^{math.floor(row['assignment']):,} | {row['hoeffding']:,} "
            f"| {row['mcdiarmid']:,} | {row['bernstein']:,} | {row['measured']:,} "
            f"| {row['one draw']:.2%} |"
        )
    text = "\n".join(lines)
    print(text)
    plot(rows, options.docs / "convergence.svg")
    replace_section(options.docs, "convergence", text)


if __name__ == "__main__":
    main()
