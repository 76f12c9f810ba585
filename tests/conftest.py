"""Shared inputs: random batches, injected noise, a loss over every output, and settings."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import hypothesis
import oracle
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

with warnings.catch_warnings():  # PyG 2.8 calls the deprecated torch.jit.script as it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn  # noqa: F401

    from gumbelpool import estimators

ESTIMATORS = ("straight_through", "gumbel", "gumbel_rao", "gst", "reinmax")

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, database=None, max_examples=40
)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rand(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def exponential(*shape: int, seed: int) -> Tensor:
    return -torch.log1p(-rand(*shape, seed=seed))


@dataclass(frozen=True)
class Batch:
    """A batch of graphs in float64, with everything that the layer accepts."""

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    edge_attr: Tensor | None
    batch: Tensor
    num_graphs: int

    @property
    def num_nodes(self) -> int:
        return len(self.batch)

    def graph(self, g: int) -> "Batch":
        """Graph g alone."""
        nodes = (self.batch == g).nonzero().flatten()
        start = int((self.batch < g).sum())
        edges = self.edges_of(g)
        return Batch(
            self.x[nodes],
            self.edge_index[:, edges] - start,
            None if self.edge_weight is None else self.edge_weight[edges],
            None if self.edge_attr is None else self.edge_attr[edges],
            torch.zeros(len(nodes), dtype=torch.long),
            1,
        )

    def edges_of(self, g: int) -> Tensor:
        return (self.batch[self.edge_index[0]] == g).nonzero().flatten()

    def arguments(self, *leaves: str) -> dict[str, Tensor | int | None]:
        """Keyword arguments of the layer; those named in `leaves` require gradients."""
        given = {
            "x": self.x,
            "edge_index": self.edge_index,
            "edge_weight": self.edge_weight,
            "edge_attr": self.edge_attr,
            "batch": self.batch,
            "batch_size": self.num_graphs,
        }
        for name in leaves:
            if given[name] is not None:
                given[name] = given[name].clone().requires_grad_()
        return given

    def oracle_arguments(self) -> dict[str, Tensor | int | None]:
        given = self.arguments()
        given["num_graphs"] = given.pop("batch_size")
        return given


def make_batch(
    sizes: Sequence[int] = (6, 0, 5, 1, 0),
    *,
    channels: int = 3,
    attr: int | None = None,
    weighted: bool | str = False,
    loops: bool = False,
    undirected: bool = False,
    duplicates: bool = False,
    density: float = 0.4,
    seed: int = 0,
) -> Batch:
    """Random graphs; the last node of each graph of two or more nodes is isolated.

    Weights may be negative, unless ``weighted`` is "positive".
    """
    random = generator(1000 + seed)
    edges, start = [], 0
    for n in sizes:
        for i in range(n - 1):
            for j in range(n - 1):
                wanted = loops if i == j else (i < j or not undirected)
                if wanted and torch.rand((), generator=random) < density:
                    edges.append((start + i, start + j))
                    if undirected and i != j:
                        edges.append((start + j, start + i))
        start += n
    if duplicates:
        edges += edges[::2] + edges[::3]
    order = torch.randperm(len(edges), generator=random).tolist()
    edge_index = torch.tensor([edges[e] for e in order], dtype=torch.long).view(-1, 2).T
    E = len(edges)
    weight = randn(E, seed=seed + 2) + 0.5 if weighted else None
    if weighted == "positive":
        weight = weight.abs()
    return Batch(
        x=randn(start, channels, seed=seed + 1),
        edge_index=edge_index.contiguous(),
        edge_weight=weight,
        edge_attr=randn(E, attr, seed=seed + 3) if attr is not None else None,
        batch=torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long)),
        num_graphs=len(sizes),
    )


@st.composite
def batches(draw, **fixed):
    """A random batch with a number of clusters, options and one uniform per node."""
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    flags = {name: draw(st.booleans()) for name in ("loops", "duplicates", "undirected")}
    flags["weighted"] = draw(st.sampled_from([False, True, "positive"]))
    seed = draw(st.integers(0, 10_000))
    batch = make_batch(
        sizes,
        attr=draw(st.sampled_from([None, 1, 2])),
        density=draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])),
        seed=seed,
        **(flags | fixed),
    )
    options = {
        "num_clusters": draw(st.sampled_from([1, 2, 3, 8])),
        "ratio": draw(st.sampled_from([None, 0.25, 0.5, 1.0])),
        "aggr": draw(st.sampled_from(["sum", "mean"])),
        "drop_empty": draw(st.booleans()),
        "remove_self_loops": draw(st.booleans()),
        "block_size": draw(st.sampled_from([None, 1, 4])),
    }
    return batch, options, rand(batch.num_nodes, seed=seed + 7)


@contextmanager
def injected(uniforms: Tensor, seed: int = 0) -> Iterator[None]:
    """Inside, these uniforms and this seed are all that is random in a call of the layer."""

    def draw_randomness(num_rows, device, generator):
        if num_rows is None:
            return None, torch.zeros((), dtype=torch.int64, device=device)
        assert num_rows == len(uniforms)
        return uniforms.to(device), torch.tensor(seed, device=device)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("pool", "sampling"):
            patch.setattr(f"gumbelpool.{module}.draw_randomness", draw_randomness)
        yield


def noise_of(seed: int, estimator: str, num_nodes: int, num_clusters: int) -> list[Tensor]:
    """The noise of a backward pass, by the oracle, as the estimator needs it."""
    draws = {"gumbel": 1, "gumbel_rao": estimators.RAO_SAMPLES}.get(estimator, 0)
    return [oracle.exponential_noise(seed, m, num_nodes, num_clusters) for m in range(draws)]


def downstream(out) -> Tensor:
    """A fixed non-linear scalar of every output: features, weights, attributes and losses."""
    total = (torch.sin(1.3 * out.x) * randn(*out.x.shape, seed=11)).sum()
    if out.edge_weight is not None:
        total = total + (torch.tanh(out.edge_weight) * randn(*out.edge_weight.shape, seed=12)).sum()
    if out.edge_attr is not None:
        total = total + (torch.sin(out.edge_attr) * randn(*out.edge_attr.shape, seed=13)).sum()
    for i, name in enumerate(sorted(out.losses)):
        total = total + (i + 2.0) * torch.exp(0.5 * out.losses[name])
    return total


def assert_close(actual, expected, **tolerance) -> None:
    torch.testing.assert_close(actual, expected, **({"rtol": 1e-10, "atol": 1e-12} | tolerance))


def assert_same_output(actual, expected: oracle.Output) -> None:
    """Integers equal; float64 fields to 1e-10."""
    for name in ("cluster", "batch", "edge_index"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    for name in ("x", "edge_weight", "edge_attr"):
        have, want = getattr(actual, name), getattr(expected, name)
        assert (have is None) == (want is None), name
        if want is not None:
            assert_close(have.detach(), want.detach())
    assert set(actual.losses) == set(expected.losses)
    for name, want in expected.losses.items():
        assert_close(actual.losses[name].detach(), want.detach())
