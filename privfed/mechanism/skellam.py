"""Skellam noise, exact by construction at any variance up to 2^98: the noise of coarse grids.

Law: the difference of two independent Poisson variables of mean v/2 each; P(k) = exp(-v) I_|k|(v) for every integer k,
with I the modified Bessel function. Its variance is v, and the sum of independent Skellam variables is Skellam with the
sum of their variances: shares add up to the noise that is accounted, with nothing lost in between.

Two constructions; as for the discrete Gaussian, in neither does a rounded float decide anything:

- v <= `TABLE_VARIANCE`: one cumulative table over both signs.
- above: a discrete Gaussian candidate k with sigma^2 a little above v + 40, kept with probability

      T(k) = (I_k(v) / I_0(v)) exp(k^2 / (2 sigma^2)),

  which is above 0.97. The two laws differ by so little that 16 bits of the uniform nearly always decide; the rest is
  decided by float64 away from the threshold and by big integers near it.

Why T <= 1, for |k| <= 14 sigma, beyond which no candidate lies: Amos (1974, Math. Comp. 28, equation 16) has
I_{j+1}/I_j <= exp(-asinh(y)) with y = (j + 1/2) / v, and T does not grow where asinh(y) >= y v / sigma^2. Since
asinh(y) >= y (1 - y^2/6) and y^2 <= 199/v, 1 - 33.2/v >= v / (v + 40) suffices, which holds from v = 240 on.
Why T >= exp(-x_max): I_{j+1}/I_j > exp(-asinh((j + 1) / v)) >= exp(-(j + 1) / v), from r_{j-1} (2j/v + r_j) = 1 and
r_j < r_{j-1}. Multiplied up: -log T <= (k^2/2) (1/v - 1/sigma^2) + k/(2v), largest at k = 14 sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism import discrete_gaussian as gaussian
from privfed.mechanism.exact import below, exp_minus, scaled_bessel
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.tables import CumulativeTable, skellam_weights, symmetric_table, table_distance_bits

__all__ = ["DISTANCE_BITS", "MAX_VARIANCE", "check_variance", "distance_bits", "skellam"]

MAX_VARIANCE: Final = 2.0**98
TABLE_VARIANCE: Final = gaussian.TABLE_SIGMA**2

# The distance of one sample from the exact law, in bits, at every variance.
DISTANCE_BITS: Final = 112

_REACH: Final = 14  # candidates stay within 14 sigma: the discrete Gaussian's table ends at sqrt(280 log 2) = 13.93
_LEADING_BITS: Final = 16


def skellam(variance: float, size: int, keystream: Keystream) -> npt.NDArray[np.int64]:
    """Independent samples of the Skellam law of this variance.

    Args:
        variance: in squared units of the integer grid, in (0, 2^98]; the float is taken as the exact rational it is.
        size: number of samples, >= 0.
        keystream: where the random bits come from. `Keystream()` for anything that matters.

    Returns:
        int64, shape (size,).

    Guarantees:
        Given uniform bits, each sample is within total variation distance 2^-`distance_bits(variance)`, at most 2^-112,
        of the law, independently of the others; a vector of d samples within d times that.

    Raises:
        UsageError: variance or size out of range.

    >>> noise = skellam(25.0, 100_000, Keystream.seeded(b"doctest"))
    >>> noise.dtype, bool(abs(noise.std() - 5.0) < 0.1)
    (dtype('int64'), True)
    """
    check_variance(variance)
    if size < 0:
        raise UsageError(f"size is {size}, expected 0 or more")
    if variance > TABLE_VARIANCE:
        return _by_rejection(_envelope(float(variance)), size, keystream)
    out = np.empty(size, dtype=np.int64)
    _table(float(variance)).sample(out, keystream)
    return out


def distance_bits(variance: float) -> float:
    """-log2 of a bound on the total variation distance between one sample and the exact law.

    As for the discrete Gaussian: a table of n entries is within n 2^-128; a candidate kept with probability above 1/2
    carries at most four times the distance of the law that proposed it. The Skellam law's own mass beyond the reach of
    the candidates, below 2 exp(-v phi(14 sigma / v)) < 2^-139, is covered by that factor.

    >>> distance_bits(1.0) > 120, distance_bits(2.0**80) > 112
    (True, True)
    """
    check_variance(variance)
    if variance <= TABLE_VARIANCE:
        return table_distance_bits(_table(float(variance)).entries)
    return gaussian.distance_bits(_envelope(float(variance)).sigma) - 2


def check_variance(variance: float) -> None:
    """Refuse a variance the sampler does not cover (NaN included)."""
    if not 0 < variance <= MAX_VARIANCE:
        raise UsageError(
            f"variance is {variance}, expected a number in (0, 2^98]; at the upper end lower the scale of the grid"
        )


@dataclass(frozen=True, repr=False)
class Envelope:
    """What rejection needs at one variance above `TABLE_VARIANCE`.

    Attributes:
        variance: v, exact.
        sigma: of the discrete Gaussian that proposes; sigma^2 >= v + 40.
        excess: 1/(2v) - 1/(2 sigma^2), as a float.
        doubtful: leading 16 bits from which on the uniform may exceed T.
    """

    variance: Fraction
    sigma: float
    excess: float
    doubtful: int


@lru_cache(maxsize=32)
def _table(variance: float) -> CumulativeTable:
    return symmetric_table(skellam_weights(Fraction(variance)))


@lru_cache(maxsize=32)
def _envelope(variance: float) -> Envelope:
    exact = Fraction(variance)
    sigma = math.sqrt(variance + 40)
    while Fraction(sigma) ** 2 < exact + 40:
        sigma = math.nextafter(sigma, math.inf)
    excess = 1 / (2 * exact) - 1 / (2 * Fraction(sigma) ** 2)
    reach = _REACH * Fraction(sigma)
    most = reach * reach * excess + reach / (2 * exact)
    doubtful = (1 << _LEADING_BITS) - math.ceil(most * 2**_LEADING_BITS)  # V < 1 - most <= exp(-most) below it
    return Envelope(variance=exact, sigma=sigma, excess=float(excess), doubtful=doubtful)


def _by_rejection(envelope: Envelope, size: int, keystream: Keystream) -> npt.NDArray[np.int64]:
    out = gaussian.discrete_gaussian(envelope.sigma, size, keystream)
    leading = np.empty(size, dtype=np.uint16)
    keystream.fill(leading)
    places = np.flatnonzero(leading >= envelope.doubtful)
    rejected = places[~_keep(envelope, np.abs(out[places]), leading[places], keystream)]
    if rejected.size:  # samples are independent, so those rejected are drawn again where they stand
        out[rejected] = _by_rejection(envelope, rejected.size, keystream)
    return out


def _minus_log_threshold(envelope: Envelope, value: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-log T for |k| = `value`, accurate to 2^-40.

    The uniform expansion of I_k(v) (DLMF 10.41.3) in t = k/v <= 14.1 / 512: the exponent v (sqrt(1 + t^2) - 1 - t
    asinh t) = -(k^2/2v) (1 - t^2/12 + t^4/40 - 5 t^6/448 + ...), the factor (1 + t^2)^(-1/4), and the first correction
    term relative to k = 0, 13 t^2 / (48 v).
    """
    k = value.astype(np.float64)
    v = float(envelope.variance)
    t2 = (k / v) ** 2
    bend = t2 * (-1 / 12 + t2 * (1 / 40 - t2 * (5 / 448)))
    return k * k * envelope.excess + (k * k / (2 * v)) * bend + 0.25 * np.log1p(t2) + 13 / 48 * t2 / v


def _threshold(envelope: Envelope, value: int, bits: int) -> int:
    """2^bits T for |k| = `value` as an integer, less than 2 units off; I_k/I_0 and the exponential exceed 2^-143."""
    width = bits + 300
    tilt = exp_minus(Fraction(value * value) / (2 * Fraction(envelope.sigma) ** 2), width)
    numerator = scaled_bessel(value, envelope.variance, width) << (width + bits)
    return numerator // (scaled_bessel(0, envelope.variance, width) * tilt)


def _keep(
    envelope: Envelope, value: npt.NDArray[np.int64], leading: npt.NDArray[np.uint16], keystream: Keystream
) -> npt.NDArray[np.bool_]:
    """Whether V < T(k) for |k| = `value` and a V that begins with the 16 bits `leading`."""
    further = keystream.uint64(len(value))
    margin = np.exp(-_minus_log_threshold(envelope, value))
    margin -= (leading + further * 2.0**-64) * 2.0**-_LEADING_BITS
    keep: npt.NDArray[np.bool_] = margin > 0
    for i in np.flatnonzero(~(np.abs(margin) > gaussian.AMBIGUOUS)):  # so written, a NaN goes the exact way too
        keep[i] = below(
            partial(_threshold, envelope, int(value[i])),
            known=(int(leading[i]) << 64) | int(further[i]),
            count=_LEADING_BITS + 64,
            more=lambda: int(keystream.uint64(1)[0]),
        )
    return keep
