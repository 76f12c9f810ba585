"""Checks of a layer's options and of single values; those of tensors are in validation.

Each error names the argument, what was expected and what came.
"""

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor


def check_in(name: str, value: object, allowed: Collection[object]) -> None:
    """Checks that a named choice exists."""
    if not isinstance(value, str) or value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}; got {value!r}")


def check_bool(name: str, value: object) -> None:
    """Checks a switch."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def check_positive_int(name: str, value: object, optional: bool = False) -> None:
    """Checks an int ≥ 1, or None where it is optional."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int; got {value!r} of type {type(value).__name__}")
    if int(value) < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")


def check_in_channels(name: str, value: object) -> None:
    """Checks the channels of what is scored: an int ≥ 1, -1 for the first call's, None for none."""
    if value is not None and not (isinstance(value, Integral) and int(value) == -1):
        check_positive_int(name, value)


def check_num_clusters(name: str, value: object) -> None:
    """Checks K, which is the width of the scores and so an int ≥ 1, with a ratio as well."""
    if value is None:
        raise TypeError(
            f"{name} must be an int; got None (each node has {name} scores, of which a ratio "
            "leaves a graph the first few: give the most that any graph may use)"
        )
    check_positive_int(name, value)


def _number(name: str, value: object, expected: str = "a float") -> float:
    """A real number as a float, infinite where it is too large for one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_tau(name: str, value: object) -> None:
    """Checks a temperature."""
    if not 0 < _number(name, value) < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {value}")


def check_ratio(name: str, value: object) -> None:
    """Checks a pooling ratio, or None."""
    if value is not None and not 0 < _number(name, value, "a float or None") <= 1:
        raise ValueError(f"{name} must be in (0, 1]; got {value}")


def check_open_share(name: str, value: object) -> None:
    """Checks a number between zero and one, both excluded."""
    if not 0 < _number(name, value) < 1:
        raise ValueError(f"{name} must be in (0, 1); got {value}")


def check_variance(variance: object) -> None:
    """Checks a variance relative to W², a number or a tensor of one entry."""
    if variance is None:
        raise ValueError("variance must be given for 'bernstein'; got None")
    if isinstance(variance, Tensor):
        if variance.numel() != 1:
            raise ValueError(f"variance must be one number; got shape {list(variance.shape)}")
        variance = variance.item()
    if not 0 <= _number("variance", variance, "a float or a tensor") <= 0.25:
        raise ValueError(f"variance must be relative to W² and so in [0, 1/4]; got {variance}")


def check_losses(name: str, value: object, allowed: Collection[str]) -> None:
    """Checks a sequence of loss names."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a tuple of names; got {value!r}")
    for each in value:
        check_in(f"each of {name}", each, allowed)
    if len(set(value)) < len(value):
        raise ValueError(f"{name} must not repeat a name; got {tuple(value)!r}")


def check_not_transformed(layer: str) -> None:
    """Checks that no transform of torch.func is at work, for which a draw has no rule."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{layer} does not run under the transforms of torch.func (vmap, grad, jacrev, ...): "
            "pass several graphs by batch=, and differentiate by torch.autograd"
        )


def check_generator(generator: object, device: torch.device | None = None) -> None:
    """Checks a source of randomness for a device, or None."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None; got {generator!r}")
    if device is not None and generator.device.type != device.type:
        raise ValueError(f"generator must be on the device of x, {device}; got {generator.device}")
