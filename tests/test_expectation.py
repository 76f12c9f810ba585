"""The closed forms of docs/theory.md, against all K^N assignments of small graphs."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import assert_close, generator, make_batch, rand, randn
from scipy import stats

from gumbelpool import (
    DenseDiffPool,
    GumbelPool,
    adjacency_variance,
    expected_adjacency,
    expected_features,
    expected_modularity,
    modularity_variance,
    samples_for_error,
)

KINDS = list(itertools.product([False, True], repeat=3))  # symmetric, with self-loops, weighted
NAMES = [
    " ".join(word for word, on in zip(("symmetric", "loops", "weighted"), kind, strict=True) if on)
    for kind in KINDS
]


def graph(num_nodes, symmetric, loops, weighted, density=0.6):
    """A random graph: x, edges, weights or None, and the dense adjacency."""
    kept = rand(num_nodes, num_nodes, seed=num_nodes) < density
    weight = randn(num_nodes, num_nodes, seed=1) + 0.5 if weighted else torch.ones(kept.shape)
    adjacency = (weight * kept).double()
    if symmetric:
        adjacency = adjacency.triu() + adjacency.triu(1).T
    adjacency.fill_diagonal_(0)
    if loops:
        adjacency[0, 0], adjacency[-1, -1] = 1.0, 1.75 if weighted and num_nodes > 1 else 1.0
    edge_index = adjacency.nonzero().T
    weights = adjacency[tuple(edge_index)] if weighted else None
    return randn(num_nodes, 3, seed=2), edge_index, weights, adjacency


def assignments(num_nodes, num_clusters, probability):
    """Each one-hot S with its probability."""
    for clusters in itertools.product(range(num_clusters), repeat=num_nodes):
        one_hot = torch.eye(num_clusters, dtype=torch.float64)[list(clusters)]
        yield one_hot, math.prod(float(probability[i, c]) for i, c in enumerate(clusters))


def dense(batch):
    weight = batch.edge_weight
    if weight is None:
        weight = torch.ones(batch.edge_index.size(1), dtype=torch.float64)
    adjacency = torch.zeros(batch.num_nodes, batch.num_nodes, dtype=torch.float64)
    return adjacency.index_put_(tuple(batch.edge_index), weight, accumulate=True)


def enumerate_moments(probability, of):
    """Mean and variance of a function of S, by definition."""
    num_nodes, num_clusters = probability.shape
    values = [(of(s), p) for s, p in assignments(num_nodes, num_clusters, probability)]
    mean = sum(value * p for value, p in values)
    return mean, sum((value - mean).square() * p for value, p in values)


def assert_moments(x, edge_index, weight, adjacency, num_clusters):
    probability = (2 * randn(len(x), num_clusters, seed=11)).softmax(-1)
    mean, variance = enumerate_moments(probability, lambda s: s.T @ adjacency @ s)
    given = (edge_index, probability, weight)
    assert_close(expected_adjacency(*given)[0], mean, rtol=1e-12, atol=1e-13)
    assert_close(adjacency_variance(*given)[0], variance, rtol=1e-11, atol=1e-13)
    mean, variance = enumerate_moments(probability, lambda s: s.T @ x)
    assert_close(expected_features(x, probability)[0], mean, rtol=1e-12, atol=1e-13)
    closed = (x.square().T @ (probability * (1 - probability))).T
    assert_close(closed, variance, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("num_clusters", [1, 2, 3])
@pytest.mark.parametrize("nodes", [1, 2, 5, 7])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_moments_equal_those_of_all_assignments(kind, nodes, num_clusters):
    assert_moments(*graph(nodes, *kind), num_clusters)


@pytest.mark.parametrize(
    "options",
    [{"weighted": True, "loops": True, "duplicates": True}, {"density": 1.0}, {"density": 0.0}],
    ids=["duplicates", "complete", "edgeless"],
)
def test_moments_of_other_graphs_equal_those_of_all_assignments(options):
    batch = make_batch((6,), **options)
    assert_moments(batch.x, batch.edge_index, batch.edge_weight, dense(batch), 3)


def modularity(S, adjacency):
    """Q, by its definition."""
    total = adjacency.sum()
    chance = torch.outer(adjacency.sum(1), adjacency.sum(0)) / total**2
    return ((adjacency / total - chance) * (S @ S.T)).sum()


@pytest.mark.parametrize("num_clusters", [1, 2, 3])
@pytest.mark.parametrize("nodes", [1, 2, 5, 7])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_moments_of_modularity_equal_those_of_all_assignments(kind, nodes, num_clusters):
    _, edge_index, weight, adjacency = graph(nodes, *kind)
    weight, adjacency = None if weight is None else weight.abs(), adjacency.abs()
    probability = (2 * randn(nodes, num_clusters, seed=11)).softmax(-1)
    mean = variance = torch.zeros((), dtype=torch.float64)
    if adjacency.sum() > 0:
        mean, variance = enumerate_moments(probability, lambda s: modularity(s, adjacency))
    given = (edge_index, probability, weight)
    assert_close(expected_modularity(*given)[0], mean, rtol=1e-12, atol=1e-13)
    assert_close(modularity_variance(*given)[0], variance, rtol=1e-11, atol=1e-13)


def test_moments_of_modularity_add_up_edges_that_are_listed_twice():
    batch = make_batch((6,), weighted="positive", loops=True, duplicates=True)
    probability = randn(6, 3, seed=11).softmax(-1)
    mean, variance = enumerate_moments(probability, lambda s: modularity(s, dense(batch)))
    given = (batch.edge_index, probability, batch.edge_weight)
    assert_close(expected_modularity(*given)[0], mean)
    assert_close(modularity_variance(*given)[0], variance)


def test_the_layers_mean_modularity_over_all_draws_is_the_closed_form():
    """Each of the 3^5 draws once, as the argmax of its own logits, in one batch."""
    batch, clusters = make_batch((5,), weighted="positive", loops=True), 3
    probability = randn(5, clusters, seed=11).softmax(-1)
    pool = GumbelPool(3, clusters, losses=("modularity",)).double().eval()
    mean = torch.zeros((), dtype=torch.float64)
    for S, p in assignments(5, clusters, probability):
        mean = mean - p * pool(**batch.arguments(), logits=S).losses["modularity"]
    expected = expected_modularity(batch.edge_index, probability, batch.edge_weight)
    assert_close(mean, expected[0])


def test_a_batch_without_graphs_has_no_modularity():
    edge_index, batch = torch.empty(2, 0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    for moment in (expected_modularity, modularity_variance):
        assert moment(edge_index, torch.empty(0, 3), batch=batch).shape == (0,)


def test_modularity_of_negative_weights_is_refused():
    batch = make_batch((5,), weighted="positive")
    for moment in (expected_modularity, modularity_variance):
        with pytest.raises(ValueError, match="edge_weight must not be negative; got -"):
            moment(batch.edge_index, torch.full((5, 2), 0.5), -batch.edge_weight.float())


def test_certain_probabilities_have_no_variance():
    batch = make_batch((6,), weighted=True, loops=True)
    one_hot = torch.eye(3, dtype=torch.float64)[[0, 2, 2, 1, 0, 2]]
    mean = expected_adjacency(batch.edge_index, one_hot, batch.edge_weight)[0]
    assert_close(mean, one_hot.T @ dense(batch) @ one_hot)
    variance = adjacency_variance(batch.edge_index, one_hot, batch.edge_weight)
    assert_close(variance, torch.zeros(1, 3, 3).double())


def test_each_graph_of_a_batch_is_as_alone():
    batch = make_batch((5, 0, 6, 1, 0), weighted="positive", loops=True)
    probability = randn(batch.num_nodes, 3, seed=3).softmax(-1)
    given = (batch.edge_index, probability, batch.edge_weight, batch.batch, batch.num_graphs)
    mean, variance = expected_adjacency(*given), adjacency_variance(*given)
    features = expected_features(batch.x, probability, batch.batch, batch.num_graphs)
    quality, spread = expected_modularity(*given), modularity_variance(*given)
    assert mean.shape == variance.shape == (5, 3, 3)
    assert quality.shape == spread.shape == (5,)
    assert features.shape == (5, 3, 3)
    for g in range(batch.num_graphs):
        alone = batch.graph(g)
        own = (alone.edge_index, probability[batch.batch == g], alone.edge_weight)
        assert_close(mean[g], expected_adjacency(*own)[0])
        assert_close(variance[g], adjacency_variance(*own)[0])
        assert_close(quality[g], expected_modularity(*own)[0])
        assert_close(spread[g], modularity_variance(*own)[0])
        assert_close(features[g], expected_features(alone.x, own[1])[0])


def test_without_self_loops_the_mean_is_what_diffpool_pools():
    batch = make_batch((6, 5), weighted=True)
    pool = DenseDiffPool(3, 4).double()
    out = pool(**batch.arguments())
    probability = pool.lin(batch.x).softmax(-1)
    mean = expected_adjacency(batch.edge_index, probability, batch.edge_weight, batch.batch)
    assert_close(out.edge_weight.view(2, 4, 4), mean)
    assert_close(out.x.view(2, 4, 3), expected_features(batch.x, probability, batch.batch))


# --- the layer itself ---------------------------------------------------------------------------

FALSE_ALARM = 1e-6  # of any of all scores below, by Bonferroni and a normal law
KINDS_DRAWN = [(True, False, False), (False, True, True)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS_DRAWN, ids=["symmetric", "loops weighted"])
def test_draws_of_the_layer_have_the_mean_and_variance_of_the_theory(kind, seed):
    draws, nodes, clusters = 40_000, 6, 3
    x, edge_index, weight, _ = graph(nodes, *kind)
    torch.manual_seed(seed)
    pool = GumbelPool(3, clusters, drop_empty=False, losses=()).double()
    with torch.no_grad():
        pool.lin.weight.mul_(2)
        # Copies of the graph in one batch are independent draws.
        many = torch.arange(draws).repeat_interleave(nodes)
        offset = nodes * torch.arange(draws).repeat_interleave(edge_index.size(1))
        edges = edge_index.repeat(1, draws) + offset
        weights = None if weight is None else weight.repeat(draws)
        out = pool(x.repeat(draws, 1), edges, weights, many, batch_size=draws)
        probability = pool.lin(x).softmax(-1)
        row, col = out.edge_index
        adjacency = torch.zeros(draws, clusters, clusters, dtype=torch.float64)
        adjacency[row // clusters, row % clusters, col % clusters] = out.edge_weight
        features = out.x.view(draws, clusters, 3)

    given = (edge_index, probability, weight)
    spread = (x.square().T @ (probability * (1 - probability))).T  # Theorem 3
    scores = [
        z_scores(adjacency, expected_adjacency(*given)[0], adjacency_variance(*given)[0]),
        z_scores(features, expected_features(x, probability)[0], spread),
    ]
    limit = stats.norm.isf(FALSE_ALARM / (2 * 2 * len(KINDS_DRAWN) * torch.cat(scores).numel()))
    assert torch.cat(scores).abs().max() < limit
    for found in scores:
        assert found.abs().max() > 0.1  # scores of exactly zero would mean that nothing was drawn


def z_scores(pooled, mean, variance):
    """Of the mean and of the variance of the draws [M, ...], entry by entry."""
    off = pooled - mean
    of_mean = off.mean(0) / (variance / len(off)).sqrt().clamp(min=1e-12)
    fourth = off.pow(4).mean(0)
    error = ((fourth - variance.square()) / len(off)).sqrt().clamp(min=1e-12)
    return torch.stack([of_mean, (off.square().mean(0) - variance) / error]).flatten()


# --- how many samples ---------------------------------------------------------------------------


def test_known_numbers_of_samples():
    assert samples_for_error(0.01, 0.05, 20) == 48_402
    ring = torch.stack([torch.arange(100), (torch.arange(100) + 1) % 100])
    both = torch.cat([ring, ring.flip(0)], dim=1)
    regular = math.ceil(2 * math.log(2 * 400 / 0.05) / (100 * 0.01**2))
    assert regular == 1937
    have = samples_for_error(0.01, 0.05, 20, "mcdiarmid", edge_index=both)
    assert have in (regular, regular + 1)
    bernstein = (2 * 1e-4 + 0.02 / 3) * math.log(2 * 400 / 0.05) / 1e-4
    have = samples_for_error(0.01, 0.05, 20, "bernstein", variance=1e-4)
    assert have == math.ceil(bernstein)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_mcdiarmid_weighs_what_a_node_can_change(kind):
    _, edge_index, weight, adjacency = graph(7, *kind)
    adjacency, weight = adjacency.abs(), None if weight is None else weight.abs()
    # Node i can change every entry of its row and of its column, and a_ii is in both.
    change = adjacency.sum(0) + adjacency.sum(1) - adjacency.diag()
    share = float(change.square().sum() / adjacency.sum().square())
    have = samples_for_error(1e-3, 0.1, 3, "mcdiarmid", edge_index=edge_index, edge_weight=weight)
    want = share * math.log(2 * 9 / 0.1) / (2 * 1e-6)
    assert abs(have - want) <= 1 + 1e-9 * want


def test_samples_for_a_batch_are_those_of_its_worst_graph_for_all_its_entries():
    batch = make_batch((6, 0, 4, 9), weighted=True, loops=True, density=0.7)
    batch = dataclasses.replace(batch, edge_weight=batch.edge_weight.abs())
    edges = {"edge_index": batch.edge_index, "edge_weight": batch.edge_weight}
    given = {"batch": batch.batch, "batch_size": 4, "variance": 0.01}
    for method in ("hoeffding", "bernstein", "mcdiarmid"):
        have = samples_for_error(0.02, 0.1, 3, method, **edges, **given)
        alone = [
            samples_for_error(
                0.02,
                0.1 / 4,
                3,
                method,
                variance=0.01,
                edge_index=one.edge_index,
                edge_weight=one.edge_weight,
            )
            for one in map(batch.graph, range(4))
        ]
        assert have == max(alone) > 1
    assert samples_for_error(0.02, 0.1, 3, batch=batch.batch) == samples_for_error(0.02, 0.025, 3)
    none = torch.zeros(0, dtype=torch.long)
    assert samples_for_error(0.02, 0.1, 3, batch=none) == samples_for_error(0.02, 0.1, 3)
    with pytest.raises(ValueError, match="must not join two graphs"):
        samples_for_error(
            0.1, 0.1, 3, "mcdiarmid", edge_index=torch.tensor([[0], [1]]), batch=torch.arange(2)
        )
    with pytest.raises(ValueError, match="batch must be sorted"):
        samples_for_error(0.1, 0.1, 3, batch=torch.tensor([1, 0]))


def test_mcdiarmid_asks_for_fewer_samples_of_a_larger_graph():
    numbers = []
    for nodes in (10, 100, 1000, 100_000):
        ring = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
        numbers.append(
            samples_for_error(
                0.05, 0.1, 5, "mcdiarmid", edge_index=torch.cat([ring, ring.flip(0)], 1)
            )
        )
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 1


@pytest.mark.parametrize("method", ["hoeffding", "bernstein", "mcdiarmid"])
def test_the_number_of_samples_is_enough(method):
    # 300 averages of M draws each: at most a share `failure` of them may be off by more.
    batch = make_batch((7,), undirected=True, density=0.8, loops=True)
    adjacency = dense(batch)
    probability = randn(7, 2, seed=1).softmax(-1)
    error, failure, total = 0.15, 0.2, float(adjacency.sum())
    given = (batch.edge_index, probability)
    mean = expected_adjacency(*given)[0]
    relative = float(adjacency_variance(*given).max()) / total**2
    samples = samples_for_error(
        error, failure, 2, method, variance=relative, edge_index=batch.edge_index
    )
    assert samples > 1
    draws = torch.multinomial(
        probability, 300 * samples, replacement=True, generator=generator(0)
    ).T.reshape(300, samples, 7)
    one_hot = torch.eye(2, dtype=torch.float64)[draws]
    average = torch.einsum("rmik,ij,rmjl->rkl", one_hot, adjacency, one_hot) / samples
    off = ((average - mean).abs() > error * total).flatten(1).any(1)
    assert int(off.sum()) <= stats.binom.isf(1e-6, 300, failure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"error": 0}, "error must be in"),
        ({"failure": 1.0}, "failure must be in"),
        ({"num_clusters": 0}, "num_clusters must be at least 1"),
        ({"method": "chernoff"}, "method must be one of"),
        ({"method": "bernstein"}, "variance must be given"),
        ({"method": "bernstein", "variance": 5.0}, "relative to W².*; got 5.0"),
        ({"method": "mcdiarmid"}, "edge_index must be given"),
        (
            {
                "method": "mcdiarmid",
                "edge_index": torch.tensor([[0], [1]]),
                "edge_weight": torch.tensor([-1.0]),
            },
            "edge_weight must not be negative",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        samples_for_error(**({"error": 0.1, "failure": 0.1, "num_clusters": 3} | arguments))


def test_mismatched_shapes_are_named():
    with pytest.raises(ValueError, match="probability must have as many rows"):
        expected_features(rand(3, 2, seed=0), rand(4, 2, seed=0))
    with pytest.raises(ValueError, match="edge_index must lie in"):
        expected_adjacency(torch.tensor([[0], [5]]), rand(4, 2, seed=0).softmax(1))


def test_scores_are_not_probabilities():
    for bad in (rand(4, 2, seed=0), torch.tensor([[1.5, -0.5]]).expand(4, 2)):
        with pytest.raises(ValueError, match="probability must have rows that are not negative"):
            expected_features(rand(4, 3, seed=1), bad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("num_clusters", [1, 7, 1000])
def test_softmaxes_of_any_dtype_are_probabilities(dtype, num_clusters):
    probability = (4 * randn(50, num_clusters, seed=0)).to(dtype).softmax(1)
    mean = expected_features(randn(50, 2, seed=1), probability)
    assert mean.dtype == torch.float64


# --- several levels -----------------------------------------------------------------------------


def test_edges_and_weight_through_several_levels():
    torch.manual_seed(0)
    batch = make_batch((12, 9, 7), undirected=True, weighted=True)
    x, edge_index, weight, graph = batch.x, batch.edge_index, batch.edge_weight, batch.batch
    symmetric = torch.sparse_coo_tensor(
        edge_index, weight, (28, 28), check_invariants=False
    ).to_dense()
    weight = (symmetric + symmetric.T)[tuple(edge_index)] / 2
    for clusters in (6, 3, 2, 1):
        before, total = edge_index.size(1), weight.sum()
        out = GumbelPool(3, clusters).double()(x, edge_index, weight, graph, batch_size=3)
        x, edge_index, weight, graph = out.x, out.edge_index, out.edge_weight, out.batch
        assert edge_index.size(1) <= before
        assert_close(weight.sum(), total)
        assert_close(x.sum(0), batch.x.sum(0))
        pooled = torch.zeros(len(x), len(x), dtype=torch.float64)
        pooled[tuple(edge_index)] = weight.detach()
        assert_close(pooled, pooled.T)


def test_two_levels_do_not_have_the_product_for_a_mean():
    # One edge, both ends surely in cluster 0 or in 1 alike: the second level sees a self-loop.
    adjacency = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    first = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()
    second = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()
    mean = torch.zeros(2, 2).double()
    for s, p in assignments(2, 2, first):
        for t, q in assignments(2, 2, second):
            mean += p * q * t.T @ s.T @ adjacency @ s @ t
    composed = first @ second
    assert not torch.allclose(mean, composed.T @ adjacency @ composed)
    # What the theory says instead, given the first level.
    given = sum(
        p * (second.T @ (b - torch.diag(b.diag())) @ second + torch.diag(second.T @ b.diag()))
        for s, p in assignments(2, 2, first)
        for b in [s.T @ adjacency @ s]
    )
    assert_close(mean, given)
