"""Checks of numbers that callers give: what they refuse, they name."""

from __future__ import annotations

import math
import numbers

from privfed_accounting.errors import ParameterError


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no Python integer of at least `least`; a boolean is none.

    Raises:
        ParameterError: saying that `name` is `value`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ParameterError(f"{name} is {value!r}, expected an integer >= {least}")


def check_positive(name: str, value: object) -> None:
    """Refuse what is no finite number above 0, as `check_count` does."""
    if not (_finite(value) and value > 0):  # type: ignore[operator]  # a number by now
        raise ParameterError(f"{name} is {value!r}, expected a finite number > 0")


def check_at_least(name: str, value: object, least: float = 0.0) -> None:
    """Refuse what is no finite number of at least `least`, as `check_count` does."""
    if not (_finite(value) and value >= least):  # type: ignore[operator]  # a number by now
        raise ParameterError(f"{name} is {value!r}, expected a finite number >= {least:g}")


def _finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
