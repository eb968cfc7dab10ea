"""How far one unit moves a client's integer vector: clipping, rounding and float summation, each counted.

Everything here is in units of the integer grid and in the L2 norm unless it says otherwise. u = 2^-53 is float64's
unit roundoff and gamma_k = k u / (1 - k u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002,
Lemma 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.mapped import slices

__all__ = [
    "MAX_CHUNK",
    "MIN_CHUNK",
    "ROW_ERROR",
    "SensitivityTerms",
    "chunked_sum",
    "client_sensitivity",
    "client_terms",
    "l1_of_integers",
    "record_sensitivity",
    "record_terms",
    "round_up",
    "sqrt_up",
]

MIN_CHUNK: Final = 64
MAX_CHUNK: Final = 4096

# Roundings that a sum may pass between the last addition and the integer grid: weights, block scales, the grid's scale.
LATER_ROUNDINGS: Final = 8

# Bound on |computed - ideal| / bound for one row's contribution. A row is not computed to the same bits at every
# place in a chunk (a matrix product treats the last rows of a tile otherwise, and so does exp the last lanes), so
# "the contribution of a row" is defined only up to this. 2^-32 is two million roundings: enough for a
# well-conditioned query, whose squared distances stay below 2^16; it costs 0.05 % of noise at a million rows. One
# that is worse conditioned must state its own.
ROW_ERROR: Final = 2.0**-32

_UNIT_ROUNDOFF: Final = Fraction(1, 2**53)


@dataclass(frozen=True)
class SensitivityTerms:
    """L2 sensitivity of a client's integer vector, term by term, in grid units.

    Attributes:
        contribution: the unit's own clipped contribution.
        rounding: rounding to integers, of one vector or of two.
        summation: float error of the sums, of one vector or of two.
        dimension: number of coordinates.
    """

    contribution: float
    rounding: float
    summation: float
    dimension: int

    @property
    def l2(self) -> float:
        """D2, the sum of the terms, rounded up."""
        return round_up(Fraction(self.contribution) + Fraction(self.rounding) + Fraction(self.summation))

    @property
    def l1(self) -> float:
        """D1 = D2 min(sqrt d, D2): Cauchy-Schwarz, or |k| <= k^2 for integers; rounded up."""
        return l1_of_integers(self.l2, self.dimension)


def record_terms(
    *,
    bound: float,
    scale: float,
    dimension: int,
    max_records: int,
    row_error: float = ROW_ERROR,
    transform_error: float = 0.0,
) -> SensitivityTerms:
    """Terms of the sensitivity when one record is added to or removed from a client's data.

    Args:
        bound: c, L2 norm that one record's contribution never exceeds, natural units, > 0.
        scale: s, grid points per natural unit, > 0.
        dimension: d, coordinates of the vector.
        max_records: N, most records the client may hold (the larger of the two data sets).
        row_error: rho, see `ROW_ERROR`; in [0, 1).
        transform_error: tau, relative L2 error of a linear map of norm 1 applied to the sum before it is rounded
            (`Rotation.error`); in [0, 1).

    What is bounded: the client computes y = rint(s S) with S the float sum of its rows' contributions under the
    scheme of `chunked_sum`: chunks of `MIN_CHUNK` to `MAX_CHUNK` rows (the last may be shorter), inside a chunk any
    order of summation, BLAS and fused operations included, chunk sums added in turn in float64, then at most
    `LATER_ROUNDINGS` roundings a coordinate, the product with s among them.

    Guarantees:
        For data sets that differ by one record, at any position, and whatever order and chunk boundaries either
        execution chose, the integer vectors differ by at most `l2`:

            D2 = c s  +  sqrt d  +  2 s N c ((1 + rho) ((1 + tau) (1 + gamma_k) - 1) + rho),
            k  = MAX_CHUNK + ceil(N / MIN_CHUNK) + LATER_ROUNDINGS.

    Proof. Let v_i be the ideal contribution of row i, |v_i| <= c, and w_i the computed one in this execution, |w_i
    - v_i| <= rho c. A product or addition multiplies by (1 + e), |e| <= u. Any term passes at most MAX_CHUNK
    roundings inside its chunk (a dot product of m terms: m, Higham section 3.1, any order), one for each of at most
    ceil(N / MIN_CHUNK) chunk sums, and LATER_ROUNDINGS: in all k. So the result is sum w_i (1 + e_i) coordinate by
    coordinate with |e_i| <= gamma_k, and its distance to sum v_i is at most sum |w_i| gamma_k + sum |w_i - v_i| <=
    N c ((1 + rho) gamma_k + rho). A map of norm 1 keeps distances and adds at most tau times the length of what it is
    given, N c (1 + rho) (1 + gamma_k); together E = N c ((1 + rho) ((1 + tau) (1 + gamma_k) - 1) + rho). The exact sums
    of neighbours differ by one v_i, norm <= c; the triangle inequality gives s (c + 2E) before rounding. Rounding to
    the nearest moves each coordinate of each vector by at most 1/2, hence the difference by at most sqrt d; stochastic
    rounding counts the same (`privfed.mechanism.rounding.stochastic_round`). QED. Addition is exact when its result
    is subnormal; a product that underflows is off by 2^-1075, far below rho c. If a query cancels inside a row (adds
    terms longer than the contribution), that row's share of the summation error is counted in rho. Without the last
    term the bound is false: summation is not associative (Casacuberta, Shoemate, Vadhan and Wagaman 2022,
    arXiv:2207.10635).

    Raises:
        UsageError: an argument is out of range, or so many records that the float error cannot be bounded usefully.

    >>> terms = record_terms(bound=1.0, scale=2.0**30, dimension=100, max_records=10_000)
    >>> terms.contribution == 2.0**30, terms.rounding, terms.summation / terms.contribution < 1e-5
    (True, 10.0, True)
    """
    c, s = _checked(bound=bound, scale=scale, dimension=dimension)
    if max_records < 1 or not (0 <= row_error < 1 and 0 <= transform_error < 1):
        raise UsageError(
            f"max_records is {max_records}, row_error {row_error} and transform_error {transform_error}, expected at"
            " least 1 and in [0, 1)"
        )
    rho, tau = Fraction(row_error), Fraction(transform_error)
    depth = MAX_CHUNK + -(-max_records // MIN_CHUNK) + LATER_ROUNDINGS
    error = max_records * c * ((1 + rho) * ((1 + tau) * (1 + _gamma(depth)) - 1) + rho)
    return SensitivityTerms(
        contribution=round_up(c * s),
        rounding=round_up(sqrt_up(dimension)),
        summation=round_up(2 * s * error),
        dimension=dimension,
    )


def client_terms(*, bound: float, scale: float, dimension: int) -> SensitivityTerms:
    """Terms of the sensitivity when one client's whole contribution is replaced by zero.

    Args:
        bound: c, L2 norm that a client's vector never exceeds; `clip_l2` makes it exact. Natural units, > 0.
        scale: s, grid points per natural unit, > 0.
        dimension: d, coordinates of the vector.

    Guarantees:
        y = rint(s x) for a client that takes part has a norm of at most `l2`, and zero is what replaces it:

            D2 = c s  +  min(sqrt(d) / 2, c s)  +  c s gamma_8

    Proof. With z = s x computed in at most `LATER_ROUNDINGS` = 8 roundings, |z| <= c s (1 + gamma_8). Rounding
    moves each coordinate by at most 1/2: |y| <= |z| + sqrt(d)/2. There is no second rounding: zero encodes as zero.
    On coarse grids a second bound is smaller: rint(t) = 0 for |t| <= 1/2 (ties go to even) and |rint(t)| <= 2|t|
    beyond, so |y| <= 2|z|. QED.

    Raises:
        UsageError: an argument is out of range.

    >>> client_terms(bound=2.0, scale=2.0**20, dimension=16).l2 - 2.0**21
    2.000000002...
    """
    c, s = _checked(bound=bound, scale=scale, dimension=dimension)
    later = c * s * _gamma(LATER_ROUNDINGS)
    rounding = min(sqrt_up(dimension) / 2, c * s + later)
    return SensitivityTerms(
        contribution=round_up(c * s), rounding=round_up(rounding), summation=round_up(later), dimension=dimension
    )


def record_sensitivity(
    *, bound: float, scale: float, dimension: int, max_records: int, row_error: float = ROW_ERROR
) -> float:
    """D2 of `record_terms`: L2 sensitivity in grid units when one record is added or removed."""
    terms = record_terms(bound=bound, scale=scale, dimension=dimension, max_records=max_records, row_error=row_error)
    return terms.l2


def client_sensitivity(*, bound: float, scale: float, dimension: int) -> float:
    """D2 of `client_terms`: L2 sensitivity in grid units when one client is replaced by zero."""
    return client_terms(bound=bound, scale=scale, dimension=dimension).l2


def chunked_sum(
    function: Callable[[npt.NDArray[np.float64]], Mapping[str, npt.ArrayLike]],
    rows: npt.NDArray[np.float64],
    chunk: int = MAX_CHUNK,
) -> dict[str, npt.NDArray[np.float64]]:
    """Sum a statistic over rows, chunk by chunk: the one summation scheme that `record_terms` bounds.

    Args:
        function: from rows, shape (m, features) with 0 <= m <= chunk, to named sums over those rows; the names
            and shapes are always the same. Inside, any order of summation is allowed (matrix products included).
        rows: shape (n, features); n = 0 is allowed and calls the function once with no rows. Rows of a memory-mapped
            file leave memory as they are done with.
        chunk: rows at a time, in [64, 4096].

    Returns:
        For each name a new float64 array.

    Raises:
        UsageError: chunk out of range, or the function changed its names or shapes.

    >>> chunked_sum(lambda part: {"sum": part.sum(axis=0)}, np.ones((10_000, 2)))
    {'sum': array([10000., 10000.])}
    """
    if not MIN_CHUNK <= chunk <= MAX_CHUNK:
        raise UsageError(f"chunk is {chunk}, expected {MIN_CHUNK} to {MAX_CHUNK}: the error bound holds for those")
    totals: dict[str, npt.NDArray[np.float64]] = {}
    for number, taken in enumerate(slices(rows, chunk)):
        part = {name: np.asarray(value, dtype=np.float64) for name, value in function(taken).items()}
        if number == 0:
            totals = {name: value.copy() for name, value in part.items()}
            continue
        shapes = {name: value.shape for name, value in part.items()}
        if shapes != {name: value.shape for name, value in totals.items()}:
            raise UsageError(f"the function gave {shapes} for rows {number * chunk} onwards, unlike its first chunk")
        for name, value in part.items():
            totals[name] += value
    return totals


def l1_of_integers(l2: float, dimension: int) -> float:
    """Bound on the L1 norm of an integer vector: D2 min(sqrt d, D2), by Cauchy-Schwarz or |k| <= k^2; rounded up."""
    exact = Fraction(l2)
    return round_up(exact * min(sqrt_up(dimension), exact))


def _checked(*, bound: float, scale: float, dimension: int) -> tuple[Fraction, Fraction]:
    if not (0 < bound < math.inf and 0 < scale < math.inf):
        raise UsageError(f"bound is {bound} and scale {scale}, expected finite numbers above 0")
    if dimension < 1:
        raise UsageError(f"dimension is {dimension}, expected at least 1")
    return Fraction(bound), Fraction(scale)


def _gamma(k: int) -> Fraction:
    if k >= 2**43:  # k u < 2^-10: beyond, the bound says little
        raise UsageError(f"a sum of {k} roundings is too long for float64: lower max_records")
    return k * _UNIT_ROUNDOFF / (1 - k * _UNIT_ROUNDOFF)


def sqrt_up(value: int) -> Fraction:
    """A rational just above or at sqrt(value); exact for squares."""
    root = math.isqrt(value << 128)
    return Fraction(root if root * root == value << 128 else root + 1, 2**64)


def round_up(value: Fraction) -> float:
    """The least float64 not below `value`."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)
