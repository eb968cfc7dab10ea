"""Comparisons that no rounding decides: exp(-x) in big integers, and the event V < exp(-x) resolved lazily."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Final

__all__ = ["EXP_ERROR", "below_exp_minus", "exp_minus"]

EXP_ERROR: Final = 2  # |exp_minus(x, bits) - 2^bits exp(-x)| is below this many units


def exp_minus(x: Fraction, bits: int) -> int:
    """2^bits * exp(-x) as an integer, less than `EXP_ERROR` = 2 units off.

    Args:
        x: exact, >= 0.
        bits: binary places, >= 64.

    The argument is halved k times until it is below 2^-8, exp(-y) summed by its Taylor series, and the value
    squared k times. With a unit of 2^-w: truncating y costs 1 unit, each of at most w/8 + 1 terms at most 3 (its
    own floor divisions, and the inherited error shrunk by y), so the series is off by e <= w units for w >= 64; a
    squaring takes e to at most 2e + 2, so the end is off by 2^k (w + 2) units. The w - bits = k + bitlength(bits) +
    8 guard bits leave less than one unit of 2^-bits, and the final floor adds at most one.

    >>> exp_minus(Fraction(0), 64) == 2**64
    True
    """
    if x >= bits:  # exp(-x) < 2^-bits
        return 0
    halvings = max(0, (x.numerator // x.denominator).bit_length() + 8) if x else 0
    width = bits + halvings + bits.bit_length() + 8
    y = (x.numerator << (width - halvings)) // x.denominator
    total = term = 1 << width
    sign = n = 1
    while term:
        term = ((term * y) >> width) // n
        sign, n = -sign, n + 1
        total += sign * term
    for _ in range(halvings):
        total = (total * total) >> width
    return total >> (width - bits)


def below_exp_minus(x: Fraction, *, known: int, count: int, more: Callable[[], int]) -> bool:
    """Whether V < exp(-x), for the uniform real V in [0, 1) whose first `count` bits are `known`.

    Exact: while the interval of V that is known straddles the threshold, 64 further bits of V are drawn and the
    threshold is computed as much finer. Each step decides except with probability below 2^-60.

    Args:
        x: exact, >= 0.
        known: the first `count` bits of V, as an integer in [0, 2^count).
        count: >= 64.
        more: returns 64 fresh uniform bits as an integer at each call.
    """
    while True:
        threshold = exp_minus(x, count)
        if known + 1 <= threshold - EXP_ERROR:
            return True
        if known >= threshold + EXP_ERROR:
            return False
        known, count = (known << 64) | more(), count + 64
