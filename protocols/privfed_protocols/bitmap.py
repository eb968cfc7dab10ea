"""Sets of clients as bitmaps: client i is bit i % 8 of byte i // 8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .errors import UnknownFormat


def pack(indices: Iterable[int], n: int) -> bytes:
    """Bitmap over `n` clients with the bits of `indices` on, ceil(n / 8) bytes."""
    bits = np.zeros(n, np.uint8)
    bits[list(indices)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def check(bitmap: bytes, n: int) -> None:
    """Refuse what `pack` cannot have made.

    Raises:
        UnknownFormat: wrong length, or a bit on beyond the last client.
    """
    if len(bitmap) != (n + 7) // 8:
        raise UnknownFormat(f"bitmap has {len(bitmap)} bytes, expected {(n + 7) // 8} for {n} clients")
    if n % 8 and bitmap[-1] >> n % 8:
        raise UnknownFormat(f"bitmap has a bit on beyond client {n - 1}")


def count(bitmap: bytes) -> int:
    """Number of bits that are on."""
    return int.from_bytes(bitmap, "little").bit_count()


def within(inner: bytes, outer: bytes) -> bool:
    """Whether all bits of one bitmap are on in another of the same length."""
    return int.from_bytes(inner, "little") & ~int.from_bytes(outer, "little") == 0


def has(bitmap: bytes, index: int) -> bool:
    """Whether the bit of a client is on."""
    return bool(bitmap[index // 8] >> index % 8 & 1)


def on(bitmap: bytes, indices: Sequence[int]) -> npt.NDArray[np.bool_]:
    """For each of these clients, whether its bit is on; the cost does not depend on how many clients there are."""
    where = np.asarray(indices, np.int64)
    bits = np.frombuffer(bitmap, np.uint8)[where >> 3] >> (where & 7).astype(np.uint8) & np.uint8(1)
    found: npt.NDArray[np.bool_] = bits.astype(np.bool_)
    return found


def unpack(bitmap: bytes, n: int) -> tuple[int, ...]:
    """Indices whose bits are on, ascending.

    Raises:
        UnknownFormat: wrong length, or a bit on beyond the last client.
    """
    check(bitmap, n)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=n, bitorder="little")
    return tuple(np.flatnonzero(bits).tolist())
