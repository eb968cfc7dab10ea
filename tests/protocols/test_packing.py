"""Packing against one big Python integer, for all widths, and what unpacking refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols.errors import LocalProtocolError, UnknownFormat
from privfed_protocols.packing import (
    Array,
    add_packed,
    native_bits,
    native_dtype,
    pack,
    pack_into,
    packed_bytes,
    reduce,
    unpack,
)

WIDTHS = range(1, 65)
BLOCK = 1 << 15


def reference(values: list[int], bits: int) -> bytes:
    """Element i at bits [i b, (i+1) b) of a little-endian number."""
    whole = sum((value % (1 << bits)) << (place * bits) for place, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * bits // 8), "little")


def uniform(length: int, bits: int) -> Array:
    dtype = native_dtype(bits)
    return np.frombuffer(np.random.default_rng((length, bits)).bytes(length * dtype.itemsize), dtype)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 63, 64, 65, 300])
def test_bytes_are_those_of_one_little_endian_number(bits: int, length: int) -> None:
    ring = uniform(length, bits)
    before = ring.copy()
    packed = pack(ring, bits)
    assert packed == reference(ring.tolist(), bits)
    assert np.array_equal(ring, before)
    assert unpack(packed, length=length, bits=bits).tolist() == [value % (1 << bits) for value in ring.tolist()]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("around", [-1, 0, 1, BLOCK + 3])
def test_round_trip_across_blocks(bits: int, around: int) -> None:
    ring = uniform(BLOCK + around, bits)
    packed = pack(ring, bits)
    assert len(packed) == packed_bytes(len(ring), bits)
    found = unpack(packed, length=len(ring), bits=bits)
    assert found.dtype == native_dtype(bits)
    assert np.array_equal(found, ring & ring.dtype.type((1 << bits) - 1))


@given(st.data())
def test_any_values_survive(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 64))
    values = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=70))
    packed = pack(np.array(values, native_dtype(bits)), bits)
    assert packed == reference(values, bits)
    assert unpack(packed, length=len(values), bits=bits).tolist() == values


@given(st.data())
def test_packing_is_the_only_encoding(data: st.DataObject) -> None:
    """Bytes that unpack at all are what packs again: no two strings mean the same vector."""
    bits, length = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 40))
    raw = data.draw(st.binary(min_size=packed_bytes(length, bits), max_size=packed_bytes(length, bits)))
    try:
        ring = unpack(raw, length=length, bits=bits)
    except UnknownFormat:
        assert int.from_bytes(raw, "little") >= 1 << (length * bits)
    else:
        assert pack(ring, bits) == raw


@pytest.mark.parametrize("bits", [1, 7, 9, 12, 13, 31, 33, 63])
def test_padding_must_be_zero(bits: int) -> None:
    packed = bytearray(pack(uniform(5, bits), bits))
    for place in range(5 * bits % 8, 8):
        altered = bytearray(packed)
        altered[-1] |= 1 << place
        with pytest.raises(UnknownFormat, match="padding"):
            unpack(altered, length=5, bits=bits)
    unpack(packed, length=5, bits=bits)


@pytest.mark.parametrize("bits", [1, 8, 12, 16, 24, 33, 64])
@pytest.mark.parametrize("extra", [-1, 1])
def test_length_must_fit(bits: int, extra: int) -> None:
    packed = pack(uniform(64, bits), bits)
    altered = packed[:-1] if extra < 0 else packed + b"\x00"
    with pytest.raises(UnknownFormat, match="expected"):
        unpack(altered, length=64, bits=bits)


@pytest.mark.parametrize("bits", [3, 8, 13, 16, 24, 31, 40, 64])
def test_packed_vectors_add_up_modulo_the_width(bits: int) -> None:
    length = BLOCK + 5
    parts = [uniform(length, bits), uniform(length, bits)[::-1].copy(), uniform(length, bits)]
    total = np.zeros(length, native_dtype(bits))
    for part in parts:
        add_packed(pack(part, bits), total, bits)
    reduce(total, bits)
    exact = sum(part.astype(object) for part in parts) % (1 << bits)
    assert total.tolist() == list(exact)


def test_a_refused_vector_is_not_added() -> None:
    total = np.arange(5, dtype=np.uint16)
    for wrong in (b"\xff" * 7, b"\xff" * 8):
        with pytest.raises(UnknownFormat):
            add_packed(wrong, total, 11)
    assert total.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bits", [5, 16, 20])
def test_packing_in_place_at_an_odd_address(bits: int) -> None:
    ring = uniform(1000, bits)
    size = packed_bytes(1000, bits)
    memory = bytearray(size + 2)
    pack_into(ring, memoryview(memory)[1 : 1 + size], bits)
    assert bytes(memory) == b"\x00" + pack(ring, bits) + b"\x00"
    assert np.array_equal(
        unpack(memoryview(memory)[1 : 1 + size], length=1000, bits=bits),
        unpack(pack(ring, bits), length=1000, bits=bits),
    )
    with pytest.raises(LocalProtocolError, match="buffer has"):
        pack_into(ring, memory, bits)


@pytest.mark.parametrize(
    ("bits", "native"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64)]
)
def test_native_width_is_the_smallest_that_holds_it(bits: int, native: int) -> None:
    assert native_bits(bits) == native
    assert native_dtype(bits) == np.dtype(f"<u{native // 8}")


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(LocalProtocolError, match="1 to 64"):
        pack(np.zeros(3, np.uint8), bits)
    with pytest.raises(LocalProtocolError, match="1 to 64"):
        unpack(b"\x00", length=3, bits=bits)


@pytest.mark.parametrize(
    "ring",
    [np.zeros(4, np.uint32), np.zeros(4, np.int16), np.zeros((2, 2), np.uint16), np.zeros(8, np.uint16)[::2]],
    ids=["wider", "signed", "matrix", "strided"],
)
def test_other_arrays_are_refused(ring: Array) -> None:
    with pytest.raises(LocalProtocolError, match="contiguous"):
        pack(ring, 12)
    with pytest.raises(LocalProtocolError, match="contiguous"):
        reduce(ring, 12)


def test_sixteen_bits_cost_two_bytes_a_value() -> None:
    assert packed_bytes(10**6, 16) == 2 * 10**6
    assert packed_bytes(3, 11) == 5
