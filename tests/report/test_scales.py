from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.report.scales import Axis, format_epsilon, format_number, make_scale

FINITE = st.floats(-1e12, 1e12, allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-9, 1e9, allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=1, max_size=20), st.integers(2, 10))
def test_a_linear_axis_holds_its_values_and_ticks(values: list[float], target: int) -> None:
    scale = make_scale(values, Axis("y"), target=target)
    room = 1e-6 * (scale.high - scale.low)
    assert scale.low - room <= min(values)
    assert scale.high + room >= max(values)
    assert list(scale.ticks) == sorted(scale.ticks)
    assert 2 <= len(scale.ticks) <= target + 3
    assert len(scale.labels) == len(scale.ticks)
    assert all(-1e-6 <= scale.position(tick) <= 1 + 1e-6 for tick in scale.ticks)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_a_logarithmic_axis_holds_its_values(values: list[float]) -> None:
    scale = make_scale([*values, 0.0, -1.0], Axis("y", logarithmic=True))
    largest = max(values)
    assert scale.high >= largest * (1 - 1e-6)
    assert scale.low <= max(min(values), largest * 1e-12) * (1 + 1e-6)
    assert len(scale.ticks) >= 2
    for value in values:
        if scale.shows(value):
            assert -1e-9 <= scale.position(value) <= 1 + 1e-9


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_integer_axes_have_integer_ticks_within_the_data(first: int, last: int) -> None:
    low, high = sorted((first, last))
    scale = make_scale([low, high], Axis("round", integer=True))
    assert all(tick == int(tick) for tick in scale.ticks)
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


def test_ticks_are_the_numbers_a_person_would_choose() -> None:
    assert make_scale([0.3, 4.02], Axis("epsilon", include=(0,))).labels == ("0", "1", "2", "3", "4", "5")
    assert make_scale([-30.1, -25.5], Axis("nats")).labels == ("−31", "−30", "−29", "−28", "−27", "−26", "−25")
    assert make_scale([1, 26], Axis("round", integer=True)).labels == ("1", "5", "10", "15", "20", "25")
    labels = make_scale([0.5, 45], Axis("epsilon", logarithmic=True)).labels
    assert labels == ("0.5", "1", "2", "5", "10", "20", "50")


def test_equal_factors_are_equally_long_on_a_logarithmic_axis() -> None:
    scale = make_scale([1, 1000], Axis("y", logarithmic=True))
    assert scale.position(10) - scale.position(1) == pytest.approx(scale.position(1000) - scale.position(100))


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf], [1e305, -1e305]])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_an_axis_without_a_usable_value_still_has_ticks(values: list[float], logarithmic: bool) -> None:
    scale = make_scale(values, Axis("y", logarithmic=logarithmic))
    assert len(scale.ticks) >= 2
    assert not scale.shows(math.inf)
    assert not scale.shows(math.nan)


@pytest.mark.parametrize(
    ("axis", "word"),
    [(Axis("y", include=(math.nan,)), "nan"), (Axis("y", logarithmic=True, include=(0.0,)), "0.0")],
)
def test_an_impossible_include_is_refused(axis: Axis, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        make_scale([1.0], axis)


def test_an_axis_needs_two_ticks() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        make_scale([1.0, 2.0], Axis("y"), target=1)


@given(st.floats(1e-300, 1e300))
def test_an_epsilon_is_never_shown_smaller_than_it_is(epsilon: float) -> None:
    shown = Decimal(format_epsilon(epsilon).replace(",", ""))
    assert shown >= Decimal(epsilon)
    assert shown <= Decimal(epsilon) * Decimal("1.0011")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.inf, "infinite"),
        (-math.inf, "−infinite"),
        (math.nan, "not known"),
        (-0.0, "0"),
        (-3.25, "−3.25"),
        (12345.6, "12,346"),
        (1.5e-7, "1.5e-07"),
        (1e15, "1e+15"),
    ],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert format_number(value) == text
