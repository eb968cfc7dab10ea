"""Signed blockwise Hadamard rotation with a public seed: spreads a vector's length evenly over its coordinates.

Before a vector is rounded to few bits it is padded with zeros, cut into blocks of B coordinates, and each block x
becomes H D x: D flips signs at random (public, one seed a round), H is the Hadamard matrix over sqrt(B). The map is
linear and orthonormal: it commutes with the sum over clients and keeps every L2 norm, hence every L2 sensitivity.
Afterwards a coordinate is a sum of signed pieces of its block, close to Gaussian with variance |block|^2 / B whatever
the data were, which is what `privfed.mechanism.bits` builds on (Suresh, Yu, Kumar and McMahan 2017, arXiv:1611.00429;
Kairouz, Liu and Steinke 2021, arXiv:2102.06387).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.randomness import Keystream

__all__ = ["MAX_BLOCK", "Rotation", "block_length"]

MAX_BLOCK: Final = 1 << 16  # larger blocks flatten no better for float purposes and leave the second-level cache
MAX_PADDING: Final = 1 / 16  # of the dimension: longer blocks are not worth more than 6 % of traffic

_PURPOSE: Final = b"rotation v1"
_PIECE: Final = 1 << 15  # coordinates at a time: 256 KiB and their scratch stay in a second-level cache of 1 MiB
_NARROW: Final = 16  # distances below this are done on the transpose: numpy's inner loops are slow on short rows

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float = TypeVar("Float", np.float32, np.float64)


def block_length(dimension: int) -> int:
    """The power of two B, at most 2^16, that rotates vectors of `dimension` coordinates in blocks.

    The largest whose padding is at most a sixteenth of the dimension, so that B >= 2^12 from 2^16 coordinates on.

    >>> [block_length(d) for d in (1, 100, 5000, 65536, 1_000_000)]
    [1, 8, 1024, 65536, 65536]
    """
    if dimension < 1:
        raise UsageError(f"dimension is {dimension}, expected at least 1")
    block = MAX_BLOCK
    while -dimension % block > MAX_PADDING * dimension:
        block //= 2
    return block


@dataclass(frozen=True)
class Rotation:
    """The rotation of vectors of one dimension under one public seed.

    Attributes:
        dimension: d, coordinates of the vectors.
        seed: 32 bytes, public and fresh each round; chosen without sight of the data, or the flattening is void (the
            privacy is not: it needs only that the map keeps norms).

    >>> rotation = Rotation(dimension=5, seed=bytes(32))
    >>> x = np.arange(5.0)
    >>> rotated = rotation.apply(x)
    >>> bool(abs(np.linalg.norm(rotated) - np.linalg.norm(x)) < 1e-15 * 5), rotation.invert(rotated).round(12).tolist()
    (True, [0.0, 1.0, 2.0, 3.0, 4.0])
    """

    dimension: int
    seed: bytes

    def __post_init__(self) -> None:
        block_length(self.dimension)
        Keystream.derived(self.seed, purpose=_PURPOSE)  # refuses a seed of another length

    @property
    def block(self) -> int:
        """B, coordinates of a block."""
        return block_length(self.dimension)

    @property
    def length(self) -> int:
        """Coordinates after the rotation: the dimension, rounded up to a multiple of the block."""
        return -(-self.dimension // self.block) * self.block

    @property
    def error(self) -> float:
        """Bound on |computed - exact| / |x|, both L2 norms, of `apply` or `invert` in float64.

        (log2 B + 2) roundings each relative to the norm: a butterfly rounds every result once, |error| <= u |result|
        coordinate by coordinate, and multiplies the norm by sqrt(2) exactly; the scaling has two roundings. For float32
        multiply by 2^29.
        """
        count = self.block.bit_length() + 1
        return count * 2.0**-53 / (1 - count * 2.0**-53)

    def apply(self, vector: npt.NDArray[Float]) -> npt.NDArray[Float]:
        """Rotate a vector.

        Args:
            vector: float32 or float64, shape (dimension,); left as it is.

        Returns:
            A new array of the same dtype, shape (length,).

        Guarantees:
            The L2 norm is that of `vector` up to a relative `error`; in exact arithmetic, equal.

        Raises:
            UsageError: another shape or dtype.
        """
        self._check(vector, self.dimension)
        out = np.zeros(self.length, dtype=vector.dtype)
        np.multiply(vector, self._scaled_signs(vector.dtype)[: self.dimension], out=out[: self.dimension])
        _hadamard(out, self.block)
        return out

    def invert(self, rotated: npt.NDArray[Float]) -> npt.NDArray[Float]:
        """Undo `apply`, on a rotated vector or on a (noised) sum of such.

        Args:
            rotated: float32 or float64, shape (length,); left as it is.

        Returns:
            A new array of the same dtype, shape (dimension,), within a relative `error` of the exact inverse. (H is its
            own inverse, so the exact inverse of the exact rotation is the vector itself.)

        Raises:
            UsageError: another shape or dtype.
        """
        self._check(rotated, self.length)
        out = rotated.copy()
        _hadamard(out, self.block)
        out *= self._scaled_signs(rotated.dtype)
        return out[: self.dimension].copy()

    def _scaled_signs(self, dtype: np.dtype[Float]) -> npt.NDArray[Float]:
        octets = np.empty(-(-self.length // 8), dtype=np.uint8)
        Keystream.derived(self.seed, purpose=_PURPOSE).fill(octets)
        scale = dtype.type(1 / math.sqrt(self.block))
        values = np.array([scale, -scale], dtype=dtype)
        return values[np.unpackbits(octets, count=self.length, bitorder="little")]

    def _check(self, vector: FloatArray, length: int) -> None:
        if vector.shape != (length,) or vector.dtype not in (np.float32, np.float64):
            raise UsageError(
                f"the vector has shape {vector.shape} and dtype {vector.dtype}, expected ({length},) and float32 or"
                " float64"
            )


def _hadamard(vector: FloatArray, block: int) -> None:
    """Multiply each block by the (unscaled) Hadamard matrix, in place."""
    step = max(block, _PIECE)
    scratch = np.empty(min(step, len(vector)), dtype=vector.dtype)
    half = np.empty(len(scratch) // 2, dtype=vector.dtype)
    narrow = min(_NARROW, block)
    for start in range(0, len(vector), step):
        piece = vector[start : start + step]
        turned = scratch[: len(piece)].reshape(narrow, -1)
        turned[...] = piece.reshape(-1, narrow).T
        _butterflies(scratch[: len(piece)], turned.shape[1], len(piece), half)
        piece.reshape(-1, narrow).T[...] = turned
        _butterflies(piece, narrow, block, half)


def _butterflies(piece: FloatArray, distance: int, block: int, half: FloatArray) -> None:
    """(a, b) becomes (a + b, a - b) for all pairs at `distance`, twice that, and so on below `block`."""
    difference = half[: len(piece) // 2]
    while distance < block:
        pairs = piece.reshape(-1, 2, distance)
        left, right = pairs[:, 0], pairs[:, 1]
        rest = difference.reshape(-1, distance)
        np.subtract(left, right, out=rest)
        left += right
        right[...] = rest
        distance *= 2
