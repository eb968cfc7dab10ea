"""Between real vectors and the integer ring: fixed-point encoding, wrapping, and back.

A client sends to_ring(encode(x, scale) + noise); the server adds in the ring and reads decode(from_ring(sum), scale).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, UsageError

__all__ = ["MAX_ENCODED", "RingArray", "decode", "encode", "from_ring", "to_ring"]

RingArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

# Encoded values keep two bits below the ring's 64, for the sum and its noise.
MAX_ENCODED: Final = 2.0**62
_RING_DTYPES: Final[dict[int, type[np.unsignedinteger[Any]]]] = {
    8: np.uint8,
    16: np.uint16,
    32: np.uint32,
    64: np.uint64,
}


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
        bits: 1 to 64.

    Returns:
        The narrowest of uint8, uint16, uint32 and uint64 that holds `bits`, same shape, always a copy.

    >>> to_ring(np.array([-1, 300]), bits=8)
    array([255,  44], dtype=uint8)
    >>> to_ring(np.array([-1, 5000]), bits=12)
    array([4095,  904], dtype=uint16)
    """
    array = np.asarray(integers)
    if array.dtype != np.int64:
        raise UsageError(f"integers have dtype {array.dtype}, expected int64")
    width = _native_width(bits)
    residues = array.astype(_RING_DTYPES[width])
    if bits < width:
        residues &= residues.dtype.type((1 << bits) - 1)
    return residues


def from_ring(residues: RingArray, bits: int | None = None) -> npt.NDArray[np.int64]:
    """The centred representatives of ring elements, in [-2^(bits-1), 2^(bits-1)).

    Args:
        residues: uint8, uint16, uint32 or uint64, any shape. What stands above `bits` is ignored.
        bits: as given to `to_ring`; the width of the dtype by default.

    Returns:
        int64 of the same shape, always a copy.

    >>> from_ring(np.array([255, 44], dtype=np.uint8))
    array([-1, 44])
    >>> from_ring(np.array([4095, 904], dtype=np.uint16), bits=12)
    array([ -1, 904])
    """
    array = np.asarray(residues)
    if array.dtype.kind != "u":
        raise UsageError(f"residues have dtype {array.dtype}, expected uint8, uint16, uint32 or uint64")
    width = 8 * array.dtype.itemsize
    if bits is None:
        bits = width
    if _native_width(bits) > width:
        raise UsageError(f"residues have dtype {array.dtype}, too narrow for {bits} bits")
    unused = np.int64(64 - bits)
    # Shifted to the top and back, the highest of the bits becomes the sign.
    return np.asarray((array.astype(np.uint64) << np.uint64(unused)).view(np.int64) >> unused)


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


def _check_scale(scale: float) -> None:
    if not 0 < scale < float("inf"):
        raise UsageError(f"scale is {scale}, expected a finite number above 0")


def _native_width(bits: int) -> int:
    """Bits of the narrowest unsigned dtype that holds `bits`."""
    if not 1 <= bits <= 64:
        raise UsageError(f"bits is {bits}, expected 1 to 64")
    return max(8, 1 << (bits - 1).bit_length())
