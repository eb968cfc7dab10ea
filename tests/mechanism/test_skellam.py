"""Skellam noise: its law against the exact probabilities, closed under sums, and every decision exact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtrc, ive

from privfed.errors import UsageError
from privfed.mechanism import discrete_gaussian as gaussian
from privfed.mechanism import skellam as module
from privfed.mechanism.exact import EXP_ERROR
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.skellam import (
    DISTANCE_BITS,
    MAX_VARIANCE,
    TABLE_VARIANCE,
    distance_bits,
    skellam,
)
from tests.mechanism.planted import Planted

VARIANCES = [0.1, 1.0, 13.7, 100.0, 160_000.0, TABLE_VARIANCE + 1, 1e6, 25e6, 1.37 * 2.0**60, MAX_VARIANCE]
FALSE_ALARM = 1e-6  # of a test that should pass; seeds are fixed, so it passes always or never
SAMPLES = 1_000_000


def sample(variance: float, size: int, seed: bytes = b"law") -> npt.NDArray[np.int64]:
    return skellam(variance, size, Keystream.seeded(seed))


def log_probability(k: npt.NDArray[np.float64], variance: float) -> npt.NDArray[np.float64]:
    """log P(k): scipy's Bessel function where it holds, the first terms of the uniform expansion where it does not."""
    if variance <= 1e5:
        return np.log(np.maximum(ive(np.abs(k), variance), 1e-300))
    t = k / variance
    root = np.hypot(1, t)
    first = (1 - 5 / 3 * (t / root) ** 2) / (8 * variance * root)
    exponent = variance * ((t * t) / (1 + root) - t * np.arcsinh(t))
    return exponent - 0.5 * np.log(2 * np.pi * variance * root) + np.log1p(first)


@cache
def bins(variance: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Up to 120 edges, finer in the middle, and the probability of each bin."""
    scale = math.sqrt(variance)
    edges = np.concatenate([np.linspace(-3.5, 3.5, 113), [-4.0, -3.75, 3.75, 4.0]]) * max(scale, 0.6)
    edges = np.unique(np.ceil(edges).astype(np.int64))
    if scale <= 6000:
        k = np.arange(-int(15 * scale) - 40, int(15 * scale) + 41)
        mass = np.exp(log_probability(k.astype(np.float64), variance))
        sums = np.array([math.fsum(part) for part in np.split(mass, np.searchsorted(k, edges))])
        return edges, sums / math.fsum(sums)
    # The law is normal up to a relative 1/variance; a sum over [a, b) is the integral from a - 1/2 to b - 1/2.
    cumulative = np.array([float(mpmath.ncdf((float(edge) - 0.5) / scale)) for edge in edges])
    return edges, np.diff(cumulative, prepend=0.0, append=1.0)


def chi_square(noise: npt.NDArray[np.int64], variance: float) -> float:
    """p-value of the noise under the Skellam law of this variance."""
    edges, probabilities = bins(variance)
    expected = probabilities * len(noise)
    observed = np.bincount(np.searchsorted(edges, noise, side="right"), minlength=len(edges) + 1)
    keep = expected >= 10
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    rest = (observed[~keep].sum(), expected[~keep].sum())
    if rest[1] > 1:
        statistic += (rest[0] - rest[1]) ** 2 / rest[1]
    return float(chdtrc(keep.sum() - 1 + (rest[1] > 1), statistic))


@pytest.mark.parametrize("variance", VARIANCES)
def test_law_is_accepted_and_a_sigma_two_per_cent_off_is_rejected(variance: float) -> None:
    noise = sample(variance, SAMPLES)
    assert chi_square(noise, variance) > FALSE_ALARM
    assert chi_square(noise, variance * 1.02**2) < FALSE_ALARM
    assert chi_square(noise, variance / 1.02**2) < FALSE_ALARM


@pytest.mark.parametrize("variance", [0.1, 1.0, 13.7, 100.0, TABLE_VARIANCE + 1, 1e9])
def test_moments_tell_it_from_a_discrete_gaussian(variance: float) -> None:
    # Cumulants: all odd ones vanish, all even ones equal the variance; the fourth of a Gaussian is zero.
    noise = sample(variance, SAMPLES, b"moments").astype(np.float64)
    fourth = 3 * variance**2 + variance
    eighth = 105 * variance**4 + 210 * variance**3 + 63 * variance**2 + variance
    for power, true, square in [(1, 0.0, variance), (2, variance, fourth), (4, fourth, eighth)]:
        assert abs((noise**power).mean() - true) < 5 * math.sqrt((square - true**2) / SAMPLES)
    if variance <= 1:
        normal = gaussian.discrete_gaussian(math.sqrt(variance), SAMPLES, Keystream.seeded(b"other"))
        assert abs((normal.astype(np.float64) ** 4).mean() - fourth) > 20 * math.sqrt((eighth - fourth**2) / SAMPLES)


@pytest.mark.parametrize("parts", [[0.5] * 8, [1.0, 10.0, 100.0], [90_000.0, 200_000.0], [3e5, 7e5]])
def test_sums_of_shares_are_skellam_again(parts: list[float]) -> None:
    total = sum((sample(part, SAMPLES, bytes([i])) for i, part in enumerate(parts)), np.zeros(SAMPLES, dtype=np.int64))
    assert chi_square(total, math.fsum(parts)) > FALSE_ALARM
    assert chi_square(total, math.fsum(parts) * 1.02**2) < FALSE_ALARM


def test_difference_of_two_poissons_by_enumeration() -> None:
    # The definition itself: sum over j of Poisson(j + k) Poisson(j), against what the table holds.
    with mpmath.workprec(300):
        mean = mpmath.mpf("1.25")
        poisson = [mpmath.exp(-mean) * mean**j / mpmath.factorial(j) for j in range(200)]
        table = module._table(2.5)
        edges = [0, *((int(h) << 64) | int(w) for h, w in zip(table.high, table.low, strict=True)), 2**128]
        distance = mpmath.mpf(0)
        for i in range(table.entries):
            k = abs(table.first + i)
            exact = mpmath.fsum(poisson[j + k] * poisson[j] for j in range(200 - k))
            distance += abs(mpmath.mpf(edges[i + 1] - edges[i]) / 2**128 - exact)
        assert distance / 2 <= mpmath.mpf(2) ** -distance_bits(2.5)


# ---- the rejection of large variances

ENVELOPES = [math.nextafter(TABLE_VARIANCE, math.inf), 300_000.5, 4e6]


def exact_threshold(variance: float, k: int) -> mpmath.mpf:
    """T(k) by mpmath's own Bessel function."""
    sigma = mpmath.mpf(module._envelope(variance).sigma)
    ratio = mpmath.besseli(k, mpmath.mpf(variance)) / mpmath.besseli(0, mpmath.mpf(variance))
    return ratio * mpmath.exp(mpmath.mpf(k) ** 2 / (2 * sigma**2))


@pytest.mark.parametrize("variance", ENVELOPES)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_threshold_is_exact_below_one_and_above_its_bound(variance: float, fraction: float) -> None:
    envelope = module._envelope(variance)
    k = int(fraction * 14 * envelope.sigma)
    with mpmath.workprec(900):
        exact = exact_threshold(variance, k)
        for bits in (80, 144):
            assert abs(module._threshold(envelope, k, bits) - exact * mpmath.mpf(2) ** bits) < EXP_ERROR
        by_float = module._minus_log_threshold(envelope, np.array([k]))[0]
        assert abs(mpmath.exp(-by_float) - exact) < 2.0**-40
        assert exact <= 1
        assert exact >= mpmath.mpf(envelope.doubtful) / 2**16


@settings(max_examples=30, deadline=None)
@given(variance=st.floats(TABLE_VARIANCE, MAX_VARIANCE, exclude_min=True), fraction=st.floats(0, 1))
def test_floats_and_big_integers_agree_at_any_variance(variance: float, fraction: float) -> None:
    envelope = module._envelope(variance)
    assert Fraction(envelope.sigma) ** 2 >= Fraction(variance) + 40
    k = int(fraction * 14 * envelope.sigma)
    exact = Fraction(module._threshold(envelope, k, 80), 2**80)
    assert abs(Fraction(math.exp(-module._minus_log_threshold(envelope, np.array([k]))[0])) - exact) < Fraction(
        1, 2**40
    )
    assert Fraction(envelope.doubtful, 2**16) <= exact <= 1 + Fraction(EXP_ERROR, 2**80)


@pytest.mark.parametrize("variance", ENVELOPES)
def test_amos_bound_that_the_proof_stands_on(variance: float) -> None:
    with mpmath.workprec(900):
        for k in (0, 1, 7, 500, 7000):
            ratio = mpmath.besseli(k + 1, mpmath.mpf(variance)) / mpmath.besseli(k, mpmath.mpf(variance))
            assert mpmath.asinh(k / variance) < -mpmath.log(ratio) < mpmath.asinh((k + 1) / variance)
            assert -mpmath.log(ratio) >= mpmath.asinh((k + 0.5) / variance)


def decide(variance: float, k: int, leading: int, further: Iterable[int]) -> tuple[bool, bool]:
    """Whether a candidate is kept when its uniform begins with these bits, and whether all planted bits were used."""
    stream = Planted([np.array([word], dtype=np.uint64) for word in further])
    keep = module._keep(module._envelope(variance), np.array([k]), np.array([leading], dtype=np.uint16), stream)
    return bool(keep[0]), stream.exhausted


@pytest.mark.parametrize("variance", [ENVELOPES[1], 2.0**70])
@pytest.mark.parametrize("deviations", [1, 10])
@pytest.mark.parametrize("offset", [-(2**60), -(2**40), -1, 0, 1, 2**40, 2**60])
def test_rejection_is_decided_exactly_at_its_threshold(variance: float, deviations: int, offset: int) -> None:
    # V is planted `offset` units of 2^-80 from the threshold: at 2^60 float64 decides, at 2^40 big integers do, and
    # nearer than their error only 64 further bits do.
    k = int(deviations * math.sqrt(variance))
    fine = module._threshold(module._envelope(variance), k, 144)
    known = (fine >> 64) + offset
    if not 0 <= known < 2**80:
        return
    extra = {-1: [2**64 - 1], 0: [2**63], 1: [0]}.get(offset, [])
    expected = offset < 0 or (offset == 0 and (fine & (2**64 - 1)) > 2**63)
    assert decide(variance, k, known >> 64, [known & (2**64 - 1), *extra]) == (expected, True)


@pytest.mark.parametrize("variance", [ENVELOPES[0], 1e6])
def test_floats_decide_as_big_integers_do(variance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    by_float = sample(variance, 10_000, b"float")
    monkeypatch.setattr(gaussian, "AMBIGUOUS", math.inf)
    assert (sample(variance, 10_000, b"float") == by_float).all()


def test_candidates_are_rejected_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the rejection the law is the wider discrete Gaussian: the difference is real, if small.
    sizes: list[int] = []
    draw: Any = gaussian.discrete_gaussian

    def counted(sigma: float, size: int, keystream: Keystream) -> npt.NDArray[np.int64]:
        sizes.append(size)
        return draw(sigma, size, keystream)  # type: ignore[no-any-return]

    monkeypatch.setattr(gaussian, "discrete_gaussian", counted)
    sample(ENVELOPES[0], SAMPLES)
    # The share rejected is 1 - 1/(mean of 1/T over the law kept): about 40/(2 v).
    assert sizes[0] == SAMPLES
    assert 30 < sizes[1] < 140


# ---- the interface


@given(variance=st.one_of(st.floats(5e-324, 300_000.0), st.floats(250_000.0, MAX_VARIANCE)))
def test_any_float_is_a_variance_and_keeps_the_distance(variance: float) -> None:
    noise = sample(variance, 50)
    assert noise.dtype == np.int64
    assert np.abs(noise).max() <= 14.1 * math.sqrt(variance) + 40
    assert distance_bits(variance) >= DISTANCE_BITS >= 100


@pytest.mark.parametrize("variance", [2.0, 1e6])
@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_any_size_is_filled(size: int, variance: float) -> None:
    noise = sample(variance, size)
    assert noise.shape == (size,)
    assert size < 100 or abs(noise.astype(float).var() / variance - 1) < 5 * math.sqrt((2 + 1 / variance) / size)


def test_tiny_variances_give_zero() -> None:
    assert not sample(1e-300, 1000).any()


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, math.nextafter(MAX_VARIANCE, math.inf)])
def test_variances_out_of_range_are_refused(variance: float) -> None:
    for call in (lambda: sample(variance, 1), lambda: distance_bits(variance)):
        with pytest.raises(UsageError, match="variance is"):
            call()


def test_negative_size_is_refused() -> None:
    with pytest.raises(UsageError, match="size is -1"):
        sample(1.0, -1)
