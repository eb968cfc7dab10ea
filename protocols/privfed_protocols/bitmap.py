"""Sets of clients as bitmaps: client i is bit i % 8 of byte i // 8."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .errors import UnknownFormat


def pack(indices: Iterable[int], n: int) -> bytes:
    """Bitmap over `n` clients with the bits of `indices` on, ceil(n / 8) bytes."""
    bits = np.zeros(n, np.uint8)
    bits[list(indices)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def unpack(bitmap: bytes, n: int) -> tuple[int, ...]:
    """Indices whose bits are on, ascending.

    Raises:
        UnknownFormat: wrong length, or a bit on beyond the last client.
    """
    if len(bitmap) != (n + 7) // 8:
        raise UnknownFormat(f"bitmap has {len(bitmap)} bytes, expected {(n + 7) // 8} for {n} clients")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    if bits[n:].any():
        raise UnknownFormat(f"bitmap has a bit on beyond client {n - 1}")
    return tuple(np.flatnonzero(bits[:n]).tolist())
