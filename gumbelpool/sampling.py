"""Exact categorical draws, and where their randomness comes from."""

import torch
from torch import Tensor

from gumbelpool import rows
from gumbelpool.options import check_generator
from gumbelpool.plan import rows_per_block
from gumbelpool.validation import check_logits, check_rows


def check_not_drawn_again(generator: torch.Generator | None) -> None:
    """Checks that no gradients are computed, where a checkpoint has not rewound the generator."""
    if generator is not None and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "GumbelPool cannot draw again from a generator while gradients are computed, as "
            "checkpointing asks it to: leave generator= out there, since torch rewinds its own"
        )


def draw_randomness(
    num_rows: int | None, device: torch.device, generator: torch.Generator | None
) -> tuple[Tensor | None, Tensor]:
    """All that is random in a call: one uniform per row, then the seed of the estimator's noise.

    The uniforms, ``[N]``, are float64, so that no cluster is too unlikely to be drawn. Where
    ``num_rows`` is ``None`` nothing is drawn: no uniforms, and a seed of zero.
    """
    if num_rows is None:
        return None, torch.zeros((), dtype=torch.int64, device=device)
    check_not_drawn_again(generator)
    # Not torch.rand, whose form with a generator cannot be traced for any number of rows.
    uniform = torch.empty(num_rows, dtype=torch.float64, device=device)
    uniform.uniform_(generator=generator)
    return uniform, torch.randint(2**62, (), device=device, generator=generator)


def sample_clusters(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Draws :math:`c_i \sim \mathrm{Categorical}(\mathrm{softmax}(\theta_i))`, exactly.

    The rows are independent. A cluster with logit :math:`-\infty` is never drawn. The law is that
    of Gumbel-max (`Maddison et al. 2014 <https://arxiv.org/abs/1411.0030>`_), but a row costs one
    random number (inverted through the cumulative sum, which is kept in float64) instead of K.

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
    num_rows, device = logits.size(0), logits.device
    with torch.no_grad():
        uniform, _ = draw_randomness(num_rows, device, generator)
        assert uniform is not None
        cluster = torch.empty(num_rows, dtype=torch.int64, device=device)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        batch = torch.zeros_like(cluster)
        size = rows_per_block(logits.size(1), device)
        for start in range(0, num_rows, size):
            own = slice(start, start + size)
            block = torch.empty_like(
                logits[own], dtype=dtype, memory_format=torch.contiguous_format
            )
            block.copy_(logits[own])
            cluster[own] = rows.of(logits).sample_rows(block, uniform[own], batch[own], None, None)
        check_rows(cluster < 0, "logits", lambda row: logits[row].amax())
        return cluster.clamp_(min=0)
