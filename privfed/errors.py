"""The errors of privfed, one small tree whose branches are what the caller can do about them.

The two halves below have trees of their own: `privfed_protocols.ProtocolError` (a peer's message is refused, a round
failed closed) and `privfed_accounting.AccountingError` (the budget is spent, a ledger cannot be read or written).
"""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "DataError",
    "FederationError",
    "PrivfedError",
    "UsageError",
    "checked_integer",
    "checked_number",
    "needs_extra",
    "warn_caller",
]


class PrivfedError(Exception):
    """Base of every error that privfed itself raises."""


class UsageError(PrivfedError, ValueError):
    """An argument is wrong; the message names what was found, what was expected and the remedy."""


class DataError(PrivfedError, ValueError):
    """A client's data cannot be used: NaN, infinity, wrong shape, no rows, too many rows.

    Attributes:
        client: name of the client whose data are meant, or None.
    """

    def __init__(self, message: str, *, client: str | None = None) -> None:
        super().__init__(message)
        self.client = client


class FederationError(PrivfedError, RuntimeError):
    """A release could not be completed: too few clients are left, or a client refused the plan.

    Attributes:
        charged: whether the round stays charged to the budget, because its sum may have been revealed.
    """

    def __init__(self, message: str, *, charged: bool = False) -> None:
        super().__init__(message)
        self.charged = charged


def checked_integer(name: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return `value` as an int: Python's or numpy's, no boolean, no float.

    Raises:
        UsageError: of another kind, or out of range.

    >>> checked_integer("rounds", 3, least=1)
    3
    """
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what has no index raises
    except TypeError:
        number = None
    flag = isinstance(value, bool) or type(value).__name__ == "bool"  # numpy's, too
    if number is None or flag or number < least or (most is not None and number > most):
        raise UsageError(f"{name} is {_shown(value)}, expected an integer {limits}")
    return number


def checked_number(name: str, value: object, *, what: str = "a finite number above 0") -> float:
    """Return `value` as a finite float above 0: Python's or numpy's, no boolean, no text.

    Raises:
        UsageError: saying that `what` was expected.

    >>> checked_number("clip", 2)
    2.0
    """
    real = isinstance(value, int | float) or getattr(getattr(value, "dtype", None), "kind", "") in ("f", "i", "u")
    if real and not isinstance(value, bool) and getattr(value, "ndim", 0) == 0:
        number = float(value)  # type: ignore[arg-type]  # a number
        if math.isfinite(number) and number > 0:
            return number
    raise UsageError(f"{name} is {_shown(value)}, expected {what}")


def _shown(value: object) -> str:
    """Return the value, or only its kind where it may be rows that were given in the wrong place."""
    plain = value is None or isinstance(value, str | bool | int | float | complex)
    return repr(value) if plain or getattr(value, "shape", None) == () else f"of type {type(value).__name__}"


@contextmanager
def needs_extra(extra: str, why: str) -> Iterator[None]:
    """Import an optional package in here: where it is missing, the error names the extra that brings it.

    Raises:
        UsageError: saying `why`.

    >>> with needs_extra("plot", "figures need matplotlib"):
    ...     import a_package_that_is_missing
    Traceback (most recent call last):
        ...
    privfed.errors.UsageError: figures need matplotlib: pip install 'privfed[plot]'
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(f"{why}: pip install 'privfed[{extra}]'") from error


def warn_caller(message: str) -> None:
    """Warn with a `UserWarning` that points to the first line outside privfed, however deep the call was."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "privfed":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
