"""Conditional stochastic rounding: unbiased but for a trace, and never longer than a bound that fits coarse grids.

Rounding x to a neighbouring integer at random, up with probability x - floor(x), is unbiased, but an unlucky draw may
be longer than x by sqrt(d). Draws that are too long are therefore thrown away and made again (Kairouz, Liu and Steinke
2021, arXiv:2102.06387); what leaves the client obeys the bound with certainty, and the bound is near the
typical length. The noise is calibrated to the bound, so the smaller bound is bought with a trace of bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, UsageError
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.sensitivity import l1_of_integers, round_up, sqrt_up

__all__ = [
    "BETA",
    "MAX_ATTEMPTS",
    "MAX_NORM",
    "Rounded",
    "RoundingBound",
    "conditional_round",
    "rounding_bound",
    "stochastic_round",
]

# What one attempt may fail with. The design's value; arXiv:2102.06387 uses the same in its experiments.
BETA: Final = math.exp(-0.5)

MAX_ATTEMPTS: Final = 256  # all fail with probability at most beta^256 = exp(-128)
MAX_NORM: Final = 2.0**26  # squares up to 2^52 are added exactly by float64; longer vectors belong on the fine grid


@dataclass(frozen=True)
class RoundingBound:
    """How long a rounded vector may be, in grid units.

    Attributes:
        norm: c', L2 norm of the real vector on the grid, at most.
        dimension: d.
        beta: bound on the probability that one attempt is too long.
        square: largest integer that the square of the rounded vector's L2 norm may reach.
    """

    norm: float
    dimension: int
    beta: float
    square: int

    @property
    def l2(self) -> float:
        """D2: L2 norm of every vector let through, hence the sensitivity to its replacement by zero; rounded up."""
        return round_up(sqrt_up(self.square))

    @property
    def l1(self) -> float:
        """D1 = D2 min(sqrt d, D2): Cauchy-Schwarz, or |k| <= k^2 for integers; rounded up."""
        return l1_of_integers(self.l2, self.dimension)


@dataclass(frozen=True, eq=False)
class Rounded:
    """A rounded vector and how it came about.

    Attributes:
        values: int64, shape (d,).
        attempts: draws it took; 0 if none was short enough and the vector was rounded towards zero instead. Depends on
            the data: keep it at the client.
    """

    values: npt.NDArray[np.int64]
    attempts: int


def rounding_bound(*, norm: float, dimension: int, beta: float = BETA) -> RoundingBound:
    """The bound that rounded vectors are held to.

    Args:
        norm: c' = c s, bound on the L2 norm on the grid, > 0.
        dimension: d, coordinates (after padding).
        beta: in (0, 1): bound on the probability that one attempt fails, whatever the vector. A larger beta means less
            noise, more attempts (at most 1/(1 - beta) expected) and more bias.

    Guarantees:
        The square of the bound is the largest integer not above (and at least 1)

            min((c' + sqrt d)^2, c'^2 + d/4 + sqrt(2 ln(1/beta)) (c' + sqrt(d)/2)),

        and one unconditional stochastic rounding of any |x| <= c' is longer with probability at most beta.

    Proof (Lemma of arXiv:2102.06387). Write the rounding as z + B with z = floor(x) and B_i independent, 1 with
    probability f_i = x_i - z_i. Each |z_i + B_i - x_i| < 1, so the first bound always holds. For the second, the mean
    of |z + B|^2 is |x|^2 + sum f_i (1 - f_i) <= c'^2 + d/4. The sum of (z_i + B_i)^2 = z_i^2 + (2 z_i + 1) B_i has
    independent terms of range |2 z_i + 1|, and sum (2 z_i + 1)^2 = 4 |z + 1/2|^2 <= 4 (c' + sqrt(d)/2)^2 because
    |z_i + 1/2 - x_i| <= 1/2. Hoeffding: it exceeds its mean by sqrt(2 ln(1/beta)) (c' + sqrt(d)/2) with probability at
    most exp(-2 . 2 ln(1/beta) / 4) = beta. QED.

    Raises:
        UsageError: an argument out of range, or a bound above 2^26: such vectors need no stochastic rounding.

    >>> bound = rounding_bound(norm=100.0, dimension=4096)
    >>> round(bound.l2, 2), round(100 + 4096**0.5, 2)
    (105.62, 164.0)
    """
    if not (0 < norm < math.inf and 0 < beta < 1):
        raise UsageError(f"norm is {norm} and beta {beta}, expected a finite number above 0 and one in (0, 1)")
    if dimension < 1:
        raise UsageError(f"dimension is {dimension}, expected at least 1")
    c, root = Fraction(norm), sqrt_up(dimension)
    spread = Fraction(math.nextafter(math.sqrt(-2 * math.log(beta)), math.inf))
    square = min((c + root) ** 2, c * c + Fraction(dimension, 4) + spread * (c + root / 2))
    bound = RoundingBound(norm=norm, dimension=dimension, beta=beta, square=max(1, math.floor(square)))
    if bound.l2 > MAX_NORM:
        raise UsageError(
            f"rounded vectors reach a norm of {bound.l2:.3g}, expected at most 2^26: lower the scale, or use the fine"
            " grid, where rounding costs nothing"
        )
    return bound


def conditional_round(vector: npt.ArrayLike, bound: RoundingBound, keystream: Keystream) -> Rounded:
    """Round each coordinate up or down at random, again and again until the whole is short enough.

    Args:
        vector: real numbers on the grid, shape (d,), of L2 norm at most `bound.norm` (up to a relative 2^-20, which
            float errors of a rotation do not reach).
        bound: from `rounding_bound`.
        keystream: where the random bits come from, 32 a coordinate and attempt.

    Guarantees:
        The integers that come out have an L2 norm of at most `bound.l2` and an L1 norm of at most `bound.l1`, whatever
        the vector: that is checked on the integers themselves, in exact arithmetic.
        One attempt succeeds with probability at least 1 - beta; after 256 failures, of probability exp(-128) with the
        default beta, the vector is rounded towards zero, which only shortens it.
        Bias: an attempt is unbiased up to 2^-32 grid units. Conditioning on success moves the mean of a coordinate by
        P(failure) |E[value | success] - E[value | failure]| <= P(failure) <= beta, as it takes two neighbouring values
        only, hence that of the vector by at most beta sqrt(d) in norm. Failures are in fact far rarer than beta.

    Raises:
        DataError: NaN or infinity, or a vector longer than `bound.norm`.
        UsageError: another shape.

    >>> rounded = conditional_round([0.5, -1.25], rounding_bound(norm=1.5, dimension=2), Keystream())
    >>> rounded.values.dtype, bool(np.abs(rounded.values - [0.5, -1.25]).max() < 1)
    (dtype('int64'), True)
    """
    x = np.asarray(vector, dtype=np.float64)
    if x.shape != (bound.dimension,):
        raise UsageError(f"the vector has shape {x.shape}, expected ({bound.dimension},)")
    with np.errstate(over="ignore", invalid="ignore"):
        length = math.sqrt(np.dot(x, x))
    if not length <= bound.norm * (1 + 2.0**-20):
        raise DataError(
            f"the vector is not within the norm {bound.norm:g} that it is rounded for, or holds NaN: clip it first"
        )
    for attempt in range(1, MAX_ATTEMPTS + 1):
        candidate = _draw(x, keystream)
        if _fits(candidate, bound):
            return Rounded(values=candidate.astype(np.int64), attempts=attempt)
    towards_zero = np.trunc(x)
    if not _fits(towards_zero, bound):
        raise DataError(f"the vector is longer than the norm {bound.norm:g} that it is rounded for: clip it first")
    return Rounded(values=towards_zero.astype(np.int64), attempts=0)


def stochastic_round(vector: npt.ArrayLike, keystream: Keystream) -> npt.NDArray[np.int64]:
    """Round each coordinate up or down at random, once: for sums of records, where conditioning would be wrong.

    Args:
        vector: real numbers on the grid, shape (d,), absolute values at most 2^52.
        keystream: where the random bits come from, 32 a coordinate.

    Guarantees:
        If two real vectors are at most e apart, noise that is calibrated to D2 = e + sqrt d makes their rounded and
        noised versions as indistinguishable as vectors that are D2 apart. Proof: the result is floor(x + u) with u
        uniform and independent of the data. For each u, |floor(a + u) - floor(b + u)| < |a - b| + 1 in every
        coordinate, hence the two are within D2; and what holds given u for every u holds for the mixture (divergences
        are jointly convex). A loop that retries makes u depend on the data, which is why the bound of
        `conditional_round` is for one vector against zero only.

    Raises:
        DataError: NaN, infinity, or beyond 2^52.
    """
    x = np.asarray(vector, dtype=np.float64)
    if not np.abs(x).max(initial=0.0) <= 2.0**52:
        raise DataError("a value is beyond 2^52 on the grid or not a number: clip the data or lower the scale")
    return _draw(x, keystream).astype(np.int64)


def _draw(x: npt.NDArray[np.float64], keystream: Keystream) -> npt.NDArray[np.float64]:
    floor = np.floor(x)
    draws = np.empty(x.shape, dtype=np.uint32)
    keystream.fill(draws)
    rounded: npt.NDArray[np.float64] = floor + (draws < (x - floor) * 2.0**32)
    return rounded


def _fits(integers: npt.NDArray[np.float64], bound: RoundingBound) -> bool:
    """Whether the square of the norm is within the bound; exact.

    The bound is at most 2^52. Sums of squared integers below 2^53 are exact in any order; larger ones cannot come
    out smaller than 2^52, rounding being monotone and terms not negative.
    """
    return bool(np.dot(integers, integers) <= bound.square)
