"""Tables: the inverse cumulative function at every boundary, and the distance they claim."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from privfed.mechanism import skellam
from privfed.mechanism.discrete_gaussian import _blocks, _table, distance_bits
from privfed.mechanism.tables import (
    UNDECIDED,
    CumulativeTable,
    cumulative_table,
    gaussian_weights,
    skellam_weights,
    table_distance_bits,
)
from tests.mechanism.planted import Planted, table_arrays

SIGMAS = [0.05, 0.3, 1.0, 3.7, 10.0, 100.0]


def boundaries(table: CumulativeTable) -> list[int]:
    return [(int(high) << 64) | int(low) for high, low in zip(table.high, table.low, strict=True)]


def draw(table: CumulativeTable, uniforms: list[int]) -> list[int]:
    stream = Planted(table_arrays(uniforms, table))
    out = np.empty(len(uniforms), dtype=np.int16)
    table.sample_into(out, np.empty(len(uniforms), dtype=np.uint16), stream)
    assert stream.exhausted
    return [int(value) for value in out]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_boundary_belongs_to_the_value_above_it(sigma: float) -> None:
    table = _table(sigma)
    edges = boundaries(table)
    assert edges == sorted(edges)
    uniforms = [u for edge in edges for u in (edge - 1, edge, edge + 1) if 0 <= u < 2**128] + [0, 2**128 - 1]
    expected = [table.first + bisect_right(edges, u) for u in uniforms]
    assert draw(table, uniforms) == expected


@pytest.mark.parametrize("sigma", SIGMAS)
def test_direct_entries_hold_for_their_whole_piece(sigma: float) -> None:
    table = _table(sigma)
    edges = boundaries(table)
    for piece in range(0, 1 << 16, 1 if sigma < 2 else 17):
        least = table.first + bisect_right(edges, piece << 112)
        most = table.first + bisect_right(edges, ((piece + 1) << 112) - 1)
        value = int(table.direct[piece])
        assert value == UNDECIDED or value == least == most


def test_ties_are_broken_among_boundaries_that_share_a_word() -> None:
    # Three boundaries with the same upper 64 bits: weights of 1, 5 and 7 units of 2^-128 in the middle of the law.
    table = cumulative_table([2**127, 1, 5, 7, 2**127 - 13], first=-2)
    edges = boundaries(table)
    assert edges == [2**127, 2**127 + 1, 2**127 + 6, 2**127 + 13]
    uniforms = [2**127 + i for i in range(-2, 16)]
    assert draw(table, uniforms) == [-2, -2, -1, 0, 0, 0, 0, 0, *[1] * 7, 2, 2, 2]


def test_refinement_uses_fresh_bits_only() -> None:
    # A sample whose 16 bits are undecided draws 48 more; one that is decided draws nothing.
    table = _table(1.0)
    places = np.flatnonzero(table.direct == UNDECIDED)
    undecided = int(places[len(places) // 2])  # not in a tail, where words tie
    decided = int(np.flatnonzero(table.direct != UNDECIDED)[0])
    digits = np.array([decided, undecided, decided], dtype=np.uint16)
    stream = Planted([digits, np.array([12345 << 40], dtype=np.uint64)])
    out = np.empty(3, dtype=np.int16)
    table.sample_into(out, np.empty(3, dtype=np.uint16), stream)
    assert stream.exhausted


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 3.7, 10.0, 127.3])
def test_weights_are_the_exponentials(sigma: float) -> None:
    weights = gaussian_weights(Fraction(sigma))
    with mpmath.workprec(600):
        for x in {0, 1, 2, len(weights) // 2, len(weights) - 1} & set(range(len(weights))):
            exact = mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) * mpmath.mpf(2) ** 256
            assert abs(weights[x] - exact) <= 3 * (x + 1) ** 2
        left_out = mpmath.exp(-(mpmath.mpf(len(weights)) ** 2) / (2 * mpmath.mpf(sigma) ** 2))
        assert left_out < mpmath.mpf(2) ** -139


@pytest.mark.parametrize("variance", [0.001, 0.3, 1.0, 13.7, 1000.0, 20_000.5])
def test_weights_are_the_bessel_functions(variance: float) -> None:
    weights = skellam_weights(Fraction(variance))
    with mpmath.workprec(700):
        none = mpmath.besseli(0, mpmath.mpf(variance))
        for x in {0, 1, 2, len(weights) // 2, len(weights) - 1}:
            exact = mpmath.besseli(x, mpmath.mpf(variance)) / none * mpmath.mpf(2) ** 256
            assert abs(weights[x] - exact) <= x * (2**15 + 1)
        left_out = mpmath.besseli(len(weights), mpmath.mpf(variance)) / none
        assert left_out < mpmath.mpf(2) ** -139


@pytest.mark.parametrize("variance", [5e-324, 1e-60, 1.0, 2.0**18])
def test_weights_stop_before_the_recurrence_begins(variance: float) -> None:
    # Where the recurrence starts its bounds are 0 and 1; it has to run far enough to have forgotten that.
    weights = skellam_weights(Fraction(variance))
    assert 1 <= len(weights) < 0.8 * (20 * max(variance**0.5, 1) + 220)
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize("variance", [0.001, 1.0, 13.7, 300.0])
def test_skellam_table_keeps_the_distance_it_claims(variance: float) -> None:
    table = skellam._table(variance)
    edges = [0, *boundaries(table), 2**128]
    with mpmath.workprec(500):
        reach = int(20 * variance**0.5) + 60
        half = [mpmath.exp(-mpmath.mpf(variance)) * mpmath.besseli(k, mpmath.mpf(variance)) for k in range(reach + 1)]
        law = {table.first + i: mpmath.mpf(edges[i + 1] - edges[i]) / 2**128 for i in range(len(edges) - 1)}
        distance = mpmath.fsum(abs(law.get(k, 0) - half[abs(k)]) for k in range(-reach, reach + 1)) / 2
        assert distance <= mpmath.mpf(2) ** -skellam.distance_bits(variance)
        assert variance < 1 or distance > mpmath.mpf(2) ** -136, "suspiciously exact: is the comparison comparing?"


def total_variation(table: CumulativeTable, sigma: float, *, one_sided: bool) -> mpmath.mpf:
    """Distance between the table's own law and the discrete Gaussian, in 500-bit arithmetic far into the tails."""
    edges = [0, *boundaries(table), 2**128]
    with mpmath.workprec(500):
        reach = int(20 * sigma) + 10
        s2 = 2 * mpmath.mpf(sigma) ** 2
        half = [mpmath.exp(-(mpmath.mpf(k) ** 2) / s2) for k in range(reach + 1)]
        total = mpmath.fsum(half) if one_sided else 2 * mpmath.fsum(half) - 1
        law = {table.first + i: mpmath.mpf(edges[i + 1] - edges[i]) / 2**128 for i in range(len(edges) - 1)}
        support = range(0 if one_sided else -reach, reach + 1)
        assert set(law) <= set(support)
        return mpmath.fsum(abs(law.get(k, 0) - half[abs(k)] / total) for k in support) / 2


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 3.7, 10.0, 100.0, 512.0])
def test_table_keeps_the_distance_it_claims(sigma: float) -> None:
    distance = total_variation(_table(sigma), sigma, one_sided=False)
    assert distance <= mpmath.mpf(2) ** -distance_bits(sigma)
    assert sigma < 0.3 or distance > mpmath.mpf(2) ** -136, "suspiciously exact: is the comparison comparing?"


@pytest.mark.parametrize("sigma", [513.0, 700.1, 2.0**50, 1.7 * 2.0**37])
def test_block_table_keeps_the_distance_it_claims(sigma: float) -> None:
    blocks = _blocks(sigma)
    relative = sigma / 2**blocks.shift
    assert 64 <= relative < 128
    distance = total_variation(blocks.table, relative, one_sided=True)
    assert distance <= mpmath.mpf(2) ** -table_distance_bits(blocks.table.entries)
    assert distance_bits(sigma) == table_distance_bits(blocks.table.entries) - 2


def test_arrays_are_read_only() -> None:
    table = _table(3.0)
    with pytest.raises(ValueError, match="read-only"):
        table.direct[0] = 1
