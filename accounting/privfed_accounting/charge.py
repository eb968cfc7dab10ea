"""What rounds cost in one view: charges, and their total, with every error term beside the Gaussian's mu^2.

A charge says: the round is a Gaussian mechanism of parameter mu, up to a factor exp(epsilon_slack) on probabilities,
an event of probability delta_tail, and a sampler at total variation `sampler_distance` from the ideal one. The four
numbers add over rounds, and (theorem in accounting/README.md) a total of them is (epsilon, delta)-DP for every epsilon
with

    delta = exp(slack) * delta_Gauss(epsilon - slack; mu) + exp(epsilon) * tail + (1 + exp(epsilon)) * distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from privfed_accounting.errors import ParameterError
from privfed_accounting.gaussian import gaussian_epsilon, log_gaussian_delta

_FIELDS: Final = ("mu2", "epsilon_slack", "delta_tail", "sampler_distance")
_ULP: Final = 2.0**-52
_LARGEST_EXPONENT: Final = 700.0
_HAIR: Final = 1e-13  # of delta: far below the eleven digits promised, far above most leaks


@dataclass(frozen=True)
class Charge:
    """Cost of one round in one view.

    Attributes:
        mu2: (sensitivity / standard deviation of the noise unknown to the view)^2; infinite if not private.
        epsilon_slack: logarithm of the factor by which probabilities may differ from the Gaussian mechanism's,
            both directions together.
        delta_tail: probability of the event on which that factor does not hold.
        sampler_distance: total variation distance of all noise drawn in the round from the ideal distribution.
    """

    mu2: float
    epsilon_slack: float = 0.0
    delta_tail: float = 0.0
    sampler_distance: float = 0.0

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = getattr(self, name)
            if not (isinstance(value, float | int) and value >= 0.0):
                raise ParameterError(f"{name} of a charge is {value!r}, expected a number >= 0")

    @classmethod
    def non_private(cls) -> Charge:
        """Cost of a round without noise: infinite."""
        return cls(mu2=math.inf)

    @property
    def private(self) -> bool:
        """Whether the round has a finite cost at all."""
        return all(math.isfinite(getattr(self, name)) for name in _FIELDS)


@dataclass(frozen=True)
class Total:
    """Sum of charges, exact to twice the float's precision; `total + charge` and `total + total` give a new one.

    Attributes:
        rounds: number of charges in it.
        parts: for each of the four numbers its value and what rounding left over.
    """

    rounds: int = 0
    parts: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * 4

    @classmethod
    def of(cls, charges: Iterable[Charge]) -> Total:
        """Sum many charges."""
        total = cls()
        for charge in charges:
            total = total + charge
        return total

    def __add__(self, other: Charge | Total) -> Total:
        if isinstance(other, Charge):
            added: tuple[tuple[float, float], ...] = tuple((float(getattr(other, name)), 0.0) for name in _FIELDS)
            return Total(self.rounds + 1, tuple(map(_add, self.parts, added)))
        return Total(self.rounds + other.rounds, tuple(map(_add, self.parts, other.parts)))

    @property
    def mu2(self) -> float:
        """Sum of mu^2, rounded up."""
        return _up(self.parts[0])

    @property
    def epsilon_slack(self) -> float:
        """Sum of the slacks, rounded up."""
        return _up(self.parts[1])

    @property
    def delta_tail(self) -> float:
        """Sum of the tail probabilities, rounded up."""
        return _up(self.parts[2])

    @property
    def sampler_distance(self) -> float:
        """Sum of the samplers' distances, rounded up."""
        return _up(self.parts[3])

    @property
    def mu(self) -> float:
        """Parameter of the one Gaussian mechanism that all rounds together amount to, slack and tails aside."""
        return math.sqrt(self.mu2)

    @property
    def private(self) -> bool:
        """Whether all charges were finite."""
        return all(math.isfinite(high) for high, _ in self.parts)

    def delta(self, epsilon: float) -> float:
        """Delta at epsilon, all error terms counted, rounded up and at most 1; at infinity 0 for private rounds."""
        if not epsilon >= 0.0:
            raise ParameterError(f"epsilon is {epsilon!r}, expected a number >= 0")
        if self.parts == ((0.0, 0.0),) * 4:
            return 0.0
        if not self.private or epsilon < self.epsilon_slack:
            return 1.0
        if epsilon == math.inf:
            return 0.0
        gaussian = math.exp(min(0.0, log_gaussian_delta(epsilon - self.epsilon_slack, self.mu) + self.epsilon_slack))
        return min(1.0, (max(gaussian, 5e-324 if self.mu2 > 0 else 0.0) + self._leak(epsilon)) * (1.0 + 8 * _ULP))

    def epsilon(self, delta: float) -> float:
        """Least epsilon found at delta, all error terms counted, rounded up; infinity if none exists.

        Args:
            delta: 0 < delta < 1.

        Guarantees:
            self.delta(self.epsilon(delta)) <= delta, whenever the result is finite.
        """
        if not 0.0 < delta < 1.0:
            raise ParameterError(f"delta is {delta!r}, expected 0 < delta < 1")
        if self.parts == ((0.0, 0.0),) * 4:
            return 0.0
        if not self.private or self.mu > 1e4:
            return math.inf
        # The leak grows with epsilon, the Gaussian's delta falls: set room aside for the leak, find epsilon, and see
        # whether the leak fits there; if not, set aside what it takes there. Usually the first hair is enough.
        slack, mu = self.epsilon_slack, self.mu
        shrink, aside = math.exp(-slack) * (1.0 - 1e-13), _HAIR * delta
        for _ in range(100):
            room = (delta - aside) * shrink
            if not room > 0.0:
                return math.inf
            epsilon = (slack + gaussian_epsilon(room, mu)) * (1.0 + 4 * _ULP)
            taken = self._leak(epsilon)
            if taken <= aside:
                return epsilon
            aside = taken + _HAIR * delta
        return math.inf

    def _leak(self, epsilon: float) -> float:
        """Part of delta that is not the Gaussian's, at epsilon, rounded up."""
        tail, distance = self.delta_tail, self.sampler_distance
        if tail == 0.0 and distance == 0.0:
            return 0.0
        if epsilon > _LARGEST_EXPONENT:
            return math.inf
        factor = math.exp(epsilon)
        return (factor * tail + (1.0 + factor) * distance) * (1.0 + 1e-13) + 5e-324


def _add(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
    """Sum of two double-word numbers (Knuth's two-sum on the high words)."""
    high = left[0] + right[0]
    if not math.isfinite(high):
        return (math.inf, 0.0)
    back = high - left[0]
    low = (left[0] - (high - back)) + (right[0] - back) + left[1] + right[1]
    return _renormalised(high, low)


def _renormalised(high: float, low: float) -> tuple[float, float]:
    top = high + low
    return (top, low - (top - high))


def _up(part: tuple[float, float]) -> float:
    """The float at or above a double-word number."""
    high, low = part
    return math.nextafter(high, math.inf) if low > 0.0 else high
