"""What both pooling layers share: options that are checked whenever they are set, and the head."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset

from gumbelpool.estimators import ESTIMATORS
from gumbelpool.losses import LOSSES
from gumbelpool.validation import (
    check_bool,
    check_in,
    check_losses,
    check_positive_int,
    check_ratio,
    check_scores,
    check_tau,
)

OPTIONS: dict[str, Callable[[str, object], None]] = {
    "in_channels": check_positive_int,
    "num_clusters": check_positive_int,
    "ratio": check_ratio,
    "estimator": partial(check_in, allowed=ESTIMATORS),
    "tau": check_tau,
    "aggr": partial(check_in, allowed=("sum", "mean")),
    "losses": partial(check_losses, allowed=LOSSES),
    "drop_empty": check_bool,
    "remove_self_loops": check_bool,
    "weighted": check_bool,
    "sample_in_eval": check_bool,
    "block_size": partial(check_positive_int, optional=True),
}


class ClusterPool(torch.nn.Module):
    """A pooling layer with the assignment head ``lin``; an option may be set at any time."""

    in_channels: int
    num_clusters: int
    lin: torch.nn.Linear

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any attribute
        if name in OPTIONS:
            OPTIONS[name](name, value)
        super().__setattr__(name, value)

    def make_head(self, bias: bool) -> None:
        """Makes ``lin``, once the options are set."""
        check_bool("bias", bias)
        self.lin = torch.nn.Linear(int(self.in_channels), int(self.num_clusters), bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets the assignment head."""
        reset(self.lin)

    def scores(self, features: Tensor) -> Tensor:
        """The scores of ``lin``, whatever module it is, ``[N, K]``."""
        theta = self.lin(features)
        check_scores(theta, features.size(0), self.num_clusters)
        return theta

    def head_is_plain(self) -> bool:
        """Whether ``lin`` is no more than its weight and bias: no other module, no hook on it."""
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return type(self.lin) is torch.nn.Linear and not any(
            getattr(self.lin, name) for name in hooks
        )

    def extra_repr(self) -> str:
        """The options, as the constructor takes them."""
        _, *names = (name for name in OPTIONS if hasattr(self, name))
        options = [f"{name}={getattr(self, name)!r}" for name in names]
        bias = getattr(self.lin, "bias", None) is not None
        return ", ".join([f"{self.in_channels}", *options, f"bias={bias}"])

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.extra_repr()})"
