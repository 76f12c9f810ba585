"""The noise of the estimators, a function of a seed and of where it is used."""

import torch
from torch import Tensor


def exponential_noise(seed: Tensor, sample: int, first_row: int, like: Tensor) -> Tensor:
    r"""Exp(1) noise in the shape and dtype of ``like``, a function of (seed, sample, row, column).

    Entry (i, j) is made of the word :math:`h_{ij} = m_i b_j \bmod 2^{32}`, with random odd
    :math:`m_i` and :math:`b_j`. Given :math:`m_i`, :math:`b_j \mapsto h_{ij}` is a bijection of the
    odd words, so that the entries of a row are independent and uniform over them: the law of a row
    is exact, up to float32's own resolution. Any two entries of different rows are independent as
    well. Never zero, so that its logarithm is finite.
    """
    num_rows, num_columns = like.shape
    index = torch.arange(-num_columns, num_rows, device=like.device)
    index[num_columns:] += first_row
    words = _odd_words(seed, sample, index)
    # Column k has the index −1 − k.
    words = words[num_columns:].unsqueeze(1) * words[:num_columns].flip(0)
    uniform = (words >> 1).bitwise_and_(2**31 - 1).to(like.dtype)
    # In (0, 1): below one by more than float32 rounds the largest words.
    return uniform.mul_(2.0**-31 * (1 - 2.0**-24)).add_(2.0**-32).log_().neg_()


def _odd_words(seed: Tensor, sample: int, index: Tensor) -> Tensor:
    """The upper halves of SplitMix64 (Steele et al. 2014), made odd, int32."""
    word = index * _int64(0x9E3779B97F4A7C15) + (seed + _int64(0xD1B54A32D192ED03 * sample))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ _shifted(word, shift)) * _int64(factor)
    upper: Tensor = (word ^ _shifted(word, 31)) >> 32
    return upper.int().bitwise_or_(1)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """The word shifted right with zeros coming in, as if it were unsigned."""
    shifted: Tensor = (word >> bits).bitwise_and_(2 ** (64 - bits) - 1)
    return shifted


def _int64(value: int) -> int:
    """The int64 of the same low 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
