"""Comparisons that no rounding decides: exp(-x) and Bessel functions in big integers, V < threshold resolved lazily."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Final

__all__ = ["EXP_ERROR", "below", "below_exp_minus", "exp_minus", "scaled_bessel"]

EXP_ERROR: Final = 2  # |exp_minus(x, bits) - 2^bits exp(-x)| is below this many units

_HANKEL_TERMS: Final = 4096
_HANKEL_GUARD: Final = 256


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


def scaled_bessel(order: int, x: Fraction, bits: int) -> int:
    """2^bits sqrt(2 pi x) exp(-x) I_order(x) as an integer, less than 2 units off.

    Args:
        order: k >= 0 with k^2 <= 256 x.
        x: exact, >= 2^18.
        bits: binary places, at most 4096.

    Hankel's expansion, sum over m of t_m with t_0 = 1 and t_m = t_{m-1} ((2m - 1)^2 - 4 k^2) / (8 x m) (DLMF 10.40.1),
    cut after l = 4096 terms. With s = sin(theta / 2) in the integral of exp(x cos theta) cos(k theta),

        exp(-x) I_k(x) = (2/pi) integral_0^1 exp(-2 x s^2) g(s) ds,   g(s) = cos(2 k arcsin s) / sqrt(1 - s^2),

    and t_m comes from the m-th Taylor coefficient c_m of g in s^2 by integrating to infinity. Since |Im arcsin s| <=
    arcsinh |s|, on |s| <= r <= 1/2 |g| <= C = 1.16 exp(2 k r), hence |c_m| <= C r^(-2m) (Cauchy), and the Taylor
    polynomial P of l terms has |g - P| <= (C l + (1 - s^2)^(-1/2)) (2s/r)^(2l) on [0, 1): for s <= r/2 by the geometric
    series, above because every power of 2s/r then is at least 1; beyond s = 1 the same holds for P alone. Integrated,
    with r = min(1/2, l/k) and q = k^2 / (2x) <= 128, the error is below 2 l (4 e q / l)^l or 2 l (e / 8)^l < 2^-6000;
    what the singularity at s = 1 adds is below exp(-x/2) r^(-2l) 4^l, smaller still.
    The terms never exceed exp(q) < 2^185; the floor of each and its growth by later factors leave an error of less
    than l^2 2^185 units in a width of 256 guard bits, far below one unit of 2^-bits; the last floor adds one.

    >>> scaled_bessel(0, Fraction(2**20), 64) / 2**64 - 1 - 2**-23 < 1e-12
    True
    """
    width = bits + _HANKEL_GUARD
    total = term = 1 << width
    for m in range(1, _HANKEL_TERMS):
        factor = ((2 * m - 1) ** 2 - 4 * order * order) * x.denominator
        term = term * factor // (8 * m * x.numerator)
        if term in (0, -1):  # a floor below zero stays at -1: nothing of what follows reaches a unit
            break
        total += term
    return total >> _HANKEL_GUARD


def below(threshold: Callable[[int], int], *, known: int, count: int, more: Callable[[], int]) -> bool:
    """Whether V < T, for the uniform real V in [0, 1) whose first `count` bits are `known`.

    Exact: while the interval of V that is known straddles the threshold, 64 further bits of V are drawn and the
    threshold is computed as much finer. Each step decides except with probability below 2^-60.

    Args:
        threshold: from a number of bits to 2^bits T as an integer, less than `EXP_ERROR` = 2 units off.
        known: the first `count` bits of V, as an integer in [0, 2^count).
        count: >= 64.
        more: returns 64 fresh uniform bits as an integer at each call.
    """
    while True:
        target = threshold(count)
        if known + 1 <= target - EXP_ERROR:
            return True
        if known >= target + EXP_ERROR:
            return False
        known, count = (known << 64) | more(), count + 64


def below_exp_minus(x: Fraction, *, known: int, count: int, more: Callable[[], int]) -> bool:
    """`below` for T = exp(-x), x exact and >= 0."""
    return below(lambda bits: exp_minus(x, bits), known=known, count=count, more=more)
