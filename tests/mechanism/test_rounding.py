"""Conditional rounding: no vector gets past the bound, hardly any draw fails it, and the mean is right."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.errors import DataError, UsageError
from privfed.mechanism.clip import clip_l2
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.rounding import (
    BETA,
    MAX_ATTEMPTS,
    MAX_NORM,
    conditional_round,
    rounding_bound,
    stochastic_round,
)
from tests.mechanism.planted import Planted

Vector = npt.NDArray[np.float64]
NORMS = st.one_of(st.floats(1e-6, 3), st.floats(1, 1e5))
BETAS = st.one_of(st.just(BETA), st.floats(1e-9, 0.999))


def formula(norm: float, dimension: int, beta: float) -> float:
    """The bound of the design, squared, in plain floats."""
    root = math.sqrt(dimension)
    return min((norm + root) ** 2, norm**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + root / 2))


def adversarial(kind: int, norm: float, dimension: int, random: np.random.Generator) -> Vector:
    """Vectors of the largest allowed norm that a coarse grid treats worst."""
    if kind == 0:  # all length in one coordinate
        vector = np.zeros(dimension)
        vector[random.integers(dimension)] = norm
    elif kind == 1:  # spread evenly, so that everything may round up
        vector = np.full(dimension, norm / math.sqrt(dimension))
    elif kind == 2:  # halves: the largest variance
        vector = random.integers(-2, 2, size=dimension) + 0.5
    elif kind == 3:  # just above integers, so that a rounding up costs most
        vector = random.integers(-3, 4, size=dimension) + 1e-9
    else:
        vector = random.normal(size=dimension) * np.exp(3 * random.normal(size=dimension))
    return clip_l2(vector * (norm / max(float(np.linalg.norm(vector)), 1e-300)), norm)


@given(norm=NORMS, dimension=st.integers(1, 400), beta=BETAS, kind=st.integers(0, 4), seed=st.integers(0, 2**32))
def test_no_vector_gets_past_the_bound(norm: float, dimension: int, beta: float, kind: int, seed: int) -> None:
    vector = adversarial(kind, norm, dimension, np.random.default_rng(seed))
    bound = rounding_bound(norm=norm, dimension=dimension, beta=beta)
    rounded = conditional_round(vector, bound, Keystream.seeded(seed.to_bytes(8, "big")))
    values = [int(value) for value in rounded.values]
    assert rounded.values.dtype == np.int64
    assert sum(value * value for value in values) <= bound.square
    assert Fraction(bound.l2) ** 2 >= bound.square
    assert sum(map(abs, values)) <= bound.l1
    assert np.abs(rounded.values - vector).max() < 1
    assert 0 <= rounded.attempts <= MAX_ATTEMPTS


@given(norm=st.floats(1e-6, 1e6), dimension=st.integers(1, 10**6), beta=BETAS)
def test_bound_is_the_designs_formula(norm: float, dimension: int, beta: float) -> None:
    bound = rounding_bound(norm=norm, dimension=dimension, beta=beta)
    expected = formula(norm, dimension, beta)
    assert max(1, math.floor(expected * (1 - 1e-9))) <= bound.square <= max(1, expected * (1 + 1e-9))
    assert bound.l2 == pytest.approx(math.sqrt(bound.square), rel=1e-15)
    assert bound.l1 == pytest.approx(bound.l2 * min(math.sqrt(dimension), bound.l2), rel=1e-12)


@given(norm=st.floats(0.01, 100), dimension=st.integers(1, 1000))
def test_smaller_beta_never_lowers_the_bound(norm: float, dimension: int) -> None:
    squares = [rounding_bound(norm=norm, dimension=dimension, beta=beta).square for beta in (0.99, 0.6, 0.01, 1e-9)]
    assert squares == sorted(squares)


@pytest.mark.parametrize("beta", [0.9, BETA, 0.05])
@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize(("norm", "dimension"), [(0.4, 1), (2.0, 3), (8.0, 64), (300.0, 64), (3.0, 900)])
def test_one_attempt_fails_with_probability_at_most_beta(beta: float, kind: int, norm: float, dimension: int) -> None:
    vector = adversarial(kind, norm, dimension, np.random.default_rng(kind))
    square = rounding_bound(norm=norm, dimension=dimension, beta=beta).square
    trials = 2000
    draws = stochastic_round(np.tile(vector, trials), Keystream.seeded(b"beta")).reshape(trials, dimension)
    failures = np.count_nonzero((draws**2).sum(axis=1) > square)
    assert failures <= trials * beta + 5 * math.sqrt(trials * beta * (1 - beta))


def test_bound_is_nearly_attained_where_it_can_be() -> None:
    # Halves: the mean of the square is c^2 + d/4 exactly, and the default beta allows one deviation of slack beyond.
    vector = np.full(10_000, 0.5)
    norm = float(np.linalg.norm(vector))
    bound = rounding_bound(norm=norm, dimension=10_000)
    lengths = [conditional_round(vector, bound, Keystream.seeded(bytes([i]))).values.sum() for i in range(50)]
    assert 0.97 < np.mean(lengths) / bound.square < 1


def test_unconditional_rounding_would_break_the_bound() -> None:
    # The reason for the retries: of single draws, some are too long. Beta near 1 makes that frequent.
    vector = np.full(16, 0.25)
    bound = rounding_bound(norm=1.0, dimension=16, beta=0.999)
    draws = stochastic_round(np.tile(vector, 2000), Keystream.seeded(b"x")).reshape(2000, 16)
    too_long = np.count_nonzero((draws**2).sum(axis=1) > bound.square)
    assert too_long > 100
    attempts = [conditional_round(vector, bound, Keystream.seeded(bytes([i]))).attempts for i in range(200)]
    assert max(attempts) > 1


def test_rounding_is_unbiased_and_its_variance_is_that_of_a_coin() -> None:
    vector = np.repeat([0.0, 0.1, 0.5, -0.7, 12.3, -1e6 + 0.25], 100_000)
    rounded = stochastic_round(vector, Keystream.seeded(b"mean")).reshape(6, -1)
    for row, value in zip(rounded, vector[::100_000], strict=True):
        share = value - math.floor(value)
        deviation = math.sqrt(share * (1 - share) / 100_000)
        assert abs(row.mean() - value) <= 5 * deviation
        assert set(np.unique(row)) <= {math.floor(value), math.floor(value) + 1}
        assert abs(row.var() - share * (1 - share)) <= 0.01


def test_bias_of_conditioning_is_within_beta_a_coordinate() -> None:
    vector = np.full(64, 0.3)
    bound = rounding_bound(norm=2.4, dimension=64)
    rounded = [conditional_round(vector, bound, Keystream.seeded(i.to_bytes(2, "big"))).values for i in range(2000)]
    assert abs(np.mean(rounded) - 0.3) < 0.01 < BETA
    total = rounding_bound(norm=2.4, dimension=64, beta=0.999)
    biased = [conditional_round(vector, total, Keystream.seeded(i.to_bytes(2, "big"))).values for i in range(2000)]
    assert np.mean(rounded) - np.mean(biased) > 0.005  # little noise is bought with bias


def test_integers_come_back_unchanged() -> None:
    vector = np.array([3.0, -4.0, 0.0])
    rounded = conditional_round(vector, rounding_bound(norm=5.0, dimension=3), Keystream())
    assert (rounded.values.tolist(), rounded.attempts) == ([3, -4, 0], 1)


def planted_failures(count: int, dimension: int) -> list[npt.NDArray[Any]]:
    """Draws of zero: everything with a fraction goes up."""
    return [np.zeros(dimension, dtype=np.uint32) for _ in range(count)]


def test_draws_are_repeated_until_one_fits() -> None:
    vector = np.full(16, 0.25)
    bound = rounding_bound(norm=1.0, dimension=16)
    assert bound.square < 16  # all up is too long, all down is not
    stream = Planted([*planted_failures(3, 16), np.full(16, 2**32 - 1, dtype=np.uint32)])
    rounded = conditional_round(vector, bound, stream)
    assert (rounded.attempts, rounded.values.any(), stream.exhausted) == (4, np.False_, True)


@pytest.mark.parametrize(("ups", "kept"), [(6, True), (7, False)])
def test_a_draw_fits_up_to_the_bound_and_not_one_beyond(ups: int, kept: bool) -> None:
    vector = np.full(16, 0.25)
    bound = rounding_bound(norm=1.0, dimension=16, beta=0.89)
    assert bound.square == 6
    draw = np.where(np.arange(16) < ups, 0, 2**32 - 1).astype(np.uint32)
    rounded = conditional_round(vector, bound, Planted([draw, np.full(16, 2**32 - 1, dtype=np.uint32)]))
    assert (rounded.attempts, int(rounded.values.sum())) == ((1, ups) if kept else (2, 0))


def test_endless_bad_luck_ends_at_zero_side() -> None:
    vector = np.concatenate([np.full(15, 0.25), [-1.75]])
    bound = rounding_bound(norm=2.1, dimension=16)
    stream = Planted(planted_failures(MAX_ATTEMPTS, 16))
    # All up: fifteen ones and a -1, sixteen in all.
    assert bound.square < 16
    rounded = conditional_round(vector, bound, stream)
    assert (rounded.attempts, stream.exhausted) == (0, True)
    assert rounded.values.tolist() == [0] * 15 + [-1]


def test_vector_a_trace_too_long_is_refused_rather_than_let_through() -> None:
    vector = np.array([1.0 + 2.0**-21])
    bound = rounding_bound(norm=1.0, dimension=1)
    assert bound.square == 2  # rounded up, the vector has the square 4; rounded down or towards zero, 1
    assert conditional_round(vector, bound, Planted(planted_failures(MAX_ATTEMPTS, 1))).values.tolist() == [1]


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [0.0, -math.inf], [2.0, 0.1], [1e200, 1e200]])
def test_long_or_broken_vectors_are_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match="norm 2"):
        conditional_round(bad, rounding_bound(norm=2.0, dimension=2), Keystream())


@pytest.mark.parametrize(
    "change",
    [{"norm": 0.0}, {"norm": math.nan}, {"norm": math.inf}, {"dimension": 0}, {"beta": 0.0}, {"beta": 1.0}],
)
def test_arguments_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"norm is|dimension is"):
        rounding_bound(**({"norm": 1.0, "dimension": 4, "beta": 0.5} | change))  # type: ignore[arg-type]


def test_vectors_of_the_fine_grid_are_sent_there() -> None:
    with pytest.raises(UsageError, match=r"expected at most 2\^26: lower the scale, or use the fine"):
        rounding_bound(norm=MAX_NORM, dimension=100)
    with pytest.raises(UsageError, match=r"shape \(3,\), expected \(4,\)"):
        conditional_round(np.zeros(3), rounding_bound(norm=1.0, dimension=4), Keystream())


# ---- one rounding, for sums of records


@given(
    one=hnp.arrays(np.float64, 20, elements=st.floats(-1e6, 1e6)),
    step=hnp.arrays(np.float64, 20, elements=st.floats(-3, 3)),
    seed=st.binary(max_size=8),
)
def test_coupled_roundings_of_neighbours_are_within_the_bound(one: Vector, step: Vector, seed: bytes) -> None:
    # The proof's coupling, executed: the same uniforms, vectors e apart, integers at most e + sqrt d apart.
    other = one + step
    apart = float(np.linalg.norm(other - one))
    difference = stochastic_round(one, Keystream.seeded(seed)) - stochastic_round(other, Keystream.seeded(seed))
    assert np.linalg.norm(difference) <= apart + math.sqrt(20)
    assert (np.abs(difference) <= np.ceil(np.abs(other - one) + 1e-9)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2.0**53])
def test_values_beyond_the_grid_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match=r"beyond 2\^52"):
        stochastic_round([0.0, bad], Keystream())
