r"""Trains the networks of README.md as they stand there, against what they should not fall behind.

The code is taken out of README.md and executed, so that it cannot drift from what is measured. The
rows of a table are that network, the same with other poolers in the place of its own, and the same
without pooling.

    python -m benchmarks.readme --root DIR                   # Net on MUTAG, ENZYMES and PROTEINS
    python -m benchmarks.readme --root DIR --task nodes      # UNet on Cora and a block model

For graphs, DIR holds TU datasets as PyG keeps them (those not there are downloaded), read with
`use_node_attr=True` and not scaled, in random stratified splits of 80 and 20 %. Adam, batches of
32, 0.1 of the network's loss, the accuracy in `eval()` after the last epoch: no early stopping,
nothing chosen. For nodes, DIR holds Cora as `Planetoid` keeps it, in its public split with rows
that sum to one, and the block model is made here; Adam with weight decay, and the test accuracy is
that of the epoch of best validation.
A run that was killed goes on from its finished trainings when started again.
"""

import argparse
import ast
import hashlib
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid, TUDataset
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import to_undirected
from tqdm import tqdm

from gumbelpool import CollapseWarning, DenseDiffPool, GumbelPool, PoolOutput

from .common import DOCS, ROOT, append_line, read_lines, replace_section

EPOCHS = {"MUTAG": 60, "ENZYMES": 60, "PROTEINS": 30, "hierarchy": 40}
WEIGHT = 0.1  # of the auxiliary losses, as README.md says
NODE_EPOCHS = 200
TESTED = {"as it is": None, "likeliest": 0, "one draw": 1, "eight draws": 8}


class NoPool(nn.Module):
    """The graph as it came, in the call and the output of a pooling layer."""

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        **_: object,
    ) -> PoolOutput:
        """Returns the input."""
        if batch is None:
            batch = edge_index.new_zeros(x.size(0))
        cluster = torch.arange(x.size(0))
        return PoolOutput(x, edge_index, edge_weight, batch, None, cluster, {})


class Row(NamedTuple):
    """A row of the table: what is done to the network of README.md before it is trained."""

    name: str
    pooler: str  # "gumbel", "diffpool" or "none"
    options: dict[str, Any]  # set on the network's own poolers
    tested: str = "as it is"  # one of TESTED: the same training, another way to test it


class Network(NamedTuple):
    """A class of README.md and its source, without comments and layout."""

    make: Callable[..., nn.Module]
    source: str


def networks(readme: Path) -> dict[str, Network]:
    """The classes that README.md's python blocks define, each block executed as it stands."""
    namespace: dict[str, Any] = {}
    found = {}
    for block in re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL):
        exec(block, namespace)
        for statement in ast.parse(block).body:
            if isinstance(statement, ast.ClassDef):
                found[statement.name] = Network(namespace[statement.name], ast.dump(statement))
    return found


def poolers(model: nn.Module) -> Iterator[tuple[nn.Module, str, GumbelPool]]:
    """Every pooling layer of a model, with the module that holds it and its name there."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, GumbelPool):
                yield parent, name, child


def change(model: nn.Module, row: Row) -> None:
    """Makes the network of README.md that of a row."""
    for parent, name, pool in list(poolers(model)):
        if row.pooler == "none":
            setattr(parent, name, NoPool())
        elif row.pooler == "diffpool":
            shared = {
                option: getattr(pool, option) for option in ("ratio", "aggr", "remove_self_loops")
            }
            layer = DenseDiffPool(pool.in_channels, pool.num_clusters, **shared)
            setattr(parent, name, layer)
        else:
            for option, value in row.options.items():
                setattr(pool, option, value)


def together(graphs: Sequence[Data]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, edge_index, batch and y of some graphs as one: PyG's Batch, in an eighth of its time."""
    sizes = torch.tensor([graph.x.size(0) for graph in graphs])
    first = sizes.cumsum(0) - sizes
    edge_index = [graph.edge_index + start for graph, start in zip(graphs, first, strict=True)]
    return (
        torch.cat([graph.x for graph in graphs]),
        torch.cat(edge_index, dim=1),
        torch.arange(len(graphs)).repeat_interleave(sizes),
        torch.cat([graph.y.view(-1) for graph in graphs]),
    )


@torch.no_grad()
def prediction(model: nn.Module, arguments: tuple[Tensor, ...], tested: str = "as it is") -> Tensor:
    """The classes in ``eval()``: of the network as it is, or of the mean over some draws."""
    model.eval()
    draws = TESTED[tested]
    layers = [(pool, pool.sample_in_eval) for _, _, pool in poolers(model)]
    for pool, sample in layers:
        pool.sample_in_eval = sample if draws is None else draws > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # accuracy is what tells here
        passes = [model(*arguments)[0].softmax(-1) for _ in range(draws or 1)]
    for pool, sample in layers:
        pool.sample_in_eval = sample
    return torch.stack(passes).mean(0).argmax(-1)


def ways(row: Row) -> list[str]:
    """The ways to test what a row trains: a network without draws has but one."""
    return list(TESTED) if row.pooler == "gumbel" else ["as it is"]


def graphs(name: str, root: Path) -> list[Data]:
    """The graphs of a dataset."""
    if name == "hierarchy":
        return hierarchy()
    data = TUDataset(str(root), name, use_node_attr=True)
    return [data[i] for i in range(len(data))]


def hierarchy() -> list[Data]:
    """The embedded dataset of the examples."""
    from examples.classification.hierarchy import hierarchy as make

    return make()


def train_graphs(network: Network, row: Row, data: list[Data], setting: dict[str, Any]) -> dict:
    """Test accuracies after the last epoch, by the way of testing."""
    seed = setting["seed"]
    labels = torch.cat([graph.y.view(-1) for graph in data])
    train, test = train_test_split(
        range(len(data)), test_size=0.2, stratify=labels, random_state=seed
    )
    torch.manual_seed(seed)
    model = network.make(data[0].num_features, int(labels.max()) + 1)
    change(model, row)
    optimizer = torch.optim.Adam(model.parameters(), lr=setting["lr"], fused=True)
    for _ in range(setting["epochs"]):
        model.train()
        for chosen in torch.randperm(len(train)).split(32):
            x, edge_index, batch, y = together([data[train[i]] for i in chosen.tolist()])
            logits, loss = model(x, edge_index, batch)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + setting["weight"] * loss).backward()
            optimizer.step()
    x, edge_index, batch, y = together([data[i] for i in test])
    return {
        tested: float((prediction(model, (x, edge_index, batch), tested) == y).float().mean())
        for tested in ways(row)
    }


def block_model(
    seed: int, signal: float = 0.2, blocks: int = 5, size: int = 60, channels: int = 16
) -> Data:
    """Communities of nodes whose features hardly tell them apart; the mean of many does.

    A node has about ten neighbours in its block and eight outside. Of each block 10 nodes are for
    training, 10 for validation and the rest for testing.
    """
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(blocks).repeat_interleave(size)
    n = y.numel()
    same = y[:, None] == y[None, :]
    chance = torch.where(same, 10 / size, 8 / (n - size))
    pairs = (torch.rand(n, n, generator=random) < chance).triu(1).nonzero().t()
    centre = torch.randn(blocks, channels, generator=random)
    x = signal * centre[y] + torch.randn(n, channels, generator=random)
    place = torch.cat([torch.randperm(size, generator=random) for _ in range(blocks)])
    return Data(
        x=x,
        edge_index=to_undirected(pairs, num_nodes=n),
        y=y,
        train_mask=place < 10,
        val_mask=(place >= 10) & (place < 20),
        test_mask=place >= 20,
    )


def nodes(name: str, root: Path, seed: int) -> Data:
    """A graph with masks; the block model is another one for each seed."""
    if name == "blocks":
        return block_model(seed)
    return Planetoid(str(root), name, transform=NormalizeFeatures())[0]


def train_nodes(network: Network, row: Row, data: Data, setting: dict[str, Any]) -> dict:
    """Test accuracy at the epoch of best validation accuracy, the earliest of those."""
    torch.manual_seed(setting["seed"])
    model = network.make(data.num_features, int(data.y.max()) + 1)
    change(model, row)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=setting["lr"], fused=True, weight_decay=5e-4
    )
    best = chosen = -1.0
    for _ in range(setting["epochs"]):
        model.train()
        logits, loss = model(data.x, data.edge_index)
        optimizer.zero_grad()
        error = F.cross_entropy(logits[data.train_mask], data.y[data.train_mask])
        (error + setting["weight"] * loss).backward()
        optimizer.step()
        right = (prediction(model, (data.x, data.edge_index)) == data.y).float()
        validation = float(right[data.val_mask].mean())
        if validation > best:
            best, chosen = validation, float(right[data.test_mask].mean())
    return {"as it is": chosen}


def measure(arguments: argparse.Namespace, rows: list[Row], network: Network) -> list[dict]:
    """What is finished, and the rest trained now."""
    file, nodes_task = arguments.results, arguments.task == "nodes"
    file.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(network.source.encode()).hexdigest()[:12]
    done = read_lines(file)
    results = []
    bar = tqdm(total=len(arguments.datasets) * arguments.seeds * len(rows), disable=None)
    for name in arguments.datasets:
        data: Any = None
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            if nodes_task:
                data = None  # the block model is made anew
            for row in rows:
                bar.set_description(f"{name}, {row.name}, seed {seed}")
                setting = {
                    "code": digest,
                    "dataset": name,
                    "pooler": row.pooler,
                    "options": row.options,
                    "seed": seed,
                    "epochs": arguments.epochs or EPOCHS.get(name, NODE_EPOCHS),
                    "lr": arguments.lr,
                    "weight": arguments.weight,
                }
                setting = json.loads(json.dumps(setting))
                known = [r for r in done if all(r.get(k) == v for k, v in setting.items())]
                if known:
                    result = known[-1]
                elif arguments.report_only:
                    continue
                else:
                    start = time.perf_counter()
                    if data is None and nodes_task:
                        data = nodes(name, arguments.root, seed)
                    elif data is None:
                        data = graphs(name, arguments.root)
                    train = train_nodes if nodes_task else train_graphs
                    accuracy = train(network, row, data, setting)
                    seconds = round(time.perf_counter() - start, 1)
                    result = {**setting, "accuracy": accuracy, "seconds": seconds}
                    append_line(file, result)
                    done.append(result)  # other rows may test the same training otherwise
                results.append({**result, "row": row.name})
                results[-1]["accuracy"] = result["accuracy"][row.tested]
                bar.update()
    bar.close()
    return results


def table(results: list[dict[str, Any]], rows: list[Row], datasets: list[str]) -> str:
    """Mean ± standard deviation over the seeds, in percent, and the number of seeds."""
    lines = ["| | " + " | ".join(datasets) + " |", "|---" * (1 + len(datasets)) + "|"]
    for row in rows:
        cells = []
        for name in datasets:
            of = [
                100 * r["accuracy"]
                for r in results
                if r["row"] == row.name and r["dataset"] == name
            ]
            spread = statistics.stdev(of) if len(of) > 1 else 0.0
            cells.append(f"{statistics.mean(of):.1f} ± {spread:.1f} ({len(of)})" if of else "–")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def option(text: str) -> tuple[str, Any]:
    """OPTION=VALUE; what is no Python literal is a string."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readme",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the datasets")
    add("--task", choices=("graphs", "nodes"), default="graphs")
    add("--datasets", nargs="+", help="default: MUTAG ENZYMES PROTEINS, or Cora blocks")
    add("--seeds", type=int, default=5)
    add("--first-seed", type=int, default=0)
    add(
        "--rows",
        nargs="+",
        choices=("readme", "diffpool", "none"),
        help="default: all three, of nodes without diffpool, whose N×N matrices take long on Cora",
    )
    add(
        "--set", action="append", nargs="+", type=option, default=[], metavar="OPTION=VALUE",
        help="another row, with these options on the poolers; may be given several times",
    )  # fmt: skip
    add(
        "--tested", nargs="+", choices=list(TESTED)[1:], default=[],
        help="more rows: the first, tested with the likeliest clusters or the mean of some draws",
    )  # fmt: skip
    add(
        "--epochs", type=int, help="default: 60 on MUTAG and ENZYMES, 30 on PROTEINS; 200 for nodes"
    )
    add("--lr", type=float, help="default: 0.001 for graphs, 0.01 for nodes")
    add("--weight", type=float, default=WEIGHT, help="of the auxiliary losses")
    add("--readme", type=Path, default=ROOT / "README.md", help="another text with a Net")
    add("--results", type=Path, default=ROOT / "runs" / "readme.jsonl")
    add("--report-only", action="store_true", help="train nothing: the table of what is there")
    add("--write", action="store_true", help="put the table into docs/results.md")
    arguments = parser.parse_args()
    is_nodes = arguments.task == "nodes"
    if is_nodes and arguments.tested:
        parser.error(
            "--tested is for graphs: the epoch of a node task is chosen by one way of testing"
        )
    if arguments.datasets is None:
        arguments.datasets = ["Cora", "blocks"] if is_nodes else ["MUTAG", "ENZYMES", "PROTEINS"]
    if arguments.rows is None:
        arguments.rows = ["readme", "none"] if is_nodes else ["readme", "diffpool", "none"]
    if arguments.lr is None:
        arguments.lr = 0.01 if is_nodes else 0.001
    return arguments


def main() -> None:
    """Measures, prints the table, and puts it into docs/results.md where that is asked for."""
    arguments = parse()
    found = networks(arguments.readme)
    class_name = "UNet" if arguments.task == "nodes" else "Net"
    named = {
        "readme": Row(f"`{class_name}` as in README.md", "gumbel", {}),
        "diffpool": Row("`DenseDiffPool` in it", "diffpool", {}),
        "none": Row("no pooling", "none", {}),
    }
    rows = [named[name] for name in arguments.rows]
    for options in map(dict, arguments.set):
        said = ", ".join(f"{name}={value!r}" for name, value in options.items())
        rows.append(Row(f"`{said}`", "gumbel", options))
    rows += [Row(f"tested with {way}", "gumbel", {}, way) for way in arguments.tested]
    results = measure(arguments, rows, found[class_name])
    text = table(results, rows, arguments.datasets)
    print(text)
    if arguments.write:
        replace_section(DOCS, f"readme {arguments.task}", text)


if __name__ == "__main__":
    main()
