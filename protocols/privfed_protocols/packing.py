"""Ring elements of any width, 1 to 64 bits, packed bit by bit for the wire.

In memory an element takes the next larger of 8, 16, 32 and 64 bits, where sums wrap for free. On the wire element i
takes bits [i b, (i + 1) b) of a string whose bit j is bit j mod 8 of byte j // 8, least significant first; what is
left of the last byte is zero. For b = 8, 16, 32 and 64 that is the little-endian array itself.

Other whole bytes are copied in strided pieces. What is left goes through 64-bit lanes: neighbours are merged pairwise
while two fit into a lane, then lanes are copied if they are whole bytes by now, and shifted into their words if not.
All work is done in blocks that stay in the second-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import LocalProtocolError, UnknownFormat

Array: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Octets: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint64]
Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_BITS: Final = 64
_BLOCK: Final = 1 << 15  # elements: a multiple of 64, so that every block starts at a byte
_NATIVE: Final = (8, 16, 32, 64)


def native_bits(bits: int) -> int:
    """Bits of an element in memory: the smallest of 8, 16, 32 and 64 that hold `bits`.

    Raises:
        LocalProtocolError: not 1 to 64 bits.
    """
    if not 1 <= bits <= MAX_BITS:
        raise LocalProtocolError(f"elements of {bits} bits, expected 1 to {MAX_BITS}")
    return next(width for width in _NATIVE if bits <= width)


def native_dtype(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Unsigned little-endian dtype of an element of `bits` bits in memory."""
    return np.dtype(f"<u{native_bits(bits) // 8}")


def packed_bytes(length: int, bits: int) -> int:
    """Bytes that `length` elements of `bits` bits take on the wire."""
    return (length * bits + 7) // 8


def pack(ring: Array, bits: int) -> bytes:
    """Cut each element to its lowest `bits` bits and pack them.

    Args:
        ring: shape (d,), dtype `native_dtype(bits)`, contiguous; higher bits are ignored.
        bits: 1 to 64.

    Returns:
        `packed_bytes(d, bits)` bytes.

    Raises:
        LocalProtocolError: another shape, dtype or width.
    """
    packed = bytearray(packed_bytes(len(ring), bits))
    pack_into(ring, packed, bits)
    return bytes(packed)


def pack_into(ring: Array, target: bytearray | memoryview, bits: int) -> None:
    """As `pack`, to a writable buffer of exactly the right size.

    Raises:
        LocalProtocolError: another shape, dtype or width, or a buffer of another size.
    """
    _check_ring(ring, bits)
    if len(target) != packed_bytes(len(ring), bits):
        raise LocalProtocolError(f"buffer has {len(target)} bytes, expected {packed_bytes(len(ring), bits)}")
    out = np.frombuffer(target, np.uint8)
    if bits in _NATIVE:
        np.copyto(out, ring.view(np.uint8))
        return
    for elements, octets in _blocks(len(ring), bits):
        out[octets] = _pack_block(ring[elements], bits)


def unpack(data: Buffer, *, length: int, bits: int) -> Array:
    """Unpack what `pack` made.

    Args:
        data: exactly `packed_bytes(length, bits)` bytes.
        length: number of elements, d.
        bits: 1 to 64.

    Returns:
        Shape (d,), dtype `native_dtype(bits)`, each element below 2^bits.

    Raises:
        UnknownFormat: wrong length, or padding bits that are not zero.
        LocalProtocolError: not 1 to 64 bits.
    """
    target: Array = np.empty(length, native_dtype(bits))
    _unpack_each(data, target, bits, np.copyto)
    return target


def add_packed(data: Buffer, target: Array, bits: int) -> None:
    """Unpack and add to `target` in place, without a whole-vector temporary.

    Args:
        data: exactly `packed_bytes(d, bits)` bytes.
        target: shape (d,), dtype `native_dtype(bits)`; sums wrap at its own width: reduce them by `reduce` at the end.
        bits: 1 to 64.

    Raises:
        UnknownFormat: wrong length, or padding bits that are not zero; `target` was not changed.
        LocalProtocolError: another shape, dtype or width.
    """
    _check_ring(target, bits)
    _unpack_each(data, target, bits, lambda into, part: np.add(into, part, out=into))


def reduce(ring: Array, bits: int) -> None:
    """Reduce a ring in place modulo 2^bits."""
    _check_ring(ring, bits)
    if bits < 8 * ring.itemsize:
        np.bitwise_and(ring, ring.dtype.type((1 << bits) - 1), out=ring)


def check_packed(data: Buffer, *, length: int, bits: int) -> None:
    """Refuse what `pack` cannot have made.

    Raises:
        UnknownFormat: wrong length, or padding bits that are not zero.
    """
    expected = packed_bytes(length, bits)
    if len(data) != expected:
        raise UnknownFormat(f"packed vector has {len(data)} bytes, expected {expected}")
    padding = 8 * expected - length * bits
    if padding and data[-1] >> (8 - padding):
        raise UnknownFormat(f"the last {padding} bits of a packed vector are padding and must be zero")


def _unpack_each(data: Buffer, target: Array, bits: int, take: Callable[[Array, Array], object]) -> None:
    check_packed(data, length=len(target), bits=bits)
    if bits in _NATIVE:
        take(target, np.frombuffer(data, target.dtype))
        return
    raw = np.frombuffer(data, np.uint8)
    for elements, octets in _blocks(len(target), bits):
        into = target[elements]
        take(into, _unpack_block(raw[octets], len(into), bits).astype(target.dtype, copy=False))


def _check_ring(ring: Array, bits: int) -> None:
    dtype = native_dtype(bits)
    if ring.dtype != dtype or ring.ndim != 1 or not ring.flags.c_contiguous:
        raise LocalProtocolError(f"ring of {ring.dtype}, shape {ring.shape}; expected contiguous {dtype}, shape (d,)")


def _blocks(length: int, bits: int) -> Iterator[tuple[slice, slice]]:
    """Cut a vector into blocks: where the elements are, and where their bytes."""
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        yield slice(start, stop), slice(start * bits // 8, packed_bytes(stop, bits))


def _pack_block(ring: Array, bits: int) -> Octets:
    if bits % 8 == 0:
        return _to_octets(ring, bits)
    merges, width, group = _lanes(bits)
    whole = group << merges
    lanes = np.zeros(-(-len(ring) // whole) * whole, "<u8")
    np.bitwise_and(ring, ring.dtype.type((1 << bits) - 1), out=lanes[: len(ring)])
    for merge in range(merges):
        lanes = lanes[0::2] | lanes[1::2] << np.uint64(bits << merge)
    packed = _to_octets(lanes, width) if width % 8 == 0 else _to_words(lanes, width, group).view(np.uint8)
    return packed[: packed_bytes(len(ring), bits)]


def _unpack_block(raw: Octets, length: int, bits: int) -> Array:
    if bits % 8 == 0:
        return _from_octets(raw, length, bits, native_dtype(bits))
    merges, width, group = _lanes(bits)
    groups = -(-length // (group << merges))
    whole = np.zeros(groups * group * width // 8, np.uint8)
    whole[: len(raw)] = raw
    if width % 8 == 0:
        lanes = _from_octets(whole, groups * group, width, np.dtype("<u8"))
    else:
        lanes = _from_words(whole.view("<u8"), width, group)
    for merge in reversed(range(merges)):
        part = np.uint64(bits << merge)
        split = np.empty((len(lanes), 2), "<u8")
        np.bitwise_and(lanes, (np.uint64(1) << part) - np.uint64(1), out=split[:, 0])
        np.right_shift(lanes, part, out=split[:, 1])
        lanes = split.reshape(-1)
    return lanes[:length]


def _lanes(bits: int) -> tuple[int, int, int]:
    """Pairwise merges until no two fit into 64 bits; the width then; and how many such lanes fill whole words."""
    merges = (MAX_BITS // bits).bit_length() - 1
    width = bits << merges
    return merges, width, MAX_BITS // math.gcd(width, MAX_BITS)


def _to_octets(lanes: Array, width: int) -> Octets:
    """Put the lowest `width` bits of each element, whole bytes, one behind the other: in pieces of 4, 2 and 1 bytes."""
    step, at = width // 8, 0
    packed = np.empty(len(lanes) * step, np.uint8)
    for size in (8, 4, 2, 1):
        if step & size:
            piece = np.dtype(f"<u{size}")
            into: Array = np.ndarray(len(lanes), piece, packed.data, offset=at, strides=(step,))
            np.copyto(into, lanes.view(piece)[at // size :: lanes.itemsize // size])
            at += size
    return packed


def _from_octets(raw: Octets, length: int, width: int, dtype: np.dtype[Any]) -> Array:
    """Read elements of whole bytes: each as if it had all bytes of `dtype`, cut to its own."""
    padded = np.zeros(len(raw) + dtype.itemsize, np.uint8)
    padded[: len(raw)] = raw
    wide: Array = np.ndarray(length, dtype, padded.data, strides=(width // 8,))
    cut: Array = np.bitwise_and(wide, dtype.type((1 << width) - 1))
    return cut


def _to_words(lanes: Words, width: int, group: int) -> Words:
    """Put lanes of `width` bits one behind the other, lane by lane for all groups at once."""
    rows = np.ascontiguousarray(lanes.reshape(-1, group).T)
    words = np.zeros((group * width // MAX_BITS, rows.shape[1]), "<u8")
    for lane, row in enumerate(rows):
        word, shift = divmod(lane * width, MAX_BITS)
        words[word] |= row << np.uint64(shift)
        if shift + width > MAX_BITS:
            words[word + 1] |= row >> np.uint64(MAX_BITS - shift)
    return np.ascontiguousarray(words.T).reshape(-1)


def _from_words(words: Words, width: int, group: int) -> Words:
    """Take lanes of `width` bits apart."""
    rows = np.ascontiguousarray(words.reshape(-1, group * width // MAX_BITS).T)
    lanes = np.empty((group, rows.shape[1]), "<u8")
    for lane, row in enumerate(lanes):
        word, shift = divmod(lane * width, MAX_BITS)
        np.right_shift(rows[word], np.uint64(shift), out=row)
        if shift + width > MAX_BITS:
            row |= rows[word + 1] << np.uint64(MAX_BITS - shift)
    np.bitwise_and(lanes, np.uint64((1 << width) - 1), out=lanes)
    return np.ascontiguousarray(lanes.T).reshape(-1)
