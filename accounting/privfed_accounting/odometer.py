"""What has been spent so far, asked after every round: cached rows, and answers in microseconds."""

from __future__ import annotations

import math

import numpy as np

from privfed_accounting.charge import Charge, Total, add_exactly, leaked, rounded_up, within
from privfed_accounting.errors import ParameterError
from privfed_accounting.gaussian import gaussian_epsilon
from privfed_accounting.rdp import ORDERS, FloatArray, converted, gaussian_row


class Odometer:
    """Running epsilon at one delta: `add` a charge, ask `epsilon`; ten thousand of both take a fraction of a second.

    It reads what `Total` reads, to the last few digits; `total` is the sum itself.

    Guarantees:
        Never below the true epsilon of the rounds added, had their schedule been fixed beforehand. Rounds chosen after
        seeing answers are guarded by a budget's filter, whose epsilon was fixed beforehand; an odometer's reading is no
        such promise (accounting/README.md, "Filters").

    >>> odometer = Odometer(1e-5)
    >>> [round(odometer.add(Charge(mu2=0.25)).epsilon(), 4) for _ in range(4)]
    [1.9931, 2.9432, 3.7086, 4.3772]
    """

    def __init__(self, delta: float) -> None:
        if not 0.0 < delta < 1.0:
            raise ParameterError(f"delta is {delta!r}, expected 0 < delta < 1")
        self._delta = delta
        self._parts: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * 4
        self._row: FloatArray | None = None
        self._cohorts = Total()
        self._last: tuple[tuple[float, ...], FloatArray] = ((), np.zeros(len(ORDERS)))
        self._readings = (0.0, 0.0)
        self.rounds = 0

    @property
    def delta(self) -> float:
        """Delta at which epsilon is told."""
        return self._delta

    def add(self, charge: Charge) -> Odometer:
        """Count one more round; returns the odometer itself."""
        self.rounds += 1
        if charge.cohort:
            self._cohorts = self._cohorts + charge
            return self
        added = (
            (charge.mu2, 0.0),
            (charge.epsilon_slack, 0.0),
            (charge.delta_tail, 0.0),
            (charge.sampler_distance, 0.0),
        )
        self._parts = tuple(map(add_exactly, self._parts, added))
        if charge.rdp:
            if charge.rdp is not self._last[0]:
                self._last = charge.rdp, np.array(charge.rdp)
            row = self._last[1] if self._row is None else self._row + self._last[1]
            self._row = np.nextafter(row, math.inf)
        return self

    @property
    def total(self) -> Total:
        """Sum of the charges so far."""
        rows = () if self._row is None else tuple(self._row.tolist())
        return Total(self.rounds - self._cohorts.rounds, self._parts, rows) + self._cohorts

    def epsilon(self) -> float:
        """Epsilon so far, rounded up; infinity where a round was not private."""
        if self._cohorts.rounds:
            return self.total.epsilon(self._delta)
        mu2, slack, tail, distance = map(rounded_up, self._parts)
        finite = math.isfinite(mu2 + slack + tail + distance)
        if not finite or mu2 > 1e8 or (self._row is not None and not np.isfinite(self._row).any()):
            return math.inf
        if self.rounds == 0 or (mu2 == slack == tail == distance == 0.0 and self._row is None):
            return 0.0
        reading = within(
            self._delta,
            slack,
            lambda epsilon: leaked(epsilon, tail=tail, distance=distance),
            lambda room: self._ideal(room, mu2),
        )
        self._readings = self._readings[1], reading
        return reading

    def _ideal(self, delta: float, mu2: float) -> float:
        if self._row is not None:
            return converted(np.nextafter(self._row + gaussian_row(mu2), math.inf) if mu2 else self._row, delta)
        # Epsilon grows ever more slowly with equal rounds: the line through the last two readings is a little above.
        before, last = self._readings
        guess = 2.0 * last - before if 0.0 < before < last < math.inf else None
        return gaussian_epsilon(delta, math.sqrt(mu2), guess=guess)
