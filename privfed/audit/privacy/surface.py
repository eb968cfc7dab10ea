"""What a release shows beside its values must not depend on the data.

Two data sets are released twice each. Whatever is the same for one and the same within the other, but not between them,
depends on the data: a weight, a count, a number of bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from privfed.federation import FederationBase, Release

__all__ = ["dependence", "surface"]

_VALUES = ("release.values",)


def surface(federation: FederationBase, release: Release) -> dict[str, str]:
    """Return everything public of a release and of the ledger's rounds, but for the values: path -> text."""
    found = _flat("release", release)
    for number, record in enumerate(federation.ledger.rounds()):
        found |= _flat(f"ledger[{number}]", record)
    return {path: text for path, text in found.items() if not path.startswith(_VALUES)}


def dependence(first: Sequence[Mapping[str, str]], second: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the paths whose content is fixed by which of two data sets was released."""
    paths = {path for shown in (*first, *second) for path in shown}
    return sorted(path for path in paths if _fixed_and_different(path, first, second))


def _fixed_and_different(path: str, first: Sequence[Mapping[str, str]], second: Sequence[Mapping[str, str]]) -> bool:
    texts = [{shown.get(path) for shown in runs} for runs in (first, second)]
    return len(texts[0]) == len(texts[1]) == 1 and texts[0] != texts[1]


def _flat(path: str, value: Any) -> dict[str, str]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f"{path}.{field.name}": getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        parts = {f"{path}.{key}": item for key, item in value.items()}
    else:
        return {path: repr(value)}
    return {name: text for part, item in parts.items() for name, text in _flat(part, item).items()} or {path: "empty"}
