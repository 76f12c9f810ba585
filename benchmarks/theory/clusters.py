"""Which loss makes clusters that follow the graph: the topics of Cora, without a label in sight.

One graph convolution, its pooling layer, and nothing but a loss to train them. The likeliest
clusters are compared with the topics (normalised mutual information) and with the graph
(modularity Q). Beside the losses of the package stand those of other work, written out here.

    python -m benchmarks.theory.clusters --root DIR     # DIR as `Planetoid` keeps it
"""

import argparse
import statistics
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


def main() -> None:
    """Trains each recipe with some seeds and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.theory.clusters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of Cora")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    arguments = parser.parse_args()
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
