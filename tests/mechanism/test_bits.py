"""The choice of bits: the formula, its inverse, published calibrations, and wraps counted on real rotated sums."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.mechanism.bits import WRAPS, certain_bits, choose_bits, choose_scale, sum_deviation, wraps
from privfed.mechanism.encode import from_ring, to_ring
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.rotation import Rotation
from privfed.mechanism.rounding import conditional_round, rounding_bound
from privfed.mechanism.skellam import skellam


@given(bits=st.integers(1, 64), deviation=st.floats(1e-3, 1e20), dimension=st.integers(1, 10**9))
def test_wraps_are_the_normal_tail(bits: int, deviation: float, dimension: int) -> None:
    with mpmath.workprec(80):
        tail = mpmath.erfc(mpmath.mpf(2) ** (bits - 1) / (deviation * mpmath.sqrt(2)))
        expected = min(1.0, float(dimension * tail))
    assert wraps(bits=bits, deviation=deviation, dimension=dimension) == pytest.approx(expected, rel=1e-9, abs=1e-290)


def test_bound_of_the_design_is_about_six_and_a_half_deviations() -> None:
    assert wraps(bits=16, deviation=2.0**15 / 6.5, dimension=2**20) == pytest.approx(WRAPS, rel=0.2)


def test_deviation_is_the_designs_formula() -> None:
    # rho (c s n)^2 / d + n / 4 + n s_local^2
    expected = 0.3 * (2.0 * 100 * 50) ** 2 / 4096 + 50 / 4 + 50 * 7.0
    assert sum_deviation(norm=200.0, clients=50, block=4096, share_variance=7.0, alignment=0.3) == pytest.approx(
        math.sqrt(expected)
    )


@pytest.mark.parametrize(
    ("bits", "scale", "local"),
    [
        (16, 146_759.80223734022, 0.005574215084534103),
        (18, 590_795.2098157316, 0.0055386798171542856),
        (16, 241_886.29886894845, 0.00337401904850061),
        (14, 74_113.8812541092, 0.0027477327432610596),
        (12, 8531.220903628151, 0.0059940440964161845),
    ],
)
def test_published_calibrations_come_out(bits: int, scale: float, local: float) -> None:
    # The scales of the reference implementation of arXiv:2110.04995 for EMNIST: 100 clients of norm 0.03 in 2^20
    # dimensions, local noise as given, four standard deviations in the ring.
    def deviation(candidate: float) -> float:
        share = (local * candidate) ** 2
        return sum_deviation(norm=0.03 * candidate, clients=100, block=2**20, share_variance=share)

    four = wraps(bits=bits, deviation=2.0 ** (bits - 1) / 4, dimension=1)
    assert choose_scale(deviation, bits=bits, dimension=1, at_most=four).scale == pytest.approx(scale, rel=1e-3)


@given(
    bits=st.integers(6, 40),
    clients=st.integers(1, 1000),
    norm=st.floats(1e-3, 1e3),
    multiplier=st.floats(0, 10),
    dimension=st.integers(1, 10**7),
)
def test_chosen_scale_is_the_finest_that_fits(
    bits: int, clients: int, norm: float, multiplier: float, dimension: int
) -> None:
    def deviation(scale: float) -> float:
        share = (multiplier * scale) ** 2 / clients
        return sum_deviation(norm=norm * scale, clients=clients, block=4096, share_variance=share)

    try:
        grid = choose_scale(deviation, bits=bits, dimension=dimension)
    except UsageError:
        assert wraps(bits=bits, deviation=math.sqrt(clients / 4), dimension=dimension) > WRAPS
        return
    assert grid.wraps == wraps(bits=bits, deviation=grid.deviation, dimension=dimension) <= WRAPS
    assert grid.deviation == deviation(grid.scale)
    assert wraps(bits=bits, deviation=deviation(grid.scale * 1.001), dimension=dimension) > WRAPS
    assert choose_bits(deviation=grid.deviation, dimension=dimension) in (bits - 1, bits)


def test_scale_is_no_finer_than_wanted() -> None:
    grid = choose_scale(
        lambda s: sum_deviation(norm=s, clients=10, block=64, share_variance=0.0), bits=32, dimension=64, finest=100.0
    )
    assert grid.scale == 100.0


CLIENTS, DIMENSION = 40, 4096


def share_variance(scale: float) -> float:
    return (0.35 * scale) ** 2 / CLIENTS


def deviation(scale: float) -> float:
    return sum_deviation(norm=scale, clients=CLIENTS, block=DIMENSION, share_variance=share_variance(scale))


def measured(*, bits: int, scale: float, rounds: int, first: int = 0) -> tuple[int, float]:
    """Coordinates that wrapped, and the variance of the sum, over whole rounds: rotate, round, noise, ring, add."""
    bound = rounding_bound(norm=scale * (1 + 1e-9), dimension=DIMENSION)
    wrapped, squares = 0, 0.0
    for number in range(first, first + rounds):
        rotation = Rotation(DIMENSION, number.to_bytes(32, "big"))
        stream = Keystream.seeded(number.to_bytes(4, "big"))
        # All clients send the same vector, its length in 100 coordinates: the worst alignment, far from flat.
        vector = np.zeros(DIMENSION)
        vector[np.random.default_rng(number).integers(0, DIMENSION, 100)] = 1.0
        vector *= scale / np.linalg.norm(vector)
        exact = np.zeros(DIMENSION, dtype=np.int64)
        ring = to_ring(exact, bits=bits)
        for _ in range(CLIENTS):
            values = conditional_round(rotation.apply(vector), bound, stream).values
            values += skellam(share_variance(scale), DIMENSION, stream)
            exact += values
            ring += to_ring(values, bits=bits)
        wrapped += int(np.count_nonzero(from_ring(ring, bits=bits) != exact))
        squares += float((exact.astype(np.float64) ** 2).mean())
    return wrapped, squares / rounds


def test_wraps_at_a_coarse_setting_are_as_many_as_the_formula_says() -> None:
    # 2.4 deviations in the ring: two percent of the coordinates wrap, enough to be counted. The formula takes the worst
    # case of rounding, so the count may be a little below it.
    rounds, scale, bits = 12, 75.0, 8
    expected = DIMENSION * math.erfc(2.0 ** (bits - 1) / (deviation(scale) * math.sqrt(2)))
    assert 20 < expected < 400
    wrapped, variance = measured(bits=bits, scale=scale, rounds=rounds)
    assert variance == pytest.approx(deviation(scale) ** 2, rel=0.05)
    assert 0.75 * expected < wrapped / rounds < 1.1 * expected
    # The test tells a deviation 10 % off from the true one.
    off = DIMENSION * math.erfc(2.0 ** (bits - 1) / (1.1 * deviation(scale) * math.sqrt(2)))
    assert wrapped / rounds < 0.75 * off


def test_no_sum_wraps_in_a_few_rounds_of_the_chosen_setting() -> None:
    grid = choose_scale(deviation, bits=12, dimension=DIMENSION)
    assert 2.0**11 / grid.deviation == pytest.approx(5.6, rel=0.02)
    assert measured(bits=12, scale=grid.scale, rounds=3) == (0, pytest.approx(grid.deviation**2, rel=0.1))


@pytest.mark.slow
def test_no_sum_wraps_in_many_rounds_of_the_chosen_setting() -> None:
    grid = choose_scale(deviation, bits=12, dimension=DIMENSION)
    assert measured(bits=12, scale=grid.scale, rounds=300)[0] == 0


@given(largest=st.floats(0, 1e15), clients=st.integers(1, 1000), noise=st.floats(0, 1e15))
def test_certain_bits_hold_the_largest_sum_and_no_fewer_do(largest: float, clients: int, noise: float) -> None:
    bits = certain_bits(largest=largest, clients=clients, noise=noise)
    total = clients * math.ceil(largest) + math.ceil(noise)
    assert total <= 2 ** (bits - 1) - 1
    assert bits == 2 or total > 2 ** (bits - 2) - 1
    for value in (total, -total):
        assert from_ring(to_ring(np.array([value]), bits=bits), bits=bits)[0] == value


@pytest.mark.parametrize(
    "call",
    [
        lambda: wraps(bits=0, deviation=1.0, dimension=1),
        lambda: wraps(bits=65, deviation=1.0, dimension=1),
        lambda: wraps(bits=8, deviation=math.nan, dimension=1),
        lambda: wraps(bits=8, deviation=1.0, dimension=0),
        lambda: sum_deviation(norm=-1.0, clients=1, block=1, share_variance=0.0),
        lambda: sum_deviation(norm=1.0, clients=0, block=1, share_variance=0.0),
        lambda: sum_deviation(norm=1.0, clients=1, block=1, share_variance=math.inf),
        lambda: sum_deviation(norm=1.0, clients=1, block=1, share_variance=1.0, alignment=1.5),
        lambda: choose_scale(lambda s: math.sqrt(1000.0 + s), bits=6, dimension=1000),
        lambda: choose_bits(deviation=1e30, dimension=1),
        lambda: certain_bits(largest=1e30, clients=1),
        lambda: certain_bits(largest=1.0, clients=0),
    ],
)
def test_arguments_out_of_range_are_refused(call: object) -> None:
    with pytest.raises(UsageError):
        call()  # type: ignore[operator]


def test_nothing_wraps_where_nothing_varies() -> None:
    assert wraps(bits=8, deviation=0.0, dimension=100) == 0.0
