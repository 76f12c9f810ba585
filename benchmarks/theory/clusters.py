"""Which losses make clusters that follow the graph: the classes of Cora, without a label in sight.

One graph convolution, its pooling layer, and nothing but losses to train them. The likeliest
clusters are compared with the classes (normalised mutual information) and with the graph
(modularity Q). Beside the losses of the package stand those of other work, written out here.

    python -m benchmarks.theory.clusters --root DIR     # DIR holds Cora as `Planetoid` keeps it
    python -m benchmarks.theory.clusters --cost         # a step with `modularity`, and with `link`
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch_geometric.nn import GCNConv
from torch_geometric.utils import degree
from tqdm import tqdm

from examples.node_clustering.graphs import EMBEDDED, NodeGraph, load
from gumbelpool import GumbelPool, sample_clusters

from ..common import DOCS, replace_section

HIDDEN, LEARNING_RATE, STEPS = 64, 3e-3, 300


class Clusters(nn.Module):
    """One convolution and a pooling layer."""

    def __init__(self, graph: NodeGraph, recipe: "Recipe") -> None:
        super().__init__()
        self.conv = GCNConv(graph.x.size(1), HIDDEN)
        self.pool = GumbelPool(
            HIDDEN, graph.num_classes, losses=recipe.losses, estimator=recipe.estimator
        )

    def features(self, graph: NodeGraph) -> Tensor:
        """What is scored, ``[N, 64]``."""
        return self.conv(graph.x, graph.edge_index).relu()


def collapse(logits: Tensor) -> Tensor:
    """DMoN's term against collapse, √K/N · ‖Σ_i p_i‖ − 1 (Tsitsulin et al. 2023)."""
    num_nodes, num_clusters = logits.shape
    return num_clusters**0.5 / num_nodes * logits.softmax(-1).sum(0).norm() - 1


def cut(logits: Tensor, edge_index: Tensor) -> Tensor:
    """−1/K · Σ_k A'_kk / vol_k (Bianchi et al. 2020) of a draw, its gradient straight through."""
    p = logits.softmax(-1)
    drawn = nn.functional.one_hot(sample_clusters(logits), logits.size(1))
    S = drawn + p - p.detach()
    source, target = edge_index
    inside = (S[source] * S[target]).sum(0)
    volume = degree(source, logits.size(0)) @ S
    return -(inside / volume.clamp(min=1)).mean()


Term = Callable[[Tensor, Tensor], Tensor]


class Recipe(NamedTuple):
    """What a network is trained by: losses of the layer, and what is added to them."""

    losses: tuple[str, ...]
    estimator: str = "straight_through"
    term: Term | None = None


OURS, DEFAULT = ("modularity", "balance"), ("link", "entropy", "balance")
RECIPES: dict[str, Recipe] = {
    "`modularity`, `balance`": Recipe(OURS),
    "`modularity`, `balance`; `gumbel`": Recipe(OURS, "gumbel"),
    "`modularity`, `entropy`, `balance`": Recipe((*OURS, "entropy")),
    "`modularity`, `link`, `balance`": Recipe((*OURS, "link")),
    "all four": Recipe(("modularity", *DEFAULT)),
    "`link`, `entropy`, `balance`": Recipe(DEFAULT),
    "`link`, `entropy`, `balance`; `gumbel`": Recipe(DEFAULT, "gumbel"),
    "`modularity`": Recipe(("modularity",)),
    "`modularity`, DMoN's collapse term": Recipe(
        ("modularity",), term=lambda logits, _: collapse(logits)
    ),
    "MinCut's cut, `balance`": Recipe(("balance",), term=cut),
}


def train(graph: NodeGraph, recipe: Recipe, seed: int) -> tuple[float, float, int]:
    """NMI with the classes, Q, and the number of clusters in use, of the likeliest clusters."""
    torch.manual_seed(seed)
    model = Clusters(graph, recipe)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        x = model.features(graph)
        logits = model.pool.lin(x)
        loss = model.pool(x, graph.edge_index, logits=logits).loss
        if recipe.term is not None:
            loss = loss + recipe.term(logits, graph.edge_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.pool.lin(model.features(graph))
        likeliest = GumbelPool(None, logits.size(1), losses=("modularity",)).eval()
        out = likeliest(graph.x[:, :1], graph.edge_index, logits=logits)
    shared = normalized_mutual_info_score(graph.y.numpy(), out.cluster.numpy())
    return float(shared), -float(out.losses["modularity"]), len(out.cluster.unique())


def seconds(loss: str, graphs: tuple[Tensor, Tensor, Tensor], weighted: bool, steps: int) -> float:
    """The least time that a step of the layer takes, forward and backward, on one core."""
    x, edge_index, batch = graphs
    x.requires_grad_()
    weight = torch.rand(edge_index.size(1)).requires_grad_() if weighted else None
    pool, least = GumbelPool(x.size(1), 20, losses=(loss,)), float("inf")
    for _ in range(steps):
        start = time.thread_time()
        out = pool(x, edge_index, weight, batch, batch_size=int(batch[-1]) + 1)
        (out.x.sum() + out.edge_weight.sum() + out.loss).backward()
        least = min(least, time.thread_time() - start)
    return least


def random_graphs(count: int, num_nodes: int, num_edges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, edges in both directions, and the graph of each node."""
    edges = torch.randint(num_nodes, (2, count, num_edges // 2))
    edges = (edges + num_nodes * torch.arange(count)[:, None]).flatten(1)
    batch = torch.arange(count).repeat_interleave(num_nodes)
    return torch.randn(len(batch), 64), torch.cat([edges, edges.flip(0)], dim=1), batch


def cost() -> None:
    """Prints what a step costs."""
    torch.set_num_threads(1)
    print("| graphs | `link`, ms | `modularity`, ms | ratio |", "|---|---|---|---|", sep="\n")
    for (count, nodes, edges), steps in ((32, 40, 150), 200), ((1, 100_000, 1_000_000), 10):
        graphs = random_graphs(count, nodes, edges)
        for weighted in (False, True):
            rounds = [
                [seconds(name, graphs, weighted, steps) for name in ("link", "modularity")]
                for _ in range(3)
            ]
            link, own = map(min, zip(*rounds, strict=True))
            print(
                f"| {count} of {nodes:,} nodes, {edges:,} edges{', weighted' * weighted} | "
                f"{1e3 * link:.1f} | {1e3 * own:.1f} | {own / link:.2f} |"
            )


def spread(values: Sequence[float]) -> str:
    """Mean, least and most."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    """Trains each recipe with some seeds and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.theory.clusters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, help="folder of Cora")
    parser.add_argument("--cost", action="store_true", help="time a step instead")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    arguments = parser.parse_args()
    if arguments.cost:
        cost()
        return
    if arguments.root is None:
        parser.error("--root or --cost must be given")
    graphs = [load("Cora", arguments.root), load(EMBEDDED, None)]
    columns = "NMI with the classes | Q | clusters in use"
    lines = ["| losses" + "".join(f" | {graph.name}: {columns}" for graph in graphs) + " |"]
    lines.append("|---" * (1 + 3 * len(graphs)) + "|")
    print(*lines, sep="\n")
    for name, recipe in RECIPES.items():
        cells = [name]
        for graph in graphs:
            seeds = tqdm(range(arguments.seeds), desc=f"{graph.name}, {name}", disable=None)
            runs = [train(graph, recipe, seed) for seed in seeds]
            shared, quality, used = zip(*runs, strict=True)
            cells += [spread(shared), spread(quality), ", ".join(map(str, used))]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if arguments.write:
        replace_section(DOCS, "clusters", "\n".join(lines))


if __name__ == "__main__":
    main()
