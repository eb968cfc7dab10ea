"""Canonical JSON: one text for one value, read back exactly."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_accounting import ParameterError
from privfed_accounting.canonical import canonical_json, digest, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_stable(value: object) -> None:
    text = canonical_json(value)
    assert parse(text) == value
    assert canonical_json(parse(text)) == text
    assert text.isascii()
    assert digest(text) == hashlib.sha256(text.encode()).hexdigest()


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_bit_for_bit(value: float) -> None:
    again = json.loads(canonical_json(value))
    assert again == value
    assert math.copysign(1.0, again) == math.copysign(1.0, value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1: 2}, [{None: 1}], {"a": {2.5: 1}}, object(), b"x", {1}]
)
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(ParameterError):
        canonical_json(value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":1,"a":1}', "{", ""])
def test_strict_reading(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)
