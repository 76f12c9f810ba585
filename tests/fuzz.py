"""Random calls: valid ones with what they must give, and others with exactly one thing wrong.

A valid call never raises and agrees with the oracle; one with a single wrong argument raises a
``ValueError`` or ``TypeError`` that names it. `test_fuzz.py` runs some hundreds, ``make fuzz`` as
many as wanted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import oracle
import pytest
import torch
from conftest import (
    ESTIMATORS,
    Batch,
    assert_same_output,
    downstream,
    generator,
    make_batch,
    rand,
    randn,
)
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import EdgeIndex

from gumbelpool import (
    DenseDiffPool,
    GumbelPool,
    adjacency_variance,
    coarsen_edges,
    coarsen_nodes,
    crispness,
    expected_adjacency,
    expected_features,
    occupancy,
    sample_clusters,
    samples_for_error,
    unpool,
)

INF = float("inf")
CHANNELS = 3
NOISY = ("gumbel", "gumbel_rao")  # their gradients depend on the layer's own noise
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FORMS = ("edge_index", "EdgeIndex", "coo", "csr", "csc")


# --- valid calls of the layers -------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of a layer, and all that it depends on."""

    layer: type
    options: dict[str, Any]
    training: bool
    dtype: torch.dtype
    form: str
    batch: Batch
    without_batch: bool
    logits: Tensor | None
    assign_x: Tensor | None
    seed: int

    def make(self, **options: object) -> torch.nn.Module:
        """The layer, with the same weights each time."""
        pool = self.layer(CHANNELS, **self.options | options).train(self.training)
        with torch.no_grad():
            for i, parameter in enumerate(pool.parameters()):
                parameter.copy_(randn(*parameter.shape, seed=self.seed + 20 + i))
        return pool.to(self.dtype)

    def arguments(self) -> dict[str, Any]:
        """What the layer is called with; what may require a gradient does."""
        given = self.batch.arguments() | {"logits": self.logits, "assign_x": self.assign_x}
        given = {
            name: value.to(self.dtype, copy=True).requires_grad_()
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
            for name, value in given.items()
        }
        if self.without_batch:
            given["batch"] = given["batch_size"] = None
        if self.form == "EdgeIndex":
            size = (self.batch.num_nodes, self.batch.num_nodes)
            given["edge_index"] = EdgeIndex(given["edge_index"], sparse_size=size)
        elif self.form != "edge_index":
            given |= self.matrix(given.pop("edge_weight"), given.pop("edge_attr"))
        return given | {"generator": generator(self.seed)}

    def matrix(self, weight: Tensor | None, attr: Tensor | None) -> dict[str, Tensor]:
        """The edges as a transposed adjacency with the weights, or the features, for its values."""
        N, E = self.batch.num_nodes, self.batch.edge_index.size(1)
        values = weight if attr is None else attr
        values = torch.ones(E, dtype=self.dtype) if values is None else values.detach()
        matrix = torch.sparse_coo_tensor(
            self.batch.edge_index.flip(0), values, (N, N, *values.shape[1:])
        )
        if self.form == "coo":
            return {"edge_index": matrix}
        matrix = matrix.coalesce()
        return {
            "edge_index": matrix.to_sparse_csr() if self.form == "csr" else matrix.to_sparse_csc()
        }


@st.composite
def batches(draw, duplicates=True) -> tuple[Batch, int]:
    sizes = draw(st.lists(st.integers(0, 6), min_size=0, max_size=4))
    seed = draw(st.integers(0, 10**6))
    batch = make_batch(
        sizes,
        channels=CHANNELS,
        attr=draw(st.sampled_from([None, 0, 1, 2])),
        weighted=draw(st.sampled_from([False, True, "positive"])),
        loops=draw(st.booleans()),
        undirected=draw(st.booleans()),
        duplicates=duplicates and draw(st.booleans()),
        density=draw(st.sampled_from([0.0, 0.3, 1.0])),
        seed=seed,
    )
    return batch, seed


@st.composite
def calls(draw) -> Call:
    layer = draw(st.sampled_from([GumbelPool, GumbelPool, GumbelPool, DenseDiffPool]))
    form = draw(st.sampled_from(FORMS))
    batch, seed = draw(batches(duplicates=form in ("edge_index", "EdgeIndex")))
    if form not in ("edge_index", "EdgeIndex"):  # the values of a matrix are one or the other
        batch = replace(
            batch, edge_weight=None if batch.edge_attr is not None else batch.edge_weight
        )
        if form != "coo":
            batch = replace(batch, edge_attr=None)
        if batch.edge_attr is not None and batch.edge_attr.size(1) == 0:
            batch = replace(batch, edge_attr=None)
    weight = batch.edge_weight
    modular = ["modularity"] if weight is None or bool((weight >= 0).all()) else []
    K = draw(st.sampled_from([1, 2, 3, 9]))
    options: dict[str, Any] = {
        "num_clusters": K,
        "ratio": draw(st.sampled_from([None, None, 0.2, 0.5, 1, 1.0])),
        "aggr": draw(st.sampled_from(["sum", "mean"])),
        "losses": tuple(
            draw(st.lists(st.sampled_from(["link", "entropy", "balance", *modular]), unique=True))
        ),
        "remove_self_loops": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    if layer is GumbelPool:
        options |= {
            "estimator": draw(st.sampled_from(ESTIMATORS)),
            "tau": draw(st.sampled_from([1, 1.0, 0.3, 7.0, 1e3])),
            "drop_empty": draw(st.booleans()),
            "weighted": draw(st.booleans()),
            "sample_in_eval": draw(st.booleans()),
            "block_size": draw(st.sampled_from([None, 1, 3])),
        }
    N, logits, assign_x = batch.num_nodes, None, None
    scores = draw(st.sampled_from(["x", "assign_x", "logits", "excluded"]))
    if scores == "assign_x":
        assign_x = randn(N, CHANNELS, seed=seed + 5)
    elif scores != "x":
        logits = draw(st.sampled_from([0.0, 1.0, 30.0, 300.0])) * randn(N, K, seed=seed + 5)
        if scores == "excluded" and options["ratio"] is None:
            excluded = randn(N, K, seed=seed + 6) > 0
            excluded[torch.arange(N), randn(N, K, seed=seed + 7).argmax(1)] = False
            logits = logits.masked_fill(excluded, -INF)
    return Call(
        layer=layer,
        options=options,
        training=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.float64, *DTYPES])),
        form=form,
        batch=batch,
        without_batch=batch.num_graphs == 1 and draw(st.booleans()),
        logits=logits,
        assign_x=assign_x,
        seed=seed,
    )


def check_call(call: Call) -> None:
    """Runs a valid call forward and backward, and compares it with the oracle."""
    pool, given = call.make(), call.arguments()
    out = pool(**given)
    parameters = dict(pool.named_parameters()) if call.logits is None else {}
    check_shapes(call, out)
    leaves = {
        name: value
        for name, value in {**given, **parameters}.items()
        if isinstance(value, Tensor) and value.requires_grad
    }
    loss = downstream(out) / 100  # so that half precision does not overflow
    gradients = dict(
        zip(
            leaves,
            torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            if loss.requires_grad
            else [torch.zeros_like(leaf) for leaf in leaves.values()],
            strict=True,
        )
    )
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.dtype == leaves[name].dtype
    if call.dtype != torch.float64 or call.batch.num_graphs == 0:
        return
    if call.layer is DenseDiffPool:
        check_dense(call, out)
    else:
        check_sampled(call, pool, out, gradients)


def check_shapes(call: Call, out: Any) -> None:
    batch, K = call.batch, call.options["num_clusters"]
    N, E = batch.num_nodes, batch.edge_index.size(1)
    floats = [out.x, out.edge_weight, out.edge_attr, *out.losses.values()]
    for value in floats:
        assert value is None or value.isfinite().all()
    assert out.x.dtype == call.dtype
    assert out.x.shape == (len(out.batch), CHANNELS)
    assert out.cluster.shape == (N,)
    assert torch.equal(out.batch[out.cluster], batch.batch)
    assert set(out.losses) == set(call.options["losses"])
    assert out.unpool().shape == (N, CHANNELS)
    assert out.edge_index.dtype == torch.int64
    assert out.edge_index.shape[0] == 2
    if call.layer is GumbelPool:
        assert out.edge_index.size(1) <= E
        assert (out.edge_weight is None) == (not call.options["weighted"])
        if not call.options["drop_empty"] and call.options["ratio"] is None:
            assert len(out.batch) == batch.num_graphs * K
    key = out.edge_index[0] * max(len(out.batch), 1) + out.edge_index[1]
    assert (key[1:] > key[:-1]).all()
    if out.edge_weight is not None:
        assert out.edge_weight.shape == (out.edge_index.size(1),)
    for name in ("entropy", "balance", "link"):
        assert name not in out.losses or out.losses[name] >= -1e-6


def check_sampled(call: Call, pool: Any, out: Any, gradients: dict[str, Tensor]) -> None:
    """Against the oracle, given the draw, which does not depend on what becomes of empty rows."""
    batch = call.batch
    samples = call.training or call.options["sample_in_eval"]
    choose = torch.Tensor.argmax
    if samples:
        every = call.make(drop_empty=False)(**call.arguments())
        local = every.cluster - torch.searchsorted(every.batch, batch.batch)
    options = {k: v for k, v in call.options.items() if k in oracle.Config.__dataclass_fields__}
    noisy = options["estimator"] in NOISY
    if noisy:
        options["estimator"] = "straight_through"
    config = oracle.Config(**options)
    head = {} if call.logits is not None else {"weight": pool.lin.weight, "bias": pool.lin.bias}
    expected, wanted = oracle.layer(
        config,
        lambda out: downstream(out) / 100,
        **batch.oracle_arguments(),
        logits=call.logits,
        assign_x=call.assign_x,
        draw_from=(lambda _: local) if samples else (lambda theta: choose(theta, 1)),
        **head,
    )
    assert_same_output(out, expected)
    scored = {"logits", "lin.weight", "lin.bias", "assign_x"}
    if call.logits is None and call.assign_x is None:
        scored.add("x")
    for name, gradient in gradients.items():
        if noisy and name in scored:
            continue
        want = wanted[name]
        scale = max(float(want.abs().max()) if want.numel() else 0.0, 1.0)
        assert (gradient - want).abs().max() <= 1e-9 * scale if want.numel() else True, name


def check_dense(call: Call, out: Any) -> None:
    """X' and A' of the soft assignment, graph by graph."""
    batch, K = call.batch, call.options["num_clusters"]
    pool = call.make()
    if call.logits is not None:
        theta = call.logits
    else:
        theta = pool.lin(batch.x if call.assign_x is None else call.assign_x).detach()
    config = oracle.Config(K, ratio=call.options["ratio"])
    per_graph = oracle.clusters_per_graph(config, batch.batch, batch.num_graphs)
    P = oracle.probabilities(oracle.mask_logits(theta, batch.batch, per_graph))
    values = batch.edge_weight
    if values is None:
        values = torch.ones(batch.edge_index.size(1)).double()
    A = oracle.adjacency(batch.num_nodes, batch.edge_index, values)
    rows = out.edge_weight.detach()
    for g, k in enumerate(per_graph):
        nodes = (batch.batch == g).nonzero().flatten()
        S = P[nodes, :k].reshape(len(nodes), k)
        x = S.T @ batch.x[nodes]
        if call.options["aggr"] == "mean":
            x = x / S.sum(0).clamp(min=torch.finfo(torch.float64).eps).unsqueeze(1)
        torch.testing.assert_close(out.x[out.batch == g].detach(), x, rtol=1e-9, atol=1e-9)
        pooled = S.T @ A[nodes][:, nodes] @ S
        keep = torch.ones(k, k, dtype=torch.bool)
        if call.options["remove_self_loops"]:
            keep.fill_diagonal_(fill_value=False)
        own = out.batch[out.edge_index[0]] == g
        torch.testing.assert_close(rows[own], pooled[keep], rtol=1e-9, atol=1e-9)


# --- valid calls of the functions ----------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """A batch with one cluster per node, none shared between graphs."""

    batch: Batch
    K: int
    local: Tensor
    P: Tensor
    dtype: torch.dtype
    seed: int

    @property
    def cluster(self) -> Tensor:
        return self.batch.batch * self.K + self.local

    @property
    def weight(self) -> Tensor | None:
        return None if self.batch.edge_weight is None else self.batch.edge_weight.abs()


@st.composite
def facts(draw) -> Facts:
    batch, seed = draw(batches())
    K = draw(st.sampled_from([1, 2, 5]))
    logits = 3 * randn(batch.num_nodes, K, seed=seed + 1)
    return Facts(
        batch=batch,
        K=K,
        local=(rand(batch.num_nodes, seed=seed + 2) * K).long(),
        P=logits.softmax(-1),
        dtype=draw(st.sampled_from([torch.float64, *DTYPES])),
        seed=seed,
    )


def arguments_of(function: Callable, given: Facts) -> dict[str, Any]:
    """Valid arguments of one of `FUNCTIONS`."""
    batch = given.batch
    floats = {"x": batch.x, "edge_weight": batch.edge_weight, "edge_attr": batch.edge_attr}
    if function in (crispness, samples_for_error):
        floats["edge_weight"] = given.weight
    every = {k: None if v is None else v.to(given.dtype) for k, v in floats.items()} | {
        "edge_index": batch.edge_index,
        "cluster": given.cluster,
        "num_supernodes": batch.num_graphs * given.K,
        "batch": batch.batch,
        "batch_size": batch.num_graphs,
        "probability": given.P.double(),
        "logits": given.P.log().to(given.dtype),
        "remove_self_loops": bool(given.seed % 2),
        "aggr": ("sum", "mean")[given.seed % 2],
        "generator": generator(given.seed),
        "error": 0.1,
        "failure": 0.05,
        "num_clusters": given.K,
        "method": ("hoeffding", "bernstein", "mcdiarmid")[given.seed % 3],
        "variance": 0.1,
    }
    if function is unpool:
        every["x"] = torch.arange(float(batch.num_graphs * given.K))
    return {name: every[name] for name in FUNCTIONS[function]}


FUNCTIONS: dict[Callable, tuple[str, ...]] = {
    sample_clusters: ("logits", "generator"),
    coarsen_edges: (
        "edge_index", "cluster", "num_supernodes", "edge_weight", "edge_attr", "remove_self_loops",
    ),
    coarsen_nodes: ("x", "cluster", "num_supernodes", "aggr"),
    unpool: ("x", "cluster"),
    occupancy: ("cluster", "batch", "batch_size"),
    crispness: ("x", "edge_index", "cluster", "edge_weight", "batch", "batch_size"),
    expected_features: ("x", "probability", "batch", "batch_size"),
    expected_adjacency: ("edge_index", "probability", "edge_weight", "batch", "batch_size"),
    adjacency_variance: ("edge_index", "probability", "edge_weight", "batch", "batch_size"),
    samples_for_error: (
        "error", "failure", "num_clusters", "method", "variance", "edge_index", "edge_weight",
        "batch", "batch_size",
    ),
}  # fmt: skip


def check_functions(given: Facts) -> None:
    """Calls every function once and compares it with the dense form."""
    batch, K, B = given.batch, given.K, given.batch.num_graphs
    results = {function: function(**arguments_of(function, given)) for function in FUNCTIONS}
    drawn = results[sample_clusters]
    assert drawn.shape == given.local.shape
    assert ((drawn >= 0) & (drawn < K)).all()
    assert torch.equal(results[unpool], given.cluster.float())
    assert isinstance(results[samples_for_error], int)
    assert results[samples_for_error] >= 1

    counts = torch.bincount(given.cluster, minlength=B * K).view(B, K)
    used, share, perplexity = results[occupancy]
    assert torch.equal(used, (counts > 0).sum(1))
    assert ((share >= 0) & (share <= 1)).all()
    assert ((perplexity <= used + 1e-4) & (perplexity >= (used > 0).float() - 1e-4)).all()
    for name, value in zip(results[crispness]._fields, results[crispness], strict=True):
        assert value.shape == (B,)
        assert (value <= 1 + 1e-9).all(), name
        assert (value >= (-1 if name == "modularity" else -1e-9)).all(), name

    index, weight, attr = results[coarsen_edges]
    x = results[coarsen_nodes]
    values = [x, weight, results[expected_features], results[expected_adjacency]]
    values += [results[adjacency_variance]] + ([] if attr is None else [attr])
    assert all(value.isfinite().all() for value in values)
    assert (results[adjacency_variance] >= -1e-9).all()
    if given.dtype != torch.float64:
        return
    ones = torch.ones(batch.edge_index.size(1)).double()
    edge_weight = ones if batch.edge_weight is None else batch.edge_weight
    S = oracle.one_hot(given.cluster, B * K)
    A = oracle.adjacency(batch.num_nodes, batch.edge_index, edge_weight)
    exists = S.T @ oracle.adjacency(batch.num_nodes, batch.edge_index, ones) @ S > 0
    if arguments_of(coarsen_edges, given)["remove_self_loops"]:
        exists.fill_diagonal_(fill_value=False)
    assert torch.equal(index, exists.nonzero().T)
    near = {"rtol": 1e-9, "atol": 1e-9, "check_dtype": False}
    torch.testing.assert_close(weight.double(), (S.T @ A @ S)[exists], **near)
    total = S.T @ batch.x
    if arguments_of(coarsen_nodes, given)["aggr"] == "mean":
        total = total / S.sum(0).clamp(min=1).unsqueeze(1)
    torch.testing.assert_close(x, total, **near)
    for g in range(B):
        nodes = batch.batch == g
        P, own = given.P[nodes], A[nodes][:, nodes]
        torch.testing.assert_close(results[expected_features][g], P.T @ batch.x[nodes], **near)
        torch.testing.assert_close(
            results[expected_adjacency][g], oracle.pool_matrix(P, own), **near
        )


# --- exactly one thing wrong ---------------------------------------------------------------------

NOT_TENSORS = {
    "a list": lambda value: value.tolist(),
    "an array": lambda value: value.double().numpy(),
    "a number": lambda value: 3,
    "a name": lambda value: "x",
    "nested": lambda value: torch.nested.nested_tensor([value, value]),
    "meta": lambda value: value.to("meta"),
    "sparse": lambda value: torch.atleast_2d(value).to_sparse_bsr((1, 1)),
    "one number": lambda value: value.new_zeros(()),
    "deep": lambda value: value.unsqueeze(0).unsqueeze(0),
}
NOT_FLOATING = {
    "integers": lambda value: value.long(),
    "booleans": lambda value: value > 0,
    "complex": lambda value: value.to(torch.complex64),
    "float8": lambda value: value.to(torch.float8_e5m2),
}
NOT_INT64 = {
    "int32": lambda value: value.int(),
    "floating": lambda value: value.float(),
    "booleans": lambda value: value > 0,
}
LONGER = {"longer": lambda value: torch.cat([value, value.new_zeros(1, *value.shape[1:])])}
SOME = "some"  # marks what needs an entry to be wrong


def entry(value: object) -> Callable[[Tensor], Tensor]:
    """Puts a value into the last entry, which ratio excludes the sooner."""

    def put(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return put


def numbers(*values: object) -> dict[str, Callable]:
    return {repr(value): lambda _, value=value: value for value in values}


NOT_FINITE = {f"{SOME} {v}": entry(v) for v in (float("nan"), INF, -INF)}
NOT_A_COUNT = numbers(-1, 2.5, True, "2", 2**62, 10**30)
NOT_A_SHARE = numbers(0, 1, -0.1, float("nan"), INF, "0.1", None, True, 10**400)
NOT_A_NAME = numbers("max", None, 3, ["sum"], {"sum"})
NOT_A_BOOL = numbers("no", None, 1)

# By argument: what is wrong with it, and how it becomes so.
WRONG: dict[str, dict[str, Callable]] = {
    "x": NOT_TENSORS | NOT_FLOATING,
    "assign_x": NOT_TENSORS | NOT_FLOATING | LONGER | {"wider": lambda x: torch.cat([x, x], 1)},
    "logits": NOT_TENSORS | NOT_FLOATING | {
        f"{SOME} nan": entry(float("nan")),
        f"{SOME} inf": entry(INF),
        f"{SOME} -inf": lambda logits: torch.full_like(logits, -INF),
        "no columns": lambda logits: logits[:, :0],
    },
    "edge_index": NOT_TENSORS | NOT_INT64 | {
        "three rows": lambda edges: torch.cat([edges, edges[:1]]),
        "one row": lambda edges: edges[:1],
        "as pairs": lambda edges: torch.cat([edges, edges, edges[:, :1]], 1).T.contiguous(),
        f"{SOME} negative": entry(-1),
        f"{SOME} too large": entry(10**6),
    },
    "edge_weight": NOT_TENSORS | NOT_FLOATING | LONGER | NOT_FINITE,
    "edge_attr": NOT_TENSORS | NOT_FLOATING | LONGER,
    "batch": NOT_TENSORS | NOT_INT64 | LONGER | {
        f"{SOME} negative": lambda batch: batch - batch.max() - 1,
        f"{SOME} too large": lambda batch: batch + 10**6,
        f"{SOME} unsorted": lambda batch: torch.cat([batch[:-1] + 1, batch.new_zeros(1)]),
    },
    "batch_size": NOT_A_COUNT,
    "generator": numbers(3, "seed", torch.zeros(1)),
    "cluster": NOT_TENSORS | NOT_INT64 | {f"{SOME} negative": entry(-1)},
    "num_supernodes": NOT_A_COUNT | numbers(None),
    "probability": NOT_TENSORS | NOT_FLOATING | {
        f"{SOME} nan": entry(float("nan")),
        f"{SOME} negative": entry(-0.5),
        f"{SOME} large": lambda probability: probability * 1.01,
    },
    "aggr": NOT_A_NAME,
    "method": NOT_A_NAME,
    "remove_self_loops": NOT_A_BOOL,
    "error": NOT_A_SHARE,
    "failure": NOT_A_SHARE,
    "num_clusters": numbers(0, -1, 2.5, True, "2", None),
    "variance": numbers(None, -0.1, 0.3, float("nan"), "0.1", True, [0.1]),
}  # fmt: skip
WRONG_OPTIONS: dict[str, dict[str, Callable]] = {
    "in_channels": numbers(0, -2, 2.5, True, "2"),
    "num_clusters": numbers(0, -1, 2.5, True, "2", None),
    "ratio": numbers(0, -0.1, 1.01, float("nan"), INF, "0.1", True, 10**400),
    "estimator": NOT_A_NAME,
    "tau": numbers(0, -1.0, float("nan"), INF, "1", None, True, 10**400),
    "aggr": NOT_A_NAME,
    "losses": numbers("link", None, 3, ("cut",), (["link"],), ("link", "link"), {"link"}),
    "drop_empty": NOT_A_BOOL,
    "remove_self_loops": NOT_A_BOOL,
    "weighted": NOT_A_BOOL,
    "sample_in_eval": NOT_A_BOOL,
    "bias": NOT_A_BOOL,
    "block_size": numbers(0, -1, 2.5, True, "2"),
}


def applies(wrong: str, value: object) -> bool:
    """Whether an argument is there to be made wrong that way."""
    if not isinstance(value, Tensor):
        return value is not None
    if wrong.endswith("unsorted"):
        return value.numel() > 1
    return value.numel() > 0 or not wrong.startswith(SOME)


def assert_named(name: str, function: Callable, arguments: dict[str, Any]) -> None:
    """The call raises an error of ours that names the argument."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**arguments)
    assert re.search(rf"\b{name}\b", str(caught.value)), caught.value
    assert "must" in str(caught.value), caught.value


@st.composite
def wrong_calls(draw) -> tuple[Call, str, str]:
    """A valid call, an argument, and what is to be wrong with it."""
    call = draw(calls())
    call = replace(call, form="edge_index")
    given = call.arguments()
    names = [name for name in WRONG if given.get(name) is not None]
    if call.without_batch:
        names.append("batch_size")
    name = draw(st.sampled_from(names))
    ways = [wrong for wrong in WRONG[name] if applies(wrong, given[name])]
    if name == "batch_size" and call.without_batch:
        ways = list(WRONG[name])
    return call, name, draw(st.sampled_from(ways))


def check_wrong_call(call: Call, name: str, wrong: str) -> None:
    given = {k: v.detach() if isinstance(v, Tensor) else v for k, v in call.arguments().items()}
    given[name] = WRONG[name][wrong](given[name])
    assert_named(name, call.make(), given)


@st.composite
def wrong_options(draw) -> tuple[Call, str, object]:
    call = draw(calls())
    valid = [name for name in WRONG_OPTIONS if name == "in_channels" or name in call.options]
    name = draw(st.sampled_from(valid))
    return call, name, draw(st.sampled_from(list(WRONG_OPTIONS[name])))


def check_wrong_option(call: Call, name: str, wrong: str) -> None:
    """In the constructor and, where the option may be set later, then as well."""
    value = WRONG_OPTIONS[name][wrong](None)
    assert_named(name, call.layer, {"in_channels": CHANNELS} | call.options | {name: value})
    if name != "bias":
        assert_named(name, lambda **_: setattr(call.make(), name, value), {})


@st.composite
def wrong_function_calls(draw) -> tuple[Facts, Callable, str, str]:
    given = draw(facts())
    function = draw(st.sampled_from(list(FUNCTIONS)))
    arguments = arguments_of(function, given)
    ways = [
        (name, wrong)
        for name, value in arguments.items()
        for wrong in WRONG[name]
        if applies(wrong, value) and not is_right(function, arguments, name, wrong)
    ]
    return given, function, *draw(st.sampled_from(ways))


def is_right(function: Callable, arguments: dict[str, Any], name: str, wrong: str) -> bool:
    """What is wrong elsewhere but not here."""
    if function is unpool and name == "x":
        return wrong in ("deep", *NOT_FLOATING)
    if function is samples_for_error:
        method = arguments["method"]
        if name == "edge_index" and method == "mcdiarmid":
            return False
        # The others need no edges, and none of them reads what it does not need.
        return (
            (name in ("edge_index", "edge_weight") and method != "mcdiarmid")
            or (name == "variance" and method != "bernstein")
            or (name == "batch" and wrong == "longer")
        )
    return False


def check_wrong_function_call(given: Facts, function: Callable, name: str, wrong: str) -> None:
    arguments = arguments_of(function, given)
    arguments[name] = WRONG[name][wrong](arguments[name])
    assert_named(name, function, arguments)
