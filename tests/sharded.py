"""What every process of the tests of gumbelpool.distributed does, and how they are started."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from conftest import ESTIMATORS, Batch, downstream, make_batch, randn
from test_readme import run_python_blocks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gumbelpool import GumbelPool, PoolOutput
from gumbelpool.distributed import ShardedGraph, pool_sharded

N, SEED = 23, 7
LOSSES = ("link", "entropy", "balance", "modularity")
LEAVES = ("x", "edge_weight", "edge_attr", "logits", "assign_x")


# --- the processes -------------------------------------------------------------------------------


def spawn(work: Callable[[int, int], Any], world: int, folder: Path) -> list[Any]:
    """What ``work(rank, world)`` gives in each of some processes."""
    arguments = (work, world, folder)
    torch.multiprocessing.spawn(_start, arguments, nprocs=world, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _start(rank: int, work: Callable[[int, int], Any], world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), world, rank
    )
    torch.save(work(rank, world), folder / f"{rank}.pt")
    dist.destroy_process_group()


def shares(kind: str, world: int) -> list[int]:
    """How many of the N nodes each process has."""
    if kind == "even":
        return [N // world + (rank < N % world) for rank in range(world)]
    if kind == "empty":
        return {2: [0, N], 3: [5, 0, N - 5], 4: [N - 3, 0, 1, 2]}[world]
    return {2: [N - 4, 4], 3: [3, N - 8, 5], 4: [2, 9, 1, N - 12]}[world]


def nodes_of(counts: list[int], rank: int) -> range:
    return range(sum(counts[:rank]), sum(counts[: rank + 1]))


def edges_of(edge_index: Tensor, own: range) -> Tensor:
    return ((edge_index[0] >= own.start) & (edge_index[0] < own.stop)).nonzero().squeeze(1)


# --- one graph, pooled ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A graph, a layer and a call."""

    options: dict[str, Any] = field(default_factory=dict)
    graph: dict[str, Any] = field(default_factory=dict)
    kind: str = "uneven"
    given: str | None = None  # "logits" or "assign_x"
    training: bool = True
    dtype: torch.dtype = torch.float64

    def batch(self) -> Batch:
        usual = {"attr": 2, "weighted": "positive", "loops": True, "duplicates": True}
        return make_batch((N,), **usual | self.graph)

    def tensors(self) -> dict[str, Tensor]:
        """All that has a row per node or per edge, of the whole graph."""
        batch = self.batch()
        all_of_them = {"x": batch.x, "edge_weight": batch.edge_weight, "edge_attr": batch.edge_attr}
        if self.given == "logits":
            all_of_them["logits"] = 2 * randn(N, self.layer().num_clusters, seed=31)
        if self.given == "assign_x":
            all_of_them["assign_x"] = randn(N, 3, seed=32)
        return {k: v.to(self.dtype) for k, v in all_of_them.items() if v is not None}

    def layer(self) -> GumbelPool:
        torch.manual_seed(1)
        usual = {"num_clusters": 5, "losses": LOSSES, "estimator": "straight_through"}
        options = usual | self.options
        pool = GumbelPool(3, options.pop("num_clusters"), **options).to(self.dtype)
        with torch.no_grad():
            pool.lin.weight *= 3  # so that assignments are neither level nor sure
        return pool.train(self.training)


def cases() -> dict[str, Case]:
    return {
        **{name: Case({"estimator": name}) for name in ESTIMATORS},
        "even": Case({"estimator": "gumbel"}, kind="even"),
        "empty shard": Case({"estimator": "gumbel"}, kind="empty"),
        "mean": Case({"aggr": "mean"}, kind="empty"),
        "drop_empty": Case({"drop_empty": True, "num_clusters": 40}),
        "drop_empty, mean, no loops": Case(
            {"drop_empty": True, "aggr": "mean", "remove_self_loops": True, "num_clusters": 12}
        ),
        "remove_self_loops": Case({"remove_self_loops": True}),
        "binary": Case({"weighted": False}),
        "ratio": Case({"ratio": 0.2, "num_clusters": 9}),
        "one cluster": Case({"num_clusters": 1}),
        "many clusters": Case({"num_clusters": 300, "estimator": "gumbel"}),
        "blocks": Case({"block_size": 2, "estimator": "gumbel", "num_clusters": 4}, kind="even"),
        "no bias": Case({"bias": False}),
        "undirected": Case({"estimator": "reinmax"}, {"undirected": True, "weighted": False}),
        "unweighted": Case({}, {"weighted": False, "attr": None, "loops": False}),
        "negative weights": Case({"losses": LOSSES[:3]}, {"weighted": True}),
        "no edges": Case({}, {"density": 0.0}),
        "no losses": Case({"losses": ()}),
        "logits": Case({"estimator": "gumbel"}, given="logits"),
        "assign_x": Case({"estimator": "gst"}, given="assign_x"),
        "eval": Case(training=False),
        "eval, drawn": Case({"sample_in_eval": True}, training=False),
        "float32": Case({"estimator": "gumbel"}, dtype=torch.float32),
    }  # fmt: skip


def loss_of(out: PoolOutput, own: range, scale: float = 1.0) -> Tensor:
    """Of every output, and of the own nodes: their mean over the processes is one process's."""
    factor = randn(N, out.x.size(1), seed=21)[own.start : own.stop]
    return downstream(out) + scale * (torch.sin(out.unpool()) * factor).sum()


def record(out: PoolOutput, leaves: dict[str, Tensor], pool: GumbelPool) -> dict[str, Any]:
    fields = out._asdict() | {"losses": dict(out.losses), "unpool": out.unpool()}
    parameters = {f"lin.{name}": each.grad for name, each in pool.lin.named_parameters()}
    grads = {name: leaf.grad for name, leaf in leaves.items()} | parameters
    return {"out": _detached(fields), "grads": grads}


def _detached(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _detached(each) for name, each in value.items()}
    return value.detach() if isinstance(value, Tensor) else value


@cache
def pool_whole(name: str) -> dict[str, Any]:
    """What one process makes of a case."""
    case = cases()[name]
    pool = case.layer()
    leaves = {name: each.clone().requires_grad_() for name, each in case.tensors().items()}
    torch.manual_seed(SEED)
    out = pool(leaves["x"], case.batch().edge_index, **without_x(leaves))
    loss_of(out, range(N)).backward()
    return record(out, leaves, pool)


def pool_part(case: Case, rank: int, world: int) -> dict[str, Any]:
    """What one of several makes of its part."""
    pool, edge_index = case.layer(), case.batch().edge_index
    counts = shares(case.kind, world)
    own = nodes_of(counts, rank)
    edges = edges_of(edge_index, own)
    rows = {"edge_weight": edges, "edge_attr": edges}
    everyone = torch.arange(own.start, own.stop)
    leaves = {
        name: each[rows.get(name, everyone)].clone().requires_grad_()
        for name, each in case.tensors().items()
    }
    graph = ShardedGraph(edge_index[:, edges], len(own))
    torch.manual_seed(SEED + rank)  # only that of process 0 is to matter
    out = pool_sharded(pool, leaves["x"], graph, **without_x(leaves))
    state = torch.get_rng_state()
    loss_of(out, own, scale=world).backward()
    result = record(out, leaves, pool) | {"nodes": own, "edges": edges}
    torch.manual_seed(SEED + rank)
    return result | {"moved": not torch.equal(state, torch.get_rng_state())}


def without_x(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: leaf for name, leaf in leaves.items() if name != "x"}


# --- a network, trained --------------------------------------------------------------------------


class Net(nn.Module):
    """A convolution, a pool, and what the clusters learn given back to the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.coarse = nn.Linear(3, 8), nn.Linear(8, 2)
        self.pool = GumbelPool(8, 4, losses=LOSSES, estimator="gumbel")

    def forward(self, x: Tensor, graph: "ShardedGraph | Tensor") -> tuple[Tensor, Tensor]:
        sharded = isinstance(graph, ShardedGraph)
        source, target = graph.edge_index if sharded else graph
        sent = self.conv(x).tanh()
        sent = graph.with_halo(sent) if sharded else sent
        x = sent.new_zeros(x.size(0), 8).index_add(0, target, sent[source]) / 4
        out = pool_sharded(self.pool, x, graph) if sharded else self.pool(x, graph)
        return out.unpool(self.coarse(out.x).tanh()), out.loss


def train(model: nn.Module, net: Net, x: Tensor, graph: Any, y: Tensor, scale: float) -> list:
    """The losses of some steps, and the parameters behind them."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.manual_seed(SEED)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        found, loss = model(x, graph)
        loss = loss + scale * (found - y).square().sum() / N
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [losses, [p.detach().clone() for p in net.parameters()]]


def net_and_data() -> tuple[Net, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    batch = Case().batch()
    return Net().double(), batch.x, batch.edge_index, randn(N, 2, seed=41)


def train_whole() -> list:
    net, x, edge_index, y = net_and_data()
    return train(net, net, x, edge_index, y, scale=1.0)


def train_part(rank: int, world: int) -> list:
    net, x, edge_index, y = net_and_data()
    own = nodes_of(shares("uneven", world), rank)
    graph = ShardedGraph(edge_index[:, edges_of(edge_index, own)], len(own))
    part = slice(own.start, own.stop)
    return train(DistributedDataParallel(net), net, x[part], graph, y[part], scale=world)


# --- the graph alone -----------------------------------------------------------------------------


def graph_part(rank: int, world: int) -> dict[str, Any]:
    batch = Case().batch()
    own = nodes_of(shares("uneven", world), rank)
    graph = ShardedGraph(batch.edge_index[:, edges_of(batch.edge_index, own)], len(own))
    x = batch.x[own.start : own.stop].clone().requires_grad_()
    everyone = graph.with_halo(x)
    numbers = torch.cat([torch.arange(own.start, own.stop), graph.halo])
    factor = randn(N, 3, seed=51)[numbers] * (rank + 1)
    (everyone * factor).sum().backward()
    value = torch.full((2,), rank + 1.0, requires_grad=True)
    total = graph.sum(value)
    ((rank + 1.0) * total).sum().backward()
    return {
        "numbers": numbers,
        "everyone": everyone.detach(),
        "in_edges": numbers[graph.edge_index],
        "grad": x.grad,
        "sum": (total.detach(), value.grad),
        "collected": graph.collect(torch.arange(own.start, own.stop).to(torch.int16)),
        "text": repr(graph),
    }


def in_a_group(rank: int, world: int) -> dict[str, Any] | None:
    """The last two of the processes pool a graph that the first knows nothing of."""
    group = dist.new_group([world - 2, world - 1])
    if rank < world - 2:
        return None
    case = replace(Case(), graph={"attr": None, "weighted": False})
    batch, own = case.batch(), nodes_of(shares("even", 2), rank - world + 2)
    edges = edges_of(batch.edge_index, own)
    graph = ShardedGraph(batch.edge_index[:, edges], len(own), group=group)
    draws = torch.Generator().manual_seed(SEED)
    out = pool_sharded(case.layer(), batch.x[own.start : own.stop], graph, generator=draws)
    return _detached(out._asdict())


def readme_part(rank: int, world: int) -> dict[str, Any]:
    """What the network of README.md makes of a part."""
    net, x, edge_index = readme_net()
    own = nodes_of(shares("uneven", world), rank)
    graph = ShardedGraph(edge_index[:, edges_of(edge_index, own)], len(own))
    torch.manual_seed(SEED)
    return _detached(net(x[own.start : own.stop], graph)._asdict())


def readme_net() -> tuple[nn.Module, Tensor, Tensor]:
    net_of = run_python_blocks()["ShardedNet"]
    torch.manual_seed(2)
    batch = Case().batch()
    return net_of(3, 4).double(), batch.x, batch.edge_index


# --- what is refused -----------------------------------------------------------------------------


def refused(rank: int, world: int) -> dict[str, tuple[str, str]]:
    """The error of each bad call, on this process; only the last one's arguments are bad."""
    batch = make_batch((N,), weighted="positive")
    own = nodes_of(shares("even", world), rank)
    edges = edges_of(batch.edge_index, own)
    edge_index, weight = batch.edge_index[:, edges], batch.edge_weight[edges]
    x = batch.x[own.start : own.stop]
    bad = rank == world - 1
    graph = ShardedGraph(edge_index, len(own))

    def graph_with(edge_index: Any, num_own: int = len(x)) -> Callable[[], Any]:
        return lambda: ShardedGraph(edge_index, num_own)

    def call(x: Tensor = x, weight: Tensor | None = weight, training: bool = True, **more: Any):
        options = {"losses": LOSSES} | more.pop("options", {})
        pool = GumbelPool(3, 4, **options).double().train(training)
        return lambda: pool_sharded(pool, x, graph, weight, **more)

    def spoilt(tensor: Tensor, value: float) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor if bad else tensor.nan_to_num()

    first = spoilt(edge_index, 0) if bad else edge_index
    calls = {
        "source": graph_with(first),
        "target": graph_with(edge_index + bad * torch.tensor([[0], [N]])),
        "dtype": graph_with(edge_index.int() if bad else edge_index),
        "num_own": graph_with(edge_index, -1 if bad else len(own)),
        "no tensor": graph_with(edge_index.tolist() if bad else edge_index),
        "rows": call(x[1:] if bad else x),
        "channels": call(x[:, 1:] if bad else x),
        "precision": call(x.float() if bad else x, options={"losses": ()}),
        "weights": call(weight=None if bad else weight),
        "number of weights": call(weight=weight[1:] if bad else weight),
        "negative": call(weight=-weight if bad else weight),
        "nan": call(spoilt(x, torch.nan)),
        "options": call(options={"tau": 0.5 if bad else 1.0}),
        "mode": call(training=not bad),
        "generator": call(generator=3 if bad else None),
        "halo": lambda: graph.with_halo(x[:, 1:] if bad else x),
        "collect": lambda: graph.collect(x[1:] if bad else x),
    }  # fmt: skip
    return {name: _error(action) for name, action in calls.items()}


def _error(action: Callable[[], Any]) -> tuple[str, str]:
    try:
        action()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", "nothing was refused"


def everything(rank: int, world: int) -> dict[str, Any]:
    """All of the above, so that processes are started once."""
    return {
        "cases": {name: pool_part(case, rank, world) for name, case in cases().items()},
        "train": train_part(rank, world),
        "graph": graph_part(rank, world),
        "group": in_a_group(rank, world),
        "readme": readme_part(rank, world) if world == 2 else None,
        "refused": refused(rank, world),
    }
