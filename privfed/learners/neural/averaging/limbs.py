"""Numbers in two limbs: what a sum without noise needs to keep all of a float's digits.

The grid of a release has steps of 2^-40 of a bound that every client obeys. A bound that never cuts anything is far
above what is sent, and the steps are then far too coarse for float64. So each number travels as its rounding to a
coarse grid, and what that left over, enlarged to fill the vector again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfed.query import Block, FloatArray

__all__ = ["HIGH_BITS", "Limbs", "LongSum"]

HIGH_BITS: Final = 36  # below the 40 of the grid by the bits of BOUND, and by two for federations of 2^24 clients
HALVES: Final = 2.0**27 + 1.0  # splits a float64 into two of 26 bits
BOUND: Final = 4.0  # of the norm of both limbs: parts of norm 1, up to 8 of them, and the low limb's half


@dataclass(frozen=True)
class LongSum:
    """A sum with more digits than a float holds: `value + rest`.

    Attributes:
        value: the sum, rounded to float64.
        rest: what the rounding took.
    """

    value: FloatArray
    rest: FloatArray

    def over(self, divisor: float) -> FloatArray:
        """Return the quotient, rounded once: the mean of 0.1, 0.2 and 0.3 is 0.2."""
        quotient = self.value / divisor
        product = quotient * divisor
        left = ((self.value - product) - _product_error(quotient, divisor, product)) + self.rest
        return np.asarray(quotient + left / divisor)


@dataclass(frozen=True)
class Limbs:
    """A client's parts as one block of shape `(2, size)`.

    Attributes:
        parts: (name, shape, bound on the L2 norm) of each part; at most 8.

    Guarantees:
        Parts within their bounds come back from the sum over up to 2^22 clients with an error of at most
        `2^-(73 - log2(size) / 2)` of their bound per client and coordinate, beside float64's own rounding.

    Examples:
        >>> limbs = Limbs((("x", (2,), 1000.0),))
        >>> first, second = (limbs.split({"x": np.array(x)}) for x in ([0.1, 1e-9], [0.2, 2e-9]))
        >>> limbs.join(first + second)["x"].over(2.0)
        array([1.5e-01, 1.5e-09])
    """

    parts: tuple[tuple[str, tuple[int, ...], float], ...]

    @property
    def size(self) -> int:
        """Coordinates of all parts."""
        return sum(math.prod(shape) for _, shape, _ in self.parts)

    def block(self, name: str) -> Block:
        """Return the block that holds both limbs; its scale is a power of two, so that the grid holds the high one."""
        return Block(name, (2, self.size), BOUND)

    def split(self, values: Mapping[str, FloatArray]) -> FloatArray:
        """Return the limbs of one client's parts."""
        scaled = np.concatenate([np.ravel(values[name]) / _power(bound) for name, _, bound in self.parts])
        limbs = np.empty((2, self.size))
        np.rint(scaled * 2.0**HIGH_BITS, out=limbs[0])
        limbs[0] *= 2.0**-HIGH_BITS
        np.subtract(scaled, limbs[0], out=limbs[1])
        limbs[1] *= 2.0 ** (HIGH_BITS - self._low_bits)
        return limbs

    def join(self, limbs: FloatArray) -> dict[str, LongSum]:
        """Return the parts of a sum of limbs."""
        low = limbs[1] * 2.0 ** (self._low_bits - HIGH_BITS)
        value = limbs[0] + low
        rest = _lost(limbs[0], low, value)
        found, start = {}, 0
        for name, shape, bound in self.parts:
            here, start = slice(start, start + math.prod(shape)), start + math.prod(shape)
            unit = _power(bound)
            found[name] = LongSum((value[here] * unit).reshape(shape), (rest[here] * unit).reshape(shape))
        return found

    @property
    def _low_bits(self) -> int:
        """Bits by which the low limb is smaller than half a step each, so that its norm is at most one half."""
        return math.ceil(math.log2(self.size) / 2)


def _lost(first: FloatArray, second: FloatArray, total: FloatArray) -> FloatArray:
    """Return what rounding took from `total = first + second` (Knuth's two-sum)."""
    part = total - first
    return (first - (total - part)) + (second - part)


def _product_error(factor: FloatArray, number: float, product: FloatArray) -> FloatArray:
    """Return what rounding took from `product = factor * number` (Dekker's product, by Veltkamp's halves)."""
    spread = factor * HALVES
    high = spread - (spread - factor)
    low = factor - high
    wide = number * HALVES
    top = wide - (wide - number)
    rest = number - top
    return low * rest - (((product - high * top) - low * top) - high * rest)


def _power(bound: float) -> float:
    """Return the least power of two that is at least `bound`."""
    return 2.0 ** math.ceil(math.log2(bound))
