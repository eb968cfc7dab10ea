"""The discrete Gaussian, exact by construction at any scale up to 2^50.

Law (Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Definition 1): P(k) proportional to
exp(-k^2 / (2 sigma^2)) over all integers k. `sigma` is the parameter of that law; its standard deviation is
slightly less (by a factor above 1 - 2^-50 once sigma >= 2).

Two constructions; in neither does a rounded float decide anything:

- sigma <= `TABLE_SIGMA`: one cumulative table over both signs.
- above: k = +-(h j + u) with h a power of two and sigma = h s0, 64 <= s0 < 128. The block j comes from a table of
  exp(-j^2 / (2 s0^2)), the place u is uniform in [0, h), and the candidate is kept with probability
  exp(-u (2 h j + u) / (2 sigma^2)): the product is exp(-(h j + u)^2 / (2 sigma^2)). A random sign follows, and
  minus zero is rejected so that zero is not counted twice. More than 0.98 of the candidates are kept.

The time a call takes depends on the noise only through rare repetitions. It is not constant time: do not let an
adversary who times single calls to the nanosecond share the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.exact import below_exp_minus
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.tables import (
    CHUNK,
    CumulativeTable,
    cumulative_table,
    gaussian_weights,
    symmetric_table,
    table_distance_bits,
)

__all__ = ["DISTANCE_BITS", "MAX_SIGMA", "check_sigma", "discrete_gaussian", "distance_bits"]

MAX_SIGMA: Final = 2.0**50
TABLE_SIGMA: Final = 512.0  # the two constructions cost the same near 700; this table of 14 000 entries takes 8 ms
BLOCKS_LOG2: Final = 6  # s0 >= 2^6: larger rejects less, but leaves more of the direct table undecided

# The distance of one sample from the exact law, in bits, at every sigma: `distance_bits(sigma) >= DISTANCE_BITS`.
DISTANCE_BITS: Final = 112

# Half-width of the band around the float64 threshold within which big integers decide instead. The float64 evaluation
# is accurate to 2^-48; the band is far wider and still entered only once in 2^31 doubtful candidates.
AMBIGUOUS: Final = 2.0**-32

_ACCEPT_BITS: Final = 16  # low bits of a candidate's word: leading bits of the uniform of its rejection test
_SIGN_TO_TOP: Final = np.uint64(63 - _ACCEPT_BITS)  # the next bit is its sign; the top bits are its place in the block


def discrete_gaussian(sigma: float, size: int, keystream: Keystream) -> npt.NDArray[np.int64]:
    """Independent samples of the discrete Gaussian with parameter `sigma`.

    Args:
        sigma: in the units of the integer grid, in (0, 2^50]; the float is taken as the exact rational it is.
        size: number of samples, >= 0.
        keystream: where the random bits come from. `Keystream()` for anything that matters.

    Returns:
        int64, shape (size,).

    Guarantees:
        Given uniform bits, each sample is within total variation distance 2^-`distance_bits(sigma)`, at most 2^-112, of
        the law, independently of the others; a vector of d samples within d times that. (That AES-256 in counter
        mode gives uniform bits is a computational assumption.)

    Raises:
        UsageError: sigma or size out of range.

    >>> noise = discrete_gaussian(5.0, 100_000, Keystream.seeded(b"doctest"))
    >>> noise.dtype, bool(abs(noise.std() - 5.0) < 0.1)
    (dtype('int64'), True)
    """
    check_sigma(sigma)
    if size < 0:
        raise UsageError(f"size is {size}, expected 0 or more")
    out = np.empty(size, dtype=np.int64)
    if sigma <= TABLE_SIGMA:
        _table(float(sigma)).sample(out, keystream)
    else:
        _fill_from_blocks(_blocks(float(sigma)), out, keystream)
    return out


def distance_bits(sigma: float) -> float:
    """-log2 of a bound on the total variation distance between one sample and the exact law.

    A table of n entries is within n 2^-128 (`privfed.mechanism.tables.table_distance_bits`). With blocks, only the
    table of j is inexact, by that distance t. Conditioning two laws at distance t on an event of probability at
    least p multiplies the distance by at most 2/p, since |a'/p' - a/p| <= (|a' - a| + |p - p'| a/p) / p' <= 2t/p'
    for every event; a candidate is kept with probability above 1/2, so four times the table's distance bounds it.

    >>> distance_bits(1.0) > 120, distance_bits(2.0**40) > 114
    (True, True)
    """
    check_sigma(sigma)
    if sigma <= TABLE_SIGMA:
        return table_distance_bits(_table(float(sigma)).entries)
    return table_distance_bits(_blocks(float(sigma)).table.entries) - 2


def check_sigma(sigma: float) -> None:
    """Refuse a scale the sampler does not cover (NaN included)."""
    if not 0 < sigma <= MAX_SIGMA:
        raise UsageError(
            f"sigma is {sigma}, expected a number in (0, 2^50]; at the upper end lower the scale of the grid"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Blocks:
    """sigma = 2^shift * s0, and what a candidate needs.

    Attributes:
        sigma: exact.
        shift: log2 of the block width h, between 3 and 44.
        table: law of the block number j >= 0, proportional to exp(-j^2 / (2 s0^2)).
        slope: ceil(2^16 / s0^2), the integer of the quick acceptance.
    """

    sigma: Fraction
    shift: int
    table: CumulativeTable
    slope: int


@lru_cache(maxsize=32)
def _table(sigma: float) -> CumulativeTable:
    return symmetric_table(gaussian_weights(Fraction(sigma)))


@lru_cache(maxsize=32)
def _blocks(sigma: float) -> Blocks:
    mantissa, exponent = math.frexp(sigma)  # mantissa in [1/2, 1)
    relative = Fraction(mantissa) * 2 ** (BLOCKS_LOG2 + 1)
    return Blocks(
        sigma=Fraction(sigma),
        shift=exponent - BLOCKS_LOG2 - 1,
        table=cumulative_table(gaussian_weights(relative), first=0),
        slope=math.ceil(2**_ACCEPT_BITS / relative**2),
    )


def _fill_from_blocks(blocks: Blocks, out: npt.NDArray[np.int64], keystream: Keystream) -> None:
    rejected = np.concatenate(
        [start + _candidates(blocks, out[start : start + CHUNK], keystream) for start in range(0, len(out), CHUNK)]
        or [np.empty(0, dtype=np.intp)]
    )
    if rejected.size:  # samples are independent, so those rejected are drawn again where they stand
        again = np.empty(rejected.size, dtype=np.int64)
        _fill_from_blocks(blocks, again, keystream)
        out[rejected] = again


def _candidates(blocks: Blocks, out: npt.NDArray[np.int64], keystream: Keystream) -> npt.NDArray[np.intp]:
    """Fill `out` with candidates and return the places of those to be rejected."""
    words = keystream.uint64(len(out))
    block = np.empty(len(out), dtype=np.int16)
    blocks.table.sample_into(block, np.empty(len(out), dtype=np.uint16), keystream)

    # |k| = h j + u
    np.left_shift(block, blocks.shift, out=out, dtype=np.int64)
    out |= (words >> np.uint64(64 - blocks.shift)).view(np.int64)

    # With V in [v, v + 1) 2^-16: (v + 1) + slope (j + 1) <= 2^16 implies V < 1 - (j + 1) / s0^2 <= exp(-x), for
    # x = u (2 h j + u) / (2 sigma^2) < (2 j + 1) / (2 s0^2) < (j + 1) / s0^2. Only the others need x itself.
    leading = words.astype(np.uint16)
    bar = np.multiply(block, blocks.slope, dtype=np.int32)
    bar += leading
    doubtful = np.flatnonzero(bar >= (1 << _ACCEPT_BITS) - blocks.slope)
    rejected = doubtful[~_accept(blocks, out[doubtful], leading[doubtful], keystream)]

    zeros = np.flatnonzero(out == 0)
    sign = (words << _SIGN_TO_TOP).view(np.int64) >> np.int64(63)  # 0 or -1
    out ^= sign
    out -= sign
    minus_zeros = zeros[sign[zeros] != 0]
    return np.union1d(rejected, minus_zeros) if minus_zeros.size else rejected


def _accept(
    blocks: Blocks, value: npt.NDArray[np.int64], leading: npt.NDArray[np.uint16], keystream: Keystream
) -> npt.NDArray[np.bool_]:
    """Whether V < exp(-x) for candidates |k| = `value` whose V begins with the 16 bits `leading`."""
    place = value & np.int64((1 << blocks.shift) - 1)
    further = keystream.uint64(len(value))
    x = place.astype(np.float64) * (2 * value - place) / float(2 * blocks.sigma**2)  # u (2hj + u), 2hj + u = 2|k| - u
    margin = np.exp(-x) - (leading + further * 2.0**-64) * 2.0**-_ACCEPT_BITS
    accepted: npt.NDArray[np.bool_] = margin > 0
    for i in np.flatnonzero(~(np.abs(margin) > AMBIGUOUS)):  # so written, a NaN goes the exact way too
        u, k = int(place[i]), int(value[i])
        accepted[i] = below_exp_minus(
            Fraction(u * (2 * k - u)) / (2 * blocks.sigma**2),
            known=(int(leading[i]) << 64) | int(further[i]),
            count=_ACCEPT_BITS + 64,
            more=lambda: int(keystream.uint64(1)[0]),
        )
    return accepted
