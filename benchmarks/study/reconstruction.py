"""What pooling keeps: the coordinates of a ring and of a grid, pooled and given back.

After Grattarola et al., "Understanding Pooling in Graph Neural Networks" (TNNLS 2022): an
autoencoder is trained on one graph whose features are its coordinates, and its mean squared error
is what was lost. Here: message passing, pool 64 nodes to 16, message passing on the pooled graph,
give each node the row of its supernode (zeros where it was dropped), message passing on the graph
as it came, a linear map to coordinates. No shortcut passes by the pooling. Sums are means of the
members (`aggr="mean"`) where the pooler has the choice.

    python -m benchmarks.study.reconstruction --out runs/study
    python -m benchmarks.study.reconstruction --report-only

A run that was killed goes on from its finished trainings when started again.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from examples.classification.models import MessagePassing
from examples.classification.poolers import Pooled, PoolOptions
from gumbelpool import DenseDiffPool

from ..common import DOCS, append_line, read_lines, replace_section
from .cells import table
from .poolers import POOLERS

NODES, SIDE, CLUSTERS, HIDDEN = 64, 8, 16, 32
RATE, STEPS, SEEDS, DRAWS = 0.003, 400, 10, 8
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # a pooler of the study, and its options
    "none": ("none", {}),
    "gumbel": ("gumbel-keep-empty", {}),
    "gumbel, modularity": ("gumbel-modularity", {}),
    "gumbel, positions": ("gumbel-positions", {}),
    "random": ("random-keep-empty", {}),
    "kmis": ("kmis", {}),
    "topk": ("topk", {}),
    "diffpool": ("diffpool", {"losses": ("link", "entropy")}),
}


def ring() -> tuple[Tensor, Tensor]:
    """Coordinates [64, 2] on the unit circle, and edges between neighbours."""
    angle = 2 * np.pi * torch.arange(NODES) / NODES
    node = torch.arange(NODES)
    edges = torch.stack([node, (node + 1) % NODES])
    return torch.stack([angle.cos(), angle.sin()], dim=1).float(), both_ways(edges)


def grid() -> tuple[Tensor, Tensor]:
    """Coordinates [64, 2] of 8 by 8 places from -1 to 1, and edges between neighbours."""
    node = torch.arange(SIDE**2).view(SIDE, SIDE)
    right = torch.stack([node[:, :-1].flatten(), node[:, 1:].flatten()])
    down = torch.stack([node[:-1].flatten(), node[1:].flatten()])
    place = torch.linspace(-1, 1, SIDE)
    return torch.cartesian_prod(place, place), both_ways(torch.cat([right, down], dim=1))


def both_ways(edges: Tensor) -> Tensor:
    """Each edge [2, E] and its reverse."""
    return torch.cat([edges, edges.flip(0)], dim=1)


GRAPHS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {"ring": ring, "grid": grid}


def lift(pooler: nn.Module, hidden: Tensor, pooled: Pooled, x: Tensor) -> Tensor:
    """Rows of supernodes `x` back to the nodes: [K', F] → [N, F].

    By soft clusters where the pooler has them; zeros for a node that was dropped.
    """
    pool = getattr(pooler, "pool", None)
    if isinstance(pool, DenseDiffPool):
        return pool.lin(hidden).softmax(dim=-1) @ x
    kept = pooled.cluster >= 0
    return x[pooled.cluster.clamp(min=0)] * kept[:, None]


class Autoencoder(nn.Module):
    """Coordinates through a pooled graph and back."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler
        sizes = (2, HIDDEN, HIDDEN)
        self.before, self.inside, self.after = (
            MessagePassing(size, HIDDEN, layers=2, dropout=0.0) for size in sizes
        )
        self.out = nn.Linear(HIDDEN, 2)

    def forward(self, position: Tensor, edge_index: Tensor) -> tuple[Tensor, Pooled]:
        """Coordinates again, [N, 2], and what was between."""
        hidden = self.before(position, edge_index, None)
        batch = edge_index.new_zeros(len(position))
        pooled = self.pooler(hidden, edge_index, None, batch, 1)
        inside = self.inside(pooled.x, pooled.edge_index, pooled.edge_weight)
        lifted = lift(self.pooler, hidden, pooled, inside)
        return self.out(self.after(lifted, edge_index, None)), pooled


def train(graph: str, method: str, seed: int, steps: int) -> dict[str, Any]:
    """The error after training with a pooler: of one pass, where it draws the mean of eight."""
    torch.manual_seed(seed)
    position, edge_index = GRAPHS[graph]()
    name, options = METHODS[method]
    pooler = POOLERS[name].make(
        HIDDEN, PoolOptions(num_clusters=CLUSTERS, **({"aggr": "mean"} | options))
    )
    model = Autoencoder(pooler)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        again, pooled = model(position, edge_index)
        loss = F.mse_loss(again, position) + 0.1 * pooled.loss
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        passes = [model(position, edge_index) for _ in range(DRAWS)]
    errors = [F.mse_loss(again, position).item() for again, _ in passes]
    used = [float(p.cluster[p.cluster >= 0].unique().numel()) for _, p in passes]
    return {
        "graph": graph, "method": method, "seed": seed, "steps": steps,
        "mse": statistics.mean(errors), "used": statistics.mean(used),
    }  # fmt: skip


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a training the same training."""
    return tuple(record[field] for field in ("graph", "method", "seed", "steps"))


def report(records: list[dict[str, Any]], steps: int) -> list[str]:
    """Markdown: error and clusters in use by method and graph, median (least to most)."""
    rows = []
    for method in METHODS:
        cells = []
        for graph in GRAPHS:
            found = [r for r in records if key(r)[:2] == (graph, method) and r["steps"] == steps]
            errors = sorted(record["mse"] for record in found)
            if not errors:
                cells += ["–", "–"]
                continue
            middle = statistics.median(errors)
            cells.append(f"{middle:.2g} ({errors[0]:.2g}–{errors[-1]:.2g}; {len(errors)})")
            cells.append(f"{statistics.mean(record['used'] for record in found):.1f}")
        rows.append([method, *cells])
    head = [cell for graph in GRAPHS for cell in (f"{graph}, error", "clusters in use")]
    return table(["", *head], rows)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.reconstruction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the report goes")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--report-only", action="store_true")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "reconstruction.jsonl"
    done = {key(record): record for record in read_lines(file, mend=not options.report_only)}
    if not options.report_only:
        warnings.simplefilter("ignore")
        asked = [
            (graph, method, seed, options.steps)
            for seed in range(options.seeds)
            for graph in GRAPHS
            for method in options.methods
        ]
        for wanted in tqdm([wanted for wanted in asked if wanted not in done]):
            done[wanted] = train(*wanted)
            append_line(file, done[wanted])
    lines = report(list(done.values()), options.steps)
    if done:
        replace_section(options.docs, "study reconstruction", "\n".join(lines).rstrip())
    print("\n".join(lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
