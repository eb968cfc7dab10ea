"""Two limbs keep what a float64 holds through the grid of a release."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.learners.neural.averaging.limbs import Limbs, LongSum

GRID = 2.0**40


def through_the_grid(limbs: Limbs, values: list[dict[str, np.ndarray]]):
    """What a release makes of the clients' parts: scaled to norm 1, rounded to multiples of 2^-40, added exactly."""
    scale = 1.0 / limbs.block("limbs").bound
    split = [limbs.split(one) * scale for one in values]
    assert all(np.linalg.norm(one) <= 1.0 for one in split)
    total = sum(np.rint(one * GRID).astype(np.int64) for one in split)
    return limbs.join(total / GRID / scale)


@given(seed=st.integers(0, 2**32), size=st.integers(1, 300), exponent=st.integers(-30, 0), clients=st.integers(2, 9))
def test_sums_come_back_to_the_stated_precision(seed, size, exponent, clients) -> None:
    rng = np.random.default_rng(seed)
    bounds = {"a": 4096.0 * 2.0**20, "b": 37.0}
    limbs = Limbs((("a", (size,), bounds["a"]), ("b", (), bounds["b"])))
    values = [
        {"a": rng.uniform(-1, 1, size) * bounds["a"] * 2.0**exponent / np.sqrt(size), "b": rng.uniform(-37, 37, ())}
        for _ in range(clients)
    ]
    found = through_the_grid(limbs, values)
    for name, bound in bounds.items():
        exact = np.sum([one[name].astype(np.longdouble) for one in values], axis=0)
        allowed = clients * 2.0 * bound * 2.0 ** -(73 - np.log2(size + 1) / 2) + 2.0**-52 * np.abs(exact)
        assert (np.abs(found[name].value - exact) <= allowed).all(), name


def test_parts_at_their_very_bounds_fit() -> None:
    names = [f"p{i}" for i in range(8)]
    limbs = Limbs(tuple((name, (50,), 64.0) for name in names))
    vector = np.zeros(50)
    vector[7] = 64.0
    found = through_the_grid(limbs, [dict.fromkeys(names, vector)] * 3)
    np.testing.assert_allclose(found["p3"].value, 3 * vector, rtol=1e-15)


@given(
    value=st.floats(-1e15, 1e15), tail=st.floats(-1, 1), divisor=st.floats(1e-3, 1e9), exponent=st.integers(-60, -53)
)
def test_quotients_are_rounded_once(value, tail, divisor, exponent) -> None:
    rest = tail * abs(value) * 2.0**exponent
    if abs(rest) < 1e-250:
        rest = 0.0
    long = LongSum(np.array([value]), np.array([rest]))
    exact = (Fraction(value) + Fraction(rest)) / Fraction(divisor)
    found = Fraction(float(long.over(divisor)[0]))
    assert abs(found - exact) <= abs(exact) * Fraction(1, 2**53) * (1 + Fraction(1, 2**40)) + Fraction(1, 2**900)


def test_a_plain_quotient_would_round_twice() -> None:
    tenths = Limbs((("x", (1,), 1.0),))
    total = through_the_grid(tenths, [{"x": np.array([x])} for x in (0.1, 0.2, 0.3)])["x"]
    assert total.over(3.0)[0] == 0.2
    assert total.value[0] / 3.0 != pytest.approx(0.2, rel=1e-17, abs=0.0)
