"""Which loss makes clusters that follow the graph: the topics of Cora, without a label in sight.

One graph convolution, its pooling layer, and nothing but a loss to train them. The likeliest
clusters are compared with the topics (normalised mutual information) and with the graph
(modularity Q). Beside the losses of the package stand those of other work, written out here.

    python -m benchmarks.theory.clusters --root DIR     # DIR as `Planetoid` keeps it
    python -m benchmarks.theory.clusters --cost         # a step with `modularity`, and with `link`
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import GCNConv
from torch_geometric.utils import degree
from tqdm import tqdm

from gumbelpool import GumbelPool, sample_clusters

from ..common import DOCS, replace_section

HIDDEN, LEARNING_RATE, STEPS = 64, 3e-3, 300


class Clusters(nn.Module):
    """One convolution and a pooling layer."""

    def __init__(self, data: Data, losses: tuple[str, ...]) -> None:
        super().__init__()
        self.conv = GCNConv(data.num_features, HIDDEN)
        num_clusters = int(data.y.max()) + 1
        self.pool = GumbelPool(HIDDEN, num_clusters, losses=losses, estimator="straight_through")

    def features(self, data: Data) -> Tensor:
        """What is scored, ``[N, 64]``."""
        return self.conv(data.x, data.edge_index).relu()


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

# The losses of the layer, and what is added to them.
RECIPES: dict[str, tuple[tuple[str, ...], Term | None]] = {
    "`modularity`, `balance`": (("modularity", "balance"), None),
    "`modularity`": (("modularity",), None),
    "`modularity`, DMoN's collapse term": (("modularity",), lambda logits, _: collapse(logits)),
    "MinCut's cut, `balance`": (("balance",), cut),
    "`link`, `entropy`, `balance`": (("link", "entropy", "balance"), None),
}


def train(data: Data, recipe: str, seed: int) -> tuple[float, float, int]:
    """NMI with the topics, Q, and the number of clusters in use, of the likeliest clusters."""
    losses, term = RECIPES[recipe]
    torch.manual_seed(seed)
    model = Clusters(data, losses)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        x = model.features(data)
        if term is None:
            loss = model.pool(x, data.edge_index).loss
        else:
            logits = model.pool.lin(x)
            loss = model.pool(x, data.edge_index, logits=logits).loss
            loss = loss + term(logits, data.edge_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.pool.lin(model.features(data))
        likeliest = GumbelPool(None, logits.size(1), losses=("modularity",)).eval()
        out = likeliest(data.x[:, :1], data.edge_index, logits=logits)
    shared = normalized_mutual_info_score(data.y.numpy(), out.cluster.numpy())
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
    data = Planetoid(str(arguments.root), "Cora")[0]
    lines = ["| losses | NMI with the topics | Q | clusters in use |", "|---|---|---|---|"]
    print(*lines, sep="\n")
    for recipe in RECIPES:
        seeds = tqdm(range(arguments.seeds), desc=recipe, disable=None)
        runs = [train(data, recipe, seed) for seed in seeds]
        shared, quality, used = zip(*runs, strict=True)
        lines.append(
            f"| {recipe} | {statistics.mean(shared):.2f} ({min(shared):.2f}–{max(shared):.2f}) | "
            f"{statistics.mean(quality):.2f} ({min(quality):.2f}–{max(quality):.2f}) | "
            f"{', '.join(map(str, used))} |"
        )
        print(lines[-1], flush=True)
    if arguments.write:
        replace_section(DOCS, "clusters", "\n".join(lines))


if __name__ == "__main__":
    main()
