"""A sharded graph in several real processes, compared with one process and with the oracle."""

import re

import oracle
import pytest
import torch
from conftest import assert_close, noise_of, randn
from sharded import (
    SEED,
    Case,
    N,
    cases,
    everything,
    pool_whole,
    readme_net,
    spawn,
    train_whole,
    without_x,
)
from torch import Tensor

from gumbelpool.distributed import ShardedGraph

WORLDS = (2, 3, 4)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What each of 2, 3 or 4 processes had to tell; they run once."""
    results = {}

    def of(world: int) -> list:
        if world not in results:
            results[world] = spawn(everything, world, tmp_path_factory.mktemp(f"world{world}"))
        return results[world]

    return of


def whole_of(parts: list[dict], name: str) -> Tensor:
    """The gradients of all parts as one process would have them."""
    case_edges = [part["edges"] for part in parts]
    grads = [part["grads"][name] for part in parts]
    if name.startswith("lin."):  # as DistributedDataParallel averages them
        return sum(grads) / len(parts)
    if name in ("edge_weight", "edge_attr"):
        every = torch.cat(grads)
        return torch.empty_like(every).index_copy_(0, torch.cat(case_edges), every) / len(parts)
    return torch.cat(grads) / len(parts)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", cases())
def test_the_pooled_graph_and_all_gradients_are_those_of_one_process(world, name, ran):
    case = cases()[name]
    parts = [result["cases"][name] for result in ran(world)]
    expected = pool_whole(name)
    near = {} if case.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for part in parts:
        for field in ("x", "edge_index", "edge_weight", "batch", "edge_attr", "losses"):
            assert_close(part["out"][field], expected["out"][field], **near)
    for field in ("cluster", "unpool"):
        found = torch.cat([part["out"][field] for part in parts])
        assert_close(found, expected["out"][field], **near)
    for leaf, grad in expected["grads"].items():
        if grad is None:
            assert all(part["grads"][leaf] is None for part in parts)
        else:
            assert_close(whole_of(parts, leaf), grad, **near)
    assert expected["grads"]["x"].abs().sum() > 0


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_replicated_is_the_same_to_the_last_bit(world, ran):
    for name in cases():
        first, *others = (result["cases"][name]["out"] for result in ran(world))
        for other in others:
            for field in ("x", "edge_index", "edge_weight", "edge_attr", "losses"):
                assert_close(other[field], first[field], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gumbel", "reinmax", "empty shard", "remove_self_loops", "eval"])
def test_sharded_gradients_are_those_of_the_dense_oracle(name, ran):
    """Which knows nothing of the single process either."""
    case = cases()[name]
    parts = [result["cases"][name] for result in ran(3)]
    pool, tensors = case.layer(), case.tensors()
    torch.manual_seed(SEED)
    uniforms = torch.rand(N, dtype=torch.float64)
    seed = int(torch.randint(2**62, ()))
    draw = (lambda theta: oracle.draw(theta, uniforms)) if case.training else _argmax
    estimator = pool.estimator
    if not case.training:
        seed = 0

    def loss(out: oracle.Output) -> Tensor:
        from conftest import downstream

        unpooled = out.x[out.cluster]
        return downstream(out) + (torch.sin(unpooled) * randn(N, 3, seed=21)).sum()

    out, grads = oracle.layer(
        oracle.Config(
            pool.num_clusters, estimator=estimator, losses=pool.losses,
            remove_self_loops=pool.remove_self_loops,
        ),
        loss, tensors["x"], case.batch().edge_index, draw_from=draw,
        weight=pool.lin.weight, bias=pool.lin.bias,
        noise=noise_of(seed, estimator, N, pool.num_clusters), **without_x(tensors),
    )  # fmt: skip
    assert_close(parts[0]["out"]["x"], out.x.detach())
    assert torch.equal(parts[2]["out"]["edge_index"], out.edge_index)
    for leaf, grad in grads.items():
        assert_close(whole_of(parts, leaf), grad, rtol=1e-9, atol=1e-11)


def _argmax(theta: Tensor) -> Tensor:
    return theta.argmax(1)


@pytest.mark.parametrize("world", WORLDS)
def test_draws_are_those_of_process_0_and_no_other_generator_moves(world, ran):
    for rank, result in enumerate(ran(world)):
        assert result["cases"]["gumbel"]["moved"] == (rank == 0)
        assert not result["cases"]["eval"]["moved"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_network_under_distributed_data_parallel_trains_as_in_one_process(world, ran):
    """With a loss of the nodes, through ``unpool``, and parameters on both sides of the pool."""
    losses, parameters = train_whole()
    results = [result["train"] for result in ran(world)]
    for _, found in results:
        assert_close(found, parameters, rtol=1e-9, atol=1e-11)
    means = torch.tensor([each for each, _ in results]).mean(0)
    assert_close(means.double(), torch.tensor(losses).double(), rtol=1e-6)
    assert abs(losses[0] - losses[-1]) > 0.01


@pytest.mark.parametrize("world", WORLDS)
def test_the_halo_has_what_in_edges_come_from_and_its_gradient_goes_back(world, ran):
    batch = Case().batch()
    parts = [result["graph"] for result in ran(world)]
    total = torch.zeros(N, 3, dtype=torch.float64)
    for rank, part in enumerate(parts):
        assert torch.equal(part["everyone"], batch.x[part["numbers"]])
        factor = randn(N, 3, seed=51)[part["numbers"]] * (rank + 1)
        total.index_add_(0, part["numbers"], factor)
        assert torch.equal(part["collected"], torch.arange(N).to(torch.int16))
        assert re.match(rf"ShardedGraph\(process {rank} of {world}, nodes", part["text"])
    assert_close(torch.cat([part["grad"] for part in parts]), total)
    found = torch.cat([part["in_edges"] for part in parts], dim=1)
    order = [edges[0] * N + edges[1] for edges in (found, batch.edge_index)]
    assert torch.equal(*(key.sort().values for key in order))
    triangle = float(sum(range(1, world + 1)))
    for part in parts:
        for tensor in part["sum"]:
            assert torch.equal(tensor, torch.full((2,), triangle))


def test_a_group_of_some_processes_pools_by_itself(ran):
    case = Case(graph={"attr": None, "weighted": False})
    torch.manual_seed(SEED)
    batch, pool = case.batch(), case.layer()
    draws = torch.Generator().manual_seed(SEED)
    expected = pool(batch.x, batch.edge_index, generator=draws)
    apart, *parts = (result["group"] for result in ran(3))
    assert apart is None
    for part in parts:
        assert_close(part["x"], expected.x.detach())
        assert torch.equal(part["edge_index"], expected.edge_index)
        assert_close(part["losses"], {k: v.detach() for k, v in expected.losses.items()})
    assert torch.equal(torch.cat([part["cluster"] for part in parts]), expected.cluster)


def test_the_network_of_the_readme_gives_what_it_would_on_one_process(ran):
    net, x, edge_index = readme_net()
    torch.manual_seed(SEED)
    expected = net.pool(net.conv(x, edge_index).relu(), edge_index)
    parts = [result["readme"] for result in ran(2)]
    for part in parts:
        assert_close(part["x"], expected.x.detach())
        assert torch.equal(part["edge_index"], expected.edge_index)
    assert torch.equal(torch.cat([part["cluster"] for part in parts]), expected.cluster)


REFUSED = {
    "source": ("ValueError", r"edge_index must have its sources among this process's nodes"),
    "target": ("ValueError", rf"edge_index must lie in \[0, {N}\), the nodes; got"),
    "dtype": ("TypeError", "edge_index must be int64; got torch.int32"),
    "num_own": ("ValueError", "num_own must be at least 0; got -1"),
    "no tensor": ("TypeError", "edge_index must be a tensor .* got list"),
    "rows": ("ValueError", "x must have as many rows as this process's nodes"),
    "channels": ("ValueError", r"x must have shape \[N, 3\]"),
    "precision": ("ValueError", "all processes must call alike; got .*float64.*float32"),
    "weights": ("ValueError", "all processes must call alike; got process 0: .*edge_weight"),
    "number of weights": ("ValueError", "edge_weight must have a row per edge"),
    "negative": ("ValueError", "edge_weight must not be negative where losses has 'modularity'"),
    "nan": ("ValueError", r"lin\(x\) must have no NaN"),
    "options": ("ValueError", "all processes must call alike; got .*tau=0.5"),
    "mode": ("ValueError", "all processes must call alike; got .*training False"),
    "generator": ("TypeError", "generator must be a torch.Generator or None; got 3"),
    "halo": ("ValueError", "all processes must call alike"),
    "collect": ("ValueError", "rows must have as many rows as this process's nodes"),
}  # fmt: skip


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_on_one_process_is_said_alike_by_all(world, name, ran):
    kind, text = REFUSED[name]
    said = {result["refused"][name] for result in ran(world)}
    assert len(said) == 1
    ((found, message),) = said
    assert found == kind
    alike = text.startswith("all processes")
    assert re.match(text if alike else f"process {world - 1}: {text}", message), message
    assert "\n" not in message


def test_without_processes_it_says_what_to_do():
    with pytest.raises(RuntimeError, match="must be initialised, by torch"):
        ShardedGraph(torch.zeros(2, 0, dtype=torch.int64), 3)
