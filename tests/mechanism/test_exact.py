"""exp(-x) in big integers and the lazy comparison, against mpmath."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.mechanism.exact import EXP_ERROR, below_exp_minus, exp_minus, scaled_bessel


def true_exp(x: Fraction, bits: int) -> mpmath.mpf:
    with mpmath.workprec(bits + 200):
        return mpmath.exp(-mpmath.mpf(x.numerator) / x.denominator) * mpmath.mpf(2) ** bits


ARGUMENTS = st.one_of(
    st.fractions(min_value=0, max_value=600),
    st.floats(min_value=0, max_value=500, allow_subnormal=True).map(Fraction),
    st.floats(min_value=0, max_value=1e-6, allow_subnormal=True).map(Fraction),
)


@given(x=ARGUMENTS, bits=st.sampled_from([64, 80, 144, 256, 1000]))
def test_exp_minus_is_less_than_two_units_off(x: Fraction, bits: int) -> None:
    with mpmath.workprec(2000):
        assert abs(mpmath.mpf(exp_minus(x, bits)) - true_exp(x, bits)) < EXP_ERROR


@pytest.mark.parametrize(
    "x", [Fraction(10) ** 40, Fraction(1, 10**40), Fraction(0), Fraction(5e-324), Fraction(2**600)]
)
def test_exp_minus_at_the_ends(x: Fraction) -> None:
    with mpmath.workprec(2000):
        assert abs(mpmath.mpf(exp_minus(x, 256)) - true_exp(x, 256)) < EXP_ERROR


@given(
    x=st.fractions(min_value=Fraction(1, 1000), max_value=40), offset=st.integers(-8, 8), more=st.integers(0, 2**64 - 1)
)
def test_comparison_agrees_with_mpmath_next_to_the_threshold(x: Fraction, offset: int, more: int) -> None:
    with mpmath.workprec(2000):
        known = int(mpmath.floor(true_exp(x, 80))) + offset
        if not 0 <= known < 2**80:
            return
        expected = mpmath.mpf(((known << 64) | more) << 64) < true_exp(x, 208)
        # Unless the threshold lies inside the 144 bits, which these cases do not reach.
        assert below_exp_minus(x, known=known, count=80, more=lambda: more) == expected


@pytest.mark.parametrize(("last", "expected"), [(0, True), (2**64 - 1, False)])
def test_comparison_goes_on_until_the_bits_decide(last: int, expected: bool) -> None:
    # V follows the binary expansion of exp(-1/3) for 80 + 3 * 64 bits; only the word after that decides.
    x = Fraction(1, 3)
    with mpmath.workprec(2000):
        expansion = int(mpmath.floor(true_exp(x, 80 + 4 * 64)))
    words = [(expansion >> (64 * i)) & (2**64 - 1) for i in (3, 2, 1)]
    calls: list[int] = []

    def more() -> int:
        calls.append(1)
        return words.pop(0) if words else last

    assert below_exp_minus(x, known=expansion >> (4 * 64), count=80, more=more) == expected
    assert len(calls) == 4


@pytest.mark.parametrize("x", [Fraction(2**18), Fraction(300_000.7), Fraction(2**23 + 1, 3)])
@pytest.mark.parametrize("deviations", [0, 1, 5, 16])
@pytest.mark.parametrize("bits", [64, 400])
def test_scaled_bessel_is_less_than_two_units_off(x: Fraction, deviations: int, bits: int) -> None:
    order = int(deviations * x**0.5)
    with mpmath.workprec(1500):
        argument = mpmath.mpf(x.numerator) / x.denominator
        exact = mpmath.sqrt(2 * mpmath.pi * argument) * mpmath.exp(-argument) * mpmath.besseli(order, argument)
        assert abs(scaled_bessel(order, x, bits) - exact * mpmath.mpf(2) ** bits) < EXP_ERROR


@pytest.mark.parametrize("exponent", [40, 70, 98])
def test_scaled_bessel_obeys_the_recurrence_at_any_size(exponent: int) -> None:
    # I_{k-1} - I_{k+1} = 2k/x I_k (DLMF 10.29.1), at orders where mpmath's own routine gives up.
    x, bits = Fraction(2**exponent * 7, 5), 600
    for k in (1, 10, int(x**0.5), 15 * int(x**0.5)):
        below, here, above = (scaled_bessel(k + i, x, bits) for i in (-1, 0, 1))
        assert abs((below - above) - Fraction(2 * k) / x * here) < 8
        assert exponent > 70 or below > above


def test_certain_event_is_certain() -> None:
    # exp(0) = 1 is above every V, yet within the error of one that is all ones: that costs draws, never a wrong answer.
    words = [2**64 - 1, 2**64 - 1, 12345]
    assert below_exp_minus(Fraction(0), known=2**80 - 1, count=80, more=lambda: words.pop(0))
    assert not words
