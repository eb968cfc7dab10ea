"""A check of JSON against the part of JSON Schema (draft 2020-12) that `report.schema.json` is written in.

So that a report can be checked where only the accountant is installed. A keyword that it does not know is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from privfed_accounting.errors import ParameterError

_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: _TYPES["number"](value) and float(value).is_integer(),
}
_SILENT: Final = frozenset({"$schema", "$id", "$defs", "title", "description"})


def violations(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, at: str = ""
) -> Iterator[str]:
    """Say where a JSON value does not fit a schema, one sentence each, with the place as in /views/0/epsilon."""
    root = schema if root is None else root
    for keyword, demand in schema.items():
        if keyword in _SILENT:
            continue
        if keyword not in _CHECKS:
            raise ParameterError(f"the schema uses {keyword!r}, which is not read here: give a schema without it")
        yield from _CHECKS[keyword](value, demand, schema, root, at)


def _reference(value: Any, demand: str, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    return violations(value, root["$defs"][demand.removeprefix("#/$defs/")], root, at)


def _type(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    names = [demand] if isinstance(demand, str) else demand
    if not any(_TYPES[name](value) for name in names):
        yield f"{at or '/'} is {_shown(value)}, expected {' or '.join(names)}"


def _one_of(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    found = [list(violations(value, each, root, at)) for each in demand]
    fitting = sum(not each for each in found)
    if fitting != 1:
        closest = min((each for each in found if each), key=lambda each: -len(each[0]), default=[])
        yield closest[0] if closest and not fitting else f"{at or '/'} fits {fitting} alternatives, expected one"


def _properties(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name in demand.keys() & value.keys():
            yield from violations(value[name], demand[name], root, f"{at}/{name}")


def _additional(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for name in sorted(value.keys() - schema.get("properties", {}).keys()):
        if demand is False:
            yield f"{at}/{name} is not known to the schema"
        elif isinstance(demand, Mapping):
            yield from violations(value[name], demand, root, f"{at}/{name}")


def _required(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{at}/{name} is missing" for name in demand if name not in value)


def _items(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from violations(each, demand, root, f"{at}/{number}")


def _when(holds: Callable[[Any, Any], bool], words: str) -> Callable[..., Iterator[str]]:
    def check(value: Any, demand: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
        if not holds(value, demand):
            yield f"{at or '/'} is {_shown(value)}, expected {words} {demand!r}"

    return check


def _number(value: Any) -> float | None:
    return float(value) if _TYPES["number"](value) else None


def _bound(holds: Callable[[float, float], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, demand: (number := _number(value)) is None or (math.isfinite(number) and holds(number, demand))


def _same(value: Any, demand: Any) -> bool:
    return bool(value == demand) and isinstance(value, bool) == isinstance(demand, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_CHECKS: Final[Mapping[str, Callable[..., Iterator[str]]]] = {
    "$ref": _reference,
    "type": _type,
    "oneOf": _one_of,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "items": _items,
    "const": _when(_same, "just"),
    "enum": _when(lambda value, demand: any(_same(value, each) for each in demand), "one of"),
    "pattern": _when(
        lambda value, demand: not isinstance(value, str) or re.search(demand, value) is not None, "a match of"
    ),
    "minimum": _when(_bound(lambda value, demand: value >= demand), "at least"),
    "maximum": _when(_bound(lambda value, demand: value <= demand), "at most"),
    "exclusiveMinimum": _when(_bound(lambda value, demand: value > demand), "more than"),
    "exclusiveMaximum": _when(_bound(lambda value, demand: value < demand), "less than"),
    "minItems": _when(lambda value, demand: not isinstance(value, list) or len(value) >= demand, "a length from"),
    "minLength": _when(lambda value, demand: not isinstance(value, str) or len(value) >= demand, "a length from"),
}
