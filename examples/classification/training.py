"""Training on one fold: the loop, early stopping, checkpoints, and the test of the best model.

A run can be killed at any moment and continued. Two things make the continued run equal to an
unbroken one: a checkpoint after every epoch, renamed into place so that it is whole or not there,
and random numbers that depend on nothing but (seed, fold, epoch, stream), so that no random
state needs to be stored. (Equal to the bit on CPU; CUDA's atomic sums are not reproducible.)
Processes have one stream, or each its own: whole_batch.py says when, and shares out the batches.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from gumbelpool import GumbelPool

from ..shared.progress import Progress
from ..shared.run_folder import RunFolder, write_atomically
from .datasets import Split
from .models import Prediction
from .processes import in_main_process
from .whole_batch import Share, WholeBatch


@dataclass(frozen=True)
class TrainingOptions:
    """What the training flags of the command line say."""

    epochs: int
    patience: int
    batch_size: int
    lr: float
    weight_decay: float
    loss_weight: float
    eval_samples: int
    seed: int
    train_samples: int = 1
    tau: float = 1.0
    tau_end: float | None = None

    def tau_at(self, epoch: int) -> float:
        """The temperature of an epoch, from 1: constant, or falling geometrically to `tau_end`."""
        if self.tau_end is None or self.epochs == 1:
            return self.tau
        return self.tau * (self.tau_end / self.tau) ** ((epoch - 1) / (self.epochs - 1))


class Score(NamedTuple):
    """A model on a set of graphs."""

    accuracy: float
    loss: float
    nodes: list[float]  # mean per graph: of the input, then after each pooling level
    edges: list[float]  # likewise, directed
    clusters_used: list[float]  # clusters with at least one node, mean per graph, per level


def seed_for(seed: int, fold: int, epoch: int, stream: int = 0) -> None:
    """Seed Python, NumPy and torch for one epoch of one fold; epoch 0 is the initialisation."""
    state = np.random.SeedSequence([seed, fold, epoch, stream]).generate_state(1)
    seed_everything(int(state[0]), verbose=False)


def loss_of(model: nn.Module, batch: Batch, loss_weight: float) -> tuple[Tensor, Prediction]:
    """The classification loss plus the poolers' auxiliary losses, and the prediction."""
    prediction = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
    loss = F.cross_entropy(prediction.logits, batch.y) + loss_weight * prediction.loss
    return loss, prediction


class Trainer:
    """Trains and tests models on folds of one dataset.

    Args:
        fabric: Launched; device, precision and processes come from it.
        graphs: All graphs of the dataset, as the model should see them.
        num_classes: Graph classes.
        folder: Where checkpoints and models go.
        options: The training flags.
        on_epoch: Called with the model and the number of epochs behind it, at the start and after
            each epoch that this process trains.
    """

    def __init__(
        self,
        fabric: Fabric,
        graphs: Sequence[Data],
        num_classes: int,
        folder: RunFolder,
        options: TrainingOptions,
        on_epoch: Callable[[nn.Module, int], None] | None = None,
    ) -> None:
        self.fabric = fabric
        self.graphs = graphs
        self.num_classes = num_classes
        self.folder = folder
        self.options = options
        self.on_epoch = on_epoch
        self.whole = WholeBatch(fabric)

    def run(self, model: nn.Module, split: Split, fold: int) -> dict[str, Any]:
        """Train with early stopping on the validation part, then test the best model, once.

        The best epoch has the highest validation accuracy and, among equals, the lowest loss.
        """
        options, fabric = self.options, self.fabric
        self.whole.adapt(model)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        model, optimizer = fabric.setup(model, optimizer)
        state: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "epoch": 0,
            "best_epoch": 0,
            "best_accuracy": -1.0,
            "best_loss": float("inf"),
            "best_model": {},
            "seconds": 0.0,
        }
        checkpoint = self.folder.checkpoint(fold)
        if checkpoint.exists():
            fabric.load(checkpoint, state, weights_only=True)

        validation = self.shares(split.validation)
        if self.on_epoch is not None:
            self.on_epoch(model, state["epoch"])
        silent = not fabric.is_global_zero
        with Progress(f"fold {fold}", options.epochs, state["epoch"], silent) as progress:
            while not self._finished(state):
                start = time.perf_counter()
                epoch = state["epoch"] + 1
                train_loss = self._train_epoch(model, optimizer, split.train, fold, epoch)
                score = self.evaluate(model, validation)
                if (score.accuracy, -score.loss) > (state["best_accuracy"], -state["best_loss"]):
                    state["best_epoch"] = epoch
                    state["best_accuracy"], state["best_loss"] = score.accuracy, score.loss
                    state["best_model"] = {k: v.clone() for k, v in model.state_dict().items()}
                state["epoch"] = epoch
                state["seconds"] += time.perf_counter() - start
                self._save(checkpoint, state)
                if self.on_epoch is not None:
                    self.on_epoch(model, epoch)
                best = state["best_accuracy"]
                progress.update(epoch, loss=train_loss, val=score.accuracy, best=best)

        model.load_state_dict(state["best_model"])
        seed_for(options.seed, fold, options.epochs + 1, self.whole.stream)
        score = self.evaluate(model, self.shares(split.test))
        self._save(self.folder.model(fold), state["best_model"])
        return {
            "test_accuracy": score.accuracy,
            "val_accuracy": state["best_accuracy"],
            "val_loss": state["best_loss"],
            "best_epoch": state["best_epoch"],
            "epochs": state["epoch"],
            "seconds": round(state["seconds"], 2),
            "nodes": score.nodes,
            "edges": score.edges,
            "clusters_used": score.clusters_used,
        }

    def _finished(self, state: dict[str, Any]) -> bool:
        waited = state["epoch"] - state["best_epoch"]
        return state["epoch"] >= self.options.epochs or waited >= self.options.patience

    def _train_epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Sequence[int],
        fold: int,
        epoch: int,
    ) -> float:
        """One pass over the training part in a fresh order; returns the mean loss."""
        fabric, options = self.fabric, self.options
        # The order is drawn here, alike in all processes, rather than by a sampler, which would
        # count epochs from the start of the process and so lose its place when resumed.
        seed_for(options.seed, fold, epoch)
        order = [train[i] for i in torch.randperm(len(train)).tolist()]
        seed_for(options.seed, fold, epoch, self.whole.stream)
        model.train()
        for module in model.modules():
            if isinstance(module, GumbelPool):
                module.tau = options.tau_at(epoch)
        mean_loss = MeanMetric().to(fabric.device)
        shares = self.whole.shares(self.graphs, order, options.batch_size)
        for share in self.whole.each(shares):
            optimizer.zero_grad()
            for _ in range(options.train_samples):
                loss, _ = loss_of(model, share.batch, options.loss_weight)
                fabric.backward(loss * share.weight / options.train_samples)
                mean_loss.update(loss.detach(), share.count)
            optimizer.step()
        return mean_loss.compute().item()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, shares: Sequence[Share]) -> Score:
        """Score the class probabilities, averaged over `eval_samples` forward passes."""
        fabric, samples = self.fabric, self.options.eval_samples
        model.eval()
        accuracy = MulticlassAccuracy(self.num_classes, average="micro").to(fabric.device)
        mean_loss = MeanMetric().to(fabric.device)
        totals = torch.zeros((), dtype=torch.float64, device=fabric.device)
        for share in self.whole.each(shares):
            batch, count = share.batch, share.count
            probabilities: Tensor | float = 0.0
            for _ in range(samples):
                prediction = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
                probabilities = probabilities + prediction.logits.float().softmax(-1) / samples
                totals = totals + (count > 0) * _sizes(batch, prediction) / samples
            if count > 0:
                accuracy.update(probabilities, batch.y)
            log_probabilities = probabilities.clamp(min=1e-12).log()
            mean_loss.update(F.nll_loss(log_probabilities, batch.y), count)
        totals = fabric.all_reduce(totals, reduce_op="sum")
        nodes, edges, clusters = (totals[1:] / totals[0]).view(3, -1).tolist()
        return Score(
            accuracy.compute().item(),
            mean_loss.compute().item(),
            [round(n, 2) for n in nodes],
            [round(e, 2) for e in edges],
            [round(c, 2) for c in clusters[1:]],
        )

    def shares(self, indices: Sequence[int]) -> list[Share]:
        """This process's share of the graphs, batched once; none is repeated to fill up."""
        return list(self.whole.shares(self.graphs, indices, self.options.batch_size))

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        """Write a file that `fabric.load` reads, as a whole or not at all."""
        plain = {
            name: part.state_dict() if hasattr(part, "state_dict") else part
            for name, part in state.items()
        }
        content = io.BytesIO()
        torch.save(plain, content)
        in_main_process(self.fabric, lambda: write_atomically(path, content.getvalue()))


def _sizes(batch: Batch, prediction: Prediction) -> Tensor:
    """The number of graphs, then of nodes, edges and used clusters, at every level, in a row."""
    nodes, edges, clusters = [batch.num_nodes], [batch.num_edges], [batch.num_nodes]
    for level in prediction.levels:
        nodes.append(level.x.size(0))
        edges.append(level.edge_index.size(1))
        clusters.append(level.cluster[level.cluster >= 0].unique().numel())
    counts = [batch.num_graphs, *nodes, *edges, *clusters]
    return torch.tensor(counts, dtype=torch.float64, device=batch.x.device)
