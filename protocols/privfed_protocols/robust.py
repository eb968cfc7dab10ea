"""Opening a Shamir secret when some shares are wrong, with a commitment as the judge.

Shares are a Reed-Solomon code word. With m shares of threshold t, up to (m - t) // 2 wrong ones are found by the
decoder of Welch and Berlekamp (US patent 4 633 470, 1986, long expired; in Gemmell and Sudan, "Highly resilient
correctors for polynomials", 1992). Beyond that there is no unique decoding; where the subsets of t shares are few,
the commitment tells which of them is right.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .shamir import LIMBS, PRIME, Field, combine, from_limbs, lagrange_at_zero, reduce

_P: Final = np.uint64(PRIME)
_MOST_SUBSETS: Final = 2000  # about a second of work, once: a round that fails stops at its first secret


@dataclass(frozen=True)
class Recovered:
    """What became of a secret.

    Attributes:
        secret: the secret, or None.
        wrong: positions of the shares off the polynomial that gave the secret. Shares are not committed to, so that
            each may have been dealt wrong as well as given wrong; with more than (m - t) // 2 wrong shares, some whose
            errors cancel at zero may even put right ones here.
    """

    secret: bytes | None = field(repr=False)
    wrong: tuple[int, ...]


def recover(
    shares: Field,
    *,
    points: Field,
    threshold: int,
    accept: Callable[[bytes | None], bool],
) -> Recovered:
    """Find the secret that `accept` recognises among shares of which some are wrong.

    Args:
        shares: shape (m, 9), below p, m at least `threshold`.
        points: shape (m,), distinct.
        threshold: number of shares that open the secret.
        accept: tells the committed secret from any other.
    """
    m = len(points)
    if not disagreeing(shares, points, range(threshold)):
        return Recovered(None, ())
    for suspects in _suspects(shares, points, threshold):
        good = [place for place in range(m) if place not in suspects][:threshold]
        if len(good) == threshold:
            secret = from_limbs(combine(lagrange_at_zero(points[good][None]), shares[good][None]))[0]
            if accept(secret):
                return Recovered(secret, tuple(disagreeing(shares, points, good)))
    return Recovered(None, ())


def _suspects(shares: Field, points: Field, threshold: int) -> Iterator[frozenset[int]]:
    """Sets of shares that may be the wrong ones: what the decoder finds, then every one there is."""
    found: frozenset[int] = frozenset()
    for limb in range(LIMBS):  # a wrong share may differ in one limb only, but mostly the first tells all
        found |= frozenset(_decode_limb(shares[:, limb], points, threshold))
        yield found
    if math.comb(len(points), threshold) <= _MOST_SUBSETS:
        everybody = range(len(points))
        yield from (frozenset(out) for out in itertools.combinations(everybody, len(points) - threshold))


def disagreeing(shares: Field, points: Field, basis: Sequence[int]) -> list[int]:
    """Positions whose shares are off the polynomial through the shares at `basis`."""
    chosen = np.array(basis)
    rest = np.setdiff1d(np.arange(len(points)), chosen)
    if not rest.size:
        return []
    shifted = (points[chosen] + _P - points[rest][:, None]) % _P  # the value at a point is the value at 0, seen there
    expected = combine(lagrange_at_zero(shifted), np.broadcast_to(shares[chosen], (len(rest), *shares[chosen].shape)))
    wrong: list[int] = rest[(expected != shares[rest]).any(axis=1)].tolist()
    return wrong


def _decode_limb(values: Field, points: Field, threshold: int) -> list[int]:
    """Positions of the wrong values of one limb by Welch and Berlekamp, or none if there are too many.

    Look for E of degree e with leading coefficient 1 and Q of degree below e + t such that Q(x) = y E(x) at all
    points; a wrong value forces a root of E at its point.
    """
    errors = (len(points) - threshold) // 2
    if errors == 0:
        return []
    powers = _powers(points, errors + threshold)
    unknown_q = powers[:, : errors + threshold]
    unknown_e = (_P - reduce(values[:, None] * powers[:, :errors])) % _P
    right = reduce(values * powers[:, errors])
    solution = _solve(np.concatenate([unknown_q, unknown_e], axis=1), right)
    if solution is None:
        return []
    locator = solution[errors + threshold :]
    at_points = (reduce(powers[:, :errors] * locator).sum(axis=1, dtype=np.uint64) + powers[:, errors]) % _P
    return np.flatnonzero(at_points == 0).tolist()


def _powers(points: Field, count: int) -> Field:
    powers = np.ones((len(points), count + 1), np.uint64)
    for exponent in range(1, count + 1):
        powers[:, exponent] = reduce(powers[:, exponent - 1] * points)
    return powers


def _solve(matrix: Field, right: Field) -> Field | None:
    """One solution of a linear system over the field by elimination, free unknowns zero; None if there is none."""
    work = np.concatenate([matrix, right[:, None]], axis=1)
    columns = matrix.shape[1]
    pivots: list[int] = []
    for column in range(columns):
        row = len(pivots)
        candidates = np.flatnonzero(work[row:, column])
        if not candidates.size:
            continue
        swap = row + int(candidates[0])
        work[[row, swap]] = work[[swap, row]]
        work[row] = reduce(work[row] * np.uint64(pow(int(work[row, column]), PRIME - 2, PRIME)))
        factors = work[:, column].copy()
        factors[row] = 0
        work = reduce(work + reduce((_P - factors)[:, None] * work[row]))
        pivots.append(column)
        if len(pivots) == len(work):
            break
    if work[len(pivots) :, columns].any():
        return None
    solution = np.zeros(columns, np.uint64)
    solution[pivots] = work[: len(pivots), columns]
    return solution
