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

from gumbelpool import scratch
from gumbelpool.sampling import conditional_gumbel, conditional_gumbel_softmax

Noise: TypeAlias = Callable[[], Tensor]
Estimator: TypeAlias = Callable[..., Tensor]
"""``(grad, logits, cluster, tau, noise, probability=None) -> grad_logits``.

``grad``, ``logits`` and the result are ``[rows, K]``, ``cluster`` is ``[rows]``, ``noise()`` gives
fresh Exp(1) noise in the shape of ``logits``, and ``probability`` is softmax(θ), for a caller who
has it.
"""

RAO_SAMPLES = 16  # draws of the noise that "gumbel_rao" averages over
GST_GAP = 1.0  # how far "gst" keeps the drawn logit above the others


def softmax_vjp(probability: Tensor, grad: Tensor) -> Tensor:
    """J(q) g, for rows q that sum to one."""
    return torch._softmax_backward_data(
        grad, probability, -1, grad.dtype, grad_input=scratch.empty_like(grad)
    )


def straight_through(
    grad: Tensor,
    logits: Tensor,
    cluster: Tensor,
    tau: float,
    noise: Noise,
    probability: Tensor | None = None,
) -> Tensor:
    r"""J(softmax(θ/τ)) g / τ (`Bengio et al. 2013 <https://arxiv.org/abs/1308.3432>`_)."""
    if tau == 1 and probability is not None:
        return softmax_vjp(probability, grad)
    return softmax_vjp(torch.softmax(logits / tau, -1), grad).div_(tau)


def gumbel(
    grad: Tensor,
    logits: Tensor,
    cluster: Tensor,
    tau: float,
    noise: Noise,
    probability: Tensor | None = None,
) -> Tensor:
    r"""J(softmax((θ+γ)/τ)) g / τ, with γ Gumbel noise given that its argmax is D.

    (`Jang et al. 2017 <https://arxiv.org/abs/1611.01144>`_,
    `Maddison et al. 2017 <https://arxiv.org/abs/1611.00712>`_)
    """
    if tau == 1 and probability is not None:
        return softmax_vjp(conditional_gumbel_softmax(probability, cluster, noise()), grad)
    return straight_through(grad, conditional_gumbel(logits, cluster, noise()), cluster, tau, noise)


def gumbel_rao(
    grad: Tensor,
    logits: Tensor,
    cluster: Tensor,
    tau: float,
    noise: Noise,
    probability: Tensor | None = None,
) -> Tensor:
    """Averages ``gumbel`` over ``RAO_SAMPLES`` draws of its noise.

    (`Paulus et al. 2021 <https://arxiv.org/abs/2010.04838>`_)
    """
    total = gumbel(grad, logits, cluster, tau, noise, probability)
    for _ in range(RAO_SAMPLES - 1):
        with scratch.frame():
            total += gumbel(grad, logits, cluster, tau, noise, probability)
    return total.div_(RAO_SAMPLES)


def gst(
    grad: Tensor,
    logits: Tensor,
    cluster: Tensor,
    tau: float,
    noise: Noise,
    probability: Tensor | None = None,
) -> Tensor:
    r"""J(softmax((θ+m₁−m₂)/τ)) g / τ: the logits, moved so that the draw leads by ``GST_GAP``.

    m₁ lifts the drawn logit to the largest, m₂ lowers every other by as much as it comes closer
    to it than the gap (`Fan et al. 2022 <https://arxiv.org/abs/2206.07235>`_).
    """
    top = logits.amax(-1, keepdim=True)
    moved = logits - F.relu(logits - top + GST_GAP)
    return straight_through(grad, moved.scatter(1, cluster.unsqueeze(1), top), cluster, tau, noise)


def reinmax(
    grad: Tensor,
    logits: Tensor,
    cluster: Tensor,
    tau: float,
    noise: Noise,
    probability: Tensor | None = None,
) -> Tensor:
    r"""2 J(½(softmax(θ/τ)+D)) g − ½ J(softmax θ) g.

    (`Liu et al. 2023 <https://arxiv.org/abs/2304.08612>`_)
    """
    if probability is None:
        probability = torch.softmax(logits, -1)
    middle = (probability if tau == 1 else torch.softmax(logits / tau, -1)) / 2
    middle.scatter_add_(1, cluster.unsqueeze(1), torch.full_like(middle[:, :1], 0.5))
    return softmax_vjp(middle, grad).mul_(2).sub_(softmax_vjp(probability, grad), alpha=0.5)


ESTIMATORS: dict[str, Estimator] = {
    "gumbel": gumbel,
    "gumbel_rao": gumbel_rao,
    "straight_through": straight_through,
    "gst": gst,
    "reinmax": reinmax,
}
NEEDS_NOISE = frozenset({"gumbel", "gumbel_rao"})
