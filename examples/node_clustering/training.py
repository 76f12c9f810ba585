"""Training on one graph: the loop, its checkpoint, and the start from k-means.

A run can be killed at any moment and continued: a checkpoint is renamed into place, so that it is
whole or not there, and what an epoch draws depends on (seed, epoch) alone, so that a continued run
equals an unbroken one.
"""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..shared.progress import Progress
from ..shared.run_folder import write_atomically
from .baselines import centroids
from .graphs import NodeGraph
from .models import ClusteringNet

SURE = 10.0  # of the start's scores: less, and draws are noise; much more, and nothing moves
SAVE_EVERY = 1.0  # seconds between checkpoints, where an epoch takes less


@dataclass(frozen=True)
class TrainingOptions:
    """What the training flags of the command line say."""

    epochs: int
    lr: float
    seed: int
    start: str = "random"


def seed_for(seed: int, epoch: int) -> None:
    """Seed torch for one epoch; epoch 0 is the initialisation."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1)
    torch.manual_seed(int(state[0]))


@torch.no_grad()
def start_from_kmeans(model: ClusteringNet, graph: NodeGraph, mean: Tensor, seed: int) -> None:
    """Let the head begin with the k-means clusters of the untrained encoder's vectors.

    Its scores are then −‖h − c_k‖² · `SURE` / 2d for the centroids c_k, less what is alike for all
    k, where d is the mean squared distance to the nearest.
    """
    x = model.encoder(graph.x, mean)
    centre = centroids(x, model.clusterer.head.weight.size(0), seed)
    sample = x[:: max(1, x.size(0) // 10_000)]
    distance = torch.cdist(sample, centre).min(1).values.square().mean()
    head = model.clusterer.head
    head.weight.copy_(SURE / distance * centre)
    head.bias.copy_(-SURE / (2 * distance) * centre.square().sum(1))


def train(
    model: ClusteringNet,
    graph: NodeGraph,
    mean: Tensor,
    options: TrainingOptions,
    checkpoint: Path,
    name: str = "training",
) -> list[float]:
    """Train from where `checkpoint` is, or from the start; returns the seconds of every epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    seconds: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        seconds = state["seconds"]
    elif options.start == "kmeans":
        start_from_kmeans(model, graph, mean, options.seed)
    saved = time.perf_counter()
    with Progress(name, options.epochs, len(seconds)) as progress:
        for epoch in range(len(seconds) + 1, options.epochs + 1):
            start = time.perf_counter()
            seed_for(options.seed, epoch)
            model.train()
            optimizer.zero_grad()
            losses = model(graph, mean)
            sum(losses.values()).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            if time.perf_counter() - saved > SAVE_EVERY or epoch == options.epochs:
                _save(checkpoint, model, optimizer, seconds)
                saved = time.perf_counter()
            progress.update(epoch, **{key: value.item() for key, value in losses.items()})
    return seconds


def _save(
    path: Path, model: ClusteringNet, optimizer: torch.optim.Optimizer, seconds: list[float]
) -> None:
    state: dict[str, Any] = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "seconds": seconds
    }  # fmt: skip
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())
