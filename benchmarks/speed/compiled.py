"""What ``torch.compile`` gains for the layer and for a small network, for docs/results.md.

python -m benchmarks.speed.compiled --root DIR
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.nn import GraphConv, global_mean_pool

from gumbelpool import GumbelPool

from ..common import DOCS, median_range, replace_section
from .cases import CASES, NUM_FEATURES

ROUNDS, STEPS = 5, 30


class Network(torch.nn.Module):
    """Convolution, pooling, convolution, readout."""

    def __init__(self, num_clusters: int, num_graphs: int) -> None:
        super().__init__()
        self.num_graphs = num_graphs
        self.first = GraphConv(NUM_FEATURES, NUM_FEATURES)
        self.pool = GumbelPool(NUM_FEATURES, num_clusters)
        self.second = GraphConv(NUM_FEATURES, NUM_FEATURES)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """A scalar."""
        x = self.first(x, edge_index).relu()
        out = self.pool(x, edge_index, batch=batch, batch_size=self.num_graphs)
        x = self.second(out.x, out.edge_index, out.edge_weight).relu()
        return global_mean_pool(x, out.batch, self.num_graphs).square().mean() + out.loss


def seconds(step: Callable[[], Tensor]) -> float:
    """The median time of a step."""
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step().backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[STEPS // 3 :])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder with TU datasets")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    case = CASES["proteins"]
    graphs = case.build(options.root)
    x, given = graphs.features(), {"batch": graphs.batch, "batch_size": graphs.num_graphs}
    pool = GumbelPool(NUM_FEATURES, case.num_clusters)
    network = Network(case.num_clusters, graphs.num_graphs)

    def layer_step(layer: Callable[..., Tensor]) -> Tensor:
        out = layer(x, graphs.edge_index, **given)
        return out.x.square().mean() + out.edge_weight.square().mean() + out.loss

    lines = ["| | eager | compiled | gain |", "|---|---|---|---|"]
    for name, module, step in (
        ("the layer, `fullgraph=True`", pool, layer_step),
        ("a network", network, lambda net: net(x, graphs.edge_index, graphs.batch)),
    ):
        compiled = torch.compile(module, fullgraph=module is pool)
        rounds = []
        for _ in range(ROUNDS + 1):
            rounds.append([seconds(lambda m=m, step=step: step(m)) for m in (module, compiled)])
        eager, fast = (statistics.median(times) * 1e3 for times in zip(*rounds[1:], strict=True))
        gains = [a / b for a, b in rounds[1:]]
        lines.append(f"| {name} | {eager:.2f} ms | {fast:.2f} ms | {median_range(gains)} |")
    print("\n".join(lines))
    replace_section(options.docs, "compiled", "\n".join(lines))


if __name__ == "__main__":
    main()
