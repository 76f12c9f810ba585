"""The network and its poolers: awkward graphs, losses, and nothing but the pooler differs."""

import pytest
import torch
from classifier import SMALL, awkward_batch, small_model
from torch_geometric.data import Batch

from examples.classification.datasets import load
from examples.classification.described import build_model
from examples.classification.models import HierarchicalClassifier, MessagePassing
from examples.classification.options import parser
from examples.classification.poolers import POOLERS
from examples.classification.training import loss_of


@pytest.mark.parametrize("pool", POOLERS)
@pytest.mark.parametrize("training_mode", [True, False])
def test_awkward_graphs_give_finite_predictions_and_gradients(pool, training_mode):
    batch = awkward_batch()
    model = small_model(pool, 3, 2).train(training_mode)
    loss, prediction = loss_of(model, batch, 1.0)
    loss.backward()
    assert prediction.logits.shape == (4, 2)
    assert prediction.logits.isfinite().all()
    for level in prediction.levels:
        assert level.x.size(0) == level.batch.size(0)
        assert (level.batch[1:] >= level.batch[:-1]).all()
        if level.edge_index.numel():
            row, col = level.edge_index
            assert int(level.edge_index.max()) < level.x.size(0)
            assert torch.equal(level.batch[row], level.batch[col])
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("pool", ["gumbel", "diffpool", "mincut"])
def test_auxiliary_losses_are_added_with_their_weight(pool):
    batch = awkward_batch()
    model = small_model(pool, 3, 2)
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        loss, prediction = loss_of(model, batch, weight)
        losses.append(loss)
    assert prediction.loss != 0
    torch.testing.assert_close(losses[1], losses[0] + 2.0 * prediction.loss)
    assert torch.equal(prediction.loss, sum(level.loss for level in prediction.levels))


@pytest.mark.parametrize("pool", ["topk", "sag", "asap", "random", "none"])
def test_poolers_without_auxiliary_losses_add_none(pool):
    assert small_model(pool, 3, 2)(*_arguments(awkward_batch())).loss == 0


def _arguments(batch: Batch) -> tuple:
    return batch.x, batch.edge_index, batch.batch, batch.num_graphs


def test_only_the_pooler_differs_between_models():
    def backbone(pool: str) -> dict[str, torch.Size]:
        parameters = small_model(pool, 3, 2).named_parameters()
        return {name: p.shape for name, p in parameters if not name.startswith("poolers.")}

    assert all(backbone(pool) == backbone("none") for pool in POOLERS)


def test_pooled_edge_weights_change_the_messages():
    block = MessagePassing(2, 4, 1, 0.0).eval()
    x, edge_index = torch.randn(3, 2), torch.tensor([[1, 2], [0, 0]])
    even, uneven = (block(x, edge_index, torch.tensor(w)) for w in ([1.0, 1.0], [3.0, 1.0]))
    assert not torch.allclose(even[0], uneven[0])
    scaled = block(x, edge_index, torch.tensor([30.0, 10.0]))
    torch.testing.assert_close(uneven, scaled)  # proportions count, not the scale
    torch.testing.assert_close(even, block(x, edge_index, None))


def test_self_loops_change_no_message():
    block = MessagePassing(2, 4, 1, 0.0).eval()
    x, edge_index = torch.randn(3, 2), torch.tensor([[1, 2], [0, 0]])
    looped = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 2]])
    weighted = block(x, looped, torch.tensor([9.0, 1.0, 1.0, 9.0]))
    torch.testing.assert_close(weighted, block(x, edge_index, None))


def test_random_clusters_differ_between_eval_passes_and_gumbels_do_not():
    batch = awkward_batch()
    for pool, same in (("gumbel", True), ("random", False)):
        model = small_model(pool, 3, 2).eval()
        first, second = (model(*_arguments(batch)).levels[0].cluster for _ in range(2))
        assert torch.equal(first, second) == same


@pytest.mark.parametrize("pool", ["gumbel", "random"])
def test_binary_pooled_graphs_have_no_weights(pool):
    args = parser().parse_args([*SMALL, "--pool", pool, "--binary"])
    dataset = load("hierarchy", None, num_graphs=3, seed=0)
    batch = Batch.from_data_list(dataset.graphs)
    model = build_model(args, dataset)
    prediction = model(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
    assert [level.edge_weight for level in prediction.levels] == [None, None]


def head_inputs(model: HierarchicalClassifier, batch: Batch) -> torch.Tensor:
    """What the classifier's last part is given: all readouts, [B, 2·hidden·number]."""
    seen = []
    handle = model.head.register_forward_hook(lambda head, given, out: seen.append(given[0]))
    model(*_arguments(batch))
    handle.remove()
    return seen[0]


def fine_model(pool: str) -> HierarchicalClassifier:
    args = parser().parse_args([*SMALL, "--pool", pool, "--fine-path"])
    torch.manual_seed(0)
    return build_model(args, load("hierarchy", None, num_graphs=5, seed=0))


def fine_batch() -> Batch:
    return Batch.from_data_list(load("hierarchy", None, num_graphs=5, seed=0).graphs)


def test_the_fine_path_goes_on_with_the_unpooled_graph():
    model, batch = fine_model("none").eval(), fine_batch()
    assert len(model.fine) == len(model.blocks) - 1 == 2
    for fine, block in zip(model.fine, model.blocks[1:], strict=True):
        fine.load_state_dict(block.state_dict())
    first, second, third, fine_second, fine_third = head_inputs(model, batch).split(2 * 8, dim=1)
    # Without pooling, both paths see the same graph; with the same weights, the same features.
    torch.testing.assert_close(fine_second, second)
    torch.testing.assert_close(fine_third, third)
    assert not torch.allclose(first, second)


def test_the_fine_path_sees_nothing_of_the_clusters():
    model, batch = fine_model("random").eval(), fine_batch()
    first, second = (head_inputs(model, batch) for _ in range(2))
    pooled = slice(2 * 8, 3 * 2 * 8)
    assert not torch.allclose(first[:, pooled], second[:, pooled])
    torch.testing.assert_close(first[:, 3 * 2 * 8 :], second[:, 3 * 2 * 8 :])


def test_the_fine_path_learns_beside_the_pooled_one():
    model, batch = fine_model("gumbel"), fine_batch()
    loss, _ = loss_of(model, batch, 0.1)
    loss.backward()
    for part in (model.fine, model.blocks, model.poolers):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.fine.parameters() if p.dim() == 2)


def test_without_the_flag_there_is_no_fine_path():
    assert not len(small_model("gumbel", 3, 2).fine)
