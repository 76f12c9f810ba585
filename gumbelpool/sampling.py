"""Exact categorical draws, and the Gumbel noise that is consistent with a draw already made."""

from functools import lru_cache

import torch
from torch import Tensor

from gumbelpool import scratch
from gumbelpool.validation import check_generator, check_logits, check_row_maximum

DRAW_WIDTH = 32  # entries of a row that are summed before a draw looks at them one by one


def rows_per_block(num_columns: int, device: torch.device) -> int:
    """How many rows of ``num_columns`` entries make a block of the streamed computation.

    On a CPU a few blocks fit the second-level cache, yet have rows enough for matrix products; on
    an accelerator a block is large enough to keep it busy.
    """
    if device.type == "cpu":
        return max(96, (1 << 18) // max(num_columns, 16))
    return max(1, (1 << 25) // max(num_columns, 1))


def uniform_noise(num_rows: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """One uniform per row, in float64 so that no cluster is too unlikely to be drawn."""
    return torch.rand(num_rows, dtype=torch.float64, device=device, generator=generator)


def exponential_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Exp(1) noise in the shape and dtype of ``like``; never zero, so that its log is finite."""
    if like.device.type == "cpu" and like.dtype == torch.float32 and like.dim() == 2:
        return _hashed_exponential(like.size(0), like.size(1), generator)
    # Contiguous, since noise is filled in memory's order: it must not depend on strides.
    noise = torch.empty_like(like, memory_format=torch.contiguous_format)
    noise.exponential_(generator=generator)
    return noise.clamp_(min=torch.finfo(like.dtype).tiny)


def _hashed_exponential(
    num_rows: int, num_columns: int, generator: torch.Generator | None
) -> Tensor:
    r"""Exp(1) noise from few random words, over ten times faster than ``exponential_`` on a CPU.

    Entry (i, j) is made of the word :math:`h_{ij} = m_i b_j \bmod 2^{32}`, with random odd
    :math:`m_i` and :math:`b_j`. Given :math:`m_i`, :math:`b_j \mapsto h_{ij}` is a bijection of the
    odd words, so that the entries of a row are independent and uniform over them: the law of a row
    is exact, up to float32's own resolution. Any two entries of different rows are independent as
    well.
    """
    words = torch.empty(num_rows + num_columns, dtype=torch.int32)
    words.random_(-(2**31), 2**31, generator=generator).bitwise_or_(1)
    noise = scratch.empty(num_rows, num_columns, torch.float32, words.device)
    hashed = noise.view(torch.int32)
    torch.mul(words[:num_rows].unsqueeze(1), words[num_rows:], out=hashed)
    # Below one, to which float32 would round the largest words: −log must not be zero.
    below_one = 2.0**-32 * (1 - 2.0**-24)
    return noise.copy_(hashed.view(torch.uint32)).mul_(below_one).log_().neg_()


@lru_cache
def _draw_width(num_columns: int) -> int:
    """About ``DRAW_WIDTH``, and a divisor of the number of columns if there is one."""
    return next((w for w in range(DRAW_WIDTH, 2 * DRAW_WIDTH) if num_columns % w == 0), DRAW_WIDTH)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverts the cumulative sum: the first cluster whose cumulative weight exceeds the uniform.

    Long rows are searched in two steps, first among the sums of some ``DRAW_WIDTH`` entries and
    then within one of them, so that few entries need the float64 of a cumulative sum.

    Args:
        weights: Unnormalised probabilities, ``[rows, K]``, each row with a positive sum.
        uniform: ``[rows]`` in [0, 1), float64.

    Returns:
        ``[rows]`` int64. Since the comparison is strict, a weight of zero is never drawn.
    """
    num_columns = weights.size(1)
    # Below one by more than a rounding, so that its product with a total is below that total.
    uniform = uniform.clamp(max=1 - 2.0**-52).unsqueeze(1)
    if num_columns <= 2 * DRAW_WIDTH:
        cumulative = scratch.empty(weights.size(0), num_columns, torch.float64, weights.device)
        torch.cumsum(weights, -1, dtype=torch.float64, out=cumulative)
        target = uniform.mul_(cumulative[:, -1:])
        return _search(cumulative, target).squeeze(1)

    width = _draw_width(num_columns)
    whole = num_columns - num_columns % width
    sums = weights[:, :whole].view(-1, whole // width, width).sum(-1)
    if whole < num_columns:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], dim=1)
    cumulative = sums.cumsum(-1, dtype=torch.float64)
    target = uniform.mul_(cumulative[:, -1:])
    part = _search(cumulative, target)
    before = cumulative.sub_(sums).gather(1, part)

    column = torch.arange(width, device=weights.device) + part.mul_(width)
    if whole < num_columns:
        inner = weights.gather(1, column.clamp(max=num_columns - 1))
        inner.masked_fill_(column >= num_columns, 0)
    else:
        inner = weights.gather(1, column)
    inner = inner.cumsum(-1, dtype=torch.float64)
    # A float32 sum may differ from the float64 one by a rounding, in either direction.
    total = inner[:, -1:]
    target = torch.minimum(target.sub_(before).clamp_(min=0), total.nextafter(-total))
    return _search(inner, target).add_(part).squeeze(1)


def _search(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first column whose cumulative weight exceeds the target, ``[rows, 1]``."""
    # Only a NaN is found nowhere; the caller reports it, and until then an id must be in range.
    found = torch.searchsorted(cumulative, target, right=True)
    return found.clamp_(max=cumulative.size(1) - 1)


def sample_clusters(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Draws :math:`c_i \sim \mathrm{Categorical}(\mathrm{softmax}(\theta_i))`, exactly.

    The rows are independent. A cluster with logit :math:`-\infty` is never drawn. The law is that
    of Gumbel-max, but a row costs one random number (inverted through the cumulative sum, which is
    kept in float64) instead of K.

    Args:
        logits: Assignment scores :math:`\theta`, ``[N, K]``, of any floating dtype.
        generator: Source of randomness, on the device of ``logits``. (default: torch's own)

    Returns:
        One cluster id in ``[0, K)`` per row, ``[N]``, int64; whichever graph the row is of.

    Raises:
        TypeError: If ``logits`` is not floating point, or ``generator`` not a generator.
        ValueError: If ``logits`` is not ``[N, K]`` with K ≥ 1, or a row holds a NaN or +∞ or
            nothing but −∞.
    """
    check_logits(logits)
    check_generator(generator)
    with torch.no_grad():
        uniform = uniform_noise(logits.size(0), logits.device, generator)
        cluster = torch.empty(logits.size(0), dtype=torch.int64, device=logits.device)
        maximum = torch.empty(logits.size(0), dtype=logits.dtype, device=logits.device)
        size = rows_per_block(logits.size(1), logits.device)
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


def conditional_gumbel_softmax(probability: Tensor, cluster: Tensor, exponential: Tensor) -> Tensor:
    r"""The softmax of :func:`conditional_gumbel`, from that of the logits and with no logarithm.

    :math:`e^{\theta_j + \gamma_j} \propto p_j / (E_j + p_j E_c)` for j ≠ c, and
    :math:`1 / E_c` for c.

    Args:
        probability: softmax(θ), ``[rows, K]``.
        cluster: The draws, ``[rows]``, int64.
        exponential: Exp(1) noise, ``[rows, K]``, positive.

    Returns:
        ``[rows, K]``.
    """
    column = cluster.unsqueeze(1)
    own = exponential.gather(1, column)
    weight = scratch.empty_like(probability)
    torch.addcmul(exponential, probability, own, out=weight)
    torch.div(probability, weight, out=weight).scatter_(1, column, own.reciprocal_())
    return weight.mul_(weight.sum(-1, keepdim=True).reciprocal_())
