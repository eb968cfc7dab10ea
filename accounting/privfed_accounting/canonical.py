"""Canonical JSON and its SHA-256: the one byte string for one value, on which the hash chain stands.

Keys sorted, no spaces, ASCII only, floats in Python's shortest form that reads back to the same bits, no NaN and no
infinity. A reader in another language need not reproduce this: it hashes the stored text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from privfed_accounting.errors import ParameterError

Fact = float | int | str | bool | None


def canonical_json(value: object) -> str:
    """Text of a JSON-able value in canonical form.

    Raises:
        ParameterError: the value holds NaN, an infinity, a key that is not a string, or something JSON has no form for.

    >>> canonical_json({"b": 1e-6, "a": [True, None]})
    '{"a":[true,null],"b":1e-06}'
    """
    _check_keys(value)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"a value cannot be written as JSON: {error}") from error


def digest(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def parse(text: str) -> Any:
    """Read JSON strictly: NaN, infinities and repeated keys are errors (ValueError)."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


def checked_facts(facts: Mapping[str, object] | None) -> dict[str, Fact]:
    """Copy of a mapping of names to numbers, strings, booleans or None, fit for an entry.

    numpy scalars become Python's; anything else, NaN and infinities included, is refused.
    """
    if facts is None:
        return {}
    return {_checked_name(name): _checked_fact(name, value) for name, value in facts.items()}


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ParameterError(f"the name of a fact is {name!r}, expected a non-empty string")
    return name


def _checked_fact(name: str, value: object) -> Fact:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        value = item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ParameterError(
                f"fact {name!r} is {value!r}, expected a finite number: leave it out or give it as text"
            )
        return value
    raise ParameterError(f"fact {name!r} is a {type(value).__name__}, expected a number, string, boolean or None")


def _check_keys(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ParameterError(f"key {key!r} is not a string, as JSON needs")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result
