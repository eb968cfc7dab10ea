"""Encoding, the ring, and back: exact where it says exact, refused where it cannot be right."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.errors import DataError, UsageError
from privfed.mechanism.encode import MAX_ENCODED, decode, encode, from_ring, to_ring

BITS = [1, 8, 12, 16, 33, 64]
INT64 = st.integers(-(2**63), 2**63 - 1)
POWERS = st.integers(-60, 60).map(lambda exponent: 2.0**exponent)


def round_half_even(value: Fraction) -> int:
    return round(value)


@given(data=st.data(), scale=POWERS)
def test_powers_of_two_round_exactly_half_to_even(data: st.DataObject, scale: float) -> None:
    limit = min(MAX_ENCODED / scale, 1e300)
    values = data.draw(hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(-limit, limit)))
    expected = [round_half_even(Fraction(float(value)) * Fraction(scale)) for value in values]
    assert encode(values, scale=scale).tolist() == expected


@pytest.mark.parametrize(("value", "expected"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2)])
def test_ties_go_to_even(value: float, expected: int) -> None:
    assert encode([value], scale=1.0).tolist() == [expected]


@given(value=st.floats(-1e6, 1e6), scale=st.floats(1e-6, 1e9))
def test_error_is_what_it_says_at_any_scale(value: float, scale: float) -> None:
    exact = Fraction(value) * Fraction(scale)
    assert abs(int(encode([value], scale=scale)[0]) - exact) <= Fraction(1, 2) + abs(exact) / 2**53


@given(value=st.floats(-1e6, 1e6), scale=st.floats(1e-3, 1e9))
def test_decode_undoes_encode(value: float, scale: float) -> None:
    back = decode(encode([value], scale=scale), scale=scale)[0]
    assert abs(back - value) <= 0.5 / scale * (1 + 1e-9) + 1e-15 * abs(value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="NaN or infinity: impute or remove"):
        encode([0.0, bad], scale=1.0)


@pytest.mark.parametrize("value", [2.0**62 * (1 + 2**-52), -(2.0**63), 1e300])
def test_beyond_the_grid_is_refused_with_the_remedy(value: float) -> None:
    with pytest.raises(DataError, match=r"beyond 2\^62 .* clip the data .* or lower the scale"):
        encode([0.0, value], scale=1.0)
    with pytest.raises(DataError, match=r"beyond 2\^62"):
        encode([value], scale=2.0**1000)


def test_the_last_value_that_fits_is_taken() -> None:
    assert encode([2.0**62, -(2.0**62)], scale=1.0).tolist() == [2**62, -(2**62)]
    assert encode([], scale=1.0).tolist() == []
    assert encode(3.0, scale=2.0).shape == ()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    for call in (lambda: encode([1.0], scale=scale), lambda: decode(np.zeros(1, np.int64), scale=scale)):
        with pytest.raises(UsageError, match="scale is"):
            call()


@pytest.mark.parametrize("bits", BITS)
@given(values=st.lists(INT64, max_size=20))
def test_ring_is_the_integers_modulo_a_power_of_two(bits: int, values: list[int]) -> None:
    residues = to_ring(np.array(values, dtype=np.int64), bits=bits)
    assert residues.dtype.itemsize == min(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    assert residues.dtype.kind == "u"
    assert residues.tolist() == [value % 2**bits for value in values]
    centred = from_ring(residues, bits=bits)
    assert centred.dtype == np.int64
    assert centred.tolist() == [(value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for value in values]


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
def test_sums_that_fit_come_back_exactly(bits: int, data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, 10))
    limit = 2 ** (bits - 1) // clients - 1
    vectors = data.draw(hnp.arrays(np.int64, (clients, 4), elements=st.integers(-max(limit, 0), max(limit, 0))))
    total = to_ring(np.zeros(4, dtype=np.int64), bits=bits)
    for vector in vectors:
        total += to_ring(vector, bits=bits)  # wraps at the dtype's width; what is above `bits` does not matter
    assert (from_ring(total, bits=bits) == vectors.sum(axis=0)).all()


def test_conversions_copy() -> None:
    integers = np.array([1, 2], dtype=np.int64)
    residues = to_ring(integers)
    residues[0] = 9
    from_ring(residues)[1] = 7
    assert (integers == [1, 2]).all()
    assert residues.tolist() == [9, 2]


@pytest.mark.parametrize("bits", [-1, 0, 65, 128])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(UsageError, match=f"bits is {bits}"):
        to_ring(np.zeros(1, np.int64), bits=bits)
    with pytest.raises(UsageError, match=f"bits is {bits}"):
        from_ring(np.zeros(1, np.uint64), bits=bits)


def test_width_of_the_dtype_is_the_default() -> None:
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        assert from_ring(np.array([0, 1, np.iinfo(dtype).max], dtype=dtype)).tolist() == [0, 1, -1]
    assert from_ring(np.array(255, dtype=np.uint8)).shape == ()


def test_residues_too_narrow_for_their_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="uint8, too narrow for 12 bits"):
        from_ring(np.zeros(1, np.uint8), bits=12)


def test_dtypes_are_checked() -> None:
    with pytest.raises(UsageError, match="float64, expected int64"):
        to_ring(np.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="int64, expected uint8"):
        from_ring(np.zeros(1, np.int64))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="uint64, expected int64"):
        decode(np.zeros(1, np.uint64), scale=1.0)  # type: ignore[arg-type]
