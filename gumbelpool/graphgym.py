"""A hierarchical classifier for PyG's GraphGym: importing this registers it and its config group.

``python -m gumbelpool.graphgym --cfg FILE.yaml`` trains by what a YAML file says;
``examples/graphgym.yaml`` is one to copy.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Dataset
from torch_geometric.datasets import TUDataset
from torch_geometric.nn import BatchNorm, GCNConv, global_mean_pool
from torch_geometric.transforms import Constant

from gumbelpool.diffpool import DenseDiffPool
from gumbelpool.options import check_in
from gumbelpool.pool import GumbelPool

try:
    import pytorch_lightning  # noqa: F401 - without it GraphGym imports, and then cannot train
    import yacs.config as yacs
except ImportError as error:
    raise ImportError(
        "gumbelpool.graphgym needs pytorch-lightning and yacs: pip install "
        f"'gumbelpool[graphgym]' ({error})"
    ) from error
from torch_geometric import graphgym, seed_everything
from torch_geometric.graphgym.train import GraphGymDataModule
from torch_geometric.graphgym.utils.agg_runs import agg_runs
from torch_geometric.graphgym.utils.comp_budget import params_count

LAYERS = {layer.__name__: layer for layer in (GumbelPool, DenseDiffPool)}
SPLITS = ("train_graph_index", "val_graph_index", "test_graph_index")


def options_of(layer: type[torch.nn.Module]) -> dict[str, Any]:
    """The keyword-only arguments of a layer's constructor, with their defaults."""
    parameters = inspect.signature(layer).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def set_config(cfg: Any) -> None:  # noqa: ANN401 - a yacs node
    """Adds the group ``gumbelpool``: every option of the layer by its name, and these.

    ``layer``: ``GumbelPool`` or ``DenseDiffPool``, which takes the options that it has.
    ``num_clusters``: K of each level, one or more.
    ``loss_weight``: Factor of the layers' losses beside GraphGym's own.
    ``remove_self_loops`` and ``sample_in_eval`` are on, as in the networks of README.md.
    """
    options = options_of(GumbelPool) | {"remove_self_loops": True, "sample_in_eval": True}
    options["losses"] = list(options["losses"])  # yacs takes no list for a tuple
    own = {"layer": "GumbelPool", "num_clusters": [20, 5], "loss_weight": 0.1}
    cfg.gumbelpool = yacs.CfgNode(own | options)


def load_tu(format: str, name: str, dataset_dir: str) -> Dataset | None:
    """Loads a TU dataset where ``dataset.format`` is ``TU``, with the splits that GraphGym needs.

    PyG's own loader gives TU datasets no splits into graphs. These are random by ``seed``, of the
    sizes of ``dataset.split``; graphs without node features get a one.

    Args:
        format: ``dataset.format``; another than ``TU`` is left to GraphGym.
        name: Of the dataset, such as ``MUTAG``.
        dataset_dir: Where it is, or is downloaded to.

    Returns:
        The dataset, or ``None``.

    Raises:
        ValueError: If ``dataset.split`` has not three parts.
    """
    if format != "TU":
        return None
    cfg = graphgym.cfg
    if len(cfg.dataset.split) != len(SPLITS):
        raise ValueError(
            "dataset.split must have three parts, for training, validation and testing; "
            f"got {cfg.dataset.split}"
        )
    dataset = TUDataset(dataset_dir, name)
    if dataset.num_node_features == 0:
        dataset = TUDataset(dataset_dir, name, transform=Constant())
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(cfg.seed))
    sizes = [round(part * len(dataset)) for part in cfg.dataset.split[:-1]]
    parts = torch.split(order, [*sizes, len(dataset) - sum(sizes)])
    for key, part in zip(SPLITS, parts, strict=True):
        dataset._data[key] = part
        dataset.slices[key] = torch.tensor([0, len(part)])
    dataset._data_list = None
    return dataset


class HierarchicalNet(torch.nn.Module):
    """A convolution and a pool for each level, and a linear layer on the mean of what is left.

    It is the network of README.md with as many levels as ``cfg.gumbelpool.num_clusters`` has
    numbers; its width is ``cfg.gnn.dim_inner`` and its dropout ``cfg.gnn.dropout``.

    Args:
        dim_in (int): Channels of the nodes.
        dim_out (int): Channels of the prediction.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        cfg = graphgym.cfg
        group, width = cfg.gumbelpool, cfg.gnn.dim_inner
        check_in("gumbelpool.layer", group.layer, LAYERS)
        layer = LAYERS[group.layer]
        options = {name: group[name] for name in options_of(layer)}
        channels = [dim_in] + [width] * (len(group.num_clusters) - 1)
        self.convs = torch.nn.ModuleList(GCNConv(F, width) for F in channels)
        self.norms = torch.nn.ModuleList(BatchNorm(width) for _ in channels)
        self.pools = torch.nn.ModuleList(layer(width, K, **options) for K in group.num_clusters)
        self.dropout = torch.nn.Dropout(cfg.gnn.dropout)
        self.lin = torch.nn.Linear(width, dim_out)
        self.loss_weight = group.loss_weight

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Classifies the graphs of a batch.

        Args:
            batch: With ``x``, ``edge_index``, ``batch`` and ``y``; edge features are not used.

        Returns:
            The prediction, ``[B, dim_out]``, and ``y``, as GraphGym's heads give them. The
            prediction brings the gradient of the layers' losses, which GraphGym has no place for;
            the loss that it logs is the task's alone.
        """
        x, edge_index, weight, ids = batch.x, batch.edge_index, None, batch.batch
        loss = torch.zeros((), device=x.device)
        for conv, norm, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = norm(conv(x, edge_index, weight)).relu()
            out = pool(x, edge_index, weight, ids, batch_size=batch.num_graphs)
            x, edge_index, weight, ids = out[:4]
            loss = loss + out.loss
        x = self.dropout(global_mean_pool(x, ids, batch.num_graphs))
        prediction = _WithLoss.apply(self.lin(x), self.loss_weight * loss)  # type: ignore[no-untyped-call]
        assert isinstance(prediction, Tensor)
        return prediction, batch.y


class _WithLoss(torch.autograd.Function):
    """A prediction as it is, whose backward pass is also that of a loss beside its own.

    GraphGym has no place for that loss. Its gradient does not know of factors that a trainer puts
    before the task's: gradients of half precision or over several batches are not for this network.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, loss: Tensor) -> Tensor:  # noqa: ANN401
        return prediction.view_as(prediction)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        return gradient, gradient.new_ones(())


def main() -> None:
    """Trains and tests by a YAML file; results lie in a folder of its name in ``out_dir``."""
    arguments = graphgym.parse_args()
    cfg = graphgym.cfg
    graphgym.load_cfg(cfg, arguments)
    graphgym.set_out_dir(cfg.out_dir, arguments.cfg_file)
    graphgym.dump_cfg(cfg)
    torch.set_num_threads(cfg.num_threads)
    for _ in range(arguments.repeat):
        graphgym.set_run_dir(cfg.out_dir)
        graphgym.set_printing()
        seed_everything(cfg.seed)
        data = GraphGymDataModule()
        model = graphgym.create_model()
        cfg.params = params_count(model)
        # Its first batches would be counted among those of the first epoch.
        graphgym.train(model, data, trainer_config={"num_sanity_val_steps": 0})
        cfg.seed += 1
    agg_runs(cfg.out_dir, cfg.metric_best)
    print("results are under", cfg.out_dir)


graphgym.register_config("gumbelpool", set_config)
graphgym.register_loader("gumbelpool", load_tu)
graphgym.register_network("gumbelpool", HierarchicalNet)
if "gumbelpool" not in graphgym.cfg:  # made as GraphGym was imported, before this was registered
    set_config(graphgym.cfg)

if __name__ == "__main__":
    main()
