"""Settings of GumbelPool that were tried: they do what their name says, and nothing else."""

import conftest  # noqa: F401, the import of PyG without its deprecation warning
import pytest
import torch
from torch_geometric.data import Batch

from benchmarks.study.candidates import STEPS, Tried, return_probabilities
from benchmarks.study.generated import generate
from examples.classification.poolers import Gumbel, PoolOptions


def batch_of(name: str, count: int) -> Batch:
    return Batch.from_data_list(generate(name, count, seed=0)[0].graphs)


def pooled(pooler: torch.nn.Module, batch: Batch, x: torch.Tensor):
    torch.manual_seed(1)
    return pooler(x, batch.edge_index, None, batch.batch, batch.num_graphs)


@pytest.mark.parametrize("weighted", [False, True])
def test_return_probabilities_are_those_of_the_powers_of_the_walk(weighted):
    batch = batch_of("multipartite", 5)
    weight = torch.rand(batch.num_edges) + 0.1 if weighted else None
    found = return_probabilities(batch.edge_index, weight, batch.batch, batch.num_graphs)
    # The walk on all graphs at once, in float64.
    adjacency = torch.zeros(batch.num_nodes, batch.num_nodes, dtype=torch.float64)
    adjacency[batch.edge_index[0], batch.edge_index[1]] = 1.0 if weight is None else weight.double()
    walk = adjacency / adjacency.sum(1, keepdim=True)
    walk = walk.nan_to_num()
    expected = [torch.linalg.matrix_power(walk, step).diagonal() for step in range(1, STEPS + 1)]
    torch.testing.assert_close(found.double(), torch.stack(expected, 1), atol=1e-6, rtol=1e-5)


def test_positions_tell_one_cycle_from_two_where_features_do_not():
    batch = batch_of("two-cycles", 20)
    x = torch.ones(batch.num_nodes, 4)
    scores = {}
    for positions in (False, True):
        torch.manual_seed(0)
        tried = Tried(4, PoolOptions(num_clusters=6), positions=positions)
        seen = []
        tried.pool.register_forward_pre_hook(
            lambda pool, given, named, seen=seen: seen.append(pool.lin(named["assign_x"])),
            with_kwargs=True,
        )
        out = pooled(tried, batch, x)
        (scores[positions],) = seen
        assert out.x.shape == (20 * 6, 4)  # what is pooled are the features alone
    assert scores[False].std(0).max() < 1e-6
    assert scores[True].std(0).min() > 1e-3


def test_detached_scores_send_no_gradient_to_the_features():
    batch = batch_of("cycles", 6)
    for detached in (False, True):
        torch.manual_seed(0)
        tried = Tried(4, PoolOptions(num_clusters=6), detached=detached)
        x = torch.rand(batch.num_nodes, 4, requires_grad=True)
        out = pooled(tried, batch, x)
        (gradient,) = torch.autograd.grad(out.loss, x, retain_graph=True, allow_unused=True)
        assert (gradient is None or not gradient.any()) == detached
        (gradient,) = torch.autograd.grad(out.loss, tried.pool.lin.weight, retain_graph=True)
        assert gradient.any()
        # What is pooled still learns: of the sum over all supernodes, one at every entry.
        (gradient,) = torch.autograd.grad(out.x.sum(), x)
        torch.testing.assert_close(gradient, torch.ones_like(x))


def test_log_weights_change_the_weights_alone():
    batch = batch_of("colour-grid", 4)
    x = torch.rand(batch.num_nodes, 4)
    torch.manual_seed(0)
    plain = Gumbel(4, PoolOptions(num_clusters=6))
    torch.manual_seed(0)
    logged = Tried(4, PoolOptions(num_clusters=6), log_weights=True)
    expected, found = pooled(plain, batch, x), pooled(logged, batch, x)
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.edge_index, expected.edge_index)
    assert expected.edge_weight.max() > 1
    torch.testing.assert_close(found.edge_weight.exp() - 1, expected.edge_weight)


def test_sticks_ask_for_few_clusters_of_falling_size():
    batch = batch_of("cycles", 4)
    x = torch.ones(batch.num_nodes, 3)
    tried = Tried(3, PoolOptions(num_clusters=5, losses=()), sticks=2.0)
    torch.nn.init.zeros_(tried.pool.lin.weight)
    # Sticks of expected length 1/3 of what is left: 1/3, 2/9, 4/27, 8/81, and the rest, 16/81.
    prior = torch.tensor([27.0, 18.0, 12.0, 8.0, 16.0]) / 81
    with torch.no_grad():
        tried.pool.lin.bias.copy_(prior.log())
    assert pooled(tried, batch, x).loss.item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        tried.pool.lin.bias.zero_()
    expected = (0.2 * (0.2 / prior).log()).sum()
    assert pooled(tried, batch, x).loss.item() == pytest.approx(expected.item(), abs=1e-6)
