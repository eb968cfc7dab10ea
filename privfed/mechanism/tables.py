"""Cumulative tables at 128 bits, resolved lazily: 16 bits of the uniform decide nearly always, then 64, then 128."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfed.mechanism.exact import exp_minus
from privfed.mechanism.randomness import Keystream

__all__ = [
    "CumulativeTable",
    "cumulative_table",
    "gaussian_weights",
    "skellam_weights",
    "symmetric_table",
    "table_distance_bits",
]

TABLE_BITS: Final = 128
WEIGHT_BITS: Final = 256  # of the unnormalised weights; 128 would do but for the accumulated rounding
TAIL_BITS: Final = 140  # weights below 2^-140 are left out: 12 bits below the table's own grain
DIRECT_BITS: Final = 16  # a 2^16-entry int16 table is 128 KiB and stays in a second-level cache
UNDECIDED: Final = np.iinfo(np.int16).min
CHUNK: Final = 1 << 15  # samples at a time: most of the scratch stays in a second-level cache of 1 MiB

_WORD_MASK: Final = (1 << 64) - 1
_SHIFT_DIRECT: Final = np.uint64(64 - DIRECT_BITS)
_SHIFT_REST: Final = np.uint64(DIRECT_BITS)


@dataclass(frozen=True, eq=False, repr=False)
class CumulativeTable:
    """An integer law as an inverse cumulative function with 128-bit boundaries.

    A uniform U of 128 bits gives the value `first + #{i : boundary_i <= U}`. The top 16 bits of U are drawn for
    every sample; where they leave more than one value possible 48 more are drawn, and where 64 bits equal the top
    of a boundary, the last 64. The value is the one that all 128 bits would have given.

    Attributes:
        first: the least value.
        high, low: upper and lower 64 bits of the boundaries, ascending, uint64, shape (entries - 1,).
        direct: value for each of the 2^16 leading pieces of U, or `UNDECIDED`; int16.
    """

    first: int
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    direct: npt.NDArray[np.int16]

    @property
    def entries(self) -> int:
        """Number of values of the law."""
        return len(self.high) + 1

    def sample(self, out: npt.NDArray[np.int64], keystream: Keystream) -> None:
        """Fill `out` with independent samples, a piece at a time."""
        values = np.empty(min(CHUNK, len(out)), dtype=np.int16)
        digits = np.empty(len(values), dtype=np.uint16)
        for start in range(0, len(out), CHUNK):
            piece = out[start : start + CHUNK]
            self.sample_into(values[: len(piece)], digits[: len(piece)], keystream)
            piece[:] = values[: len(piece)]

    def sample_into(self, out: npt.NDArray[np.int16], digits: npt.NDArray[np.uint16], keystream: Keystream) -> None:
        """Fill `out` with independent samples; `digits` is scratch of the same length."""
        keystream.fill(digits)
        np.take(self.direct, digits, out=out, mode="clip")  # "clip" writes straight to `out`; no index is out of range
        undecided = np.flatnonzero(out == UNDECIDED)
        if undecided.size:
            out[undecided] = self._refine(digits[undecided], keystream)

    def _refine(self, digits: npt.NDArray[np.uint16], keystream: Keystream) -> npt.NDArray[np.int64]:
        """Values for uniforms whose 16 leading bits are `digits`: 48 more bits, then 64 more where they tie."""
        word = (digits.astype(np.uint64) << _SHIFT_DIRECT) | (keystream.uint64(len(digits)) >> _SHIFT_REST)
        below = np.searchsorted(self.high, word, side="right")
        for i in np.flatnonzero(self.high[np.maximum(below, 1) - 1] == word):
            below[i] = self._break_tie(word[i], keystream)
        return below + self.first

    def _break_tie(self, word: np.uint64, keystream: Keystream) -> int:
        """#{i : boundary_i <= U} for a U whose upper 64 bits `word` equal those of at least one boundary."""
        start, stop = np.searchsorted(self.high, word, side="left"), np.searchsorted(self.high, word, side="right")
        return int(start + np.searchsorted(self.low[start:stop], keystream.uint64(1)[0], side="right"))


def gaussian_weights(sigma: Fraction) -> list[int]:
    """2^256 exp(-x^2 / (2 sigma^2)) for x = 0, 1, 2, ... until it falls below 2^116 (2^-140 of the first).

    The ratios r_x = w_{x+1}/w_x fall by the constant factor exp(-1/sigma^2), so two multiplications give each
    weight. All factors are at most 1, hence absolute errors only add: r_x is off by at most 3(x + 1) units and w_x
    by at most 3(x + 1)^2 units of 2^-256, which for the 2^14 entries a table may have is below 2^-226.
    """
    variance = sigma * sigma
    ratio = exp_minus(1 / (2 * variance), WEIGHT_BITS)
    factor = exp_minus(1 / variance, WEIGHT_BITS)
    weight, least, weights = 1 << WEIGHT_BITS, 1 << (WEIGHT_BITS - TAIL_BITS), []
    while weight >= least:
        weights.append(weight)
        weight = (weight * ratio) >> WEIGHT_BITS
        ratio = (ratio * factor) >> WEIGHT_BITS
    return weights


def skellam_weights(variance: Fraction) -> list[int]:
    """2^256 I_x(v) / I_0(v) for x = 0, 1, 2, ... until it falls below 2^116 (2^-140 of the first), v = `variance`.

    The ratios r_x = I_{x+1}/I_x lie in (0, 1) and obey r_{x-1} = 1 / (2x/v + r_x) (DLMF 10.29.1). The recurrence is
    run downwards on a lower and an upper bound at once, each rounded outwards, from the certain bounds 0 and 1 at an x
    so far out (20 standard deviations) that a step, which shrinks their distance by about r_x^2 and adds 2 units, has
    brought it below 2^15 units of 2^-256 where the weights begin. As all factors are at most 1, absolute errors only
    add: w_x is off by at most x (2^15 + 1) units, below 2^-226 for the 2^13 entries that a side may have.
    """
    one, least = 1 << WEIGHT_BITS, 1 << (WEIGHT_BITS - TAIL_BITS)
    reach = 20 * math.isqrt(math.ceil(variance)) + 220
    step = (2 * variance.denominator << WEIGHT_BITS) // variance.numerator
    ratios, lower, upper = [0] * reach, 0, one
    for x in range(reach, 0, -1):
        lower, upper = one * one // (x * (step + 1) + upper), min(one, -(-one * one // max(x * step + lower, 1)))
        ratios[x - 1] = lower
    weights = [one]
    for ratio in ratios:
        weight = (weights[-1] * ratio) >> WEIGHT_BITS
        if weight < least:
            break
        weights.append(weight)
    return weights


def symmetric_table(weights: list[int]) -> CumulativeTable:
    """The table over both signs of a law whose value x and its negative both weigh `weights[abs(x)]`."""
    return cumulative_table(weights[:0:-1] + weights, first=1 - len(weights))


def cumulative_table(weights: list[int], *, first: int) -> CumulativeTable:
    """The table of the law that gives `first + i` a probability proportional to `weights[i]`.

    Guarantees:
        Each boundary is the cumulative probability rounded down to a multiple of 2^-128, so that each of the n
        probabilities is less than 2^-128 off and the total variation distance to `weights` below n 2^-129.
    """
    total = sum(weights)
    boundaries = [(part << TABLE_BITS) // total for part in accumulate(weights[:-1])]
    high = np.array([boundary >> 64 for boundary in boundaries], dtype=np.uint64)
    low = np.array([boundary & _WORD_MASK for boundary in boundaries], dtype=np.uint64)
    return CumulativeTable(first=first, high=_fixed(high), low=_fixed(low), direct=_fixed(_direct(high, first)))


def table_distance_bits(entries: int) -> float:
    """-log2 of a bound on the total variation distance of a table of `entries` values to the law it stands for.

    The boundaries contribute entries * 2^-129 (`cumulative_table`), the weights' own rounding less than
    entries * 2^-226 and the tail left out less than 2^-138 (`gaussian_weights`, `skellam_weights`): together below
    entries * 2^-128.
    """
    return TABLE_BITS - math.log2(entries)


def _direct(high: npt.NDArray[np.uint64], first: int) -> npt.NDArray[np.int16]:
    # A piece is undecided when a boundary lies in it or on its lower edge.
    boundaries = np.bincount((high >> _SHIFT_DIRECT).astype(np.int64), minlength=1 << DIRECT_BITS)
    return np.where(boundaries > 0, UNDECIDED, np.cumsum(boundaries) + first).astype(np.int16)


def _fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.setflags(write=False)
    return array
