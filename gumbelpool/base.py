"""What both pooling layers share: options that are checked whenever they are set, and the head."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module
from torch_geometric.nn.inits import reset

from gumbelpool.diagnostics import warn_if_collapsed
from gumbelpool.estimators import ESTIMATORS
from gumbelpool.losses import LOSSES
from gumbelpool.options import (
    check_bool,
    check_in,
    check_in_channels,
    check_losses,
    check_num_clusters,
    check_positive_int,
    check_ratio,
    check_tau,
)
from gumbelpool.validation import check_row_maximum, check_scores

OPTIONS: dict[str, Callable[[str, object], None]] = {
    "in_channels": check_in_channels,
    "num_clusters": check_num_clusters,
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

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


class ClusterPool(torch.nn.Module):
    """A pooling layer with the assignment head ``lin``; an option may be set at any time."""

    in_channels: int | None
    num_clusters: int
    lin: torch.nn.Linear
    collapse_was_said = False

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any attribute
        if name in OPTIONS:
            OPTIONS[name](name, value)
        if name == "losses":
            value = tuple(value)  # a list could be changed later, and unchecked
        if name == "lin" and not isinstance(value, torch.nn.Module):
            raise TypeError(f"lin must be a torch.nn.Module; got {value!r}")
        super().__setattr__(name, value)

    def make_head(self, bias: bool) -> None:
        """Makes ``lin``, once the options are set; none where ``in_channels`` is ``None``."""
        check_bool("bias", bias)
        K = int(self.num_clusters)
        if self.in_channels is None:
            self.register_module("lin", None)
        elif self.in_channels == -1:
            self.lin = torch.nn.LazyLinear(K, bias=bias)
        else:
            self.lin = torch.nn.Linear(int(self.in_channels), K, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets the assignment head."""
        reset(self.lin)

    def prepare_head(self, features: Tensor) -> None:
        """Checks that there is a head, and gives one that waits for it the number of channels."""
        if self.lin is None:
            raise ValueError(
                "logits must be given where in_channels is None: the layer then has no lin"
            )
        if isinstance(self.lin, torch.nn.LazyLinear) and self.in_channels == -1:
            self.lin._infer_parameters(self.lin, (features,))  # as its first call would
            # torch 2.5 leaves in_features at zero where the weight came from a state dict.
            self.in_channels = self.lin.in_features = self.lin.weight.size(1)

    def scores(self, features: Tensor) -> Tensor:
        """The scores of ``lin``, whatever module it is, ``[N, K]``."""
        theta = self.lin(features)
        check_scores(theta, features, self.num_clusters)
        assert isinstance(theta, Tensor)
        check_row_maximum(theta.amax(-1), "lin(x)")
        return theta

    def head_is_plain(self) -> bool:
        """Whether ``lin`` is no more than its weight and bias, so that it need not be called.

        It is more if it is another module (a subclass or a parametrized one included), if
        ``forward`` was replaced, or if it or all modules have hooks.
        """
        return (
            type(self.lin) is torch.nn.Linear
            and "forward" not in vars(self.lin)
            and not any(getattr(self.lin, name) for name in _HOOKS)
            and not any(getattr(module, name) for name in _GLOBAL_HOOKS)
        )

    def say_if_collapsed(
        self,
        size: Tensor,
        graph: Tensor,
        mean_entropy: Tensor,
        limit: Tensor | None,
        stacklevel: int = 5,
    ) -> None:
        """Warns of a collapse, once: see :func:`~gumbelpool.diagnostics.warn_if_collapsed`.

        Called in ``forward``, ``stacklevel`` points to the layer's caller.
        """
        if torch.compiler.is_compiling() or self.collapse_was_said or self.num_clusters == 1:
            return
        name = type(self).__name__
        bound = int(self.num_clusters) if limit is None else limit
        # Said before it is, since a filter may make it an error.
        self.collapse_was_said = True
        self.collapse_was_said = warn_if_collapsed(
            name, size, graph, mean_entropy, bound, stacklevel
        )

    def __prepare_scriptable__(self) -> None:
        """What ``torch.jit.script`` asks for first."""
        name = type(self).__name__
        raise RuntimeError(
            f"{name} cannot be scripted: its call is more than the language of torch.jit.script, "
            "which PyTorch has deprecated, can say. Use torch.compile, or torch.export to save it"
        )

    def extra_repr(self) -> str:
        """What the constructor was given, but for what is its default."""
        given = [f"{self.in_channels}", f"num_clusters={self.num_clusters}"]
        defaults = {name: p.default for name, p in signature(type(self)).parameters.items()}
        for name in list(OPTIONS)[2:]:
            if name in defaults and getattr(self, name) != defaults[name]:
                given.append(f"{name}={getattr(self, name)!r}")
        if isinstance(self.lin, torch.nn.Linear) and self.lin.bias is None:
            given.append("bias=False")
        return ", ".join(given)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.extra_repr()})"
