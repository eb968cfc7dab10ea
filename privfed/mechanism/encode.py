"""Between real vectors and the integer ring: fixed-point encoding, wrapping, and back.

A client sends to_ring(encode(x, scale) + noise); the server adds in the ring and reads decode(from_ring(sum), scale).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, UsageError

__all__ = ["MAX_ENCODED", "RingArray", "decode", "encode", "from_ring", "sum_error_bound", "to_ring"]

RingArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

# Encoded values keep two bits below the ring's 64, for the sum and its noise.
MAX_ENCODED: Final = 2.0**62
RING_DTYPES: Final = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_CENTRED_DTYPES: Final = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}


def encode(values: npt.ArrayLike, *, scale: float) -> npt.NDArray[np.int64]:
    """The nearest integers to `scale * values`, ties to even.

    Args:
        values: real numbers in natural units, any shape.
        scale: grid points per natural unit, > 0 and finite. A power of two makes the product exact.

    Returns:
        int64 of the same shape, in units of 1/scale, absolute values at most 2^62.

    Guarantees:
        Deterministic. |encode(x) - scale x| <= 1/2 + 2^-53 |scale x| in each coordinate.

    Raises:
        DataError: NaN, infinity, or a value beyond 2^62 on the grid.
        UsageError: scale out of range.

    >>> encode([0.5, 1.5, -2.25], scale=2.0)
    array([ 1,  3, -4])
    """
    _check_scale(scale)
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = np.rint(array * scale)
    # One reduction finds NaN (it propagates), infinity and overflow of the grid.
    largest = np.abs(scaled).max(initial=0.0)
    if not largest <= MAX_ENCODED:
        if not np.isfinite(array).all():
            raise DataError("the data hold NaN or infinity: impute or remove those values before they are encoded")
        raise DataError(
            f"a value is beyond 2^62 on the grid of scale {scale:g}: "
            f"clip the data (at most {MAX_ENCODED / scale:g} fits) or lower the scale"
        )
    return scaled.astype(np.int64)


def to_ring(integers: npt.NDArray[np.int64], bits: int = 64) -> RingArray:
    """Integers modulo 2^bits, as unsigned.

    Args:
        integers: int64, any shape. Values outside the centred range wrap: that costs accuracy, never privacy.
        bits: 8, 16, 32 or 64.

    Returns:
        uint8, uint16, uint32 or uint64 of the same shape, always a copy.

    >>> to_ring(np.array([-1, 300]), bits=8)
    array([255,  44], dtype=uint8)
    """
    array = np.asarray(integers)
    if array.dtype != np.int64:
        raise UsageError(f"integers have dtype {array.dtype}, expected int64")
    return array.astype(_dtype(RING_DTYPES, bits))


def from_ring(residues: RingArray) -> npt.NDArray[np.int64]:
    """The centred representatives of ring elements, in [-2^(bits-1), 2^(bits-1)).

    Args:
        residues: uint8, uint16, uint32 or uint64, any shape; the dtype says how many bits.

    Returns:
        int64 of the same shape, always a copy.

    >>> from_ring(np.array([255, 44], dtype=np.uint8))
    array([-1, 44])
    """
    array = np.asarray(residues)
    if array.dtype.kind != "u":
        raise UsageError(f"residues have dtype {array.dtype}, expected uint8, uint16, uint32 or uint64")
    return array.astype(_CENTRED_DTYPES[8 * array.dtype.itemsize]).astype(np.int64)


def decode(integers: npt.NDArray[np.int64], *, scale: float) -> npt.NDArray[np.float64]:
    """Grid points back in natural units.

    Args:
        integers: int64, any shape, in units of 1/scale.
        scale: as given to `encode`.

    Returns:
        float64 of the same shape; two roundings (to float64, and the division).
    """
    _check_scale(scale)
    array = np.asarray(integers)
    if array.dtype != np.int64:
        raise UsageError(f"integers have dtype {array.dtype}, expected int64")
    return array / scale


def sum_error_bound(*, clients: int, scale: float, magnitude: float) -> float:
    """How far a coordinate of the decoded sum of unnoised, unwrapped vectors may be from the exact sum.

    Args:
        clients: how many vectors are added.
        scale: as given to `encode`.
        magnitude: bound on |coordinate| of each vector, natural units.

    Returns:
        In natural units: half a grid step and one rounding a client, two roundings of the decoding.
    """
    _check_scale(scale)
    if clients < 1 or not 0 <= magnitude < float("inf"):
        raise UsageError(f"clients is {clients} and magnitude {magnitude}, expected at least 1 and at least 0")
    unit = 2.0**-52  # twice the unit roundoff: covers this function's own rounding
    per_client = 0.5 / scale + unit * magnitude
    return clients * per_client + 2 * unit * clients * (magnitude + per_client)


def _check_scale(scale: float) -> None:
    if not 0 < scale < float("inf"):
        raise UsageError(f"scale is {scale}, expected a finite number above 0")


def _dtype(table: dict[int, type[Any]], bits: int) -> type[Any]:
    if bits not in table:
        raise UsageError(f"bits is {bits}, expected one of {sorted(table)}")
    return table[bits]
