"""The sampler's law: against the exact probabilities, and refusing a scale that is 2 % wrong; every decision exact."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import chdtrc, ndtr

from privfed.errors import UsageError
from privfed.mechanism import discrete_gaussian as module
from privfed.mechanism.discrete_gaussian import (
    DISTANCE_BITS,
    MAX_SIGMA,
    TABLE_SIGMA,
    Blocks,
    discrete_gaussian,
    distance_bits,
)
from privfed.mechanism.randomness import Keystream
from tests.mechanism.planted import Planted, table_arrays

SIGMAS = [0.3, 1.0, 3.7, 10.0, 400.0, 513.0, 1000.0, 5000.0, 123456.7, 1.37 * 2.0**30, 2.0**50]
FALSE_ALARM = 1e-6  # of a chi-square test that should pass; seeds are fixed, so it passes always or never
SAMPLES = 1_000_000


def sample(sigma: float, size: int, seed: bytes = b"law") -> npt.NDArray[np.int64]:
    return discrete_gaussian(sigma, size, Keystream.seeded(seed))


def probabilities(sigma: float, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Exact probability of each bin (-inf, e0), [e0, e1), ..., [en, inf), by a route of its own."""
    if sigma <= 20_000:
        k = np.arange(-int(15 * sigma) - 20, int(15 * sigma) + 21)
        mass = np.exp(-(k**2) / (2 * sigma**2))
        parts = np.split(mass, np.searchsorted(k, edges))
        sums = np.array([math.fsum(part) for part in parts])
        return sums / math.fsum(sums)
    # Euler-Maclaurin: the sum over [a, b) is the integral from a - 1/2 to b - 1/2 up to a relative 1 / (24 sigma^2).
    cumulative = ndtr((edges - 0.5) / sigma)
    return np.diff(cumulative, prepend=0.0, append=1.0)


def bins(sigma: float) -> npt.NDArray[np.int64]:
    """Up to 120 edges, finer in the middle; no bin so rare that the chi-square approximation suffers."""
    edges = np.concatenate([np.linspace(-3.5, 3.5, 113), [-4.0, -3.75, 3.75, 4.0]]) * max(sigma, 0.6)
    return np.unique(np.ceil(edges).astype(np.int64))


def chi_square(noise: npt.NDArray[np.int64], sigma: float) -> float:
    """p-value of the noise under the discrete Gaussian of this sigma."""
    edges = bins(sigma)
    expected = probabilities(sigma, edges) * len(noise)
    observed = np.bincount(np.searchsorted(edges, noise, side="right"), minlength=len(edges) + 1)
    keep = expected >= 10
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    rest = (observed[~keep].sum(), expected[~keep].sum())
    if rest[1] > 1:
        statistic += (rest[0] - rest[1]) ** 2 / rest[1]
    return float(chdtrc(keep.sum() - 1 + (rest[1] > 1), statistic))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_law_is_accepted_and_two_per_cent_off_is_rejected(sigma: float) -> None:
    noise = sample(sigma, SAMPLES)
    assert chi_square(noise, sigma) > FALSE_ALARM
    assert chi_square(noise, sigma * 1.02) < FALSE_ALARM
    assert chi_square(noise, sigma / 1.02) < FALSE_ALARM


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_test_sees_a_shift_a_sign_bias_and_a_doubled_zero(sigma: float) -> None:
    noise = sample(sigma, SAMPLES, b"power")
    assert chi_square(noise, sigma) > FALSE_ALARM
    assert chi_square(noise + max(1, round(0.01 * sigma)), sigma) < FALSE_ALARM
    flipped = np.where(np.arange(len(noise)) % 64 == 0, np.abs(noise), noise)  # one in 64 always positive
    assert sigma < 1 or chi_square(flipped, sigma) < FALSE_ALARM


@pytest.mark.parametrize("sigma", SIGMAS)
def test_moments_and_symmetry(sigma: float) -> None:
    noise = sample(sigma, SAMPLES, b"moments").astype(np.float64)
    n = len(noise)
    k = np.arange(-int(15 * sigma) - 20, int(15 * sigma) + 21) if sigma <= 20_000 else None
    mass = None if k is None else np.exp(-(k**2) / (2 * sigma**2))

    def moment(power: int) -> float:
        if k is None or mass is None:
            return sigma**power * math.prod(range(1, power, 2))
        return float((mass * k.astype(np.float64) ** power).sum() / mass.sum())

    for power in (1, 2, 3, 4):
        true = moment(power) if power % 2 == 0 else 0.0
        spread = math.sqrt((moment(2 * power) - true**2) / n)
        assert abs((noise**power).mean() - true) < 5 * spread
    positive, negative = (noise > 0).sum(), (noise < 0).sum()
    assert abs(positive - negative) < 5 * math.sqrt(positive + negative)


@pytest.mark.parametrize("sigma", [513.0, 600.0, 1500.0])
def test_every_integer_near_zero_has_its_own_probability(sigma: float) -> None:
    # Bins of one integer: sees a zero counted twice, a block edge left out, a place in the block that is not uniform.
    noise = np.concatenate([sample(sigma, SAMPLES, bytes([i])) for i in range(4)])
    near = noise[np.abs(noise) <= 200]
    observed = np.bincount(near + 200, minlength=401)
    expected = probabilities(sigma, np.arange(-200, 202))[1:-1] * len(noise)
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert chdtrc(401, statistic) > FALSE_ALARM
    observed[200] *= 2
    assert chdtrc(401, ((observed - expected) ** 2 / expected).sum()) < FALSE_ALARM


@pytest.mark.parametrize("sigma", [513.0, 5000.0, 2.0**30, 2.0**50])
def test_low_bits_are_uniform_and_signs_independent_of_size(sigma: float) -> None:
    noise = sample(sigma, SAMPLES, b"bits")
    low = np.bincount(np.abs(noise) & 7, minlength=8)
    assert chdtrc(7, ((low - SAMPLES / 8) ** 2 / (SAMPLES / 8)).sum()) > FALSE_ALARM
    large = np.abs(noise) > sigma
    for group in (noise[large], noise[~large]):
        assert abs((group > 0).sum() - (group < 0).sum()) < 5 * math.sqrt(len(group))
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 5 / math.sqrt(SAMPLES)


def test_two_constructions_agree_where_both_work(monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks of width 2 at sigma 150, small enough that all probabilities are summed exactly.
    assert chi_square(sample(150.3, SAMPLES), 150.3) > FALSE_ALARM
    monkeypatch.setattr(module, "TABLE_SIGMA", 140.0)
    assert chi_square(sample(150.3, SAMPLES), 150.3) > FALSE_ALARM


def block_law(sigma: float) -> dict[int, mpmath.mpf]:
    """The law of one kept candidate, enumerated: block, place, acceptance, sign, minus zero rejected."""
    blocks = module._blocks(sigma)
    width = 2**blocks.shift
    edges = [
        0,
        *((int(h) << 64) | int(low) for h, low in zip(blocks.table.high, blocks.table.low, strict=True)),
        2**128,
    ]
    law: dict[int, mpmath.mpf] = {}
    for j in range(blocks.table.entries):
        chosen = mpmath.mpf(edges[j + 1] - edges[j]) / 2**128
        for u in range(width):
            k = width * j + u
            keep = chosen / width * mpmath.exp(-mpmath.mpf(u * (2 * width * j + u)) / (2 * mpmath.mpf(sigma) ** 2)) / 2
            law[k] = keep
            if k:
                law[-k] = keep
    total = mpmath.fsum(law.values())
    assert total > 0.98
    return {k: p / total for k, p in law.items()}


def test_block_construction_is_exact_by_enumeration() -> None:
    sigma = 513.0
    with mpmath.workprec(400):
        law = block_law(sigma)
        reach = max(law)
        half = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for k in range(reach + 1)]
        total = 2 * mpmath.fsum(half) - 1
        distance = mpmath.fsum(abs(p - half[abs(k)] / total) for k, p in law.items()) / 2
        assert distance <= mpmath.mpf(2) ** -distance_bits(sigma)


# ---- single decisions, with planted bits


def candidate(blocks: Blocks, *, j: int, u: int, negative: bool, v: int, then: list[int]) -> tuple[int, bool, bool]:
    """One candidate from chosen bits: its value, whether it is kept, and whether all planted bits were used."""
    edges = [
        0,
        *((int(h) << 64) | int(low) for h, low in zip(blocks.table.high, blocks.table.low, strict=True)),
        2**128,
    ]
    word = (u << (64 - blocks.shift)) | (int(negative) << 16) | v
    arrays: list[npt.NDArray[Any]] = [np.array([word], dtype=np.uint64)]
    arrays += table_arrays([(edges[j] + edges[j + 1]) // 2], blocks.table)
    arrays += [np.array([bits], dtype=np.uint64) for bits in then]
    stream = Planted(arrays)
    out = np.empty(1, dtype=np.int64)
    rejected = module._candidates(blocks, out, stream)
    return int(out[0]), rejected.size == 0, stream.exhausted


def threshold_bits(blocks: Blocks, j: int, u: int, bits: int) -> int:
    with mpmath.workprec(1000):
        width = 2**blocks.shift
        x = mpmath.mpf(u * (2 * width * j + u)) / (
            2 * mpmath.mpf(blocks.sigma.numerator) ** 2 / blocks.sigma.denominator**2
        )
        return int(mpmath.floor(mpmath.exp(-x) * mpmath.mpf(2) ** bits))


@pytest.mark.parametrize("sigma", [513.0, 1000.0, 123456.7, 2.0**50])
@pytest.mark.parametrize("j", [0, 3, 100])
@pytest.mark.parametrize("offset", [-(2**60), -(2**40), -1, 0, 1, 2**40, 2**60])
def test_rejection_is_decided_exactly_at_its_threshold(sigma: float, j: int, offset: int) -> None:
    blocks = module._blocks(sigma)
    u = 2**blocks.shift - 1
    # V is planted `offset` units of 2^-80 from the threshold: at 2^60 float64 decides, at 2^40 big integers do, and
    # nearer than their error of 2 units only 64 further bits do.
    threshold = threshold_bits(blocks, j, u, 80)
    known = threshold + offset
    further = {-1: [2**64 - 1], 0: [2**63], 1: [0]}.get(offset, [])
    value, kept, used = candidate(blocks, j=j, u=u, negative=False, v=known >> 64, then=[known & (2**64 - 1), *further])
    assert value == 2**blocks.shift * j + u
    expected = offset < 0 or (offset == 0 and threshold_bits(blocks, j, u, 144) > (threshold << 64) + 2**63)
    assert (kept, used) == (expected, True)


def test_doubtful_candidates_near_the_threshold_go_to_big_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Fraction] = []
    exact = module.below_exp_minus

    def counted(x: Fraction, **rest: Any) -> bool:
        calls.append(x)
        return exact(x, **rest)

    monkeypatch.setattr(module, "below_exp_minus", counted)
    blocks = module._blocks(1000.0)
    for offset, expected in [(2**20, 1), (2**45, 2), (2**52, 2), (-(2**60), 2)]:
        known = threshold_bits(blocks, 5, 3, 80) + offset
        candidate(blocks, j=5, u=3, negative=True, v=known >> 64, then=[known & (2**64 - 1)])
        assert len(calls) == expected, f"offset {offset}"
    assert calls[0] == Fraction(3 * (2 * 8 * 5 + 3), 2 * 1000**2)


@pytest.mark.parametrize("sigma", [513.0, 5000.0, 1.1 * 2.0**40])
def test_floats_decide_as_big_integers_do(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    by_float = sample(sigma, 100_000, b"float")
    monkeypatch.setattr(module, "AMBIGUOUS", math.inf)
    assert (sample(sigma, 100_000, b"float") == by_float).all()


@given(sigma=st.floats(min_value=TABLE_SIGMA, max_value=MAX_SIGMA, exclude_min=True), data=st.data())
def test_quick_acceptance_is_never_wrong(sigma: float, data: st.DataObject) -> None:
    blocks = module._blocks(sigma)
    j = data.draw(st.integers(0, blocks.table.entries - 1))
    v = 2**16 - 1 - blocks.slope * (j + 1)  # the largest that is accepted without a look at u
    if v < 0:
        return
    u = 2**blocks.shift - 1  # the place least likely to be kept
    with mpmath.workprec(200):
        x = mpmath.mpf(u * (2 * 2**blocks.shift * j + u)) / (2 * mpmath.mpf(sigma) ** 2)
        assert mpmath.mpf(v + 1) / 2**16 <= mpmath.exp(-x)


@pytest.mark.parametrize(("negative", "kept"), [(False, True), (True, False)])
def test_minus_zero_is_rejected(negative: bool, kept: bool) -> None:
    value, was_kept, _ = candidate(module._blocks(5000.0), j=0, u=0, negative=negative, v=0, then=[])
    assert (value, was_kept) == (0, kept)


@pytest.mark.parametrize(("negative", "expected"), [(False, 64 * 7 + 5), (True, -(64 * 7 + 5))])
def test_bits_of_a_word_make_place_and_sign(negative: bool, expected: int) -> None:
    value, kept, used = candidate(module._blocks(5000.0), j=7, u=5, negative=negative, v=0, then=[])
    assert (value, kept, used) == (expected, True, True)


# ---- the interface


@given(sigma=st.one_of(st.floats(min_value=5e-324, max_value=700), st.floats(min_value=500, max_value=MAX_SIGMA)))
def test_any_float_is_a_scale_and_keeps_the_distance(sigma: float) -> None:
    noise = sample(sigma, 50)
    assert noise.dtype == np.int64
    assert np.abs(noise).max() <= 14 * sigma + 1
    assert distance_bits(sigma) >= DISTANCE_BITS >= 100


@pytest.mark.parametrize("size", [0, 1, module.CHUNK - 1, module.CHUNK, module.CHUNK + 1, 3 * module.CHUNK + 7])
@pytest.mark.parametrize("sigma", [2.0, 1000.0])
def test_any_size_is_filled(size: int, sigma: float) -> None:
    noise = sample(sigma, size)
    assert noise.shape == (size,)
    assert size < 100 or abs(noise.std() / sigma - 1) < 5 / math.sqrt(2 * size)


def test_tiny_scales_give_zero() -> None:
    assert not sample(1e-300, 1000).any()
    assert not sample(5e-324, 1000).any()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, math.nextafter(MAX_SIGMA, math.inf)])
def test_scales_out_of_range_are_refused(sigma: float) -> None:
    for call in (lambda: sample(sigma, 1), lambda: distance_bits(sigma)):
        with pytest.raises(UsageError, match="sigma is"):
            call()


def test_negative_size_is_refused() -> None:
    with pytest.raises(UsageError, match="size is -1"):
        sample(1.0, -1)


def test_two_calls_on_one_stream_are_independent() -> None:
    stream = Keystream.seeded(b"one stream")
    first, second = discrete_gaussian(50.0, 10_000, stream), discrete_gaussian(50.0, 10_000, stream)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert not (first == second).all()
