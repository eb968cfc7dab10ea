"""The statistics of the mask lint: right on what can be counted, valid under uniformity, awake otherwise."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privfed.audit.findings import Finding, Outcome, judge
from privfed.audit.masks.statistics import (
    byte_lanes,
    coincidences,
    homogeneity,
    linear_complexity,
    linear_complexity_p,
    repetitions,
    subtract,
    uniformity,
)


def shortest_register(bits: tuple[int, ...]) -> int:
    """Linear complexity by trying every register, the shortest first."""
    for length in range(len(bits) + 1):
        for taps in itertools.product((0, 1), repeat=length):
            if all(
                bits[n] == sum(tap & bits[n - 1 - k] for k, tap in enumerate(taps)) % 2
                for n in range(length, len(bits))
            ):
                return length
    raise AssertionError


def test_linear_complexity_is_that_of_the_shortest_register() -> None:
    for n in range(1, 9):
        for bits in itertools.product((0, 1), repeat=n):
            assert linear_complexity(np.array(bits)) == shortest_register(bits)


def test_the_p_value_of_a_complexity_bounds_the_share_of_sequences() -> None:
    n = 12
    found = Counter(linear_complexity(np.array(bits)) for bits in itertools.product((0, 1), repeat=n))
    for complexity in range(n + 1):
        share = sum(count for c, count in found.items() if c <= complexity) / 2**n
        assert share <= linear_complexity_p(complexity, n) <= 1.0
    assert linear_complexity_p(2, n) == 2.0**-8


@given(st.integers(0, 2**32 - 1))
def test_a_mersenne_twister_is_known_by_its_complexity_through_sums(seed: int) -> None:
    generator = np.random.RandomState(seed)
    values = sum(generator.randint(0, 2**32 - 1, 2_000, dtype=np.int64) for _ in range(2))
    xorshift = seed or 1
    low = []
    for _ in range(200):  # a 32-bit xorshift: complexity at most 32
        xorshift ^= xorshift << 13 & 0xFFFFFFFF
        xorshift ^= xorshift >> 17
        xorshift ^= xorshift << 5 & 0xFFFFFFFF
        low.append(xorshift & 1)
    assert linear_complexity(np.array(low)) <= 32
    assert linear_complexity(np.asarray(values) & 1) > 900  # a short piece of the Twister is not told from chance


def test_coincidences_are_binomial() -> None:
    first, second = np.arange(50, dtype=np.uint64), np.arange(50, dtype=np.uint64)
    second[3:] += np.uint64(1)
    expected = stats.binom.sf(2, 50, 1 / 64)
    assert coincidences(first, second, 64) == pytest.approx(expected, rel=1e-9)
    assert coincidences(first, first + np.uint64(1), 64) == 1.0
    assert coincidences(first, first, 1 << 64) == 0.0


def test_uniformity_is_the_two_sided_chi_square() -> None:
    counts = np.array([90, 110, 100, 130])
    upper = stats.chisquare(counts).pvalue
    assert uniformity(counts) == pytest.approx(2 * min(upper, 1 - upper), rel=1e-9)
    assert uniformity(np.array([1000] * 256)) < 1e-300  # more even than chance ever is: a counter, no mask
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    assert uniformity(counts, share=shares) == pytest.approx(2 * stats.chisquare(counts, shares * 430).pvalue, rel=1e-9)


def uniform(rng: np.random.Generator, modulus: int, size: int = 20_000) -> np.ndarray:
    return rng.integers(0, modulus, size, dtype=np.uint64)


@pytest.mark.parametrize("modulus", [1 << 8, 1 << 12, 1 << 16, 1 << 32, (1 << 31) - 1, 2**61 - 1])
@pytest.mark.parametrize("statistic", [byte_lanes, repetitions], ids=lambda function: function.__name__)
def test_p_values_are_valid_under_uniformity(statistic: Callable[..., list[float]], modulus: int) -> None:
    rng = np.random.default_rng(7)
    p_values = np.array([p for _ in range(40) for p in statistic(uniform(rng, modulus, 6_000), modulus)])
    for level in (0.01, 0.1):
        allowed = stats.binom.ppf(1 - 1e-6, len(p_values), level)
        assert (p_values <= level).sum() <= allowed


def test_homogeneity_is_valid_and_sees_a_shift_and_a_scale() -> None:
    rng = np.random.default_rng(8)
    same = np.array([homogeneity(rng.random(800), rng.random(900)) for _ in range(300)])
    assert 0.02 < (same < 0.1).mean() < 0.2
    assert homogeneity(rng.random(30_000), rng.random(30_000) * 0.98 + 0.02) < 1e-6
    assert homogeneity(rng.normal(size=3_000), rng.normal(size=3_000) * 1.3) < 1e-6
    assert homogeneity(np.zeros(9), np.zeros(9)) == 1.0


@pytest.mark.parametrize("lane", [0, 1, 2, 3])
def test_byte_lanes_see_a_bit_set_too_often(lane: int) -> None:
    rng = np.random.default_rng(lane)
    values = uniform(rng, 1 << 32, 40_960)
    values[rng.random(len(values)) < 0.1] |= np.uint64(1 << (8 * lane + 5))
    assert min(byte_lanes(values, 1 << 32)) < 1e-12


def test_byte_lanes_see_a_counter_and_neighbours_that_hang_together() -> None:
    assert min(byte_lanes(np.arange(40_960, dtype=np.uint64), 1 << 16)) < 1e-12
    rng = np.random.default_rng(1)
    values = uniform(rng, 1 << 32, 40_960)
    values[1::2] = values[0::2] & np.uint64(0xF) | values[1::2] & np.uint64(0xFFFFFFF0)
    assert min(byte_lanes(values, 1 << 32)) < 1e-12


def test_a_range_that_ends_early_is_seen_where_the_modulus_is_no_power_of_two() -> None:
    rng = np.random.default_rng(2)
    prime = (1 << 31) - 1
    assert min(byte_lanes(uniform(rng, prime - (1 << 24), 40_960), prime)) < 1e-12


@pytest.mark.parametrize("period", [1, 2, 31, 64, 256, 624])
def test_repetitions_see_periods_and_counters(period: int) -> None:
    rng = np.random.default_rng(period)
    values = np.resize(uniform(rng, 1 << 32, period), 40_960)
    assert min(repetitions(values, 1 << 32)) < 1e-12
    assert min(repetitions(np.arange(100, dtype=np.uint64) * np.uint64(7) % np.uint64(2**31 - 1), 2**31 - 1)) < 1e-12


@given(
    st.sampled_from([2**8, 2**32, 2**64, 251, 2**31 - 1, 2**61 - 1, 2**64 - 59]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_subtraction_is_that_of_the_ring(modulus: int, first: int, second: int) -> None:
    first, second = first % modulus, second % modulus
    found = subtract(np.array([first], np.uint64), np.array([second], np.uint64), modulus)
    assert int(found[0]) == (first - second) % modulus


def test_judging_corrects_for_the_number_of_all_tests() -> None:
    outcomes = {"a": Outcome("a", p_values=(0.5, 2e-4)), "b": Outcome("b", p_values=(0.9,) * 8)}
    assert [finding.status for finding in judge(outcomes, false_alarm=1e-3)] == ["passed", "passed"]
    assert [finding.status for finding in judge(outcomes, false_alarm=3e-3)] == ["failed", "passed"]
    assert judge(outcomes, false_alarm=3e-3)[0].p_value == 2e-4
    assert [finding.tests for finding in judge(outcomes, false_alarm=3e-3)] == [2, 8]


def test_judging_keeps_findings_problems_and_refuses_what_is_no_number() -> None:
    skipped = Finding("c", "not examined", "no access")
    outcomes = {"a": Outcome("a", problem=True), "b": Outcome("b", p_values=(float("nan"), 0.5)), "c": skipped}
    a, b, c = judge(outcomes, false_alarm=1e-6)
    assert (a.status, b.status, c) == ("failed", "failed", skipped)
    assert (a.ok, b.ok, c.ok) == (False, False, True)
