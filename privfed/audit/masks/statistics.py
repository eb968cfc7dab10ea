"""Statistics that tell masks from uniform ring elements: each returns p-values that are valid under uniformity."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, chdtr, chdtrc

__all__ = [
    "RingVector",
    "byte_lanes",
    "coincidences",
    "homogeneity",
    "linear_complexity",
    "linear_complexity_p",
    "repetitions",
    "uniformity",
]

RingVector = npt.NDArray[np.uint64]

# How far apart equal coordinates are looked for: neighbours, rows of small matrices, and the usual block sizes.
LAGS = (*range(1, 33), 64, 100, 128, 256, 512, 624, 1000, 1024, 4096)
LEAST_EXPECTED = 5.0  # counts per bin below which Pearson's statistic is no chi-square


def uniformity(counts: npt.NDArray[np.int64], *, share: npt.NDArray[np.float64] | None = None) -> float:
    """Return the two-sided p-value of Pearson's chi-square for `counts`: too uneven, or more even than chance allows.

    Args:
        counts: of each bin, shape `(bins,)`.
        share: expected part of each bin, summing to 1; equal parts by default.
    """
    total = float(counts.sum())
    expected = np.full(len(counts), total / len(counts)) if share is None else share * total
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = len(counts) - 1
    return min(1.0, 2.0 * min(float(chdtrc(degrees, statistic)), float(chdtr(degrees, statistic))))


def byte_lanes(values: RingVector, modulus: int) -> list[float]:
    """Return p-values for the uniformity of every byte of `values`, and of neighbouring coordinates' low nibbles.

    For a modulus that is no power of two: of 256 equal parts of the range instead, and of the low byte where the
    modulus is so large (2^32) that the unevenness of its remainder cannot be seen.
    """
    bits = modulus.bit_length() - 1
    if modulus != 1 << bits:
        parts = (values.astype(np.float64) * (256.0 / modulus)).astype(np.int64)
        p_values = [uniformity(np.bincount(np.minimum(parts, 255), minlength=256))]
        return p_values + ([_lane(values, 0, 8)] if modulus >= 1 << 32 else [])
    lanes = [(start, min(8, bits - start)) for start in range(0, bits, 8)]
    p_values = [_lane(values, start, width) for start, width in lanes if len(values) >= LEAST_EXPECTED * 2**width]
    if bits >= 4 and len(values) >= 2 * LEAST_EXPECTED * 256:
        nibbles = (values & np.uint64(15)).astype(np.int64)
        pairs = nibbles[0 : len(nibbles) - 1 : 2] * 16 + nibbles[1::2]
        p_values.append(uniformity(np.bincount(pairs, minlength=256)))
    return p_values


def _lane(values: RingVector, start: int, width: int) -> float:
    lane = (values >> np.uint64(start)) & np.uint64((1 << width) - 1)
    return uniformity(np.bincount(lane.astype(np.int64), minlength=1 << width))


def coincidences(first: RingVector, second: RingVector, modulus: int) -> float:
    """Return the p-value of as many equal coordinates, if the two were independent and uniform: binomial, exact."""
    equal = int(np.count_nonzero(first == second))
    return 1.0 if equal == 0 else float(bdtrc(equal - 1, len(first), 1.0 / modulus))


def repetitions(values: RingVector, modulus: int, *, lags: Iterable[int] = LAGS) -> list[float]:
    """Return p-values for repetition inside a vector: equal values, and equal steps, some coordinates apart.

    A mask of one scalar, a short mask used again and again, and a counter are caught.
    """
    usable = [lag for lag in lags if 2 * lag < len(values)]
    p_values = [coincidences(values[lag:], values[:-lag], modulus) for lag in usable]
    steps = subtract(values[1:], values[:-1], modulus)
    if len(steps) > 1:
        p_values.append(coincidences(steps[1:], steps[:-1], modulus))
    return p_values


def subtract(first: RingVector, second: RingVector, modulus: int) -> RingVector:
    """Return `first - second` modulo `modulus`; both reduced, modulus at most 2^64."""
    difference = first - second  # modulo 2^64
    if modulus & (modulus - 1) == 0:
        return difference & np.uint64(modulus - 1)
    return np.where(first >= second, difference, difference + np.uint64(modulus))


def homogeneity(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], *, bins: int = 32) -> float:
    """Return the p-value of two samples coming from one distribution: chi-square over the pooled sample's quantiles."""
    pooled = np.concatenate([first, second])
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, bins + 1)[1:-1]))
    table = np.stack(
        [np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1) for sample in (first, second)]
    )
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return float(chdtrc(table.shape[1] - 1, statistic))


def linear_complexity(bits: npt.NDArray[np.integer]) -> int:
    """Return the length of the shortest linear feedback shift register that makes `bits` (Massey 1969).

    Args:
        bits: zeros and ones, shape `(n,)`. Takes about 0.3 s for 40 000.
    """
    sequence = "".join(map(str, bits.tolist()))
    # `window` holds the bits seen so far, the latest at position 0, so that a connection polynomial meets it by `&`.
    window, connection, before, length, since = 0, 1, 1, 0, 1
    for position, bit in enumerate(sequence):
        window = (window << 1) | (bit == "1")
        if not ((connection & window).bit_count() & 1):
            since += 1
        elif 2 * length <= position:
            connection, before = connection ^ (before << since), connection
            length, since = position + 1 - length, 1
        else:
            connection ^= before << since
            since += 1
    return length


def linear_complexity_p(complexity: int, n: int) -> float:
    """Return P[linear complexity <= `complexity`] for `n` fair bits, rounded up.

    2^(2L-1) of the sequences have complexity L, for 1 <= L <= n/2 (Rueppel 1986), and one has 0: together less than
    2^(2L) of 2^n.
    """
    return 1.0 if 2 * complexity >= n else math.ldexp(1.0, max(2 * complexity - n, -1070))
