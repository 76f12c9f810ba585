"""The training loop: averages over draws, the temperature, what is written."""

import pytest
import torch
from classifier import SMALL
from lightning_fabric import Fabric
from torch import nn
from torch_geometric.data import Batch, Data

from examples.classification.datasets import load, make_splits
from examples.classification.described import build_model, training_options
from examples.classification.models import Prediction
from examples.classification.options import parser
from examples.classification.training import Trainer, TrainingOptions
from examples.classification.whole_batch import Share
from examples.shared.run_folder import RunFolder


class Alternating(nn.Module):
    """Says in turn what it was given to say."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = [torch.tensor([row]) for row in logits]

    def forward(self, *_):
        self.logits.append(self.logits.pop(0))
        return Prediction(self.logits[-1], torch.zeros(()), [])


def test_eval_samples_averages_the_class_probabilities(tmp_path):
    graph = Data(
        x=torch.ones(1, 1), edge_index=torch.zeros(2, 0, dtype=torch.long), y=torch.tensor([1])
    )
    batch = Batch.from_data_list([graph])
    model = Alternating([0.2, 0.0], [0.0, 3.0])
    scores = []
    for samples in (1, 2):
        options = TrainingOptions(1, 1, 1, 1e-3, 0.0, 0.0, samples, 0)
        trainer = Trainer(
            Fabric(accelerator="cpu", devices=1), [graph], 2, RunFolder(tmp_path), options
        )
        model.logits.sort(key=lambda row: row[0, 1].item())
        scores.append(trainer.evaluate(model, [Share(batch, 1, 1.0)]))
    assert scores[0].accuracy == 0.0
    assert scores[1].accuracy == 1.0
    mean = (torch.tensor([0.2, 0.0]).softmax(0)[1] + torch.tensor([0.0, 3.0]).softmax(0)[1]) / 2
    assert scores[1].loss == pytest.approx(-mean.log().item())


class Scaled(nn.Module):
    """A prediction whose gradient is another in each pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.passes = 0

    def forward(self, *_):
        self.passes += 1
        return Prediction((self.passes * self.weight).unsqueeze(0), torch.zeros(()), [])


@pytest.mark.parametrize("samples", [1, 3])
def test_train_samples_averages_the_gradient_over_draws(tmp_path, samples):
    graph = Data(
        x=torch.ones(1, 1), edge_index=torch.zeros(2, 0, dtype=torch.long), y=torch.tensor([1])
    )
    options = TrainingOptions(1, 1, 1, 1.0, 0.0, 0.0, 1, 0, train_samples=samples)
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = Trainer(fabric, [graph], 2, RunFolder(tmp_path), options)
    model = Scaled()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = fabric.setup(model, optimizer)
    trainer._train_epoch(model, optimizer, [0], 0, 1)
    # The gradient of a pass is its number times (1/2, -1/2).
    mean = sum(range(1, samples + 1)) / samples
    torch.testing.assert_close(model.weight, torch.tensor([-mean / 2, mean / 2]))


def test_temperature_falls_geometrically_to_its_end(tmp_path):
    args = parser().parse_args(
        [*SMALL, "--epochs", "3", "--tau", "2", "--tau-end", "0.5", "--out", str(tmp_path)]
    )
    seen = []
    dataset = load("hierarchy", None, num_graphs=args.num_graphs, seed=0)
    trainer = Trainer(
        Fabric(accelerator="cpu", devices=1), dataset.graphs, dataset.num_classes,
        RunFolder(tmp_path), training_options(args),
        lambda model, epoch: seen.append((epoch, model.poolers[1].pool.tau)),
    )  # fmt: skip
    split = make_splits(dataset, args.folds, args.seed)[0]
    trainer.run(build_model(args, dataset), split, 0)
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    assert [tau for _, tau in seen] == pytest.approx([2, 2, 1, 0.5])


def test_results_survive_a_torn_last_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append({"fold": 0})
    folder.append({"fold": 1})
    text = folder.results.read_text()
    folder.results.write_text(text[:-4])
    assert folder.finished() == [{"fold": 0}]
    folder.append({"fold": 1})
    assert folder.results.read_text() == text
