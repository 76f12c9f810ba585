"""Bias and noise of each gradient estimator, through a convolution and a head, by enumeration.

Small random graphs are pooled, convolved and scored. All K^N draws are in one batch, a copy of the
graph for each, so that one backward pass gives the estimate of every draw; weighted with the
probabilities of the draws that is the estimator's mean, and the spread around it its noise. The
truth is the gradient of E f(S) through the probabilities. DiffPool's gradient, of f(P), is beside.

    python -m benchmarks.theory.estimators
"""

import argparse
import itertools
import math
import statistics
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.utils import scatter, to_undirected
from tqdm import tqdm

from gumbelpool.estimators import ESTIMATORS
from gumbelpool.inputs import read_inputs
from gumbelpool.op import pool
from gumbelpool.plan import Plan

from ..common import DOCS, replace_section

NODES, CLUSTERS, CHANNELS = 5, 3, 4
SETTINGS = [(name, tau) for name in ESTIMATORS for tau in (0.5, 1.0, 2.0)]


class Problem:
    """A random graph, logits, and a network after the pooling.

    ``linear`` leaves the network out: a fixed linear function of the pooled features.
    """

    def __init__(self, seed: int, linear: bool) -> None:
        random = torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        self.linear = linear
        self.x = randn(NODES, CHANNELS)
        pairs = torch.combinations(torch.arange(NODES)).T
        chosen = torch.rand(pairs.size(1), generator=random) < 0.6
        self.edge_index = to_undirected(pairs[:, chosen], num_nodes=NODES)
        self.logits = 1.5 * randn(NODES, CLUSTERS)
        self.first, self.second = randn(CHANNELS, 8), randn(CHANNELS, 8)
        self.head, self.flat = randn(8), randn(CLUSTERS, CHANNELS)
        self.draws = torch.tensor(list(itertools.product(range(CLUSTERS), repeat=NODES)))

    def score(self, x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        """F of each graph of a batch whose graphs have CLUSTERS supernodes each, [B]."""
        if self.linear:
            return (x.view(-1, CLUSTERS, CHANNELS) * self.flat).sum((1, 2))
        sent = x.index_select(0, edge_index[0]) * weight.unsqueeze(1)
        received = scatter(sent, edge_index[1], 0, x.size(0), "sum")
        hidden = torch.relu(x @ self.first + received @ self.second / 4)
        return torch.tanh(hidden.view(-1, CLUSTERS, 8).mean(1) @ self.head / 3)

    def values(self) -> Tensor:
        """F of every draw, from dense one-hot matrices."""
        one_hot = torch.eye(CLUSTERS, dtype=torch.float64)[self.draws]
        return self.dense(one_hot)

    def dense(self, assignment: Tensor) -> Tensor:
        """F of assignments [B, N, K], soft or hard."""
        adjacency = torch.zeros(NODES, NODES, dtype=torch.float64)
        adjacency[tuple(self.edge_index)] = 1
        transposed = assignment.transpose(1, 2)
        x = transposed @ self.x
        pooled = transposed @ adjacency @ assignment
        count = assignment.size(0)
        every = torch.ones(count, CLUSTERS, CLUSTERS).nonzero().T
        edge_index = every[0] * CLUSTERS + every[1:]
        return self.score(x.reshape(-1, CHANNELS), edge_index, pooled.flatten())

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probability of every draw."""
        chosen = logits.softmax(-1).unsqueeze(0).expand(len(self.draws), -1, -1)
        return chosen.gather(2, self.draws.unsqueeze(2)).squeeze(2).prod(1)

    def truth(self) -> tuple[Tensor, Tensor]:
        """The gradients of E f(S) and of f(P)."""
        logits = self.logits.clone().requires_grad_()
        (exact,) = torch.autograd.grad((self.probabilities(logits) * self.values()).sum(), logits)
        soft = self.dense(logits.softmax(-1).unsqueeze(0)).sum()
        return exact, torch.autograd.grad(soft, logits)[0]

    def estimates(self, estimator: str, tau: float) -> Tensor:
        """The gradient of the layer's operator for every draw, [K^N, N, K]."""
        copies = len(self.draws)
        logits = self.logits.repeat(copies, 1).requires_grad_()
        offset = NODES * torch.arange(copies).repeat_interleave(self.edge_index.size(1))
        edge_index = self.edge_index.repeat(1, copies) + offset
        batch = torch.arange(copies).repeat_interleave(NODES)
        inputs = read_inputs(
            self.x.repeat(copies, 1), (edge_index, None, None), batch, copies, logits, None,
            CHANNELS, CLUSTERS,
        )  # fmt: skip
        # The middle of the interval of uniforms that give the wanted cluster.
        upper = self.logits.softmax(-1).cumsum(-1).repeat(copies, 1)
        lower = torch.cat([torch.zeros(copies * NODES, 1).double(), upper[:, :-1]], dim=1)
        middle = ((lower + upper) / 2).gather(1, self.draws.view(-1, 1)).squeeze(1)
        plan = Plan(
            CLUSTERS, estimator, tau, drop_empty=False, remove_self_loops=False, losses=[],
            block_size=1024,
        )  # fmt: skip
        out = pool(plan, inputs._replace(uniform=middle, seed=torch.randint(2**62, ())))
        assert torch.equal(out.cluster % CLUSTERS, self.draws.flatten())
        self.score(out.x, out.edge_index, out.edge_weight).sum().backward()
        assert logits.grad is not None
        return logits.grad.view(copies, NODES, CLUSTERS)


def measure(problem: Problem, estimator: str, tau: float, repeats: int) -> dict[str, float]:
    """Bias and noise relative to the exact gradient, and the cosine of mean and exact."""
    exact, _ = problem.truth()
    probability = problem.probabilities(problem.logits).view(-1, 1, 1)
    # Only these two have noise of their own besides the draw.
    repeats = repeats if estimator.startswith("gumbel") else 1
    samples = torch.stack([problem.estimates(estimator, tau) for _ in range(repeats)])
    mean = (samples.mean(0) * probability).sum(0)
    variance = ((samples - mean).square() * probability).sum((1, 2, 3)).mean()
    return compare(mean, exact) | {"noise": float(variance.sqrt() / exact.norm())}


def compare(mean: Tensor, exact: Tensor) -> dict[str, float]:
    """Relative distance and cosine."""
    return {
        "bias": float((mean - exact).norm() / exact.norm()),
        "cosine": float(torch.cosine_similarity(mean.flatten(), exact.flatten(), dim=0)),
    }


def table(problems: list[Problem], repeats: int) -> list[str]:
    """One row per estimator and temperature: medians over the problems."""
    lines = [
        "| estimator | τ | bias | cosine | noise of one draw | draws until noise is below bias |",
        "|---|---|---|---|---|---|",
    ]
    soft = [compare(problem.truth()[1], problem.truth()[0]) for problem in problems]
    for estimator, tau in tqdm(SETTINGS):
        found = [measure(problem, estimator, tau, repeats) for problem in problems]
        cells = [statistics.median(f[name] for f in found) for name in ("bias", "cosine", "noise")]
        bias, cosine, noise = cells
        draws = f"{max(1, math.ceil((noise / bias) ** 2))}" if bias > 1e-9 else "–"
        lines.append(f"| {estimator} | {tau} | {bias:.3f} | {cosine:.4f} | {noise:.2f} | {draws} |")
    bias, cosine = (statistics.median(s[name] for s in soft) for name in ("bias", "cosine"))
    return [*lines, f"| DiffPool, ∇f(P) | | {bias:.3f} | {cosine:.4f} | 0 | – |", ""]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=20, help="random problems")
    parser.add_argument("--repeats", type=int, default=100, help="draws of the estimators' noise")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = [
        f"Medians over {options.graphs} random graphs, N={NODES}, K={CLUSTERS}, all "
        f"{CLUSTERS**NODES} draws enumerated, {options.repeats} draws of the noise.",
        "",
    ]
    for title, linear in (
        ("A linear function of the pooled features", True),
        ("A convolution and a head after the pooling", False),
    ):
        problems = [Problem(seed, linear) for seed in range(options.graphs)]
        lines += [f"**{title}**", "", *table(problems, options.repeats)]
    text = "\n".join(lines).rstrip()
    print(text)
    replace_section(options.docs, "estimators", text)


if __name__ == "__main__":
    main()
