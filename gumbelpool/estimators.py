r"""How the gradient with respect to a one-hot draw becomes one with respect to its logits.

Each estimator maps, row by row, :math:`g = \partial L / \partial S` to
:math:`\partial L / \partial \theta`, and is linear in g. Written with D the one-hot draw and
:math:`J(q) g = q \odot (g - \langle q, g \rangle)`, the Jacobian of the softmax at q.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Noise: TypeAlias = Callable[[int], Tensor]
"""Gives Exp(1) noise in the shape of the logits; each number is another independent sample."""

Estimator: TypeAlias = Callable[[Tensor, Tensor, Tensor, float, Noise], Tensor]
"""``(grad, logits, cluster, tau, noise) -> grad_logits``: all ``[R, K]`` but ``cluster`` [R]."""

RAO_SAMPLES = 16  # draws of the noise that "gumbel_rao" averages over
GST_GAP = 1.0  # how far "gst" keeps the drawn logit above the others


def softmax_vjp(probability: Tensor, grad: Tensor) -> Tensor:
    """J(q) g, for rows q that sum to one."""
    return torch._softmax_backward_data(grad, probability, -1, grad.dtype)


def conditional_gumbel(logits: Tensor, cluster: Tensor, exponential: Tensor) -> Tensor:
    r"""Gumbel-perturbed logits :math:`\theta + \gamma`, given that their argmax is ``cluster``.

    With :math:`L = \log \sum_k e^{\theta_k}` and E the exponential noise, the drawn entry is
    :math:`L - \log E_c` and the others :math:`-\log(E_j e^{-\theta_j} + E_c e^{-L})`
    (`Maddison et al. 2014 <https://arxiv.org/abs/1411.0030>`_,
    `Paulus et al. 2021 <https://arxiv.org/abs/2010.04838>`_).

    Args:
        logits: ``[R, K]``.
        cluster: The draws, ``[R]``, int64.
        exponential: Exp(1) noise, ``[R, K]``, positive.

    Returns:
        ``[R, K]``.
    """
    column = cluster.unsqueeze(1)
    log_noise = exponential.log()
    top = torch.logsumexp(logits, -1, keepdim=True) - log_noise.gather(1, column)
    # In logarithms, because e^{-θ} overflows float32 for any θ below -88.
    return (-torch.logaddexp(log_noise - logits, -top)).scatter(1, column, top)


def straight_through(
    grad: Tensor, logits: Tensor, cluster: Tensor, tau: float, noise: Noise
) -> Tensor:
    r"""J(softmax(θ/τ)) g / τ (`Bengio et al. 2013 <https://arxiv.org/abs/1308.3432>`_)."""
    return softmax_vjp(torch.softmax(logits / tau, -1), grad).div_(tau)


def gumbel(grad: Tensor, logits: Tensor, cluster: Tensor, tau: float, noise: Noise) -> Tensor:
    r"""J(softmax((θ+γ)/τ)) g / τ, with γ Gumbel noise given that its argmax is D.

    (`Jang et al. 2017 <https://arxiv.org/abs/1611.01144>`_,
    `Maddison et al. 2017 <https://arxiv.org/abs/1611.00712>`_)
    """
    return straight_through(
        grad, conditional_gumbel(logits, cluster, noise(0)), cluster, tau, noise
    )


def gumbel_rao(grad: Tensor, logits: Tensor, cluster: Tensor, tau: float, noise: Noise) -> Tensor:
    """Averages ``gumbel`` over ``RAO_SAMPLES`` draws of its noise.

    (`Paulus et al. 2021 <https://arxiv.org/abs/2010.04838>`_)
    """
    total = torch.zeros_like(grad)
    for sample in range(RAO_SAMPLES):
        total += gumbel(grad, logits, cluster, tau, lambda _, sample=sample: noise(sample))
    return total.div_(RAO_SAMPLES)


def gst(grad: Tensor, logits: Tensor, cluster: Tensor, tau: float, noise: Noise) -> Tensor:
    r"""J(softmax((θ+m₁−m₂)/τ)) g / τ: the logits, moved so that the draw leads by ``GST_GAP``.

    m₁ lifts the drawn logit to the largest, m₂ lowers every other by as much as it comes closer
    to it than the gap (`Fan et al. 2022 <https://arxiv.org/abs/2206.07235>`_).
    """
    top = logits.amax(-1, keepdim=True)
    moved = logits - F.relu(logits - top + GST_GAP)
    return straight_through(grad, moved.scatter(1, cluster.unsqueeze(1), top), cluster, tau, noise)


def reinmax(grad: Tensor, logits: Tensor, cluster: Tensor, tau: float, noise: Noise) -> Tensor:
    r"""2 J(½(softmax(θ/τ)+D)) g − ½ J(softmax θ) g.

    (`Liu et al. 2023 <https://arxiv.org/abs/2304.08612>`_)
    """
    middle = torch.softmax(logits / tau, -1).div_(2)
    middle.scatter_add_(1, cluster.unsqueeze(1), torch.full_like(middle[:, :1], 0.5))
    base = softmax_vjp(torch.softmax(logits, -1), grad)
    return softmax_vjp(middle, grad).mul_(2).sub_(base, alpha=0.5)


ESTIMATORS: dict[str, Estimator] = {
    "gumbel": gumbel,
    "gumbel_rao": gumbel_rao,
    "straight_through": straight_through,
    "gst": gst,
    "reinmax": reinmax,
}
