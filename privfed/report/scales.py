"""Where an axis begins and ends, where its ticks stand, and how a number is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context

from privfed.errors import UsageError

__all__ = ["Axis", "Scale", "format_bytes", "format_epsilon", "format_number", "make_scale"]

STEPS = (1.0, 2.0, 5.0, 10.0)
LARGEST = 1e300  # differences of larger values overflow; no picture needs them
MAX_DECADES = 12  # a longer logarithmic axis shows rounding errors, not results


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        title: with its unit.
        integer: ticks only at whole numbers.
        logarithmic: values of zero and below are then left out of the picture.
        include: values that the axis must reach.
    """

    title: str
    integer: bool = False
    logarithmic: bool = False
    include: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """A finished axis: maps `low..high` to the unit interval.

    Attributes:
        low: value at the start of the axis.
        high: value at its end; larger than `low`.
        ticks: values to mark, ascending, within the axis.
        labels: one per tick.
        logarithmic: whether equal factors are equally long.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    logarithmic: bool

    def shows(self, value: float) -> bool:
        """Return whether `value` has a place on the axis."""
        return math.isfinite(value) and self.low <= value <= self.high

    def position(self, value: float) -> float:
        """Return where `value` lies, 0.0 at the start and 1.0 at the end of the axis."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def make_scale(values: Iterable[float], axis: Axis, *, target: int = 6) -> Scale:
    """Return an axis around the finite values, with about `target` ticks at 1, 2 or 5 times a power of ten.

    Raises:
        UsageError: `axis.include` holds a value that the axis cannot show.
    """
    if target < 2:
        raise UsageError(f"target is {target} ticks, expected at least 2")
    for value in axis.include:
        if not abs(value) <= LARGEST or (axis.logarithmic and value <= 0):
            raise UsageError(f"axis {axis.title!r} cannot reach {value}: leave it out of include")
    shown = [*axis.include, *(v for v in values if abs(v) <= LARGEST and (v > 0 or not axis.logarithmic))]
    low, high = (min(shown), max(shown)) if shown else (1.0, 10.0) if axis.logarithmic else (0.0, 1.0)
    if axis.logarithmic:
        return _logarithmic(low, high, target)
    return _linear(low, high, target, integer=axis.integer)


def _linear(low: float, high: float, target: int, *, integer: bool) -> Scale:
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, or several that differ by rounding
        room = 0.5 if integer else max(abs(high) * 0.1, 1e-9)
        low, high = low - room, high + room
    step = _nice_step((high - low) / target)
    if integer:
        step = max(1.0, step)
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        low, high = first * step, last * step
    ticks = tuple(index * step for index in range(first, last + 1))
    if integer and low == int(low) and ticks and ticks[0] - low >= 0.6 * step:
        ticks = (low, *ticks)  # rounds count from 1, not from 5
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return Scale(low, high, ticks, tuple(_tick_label(tick, decimals, step) for tick in ticks), False)


def _logarithmic(low: float, high: float, target: int) -> Scale:
    low = max(low, high / 10.0**MAX_DECADES)
    bottom, top = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if top - bottom > target:
        stride = math.ceil((top - bottom) / target)
        marks = [10.0**exponent for exponent in range(bottom, top + stride, stride)]
    else:
        factors = (1.0, 2.0, 5.0) if top - bottom <= target / 2 else (1.0,)
        marks = [factor * 10.0**exponent for exponent in range(bottom, top + 2) for factor in factors]
    start = max((mark for mark in marks if mark <= low * (1 + 1e-9)), default=marks[0])
    end = min((mark for mark in marks if mark >= high * (1 - 1e-9) and mark > start), default=marks[-1])
    ticks = tuple(mark for mark in marks if start <= mark <= end)
    return Scale(start, end, ticks, tuple(format_number(tick, digits=2) for tick in ticks), True)


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))


def _tick_label(value: float, decimals: int, step: float) -> str:
    if abs(value) >= 1e6 or decimals > 4:
        return format_number(value if abs(value) > step / 2 else 0.0, digits=3)
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


def format_number(value: float, *, digits: int = 4) -> str:
    """Return `value` for people: `digits` significant digits, no trailing noise, a true minus, infinity spelled out.

    Examples:
        >>> format_number(3.99987), format_number(0.000012345), format_number(1234567), format_number(float("inf"))
        ('4', '1.234e-05', '1,234,567', 'infinite')
    """
    if math.isnan(value):
        return "not known"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    if value == int(value) and abs(value) < 1e12:
        text = f"{int(value):,}"
    elif 1e-4 <= abs(value) < 10.0**digits:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    elif 1e-4 <= abs(value) < 1e12:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def format_epsilon(epsilon: float) -> str:
    """Return an epsilon with four significant digits, rounded up: what is read is never less than what was spent.

    Examples:
        >>> format_epsilon(3.99991), format_epsilon(0.123401), format_epsilon(0.0), format_epsilon(2.0)
        ('4.000', '0.1235', '0', '2')
    """
    if not math.isfinite(epsilon) or (epsilon == int(epsilon) and epsilon < 1e6):
        return format_number(epsilon)
    rounded = Context(prec=4, rounding=ROUND_CEILING).create_decimal_from_float(epsilon)
    return f"{rounded:f}" if 1e-4 <= epsilon < 1e4 else f"{rounded:e}"


def format_bytes(count: int) -> str:
    """Return a number of bytes with three significant digits and a binary unit.

    Examples:
        >>> format_bytes(1), format_bytes(4000), format_bytes(3 * 2**30)
        ('1 byte', '3.91 KiB', '3 GiB')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{format_number(count / size, digits=3)} {unit}"
    return "1 byte" if count == 1 else f"{count} bytes"
