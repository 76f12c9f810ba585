"""Training on one graph: the loop, its checkpoint, and the start from k-means.

A run can be killed at any moment and continued: a checkpoint is renamed into place, so that it is
whole or not there, and what an epoch draws depends on (seed, epoch) alone, so that a continued run
equals an unbroken one.
"""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..shared.progress import Progress
from ..shared.run_folder import write_atomically
from .baselines import centroids
from .graphs import Averaging, NodeGraph
from .models import ClusteringNet
from .sharding import Team

UNSURE = 0.5  # of the start: its mean entropy, in parts of log K; less of it, and nothing moves
SAVE_EVERY = 1.0  # seconds between checkpoints, where an epoch takes less


@dataclass(frozen=True)
class TrainingOptions:
    """What the training flags of the command line say."""

    epochs: int
    lr: float
    seed: int
    start: str = "random"
    clock: Callable[[], float] = time.perf_counter  # by which an epoch's seconds are measured


def seed_for(seed: int, epoch: int) -> None:
    """Seed torch for one epoch; epoch 0 is the initialisation."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1)
    torch.manual_seed(int(state[0]))


@torch.no_grad()
def start_from_kmeans(model: ClusteringNet, graph: NodeGraph, mean: Averaging, seed: int) -> None:
    """Let the head begin with the k-means clusters of the untrained encoder's vectors.

    Its scores are then −s ‖h − c_k‖² / 2 for the centroids c_k, less what is alike for all k, with
    s such that assignments are neither level, so that draws are noise, nor sure.
    """
    x = graph.collect(model.encoder(graph, mean))
    head = model.clusterer.head
    # A mean over many neighbours is less noisy.
    weight = 1 / graph.collect(mean.share).squeeze(1)
    centre = centroids(x, head.weight.size(0), seed, weight)
    half = centre.square().sum(1) / 2
    scale = _scale(x[:: max(1, x.size(0) // 5000)] @ centre.t() - half)
    head.weight.copy_(scale * centre)
    head.bias.copy_(-scale * half)


def _scale(scores: Tensor) -> float:
    """The factor that gives rows of scores, ``[M, K]``, the mean entropy `UNSURE` · log K."""
    low, high = 1e-6, 1e6
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        logarithm = (middle * scores).log_softmax(1)
        entropy = -(logarithm.exp() * logarithm).sum(1).mean().item()
        if entropy > UNSURE * math.log(scores.size(1)):
            low = middle
        else:
            high = middle
    return high


def train(
    model: ClusteringNet,
    graph: NodeGraph,
    mean: Averaging,
    options: TrainingOptions,
    checkpoint: Path,
    name: str = "training",
    team: Team | None = None,
) -> list[float]:
    """Train from where `checkpoint` is, or from the start; returns the seconds of every epoch."""
    team = team or Team()
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    seconds: list[float] = []
    state = team.tell(lambda: _load(checkpoint))
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        seconds = state["seconds"]
    elif options.start == "kmeans":
        start_from_kmeans(model, graph, mean, options.seed)
    saved, parallel = time.perf_counter(), team.parallel(model)
    with Progress(name, options.epochs, len(seconds), not team.is_main) as progress:
        for epoch in range(len(seconds) + 1, options.epochs + 1):
            start = options.clock()
            seed_for(options.seed, epoch)
            model.train()
            optimizer.zero_grad()
            losses = parallel(graph, mean)
            sum(losses.values()).backward()
            optimizer.step()
            seconds.append(options.clock() - start)
            due = time.perf_counter() - saved > SAVE_EVERY or epoch == options.epochs
            if due and team.is_main:
                _save(checkpoint, model, optimizer, seconds)
                saved = time.perf_counter()
            progress.update(epoch, **{key: value.item() for key, value in losses.items()})
    return seconds


def _load(path: Path) -> dict[str, Any] | None:
    return torch.load(path, weights_only=True) if path.exists() else None


def _save(
    path: Path, model: ClusteringNet, optimizer: torch.optim.Optimizer, seconds: list[float]
) -> None:
    state: dict[str, Any] = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "seconds": seconds
    }  # fmt: skip
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())
