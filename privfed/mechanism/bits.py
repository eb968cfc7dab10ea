"""How many bits, and how fine a grid: the sum of all clients must hardly ever wrap around the ring.

Wrapping costs accuracy, never privacy: taking a noised integer modulo 2^b is post-processing. A coordinate of the sum
of n clients wraps when it leaves [-2^(b-1), 2^(b-1)). After a rotation in blocks of B coordinates it is close to
Gaussian with variance

    S^2 = rho (n c s)^2 / B + n / 4 + n v

(the rotated sum, the stochastic rounding of n vectors, the n noise shares of variance v), c the bound on a client's L2
norm, s the scale, rho the squared norm of the clients' sum over its largest possible value (n c)^2: 1 when all
clients send the same vector, 1/n when theirs are at right angles. A coordinate then wraps with probability
2 Q(2^(b-1) / S), Q the normal tail, and any of d with at most d times that. (All parts are sub-Gaussian but for
Skellam's farthest tails, so that Hoeffding's 2 exp(-z^2 / 2) in place of 2 Q(z) would be a proof; it asks for 7 %
more range.) Without rotation nothing is known about the spread: then ask for certainty, `certain_bits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scipy.special import erfc

from privfed.errors import UsageError

__all__ = ["MAX_BITS", "WRAPS", "Grid", "certain_bits", "choose_bits", "choose_scale", "sum_deviation", "wraps"]

MAX_BITS: Final = 64
WRAPS: Final = 1e-4  # bound on the probability that any coordinate wraps in a round: about 6.5 standard deviations

MIN_SCALE: Final = 2.0**-60
MAX_SCALE: Final = 2.0**60


@dataclass(frozen=True)
class Grid:
    """A ring and a scale that fit each other.

    Attributes:
        bits: b, width of the ring.
        scale: s, grid points per natural unit.
        deviation: S, standard deviation of a coordinate of the sum, in grid units.
        wraps: bound on the probability that any coordinate wraps in a round.
    """

    bits: int
    scale: float
    deviation: float
    wraps: float


def sum_deviation(
    *, norm: float, clients: int, block: int, share_variance: float, alignment: float = 1.0, rounding: float = 0.25
) -> float:
    """S: standard deviation of a coordinate of the sum after rotation, in grid units.

    Args:
        norm: c s, bound on one client's L2 norm on the grid.
        clients: n, how many vectors and noise shares are added.
        block: B, coordinates over which a vector's length is spread: `Rotation.block`, which holds whatever the vector.
            `Rotation.length` is right where no block holds more than its part of the length.
        share_variance: v of one noise share.
        alignment: rho in [1/n, 1]; 1 is always safe.
        rounding: variance of one rounded coordinate: at most 1/4 if stochastic, 1/12 as a rule if to nearest.
    """
    if clients < 1 or block < 1:
        raise UsageError(f"clients is {clients} and block {block}, expected at least 1")
    if not (0 <= norm < math.inf and 0 <= share_variance < math.inf and 0 < alignment <= 1):
        raise UsageError(
            f"norm is {norm}, share_variance {share_variance}, alignment {alignment}: expected finite numbers from 0"
            " on, and alignment in (0, 1]"
        )
    return math.sqrt(alignment / block * (clients * norm) ** 2 + clients * (rounding + share_variance))


def wraps(*, bits: int, deviation: float, dimension: int) -> float:
    """Bound on the probability that any coordinate of the sum wraps: d 2 Q(2^(b-1) / S), at most 1.

    Args:
        bits: b, 1 to 64.
        deviation: S of `sum_deviation`.
        dimension: d, coordinates after padding.

    >>> wraps(bits=12, deviation=300.0, dimension=65536) < 1e-4 < wraps(bits=12, deviation=350.0, dimension=65536)
    True
    """
    _check_bits(bits)
    if dimension < 1 or not 0 <= deviation < math.inf:
        raise UsageError(f"dimension is {dimension} and deviation {deviation}, expected at least 1 and a number from 0")
    if deviation == 0:
        return 0.0
    return min(1.0, dimension * float(erfc(2.0 ** (bits - 1) / (deviation * math.sqrt(2)))))  # erfc(z/sqrt 2) = 2 Q(z)


def choose_scale(
    deviation: Callable[[float], float], *, bits: int, dimension: int, at_most: float = WRAPS, finest: float = MAX_SCALE
) -> Grid:
    """The finest grid on which `bits` hold the sum: rounding then costs least.

    Args:
        deviation: from a scale to S (`sum_deviation`); must not fall as the scale grows. The noise grows with the scale
            as well, through the sensitivity, which is why this is a search.
        bits: b, width of the ring.
        dimension: d, coordinates after padding.
        at_most: bound on the probability of a wrap a round.
        finest: largest scale wanted.

    Returns:
        The largest scale (up to a relative 2^-40, on the safe side) whose `wraps` are within `at_most`.

    Raises:
        UsageError: even a scale of 2^-60 wraps: more bits, or fewer clients, are needed.

    >>> grid = choose_scale(
    ...     lambda s: sum_deviation(norm=s, clients=100, block=4096, share_variance=(0.1 * s) ** 2),
    ...     bits=16,
    ...     dimension=4096,
    ... )
    >>> grid.wraps <= 1e-4, 3000 < grid.scale < 3300
    (True, True)
    """
    _check_bits(bits)

    def fits(scale: float) -> bool:
        return wraps(bits=bits, deviation=deviation(scale), dimension=dimension) <= at_most

    if not fits(MIN_SCALE):
        raise UsageError(f"{bits} bits cannot hold the rounding of so many clients: choose more bits or fewer clients")
    low, high = MIN_SCALE, min(finest, MAX_SCALE)
    if fits(high):
        low = high
    while high / low > 1 + 2.0**-40:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Grid(
        bits=bits,
        scale=low,
        deviation=deviation(low),
        wraps=wraps(bits=bits, deviation=deviation(low), dimension=dimension),
    )


def choose_bits(*, deviation: float, dimension: int, at_most: float = WRAPS) -> int:
    """The fewest bits that hold a sum of this standard deviation, up to 64.

    Args:
        deviation: S of `sum_deviation`, in grid units.
        dimension: d, coordinates after padding.
        at_most: bound on the probability of a wrap a round.

    Raises:
        UsageError: 64 bits do not suffice.

    >>> choose_bits(deviation=300.0, dimension=65536)
    12
    """
    for bits in range(2, MAX_BITS + 1):
        if wraps(bits=bits, deviation=deviation, dimension=dimension) <= at_most:
            return bits
    raise UsageError(f"a sum of standard deviation {deviation:.3g} does not fit 64 bits: lower the scale")


def certain_bits(*, largest: float, clients: int, noise: float = 0.0) -> int:
    """The fewest bits with which no sum can wrap, whatever the vectors: for small dimensions and for no rotation.

    Args:
        largest: bound on the absolute value of a client's rounded coordinate, in grid units.
        clients: n.
        noise: how far the noise of all clients together may reach, in grid units; 14 of its standard deviations are
            never left by the sampler's sum but with probability below 2^-138 a coordinate.

    Guarantees:
        n largest + noise <= 2^(b-1) - 1.

    Raises:
        UsageError: 64 bits do not suffice.

    >>> certain_bits(largest=100.0, clients=20)
    12
    """
    if clients < 1 or not (0 <= largest < math.inf and 0 <= noise < math.inf):
        raise UsageError(f"clients is {clients}, largest {largest}, noise {noise}: expected at least 1, and from 0 on")
    bits = max(2, (clients * math.ceil(largest) + math.ceil(noise)).bit_length() + 1)
    if bits > MAX_BITS:
        raise UsageError(f"the sum needs {bits} bits, expected at most 64: lower the scale")
    return bits


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise UsageError(f"bits is {bits}, expected 1 to 64")
