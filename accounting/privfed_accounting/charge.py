"""What rounds cost in one view: charges, and their total, with every error term beside the Gaussian's mu^2.

A charge says: the round is an ideal mechanism, up to a factor exp(epsilon_slack) on probabilities, an event of
probability delta_tail, and a sampler at total variation `sampler_distance` from the ideal one. The ideal mechanism is a
Gaussian of parameter mu, and beside it anything with the Renyi divergences `rdp` (Skellam noise, sampled rounds). All
numbers add over rounds, and (theorem in accounting/README.md) a total of them is (epsilon, delta)-DP for every epsilon
with

    delta = exp(slack) * delta_ideal(epsilon - slack) + exp(epsilon) * tail + (1 + exp(epsilon)) * distance,

delta_ideal being the exact Gaussian curve where there is no `rdp`, and else the conversion of a mu^2/2 + rdp_a.
Cohorts that take turns are disjoint: of their charges the largest counts, number by number, not the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from privfed_accounting.checks import check_count
from privfed_accounting.errors import ParameterError
from privfed_accounting.gaussian import gaussian_epsilon, log_gaussian_delta
from privfed_accounting.rdp import ORDERS, FloatArray, gaussian_row, rdp_epsilon, rdp_log_delta

_FIELDS: Final = ("mu2", "epsilon_slack", "delta_tail", "sampler_distance")
_ULP: Final = 2.0**-52
_LARGEST_EXPONENT: Final = 700.0
_HAIR: Final = 1e-13  # of delta: far below the eleven digits promised, far above most leaks


@dataclass(frozen=True)
class Charge:
    """Cost of one round in one view.

    Attributes:
        mu2: (sensitivity / standard deviation of the noise unknown to the view)^2 of a round accounted as an exact
            Gaussian; infinite if not private, 0 if all of its cost is in `rdp`.
        epsilon_slack: logarithm of the factor by which probabilities may differ from the ideal mechanism's,
            both directions together.
        delta_tail: probability of the event on which that factor does not hold.
        sampler_distance: total variation distance of all noise drawn in the round from the ideal distribution.
        rdp: Renyi divergence at each order of `privfed_accounting.rdp.ORDERS`, of a round that is no plain Gaussian;
            empty otherwise.
        cohort: name of the cohort whose turn it was ("schedule:turn"); empty if every unit may be in the round.
    """

    mu2: float
    epsilon_slack: float = 0.0
    delta_tail: float = 0.0
    sampler_distance: float = 0.0
    rdp: tuple[float, ...] = ()
    cohort: str = ""

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = getattr(self, name)
            if not (isinstance(value, float | int) and value >= 0.0):
                raise ParameterError(f"{name} of a charge is {value!r}, expected a number >= 0")
        object.__setattr__(self, "rdp", tuple(self.rdp))
        if self.rdp and len(self.rdp) != len(ORDERS):
            raise ParameterError(f"rdp of a charge has {len(self.rdp)} numbers, expected one for {len(ORDERS)} orders")
        if not all(isinstance(value, float | int) and value >= 0.0 for value in self.rdp):
            raise ParameterError("rdp of a charge holds a negative divergence or no number, expected numbers >= 0")
        if self.cohort and ":" not in self.cohort:
            raise ParameterError(f"cohort of a charge is {self.cohort!r}, expected 'schedule:turn'")

    @classmethod
    def non_private(cls) -> Charge:
        """Cost of a round without noise: infinite."""
        return cls(mu2=math.inf)

    @property
    def private(self) -> bool:
        """Whether the round has a finite cost at all."""
        return all(math.isfinite(getattr(self, name)) for name in _FIELDS) and (
            not self.rdp or any(map(math.isfinite, self.rdp))
        )

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON if the charge is private; `rdp` and `cohort` only where there is one."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        if self.rdp:
            fields["rdp"] = [value if math.isfinite(value) else None for value in self.rdp]
        if self.cohort:
            fields["cohort"] = self.cohort
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Charge:
        """Read back what `as_dict` gave; an unknown or missing field is a ParameterError."""
        if not set(_FIELDS) <= set(fields) <= {*_FIELDS, "rdp", "cohort"}:
            raise ParameterError(
                f"a charge has the fields {sorted(fields)}, expected {', '.join(_FIELDS)}, rdp, cohort"
            )
        row = tuple(math.inf if value is None else value for value in fields.get("rdp", ()))
        return cls(**{**fields, "rdp": row})

    def agrees(self, other: Charge, *, relative: float = 1e-9) -> bool:
        """Whether two charges are one up to the last digits, in which two machines' libraries may differ."""
        if self.cohort != other.cohort or len(self.rdp) != len(other.rdp):
            return False
        mine = [*(getattr(self, name) for name in _FIELDS), *self.rdp]
        theirs = [*(getattr(other, name) for name in _FIELDS), *other.rdp]
        pairs = zip(mine, theirs, strict=True)
        return all(left == right or abs(left - right) <= relative * max(left, right) for left, right in pairs)


@dataclass(frozen=True)
class Total:
    """Sum of charges; `total + charge` and `total + total` give a new one.

    The four numbers are exact to twice the float's precision; rows of `rdp` are rounded up at every addition.

    Attributes:
        rounds: number of charges in it.
        parts: for each of the four numbers its value and what rounding left over; charges without a cohort.
        rows: sum of the rows of `rdp`, likewise; empty if there is none.
        cohorts: for each cohort that had a turn, by name, the total of its charges.
    """

    rounds: int = 0
    parts: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * 4
    rows: tuple[float, ...] = ()
    cohorts: tuple[tuple[str, Total], ...] = ()

    @classmethod
    def of(cls, charges: Iterable[Charge]) -> Total:
        """Sum many charges."""
        total = cls()
        for charge in charges:
            total = total + charge
        return total

    def __add__(self, other: Charge | Total) -> Total:
        if isinstance(other, Charge):
            other = _single(other)
        parts = tuple(map(add_exactly, self.parts, other.parts))
        rows = _add_rows(self.rows, other.rows)
        cohorts = self.cohorts
        if other.cohorts:
            merged = dict(cohorts)
            for name, total in other.cohorts:
                merged[name] = merged[name] + total if name in merged else total
            cohorts = tuple(sorted(merged.items()))
        return Total(self.rounds + other.rounds, parts, rows, cohorts)

    def times(self, count: int) -> Total:
        """The same `count` times over, >= 0, by doubling."""
        check_count("count", count, least=0)
        total, power = Total(), self
        while count:
            total = total + power if count & 1 else total
            power, count = power + power, count >> 1
        return total

    @cached_property
    def _joint(self) -> Total:
        """The same with the cohorts folded in: of each schedule the largest, number by number."""
        joint = Total(self.rounds, self.parts, self.rows)
        schedules: dict[str, list[Total]] = {}
        for name, total in self.cohorts:
            schedules.setdefault(name.rpartition(":")[0], []).append(total)
        for totals in schedules.values():
            parts = tuple(max(column) for column in zip(*(total.parts for total in totals), strict=True))
            rows = [total.rows for total in totals if total.rows]
            joint = joint + Total(0, parts, tuple(map(max, zip(*rows, strict=True))))
        return joint

    @property
    def mu2(self) -> float:
        """Sum of mu^2, rounded up."""
        return rounded_up(self._joint.parts[0])

    @property
    def epsilon_slack(self) -> float:
        """Sum of the slacks, rounded up."""
        return rounded_up(self._joint.parts[1])

    @property
    def delta_tail(self) -> float:
        """Sum of the tail probabilities, rounded up."""
        return rounded_up(self._joint.parts[2])

    @property
    def sampler_distance(self) -> float:
        """Sum of the samplers' distances, rounded up."""
        return rounded_up(self._joint.parts[3])

    @property
    def rdp(self) -> tuple[float, ...]:
        """Sum of the rows of rounds that are no plain Gaussians, over `ORDERS`, rounded up; empty if there is none."""
        return self._joint.rows

    @property
    def joint_rdp(self) -> FloatArray:
        """Renyi divergence of everything at each of `ORDERS`: a mu^2/2 + rdp_a, rounded up."""
        gaussian = gaussian_row(self.mu2)
        return np.nextafter(gaussian + self.rdp, math.inf) if self.rdp else gaussian

    @property
    def mu(self) -> float:
        """Parameter of the one Gaussian mechanism that the plain Gaussian rounds together amount to."""
        return math.sqrt(self.mu2)

    @property
    def private(self) -> bool:
        """Whether all charges were finite."""
        joint = self._joint
        return all(math.isfinite(high) for high, _ in joint.parts) and (
            not joint.rows or any(map(math.isfinite, joint.rows))
        )

    @property
    def _empty(self) -> bool:
        joint = self._joint
        return joint.parts == ((0.0, 0.0),) * 4 and not any(joint.rows)

    def delta(self, epsilon: float) -> float:
        """Delta at epsilon, all error terms counted, rounded up and at most 1; at infinity 0 for private rounds."""
        if not epsilon >= 0.0:
            raise ParameterError(f"epsilon is {epsilon!r}, expected a number >= 0")
        if self._empty:
            return 0.0
        if not self.private or epsilon < self.epsilon_slack:
            return 1.0
        if epsilon == math.inf:
            return 0.0
        ideal = math.exp(min(0.0, self._ideal_log_delta(epsilon - self.epsilon_slack) + self.epsilon_slack))
        least = 5e-324 if self.mu2 > 0 or self.rdp else 0.0
        return min(1.0, (max(ideal, least) + self._leak(epsilon)) * (1.0 + 8 * _ULP))

    def epsilon(self, delta: float) -> float:
        """Least epsilon found at delta, all error terms counted, rounded up; infinity if none exists.

        Args:
            delta: 0 < delta < 1.

        Guarantees:
            self.delta(self.epsilon(delta)) <= delta, whenever the result is finite.
        """
        if not 0.0 < delta < 1.0:
            raise ParameterError(f"delta is {delta!r}, expected 0 < delta < 1")
        if self._empty:
            return 0.0
        if not self.private or self.mu > 1e4:
            return math.inf
        return within(delta, self.epsilon_slack, self._leak, self._ideal_epsilon)

    def _ideal_epsilon(self, delta: float) -> float:
        """Epsilon of the ideal mechanisms alone."""
        return rdp_epsilon(self.joint_rdp, delta) if self.rdp else gaussian_epsilon(delta, self.mu)

    def _ideal_log_delta(self, epsilon: float) -> float:
        """Log delta of the ideal mechanisms alone."""
        return rdp_log_delta(self.joint_rdp, epsilon) if self.rdp else log_gaussian_delta(epsilon, self.mu)

    def _leak(self, epsilon: float) -> float:
        return leaked(epsilon, tail=self.delta_tail, distance=self.sampler_distance)


def within(delta: float, slack: float, leak: Callable[[float], float], ideal: Callable[[float], float]) -> float:
    """Least epsilon found with exp(slack) delta_ideal(epsilon - slack) + leak(epsilon) <= delta; infinity if none.

    Args:
        delta: 0 < delta < 1.
        slack: >= 0.
        leak: part of delta that is not the ideal mechanism's, growing with epsilon.
        ideal: epsilon of the ideal mechanism at a delta, on the safe side.
    """
    # The ideal delta falls with epsilon: set room aside for the leak, find epsilon, and see whether the leak fits
    # there; if not, set aside what it takes there. Usually the first hair is enough.
    shrink, aside = math.exp(-slack) * (1.0 - 1e-13), _HAIR * delta
    for _ in range(100):
        room = (delta - aside) * shrink
        if not room > 0.0:
            return math.inf
        epsilon = (slack + ideal(room)) * (1.0 + 4 * _ULP)
        taken = leak(epsilon)
        if taken <= aside:
            return epsilon
        aside = taken + _HAIR * delta
    return math.inf


def leaked(epsilon: float, *, tail: float, distance: float) -> float:
    """exp(epsilon) tail + (1 + exp(epsilon)) distance, rounded up."""
    if tail == 0.0 and distance == 0.0:
        return 0.0
    if epsilon > _LARGEST_EXPONENT:
        return math.inf
    factor = math.exp(epsilon)
    return (factor * tail + (1.0 + factor) * distance) * (1.0 + 1e-13) + 5e-324


def add_exactly(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
    """Sum of two double-word numbers (Knuth's two-sum on the high words)."""
    high = left[0] + right[0]
    if not math.isfinite(high):
        return (math.inf, 0.0)
    back = high - left[0]
    low = (left[0] - (high - back)) + (right[0] - back) + left[1] + right[1]
    return _renormalised(high, low)


def _single(charge: Charge) -> Total:
    """Total of one charge."""
    parts = tuple((float(getattr(charge, name)), 0.0) for name in _FIELDS)
    alone = Total(1, parts, charge.rdp)
    return Total(1, cohorts=((charge.cohort, alone),)) if charge.cohort else alone


def _add_rows(left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
    """Sum of two rows, rounded up; an empty row is zero."""
    if not left or not right:
        return left or right
    with np.errstate(over="ignore"):
        rounded: list[float] = np.nextafter(np.add(left, right), math.inf).tolist()
    return tuple(rounded)


def _renormalised(high: float, low: float) -> tuple[float, float]:
    top = high + low
    return (top, low - (top - high))


def rounded_up(part: tuple[float, float]) -> float:
    """The float at or above a double-word number."""
    high, low = part
    return math.nextafter(high, math.inf) if low > 0.0 else high
