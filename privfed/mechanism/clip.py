"""Clipping to an L2 norm that holds exactly, not up to rounding."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, UsageError

__all__ = ["MAX_BOUND", "MIN_BOUND", "clip_l2", "clip_rows"]

UNIT_ROUNDOFF: Final = 2.0**-53

# Bounds that are clipped to: far enough inside float64's range that neither a bound times a unit vector nor the
# rounding of its smallest entries leaves the normal numbers.
MIN_BOUND: Final = 2.0**-900
MAX_BOUND: Final = 2.0**900


def clip_l2(vector: npt.ArrayLike, bound: float) -> npt.NDArray[np.float64]:
    """Scale `vector` down to an L2 norm of at most `bound`; leave it as it is when it is shorter.

    Args:
        vector: real numbers, shape (d,).
        bound: in the units of `vector`, in [2^-900, 2^900].

    Returns:
        A new float64 array of shape (d,).

    Guarantees:
        The exact Euclidean norm of the returned floats, as real numbers, is at most `bound`: every rounding on the
        way is counted for, so that vectors within a relative 5 (d + 8) 2^-53 of the bound may shrink by that much.
        A vector shorter than that comes back unchanged, and clipping a second time changes nothing.

    Raises:
        DataError: the vector holds NaN or infinity.
        UsageError: bound out of range, or not one axis.

    >>> clip_l2([3.0, 4.0], 10.0)
    array([3., 4.])
    >>> clip_l2([3e200, 4e200], 1.0).round(12)
    array([0.6, 0.8])
    """
    row = np.asarray(vector, dtype=np.float64)
    if row.ndim != 1:
        raise UsageError(f"vector has shape {row.shape}, expected one axis; use clip_rows for a matrix")
    return clip_rows(row[np.newaxis], bound).reshape(-1)


def clip_rows(rows: npt.ArrayLike, bound: float) -> npt.NDArray[np.float64]:
    """Clip each row of a matrix as `clip_l2` does.

    Args:
        rows: real numbers, shape (n, d).
        bound: in the units of `rows`, in [2^-900, 2^900].

    Returns:
        A new float64 array of shape (n, d).

    Guarantees:
        As for `clip_l2`, row by row; a row's result depends on that row alone up to float64 rounding.

    Raises:
        DataError, UsageError: as for `clip_l2`.
    """
    if not MIN_BOUND <= bound <= MAX_BOUND:
        raise UsageError(f"bound is {bound}, expected a number in [2^-900, 2^900]; choose other units")
    matrix = np.array(rows, dtype=np.float64)
    if matrix.ndim != 2:
        raise UsageError(f"rows have shape {matrix.shape}, expected two axes")
    if not np.isfinite(matrix).all():
        raise DataError("the data hold NaN or infinity: impute or remove those values before they are clipped")
    if matrix.size:
        _clip_in_place(matrix, float(bound))
    return matrix


def _clip_in_place(matrix: npt.NDArray[np.float64], bound: float) -> None:
    """Multiply the rows that may be too long by a factor that is certainly small enough.

    Rows are first divided by a power of two so that their largest entry is in [1/2, 1): squares neither overflow
    nor vanish where it matters. In any order of summation the computed norm then is within a relative (d/2 + 3) u
    of the true one (Higham 2002, section 3.1), u = 2^-53; `upper` exceeds both the true and any recomputed norm.
    The last factor takes in the four roundings of quotient and products, entries rounded up from below 2^-1074, and
    the slack that makes a second call find nothing to do.
    """
    slack = (matrix.shape[1] + 8) * UNIT_ROUNDOFF
    _, exponents = np.frexp(np.abs(matrix).max(axis=1))
    scaled = np.ldexp(matrix, -exponents[:, np.newaxis])
    upper = np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) * (1 + slack)
    with np.errstate(over="ignore", under="ignore"):
        long = upper > np.ldexp(bound, -exponents)
        factors = bound / upper[long] * (1 - 3 * slack)
        matrix[long] = scaled[long] * factors[:, np.newaxis]
