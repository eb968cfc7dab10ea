"""Clipping holds for the exact real norm of the floats that come out."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.errors import DataError, UsageError
from privfed.mechanism.clip import MAX_BOUND, MIN_BOUND, clip_l2, clip_rows

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NEAR = st.floats(min_value=-2, max_value=2)
VECTORS = st.one_of(
    hnp.arrays(np.float64, st.integers(0, 30), elements=FINITE),
    hnp.arrays(np.float64, st.integers(0, 30), elements=NEAR),
)
BOUNDS = st.one_of(st.floats(min_value=MIN_BOUND, max_value=MAX_BOUND), st.floats(min_value=0.1, max_value=10))


def squared_norm(vector: npt.NDArray[np.float64]) -> Fraction:
    return sum((Fraction(float(x)) ** 2 for x in vector), Fraction(0))


@given(vector=VECTORS, bound=BOUNDS)
def test_exact_norm_is_within_the_bound(vector: npt.NDArray[np.float64], bound: float) -> None:
    assert squared_norm(clip_l2(vector, bound)) <= Fraction(bound) ** 2


@given(seed=st.integers(0, 2**32), size=st.integers(1, 2000), ulps=st.integers(-3, 3))
def test_vectors_on_the_bound_are_held_to_it(seed: int, size: int, ulps: int) -> None:
    # Normalised in floats: half of these are too long by a rounding.
    vector = np.random.default_rng(seed).normal(size=size)
    vector /= np.linalg.norm(vector)
    bound = 1 + ulps * 2.0**-53
    assert squared_norm(clip_l2(vector, bound)) <= Fraction(bound) ** 2


def test_plain_scaling_would_break_the_bound() -> None:
    # The reason for the slack: the usual formula exceeds the bound for some of these vectors, ours for none.
    random = np.random.default_rng(1)
    vectors = random.normal(size=(200, 7))
    plain = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert any(squared_norm(row) > 1 for row in plain)
    assert not any(squared_norm(row) > 1 for row in clip_rows(vectors, 1.0))


@given(vector=VECTORS, bound=BOUNDS)
def test_direction_and_length_are_kept(vector: npt.NDArray[np.float64], bound: float) -> None:
    clipped = clip_l2(vector, bound)
    limit = Fraction(bound) ** 2
    slack = 1 - 10 * Fraction(len(vector) + 8, 2**53)
    if squared_norm(vector) <= limit * slack:
        assert (clipped == vector).all()
        return
    assert squared_norm(clipped) >= limit * slack
    largest = int(np.argmax(np.abs(vector)))
    ratio = Fraction(float(clipped[largest])) / Fraction(float(vector[largest]))
    for before, after in zip(vector, clipped, strict=True):
        error = abs(Fraction(float(after)) - ratio * Fraction(float(before)))
        assert (
            error <= Fraction(2.0**-50) * abs(Fraction(float(after))) + (1 + Fraction(bound)) / 2**1070
        )  # far smaller ones vanish


@given(vector=VECTORS, bound=BOUNDS)
def test_clipping_twice_changes_nothing(vector: npt.NDArray[np.float64], bound: float) -> None:
    once = clip_l2(vector, bound)
    assert (clip_l2(once, bound) == once).all()


def test_rows_are_clipped_one_by_one() -> None:
    rows = np.random.default_rng(3).normal(size=(50, 6)) * np.logspace(-200, 200, 50)[:, np.newaxis]
    rows[7] = 0.0
    clipped = clip_rows(rows, 2.0)
    for row, result in zip(rows, clipped, strict=True):
        np.testing.assert_allclose(result, clip_l2(row, 2.0), rtol=1e-15)
    assert clip_rows(np.empty((0, 5)), 1.0).shape == (0, 5)
    assert clip_rows(np.empty((5, 0)), 1.0).shape == (5, 0)


def test_input_is_left_alone_and_result_is_fresh() -> None:
    vector = np.array([3.0, 4.0])
    for bound in (1.0, 10.0):
        result = clip_l2(vector, bound)
        result[0] = -1.0
        assert (vector == [3.0, 4.0]).all()
    assert clip_l2([1, 2], 9.0).dtype == np.float64


@pytest.mark.parametrize("clip", [clip_l2, lambda vector, bound: clip_rows([vector], bound)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(clip: Callable[[list[float], float], object], bad: float) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        clip([1.0, bad, 2.0], 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, MIN_BOUND / 2, MAX_BOUND * 2])
def test_bounds_out_of_range_are_refused(bound: float) -> None:
    with pytest.raises(UsageError, match="bound is"):
        clip_l2([1.0], bound)


def test_shapes_are_checked() -> None:
    with pytest.raises(UsageError, match="one axis"):
        clip_l2([[1.0]], 1.0)
    with pytest.raises(UsageError, match="two axes"):
        clip_rows([1.0], 1.0)
