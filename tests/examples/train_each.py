"""Trains with one pooler and estimator after the other, in as many processes as this is run in."""

import sys
from pathlib import Path

import conftest  # noqa: F401, the import of PyG without its deprecation warning
from lightning_fabric import Fabric

from examples.classification.datasets import Split, load
from examples.classification.described import build_model, training_options
from examples.classification.options import check, parser
from examples.classification.processes import make_fabric
from examples.classification.training import Trainer, seed_for
from examples.shared.run_folder import RunFolder

GUMBEL = ["--pool", "gumbel", "--estimator"]
CASES = {
    "none": ["--pool", "none"],
    # Two layers: after one, nodes of like degree are alike, and rounding decides which are kept.
    "topk": ["--pool", "topk", "--layers", "2", "--fine-path"],
    "asap": ["--pool", "asap", "--layers", "2"],
    "mincut": ["--pool", "mincut", "--assign-gnn"],
    "diffpool": ["--pool", "diffpool", "--weight-decay", "0.01"],
    "straight_through": [*GUMBEL, "straight_through"],
    "gst": [*GUMBEL, "gst", "--ratio", "0.3", "--losses", "none"],
    "reinmax": [*GUMBEL, "reinmax", "--train-samples", "2", "--eval-samples", "3"],
    "random": ["--pool", "random", "--eval-samples", "2", "--binary"],
}
# In double precision: the rounding of single precision is what Adam makes steps from wherever a
# gradient is zero, as that of a bias before batch norm.
BASE = ["--num-graphs", "40", "--hidden", "8", "--num-clusters", "6", "3", "--epochs", "2"]
BASE += ["--layers", "1", "--batch-size", "7", "--accelerator", "cpu", "--precision", "64-true"]
# Shares of 4 and 3 graphs, then of 1 and none; likewise in the validation; in the test 1 and none.
SPLIT = Split(list(range(22)), list(range(22, 30)), [30])


def train_each(fabric: Fabric, folder: Path) -> None:
    """Train and test; a folder for each case."""
    for case, flags in CASES.items():
        args = parser().parse_args([*BASE, *flags])
        check(args)
        dataset = load(args.dataset, None, num_graphs=args.num_graphs, seed=args.seed)
        out = RunFolder(folder / case)
        out.path.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(fabric, dataset.graphs, dataset.num_classes, out, training_options(args))
        seed_for(args.seed, 0, 0)
        result = trainer.run(build_model(args, dataset), SPLIT, 0)
        if fabric.is_global_zero:
            out.append(result)


if __name__ == "__main__":
    train_each(make_fabric(parser().parse_args(BASE)), Path(sys.argv[1]))
