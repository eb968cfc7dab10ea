"""Adaptive clipping: one sensitivity for update and count, the paper's split of noise, convergence to the quantile."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.errors import DataError, UsageError
from privfed.mechanism.adaptive_clip import COUNT_SHARE, RATE, CountSplit, join, next_bound, separate, split
from privfed.mechanism.clip import MAX_BOUND, MIN_BOUND

UPDATES = hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e9, 1e9))
BOUNDS = st.floats(1e-6, 1e6)


@given(multiplier=st.floats(1e-3, 100), factor=st.floats(1.0001, 1e4))
def test_split_is_the_papers(multiplier: float, factor: float) -> None:
    deviation = multiplier / 2 * factor
    weights = split(multiplier=multiplier, count_deviation=deviation)
    # arXiv:1905.03871, Theorem 1: z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2)
    expected = (multiplier**-2 - (2 * deviation) ** -2) ** -0.5
    assert weights.update_multiplier(multiplier) == pytest.approx(expected, rel=1e-9)
    assert weights.count_deviation(multiplier) == pytest.approx(deviation, rel=1e-12)
    assert Fraction(weights.update_weight) ** 2 + Fraction(weights.count_weight) ** 2 <= 1


@given(update=UPDATES, bound=BOUNDS, multiplier=st.floats(0.01, 10), factor=st.floats(1.01, 100))
def test_joint_vector_is_within_the_bound_exactly(
    update: npt.NDArray[np.float64], bound: float, multiplier: float, factor: float
) -> None:
    weights = split(multiplier=multiplier, count_deviation=multiplier / 2 * factor)
    vector = join(update, bound=bound, weights=weights)
    assert vector.shape == (len(update) + 1,)
    assert sum((Fraction(float(x)) ** 2 for x in vector), Fraction(0)) <= Fraction(bound) ** 2
    # and it does not waste the bound: a clipped client attains it
    if np.linalg.norm(update) > bound * 1.001:
        assert np.linalg.norm(vector) > bound * (1 - 1e-12)


@given(scale=st.floats(1e-3, 1e3), bound=st.floats(0.1, 10))
def test_count_says_whether_the_update_was_short(scale: float, bound: float) -> None:
    weights = split(multiplier=1.0, count_deviation=2.0)
    update = np.array([0.6, 0.8]) * scale
    count = join(update, bound=bound, weights=weights)[-1] / (2 * weights.count_weight * bound)
    if abs(scale / bound - 1) > 1e-9:
        assert count == pytest.approx(0.5 if scale <= bound else -0.5)


@given(norms=st.lists(st.floats(0.01, 100), min_size=1, max_size=50), bound=st.floats(0.1, 10))
def test_sum_is_taken_apart_again(norms: list[float], bound: float) -> None:
    weights = split(multiplier=1.0, count_deviation=5.0)
    directions = np.random.default_rng(0).normal(size=(len(norms), 4))
    updates = directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.array(norms)[:, np.newaxis]
    total = np.sum([join(update, bound=bound, weights=weights) for update in updates], axis=0)
    lengths = np.linalg.norm(updates, axis=1)
    if np.abs(lengths / bound - 1).min() < 1e-9:
        return
    expected = (updates * np.minimum(1, bound / lengths)[:, np.newaxis]).sum(axis=0)
    update, fraction = separate(total, clients=len(norms), bound=bound, weights=weights)
    np.testing.assert_allclose(update, expected, atol=1e-9 * bound * len(norms))
    assert fraction == pytest.approx(np.mean(lengths <= bound), abs=1e-9)


def test_noise_lands_where_the_split_says() -> None:
    random, multiplier, clients, bound = np.random.default_rng(3), 2.0, 200, 0.7
    weights = split(multiplier=multiplier, count_deviation=COUNT_SHARE * clients)
    noise = random.normal(scale=multiplier * bound, size=(20_000, 2))
    parts = [separate(row, clients=clients, bound=bound, weights=weights) for row in noise]
    updates, fractions = np.array([part[0][0] for part in parts]), np.array([part[1] for part in parts])
    assert updates.std() == pytest.approx(weights.update_multiplier(multiplier) * bound, rel=0.02)
    assert fractions.std() * clients == pytest.approx(10.0, rel=0.02)
    assert fractions.mean() == pytest.approx(0.5, abs=0.002)
    assert weights.update_multiplier(multiplier) < 1.006 * multiplier  # what the count costs


@pytest.mark.parametrize(("quantile", "start"), [(0.2, 0.5), (0.5, 0.1), (0.5, 50.0), (0.8, 20.0)])
def test_bound_converges_to_the_quantile_under_noise(quantile: float, start: float) -> None:
    random, clients, multiplier = np.random.default_rng(5), 60, 1.0
    weights = split(multiplier=multiplier, count_deviation=COUNT_SHARE * clients)
    bound, path = start, []
    for _ in range(150):
        norms = random.lognormal(mean=1.0, sigma=0.8, size=clients)
        total = np.sum([join([norm], bound=bound, weights=weights) for norm in norms], axis=0)
        total += random.normal(scale=multiplier * bound, size=2)
        _, fraction = separate(total, clients=clients, bound=bound, weights=weights)
        bound = next_bound(bound, fraction, quantile=quantile, rate=0.4)
        path.append(bound)
    target = math.exp(1.0 + 0.8 * {0.2: -0.8416212336, 0.5: 0.0, 0.8: 0.8416212336}[quantile])
    assert np.exp(np.mean(np.log(path[-80:]))) == pytest.approx(target, rel=0.08)
    assert np.std(np.log(path[-80:])) < 0.25


@given(bound=st.floats(1e-3, 1e3), fraction=st.floats(-2, 3), quantile=st.floats(0, 1))
def test_step_is_geometric_and_limited(bound: float, fraction: float, quantile: float) -> None:
    moved = next_bound(bound, fraction, quantile=quantile)
    if abs(fraction - quantile) <= 1:
        assert moved == pytest.approx(bound * math.exp(-RATE * (fraction - quantile)))
    assert math.exp(-RATE) * (1 - 1e-12) <= moved / bound <= math.exp(RATE) * (1 + 1e-12)


def test_bound_stays_where_clipping_accepts_it() -> None:
    assert next_bound(MIN_BOUND, 1.0) == MIN_BOUND
    assert next_bound(MAX_BOUND, 0.0) == MAX_BOUND


@pytest.mark.parametrize(("multiplier", "deviation"), [(0.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_impossible_splits_are_refused(multiplier: float, deviation: float) -> None:
    with pytest.raises(UsageError, match="choose the clipping norm by hand"):
        split(multiplier=multiplier, count_deviation=deviation)


def test_misuse_is_refused() -> None:
    weights = CountSplit(update_weight=0.8, count_weight=0.6)
    with pytest.raises(UsageError, match="clients is 0"):
        separate(np.zeros(3), clients=0, bound=1.0, weights=weights)
    with pytest.raises(UsageError, match="fraction is nan"):
        next_bound(1.0, math.nan)
    for wrong in ({"quantile": 1.5}, {"rate": 0.0}, {"rate": math.nan}):
        with pytest.raises(UsageError, match="quantile is"):
            next_bound(1.0, 0.5, **wrong)
    with pytest.raises(DataError, match="NaN"):
        join([math.nan], bound=1.0, weights=weights)
