"""Exact categorical draws, and the Gumbel noise that is consistent with a draw already made."""

import torch
from torch import Tensor

from gumbelpool.validation import check_logits, check_row_maximum

BLOCK_ENTRIES = 1 << 20  # entries of a block of rows: 4 MB of float32, which stays in cache


def rows_per_block(num_columns: int) -> int:
    """How many rows of ``num_columns`` entries make a block that stays in cache."""
    return max(1, BLOCK_ENTRIES // max(num_columns, 1))


def uniform_noise(num_rows: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """One uniform per row, in float64 so that no cluster is too unlikely to be drawn."""
    return torch.rand(num_rows, dtype=torch.float64, device=device, generator=generator)


def exponential_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Exp(1) noise in the shape and dtype of ``like``; never zero, so that its log is finite."""
    # Contiguous, since noise is filled in memory's order: it must not depend on strides.
    noise = torch.empty_like(like, memory_format=torch.contiguous_format)
    noise.exponential_(generator=generator)
    return noise.clamp_(min=torch.finfo(like.dtype).tiny)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverts the cumulative sum: the first cluster whose cumulative weight exceeds the uniform.

    Args:
        weights: Unnormalised probabilities, ``[rows, K]``, each row with a positive sum.
        uniform: ``[rows]`` in [0, 1), float64.

    Returns:
        ``[rows]`` int64. Since the comparison is strict, a weight of zero is never drawn.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # uniform · total may round up to the total, which no cumulative weight exceeds.
    target = torch.minimum(uniform.unsqueeze(1) * total, total.nextafter(torch.zeros_like(total)))
    cluster = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    return cluster.clamp_(max=weights.size(1) - 1)


def sample_clusters(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Draws :math:`c_i \sim \mathrm{Categorical}(\mathrm{softmax}(\theta_i))`, exactly.

    The rows are independent. A cluster with logit :math:`-\infty` is never drawn. The law is that
    of Gumbel-max, but a row costs one random number (inverted through the cumulative sum, which is
    kept in float64) instead of K.

    Args:
        logits: Assignment scores :math:`\theta`, ``[N, K]``, of any floating dtype.
        generator: Source of randomness, on the device of ``logits``. (default: torch's own)

    Returns:
        One cluster id in ``[0, K)`` per row, ``[N]``, int64.

    Raises:
        TypeError: If ``logits`` is not floating point.
        ValueError: If ``logits`` is not ``[N, K]`` with K ≥ 1, or a row holds a NaN or +∞ or
            nothing but −∞.
    """
    check_logits(logits)
    with torch.no_grad():
        uniform = uniform_noise(logits.size(0), logits.device, generator)
        cluster = torch.empty(logits.size(0), dtype=torch.int64, device=logits.device)
        maximum = torch.empty(logits.size(0), dtype=logits.dtype, device=logits.device)
        size = rows_per_block(logits.size(1))
        for start in range(0, logits.size(0), size):
            rows = slice(start, start + size)
            block = logits[rows].to(torch.promote_types(logits.dtype, torch.float32))
            top = block.amax(-1, keepdim=True)
            maximum[rows] = top.squeeze(1)
            cluster[rows] = draw((block - top).exp_(), uniform[rows])
        check_row_maximum(maximum)
    return cluster


def conditional_gumbel(logits: Tensor, cluster: Tensor, exponential: Tensor) -> Tensor:
    r"""Gumbel-perturbed logits :math:`\theta + \gamma`, given that their argmax is ``cluster``.

    With :math:`L = \log \sum_k e^{\theta_k}` and E the exponential noise, the drawn entry is
    :math:`L - \log E_c` and the others :math:`-\log(E_j e^{-\theta_j} + E_c e^{-L})`
    (`Maddison et al. 2014 <https://arxiv.org/abs/1411.0030>`_,
    `Paulus et al. 2021 <https://arxiv.org/abs/2010.04838>`_).

    Args:
        logits: ``[rows, K]``.
        cluster: The draws, ``[rows]``, int64.
        exponential: Exp(1) noise, ``[rows, K]``, positive.

    Returns:
        ``[rows, K]``.
    """
    column = cluster.unsqueeze(1)
    log_noise = exponential.log()
    top = torch.logsumexp(logits, -1, keepdim=True) - log_noise.gather(1, column)
    # In logarithms, because e^{-θ} overflows float32 for any θ below -88.
    return (-torch.logaddexp(log_noise - logits, -top)).scatter(1, column, top)
