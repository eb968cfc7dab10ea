"""Parameters chosen by name: patterns as a shell has them, such as "head.*"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from privfed.errors import UsageError

__all__ = ["matches", "patterns_of", "refuse_unmatched"]


def patterns_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return one pattern or several as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns fits the name; upper and lower case differ.

    >>> matches("head.weight", ("body.*", "head.*"))
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def refuse_unmatched(what: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuse patterns that fit no parameter.

    Raises:
        UsageError: calling the patterns `what`.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no parameter's name matches {what} {pattern!r}, there are {', '.join(names)}")
