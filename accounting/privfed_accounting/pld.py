"""The tight estimate for schedules with sampled rounds: privacy losses added up in the Fourier domain.

Every round's loss is put on one grid (`loss_profile`), transformed, and multiplied into the product of all rounds so
far: a round costs the same whatever came before, and rounds may all differ. Both directions, a unit removed and a unit
added, are kept. The result holds for a schedule that was fixed before the first answer; for rounds chosen in between,
use the filters, which count in GDP and RDP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import fft

from privfed_accounting.checks import check_count
from privfed_accounting.errors import NumericalError, ParameterError
from privfed_accounting.loss_profile import Cells, Direction, SampledGaussian, optimistic_cells, pessimistic_cells
from privfed_accounting.rdp import FloatArray

DIRECTIONS: Final[tuple[Direction, ...]] = ("remove", "add")
STEP: Final = 2e-4
SIZE: Final = 2**17

_EXPONENTS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True)
class Bracket:
    """Lower and upper bound on epsilon at one delta, for a schedule fixed in advance."""

    lower: float
    upper: float


class _Side:
    """Product of the rounds' transforms in one direction."""

    def __init__(self, size: int) -> None:
        self.spectrum: npt.NDArray[np.complex128] = np.ones(size // 2 + 1, dtype=np.complex128)
        self.infinite = 0.0
        self.log_moments = np.zeros(len(_EXPONENTS))
        self.shift = 0.0


class LossLedger:
    """Tight epsilon of Gaussian rounds, sampled or not, each with its own rate and noise.

    Args:
        step: width of the grid of losses; the error in epsilon is of the order of rounds * step^2.
        size: number of grid points; losses up to step * size / 2 are told apart, larger ones count as infinite.
        optimistic: give lower bounds instead of upper ones.

    Guarantees:
        Upper (lower) bounds up to floating-point rounding, which `numerical_error` estimates and `epsilon` counts in
        delta. A delta below what that leaves room for gets infinity: at 1e-18 the method has nothing to say.

    >>> ledger = LossLedger()
    >>> ledger.compose(rate=0.01, mu=1.0, rounds=100)
    >>> round(ledger.epsilon(1e-5), 4)
    0.718
    """

    def __init__(self, *, step: float = STEP, size: int = SIZE, optimistic: bool = False) -> None:
        if not 0.0 < step <= 0.1:
            raise ParameterError(f"step is {step!r}, expected 0 < step <= 0.1")
        if isinstance(size, bool) or not isinstance(size, int) or size < 64 or size & (size - 1):
            raise ParameterError(f"size is {size!r}, expected a power of two, at least 64")
        self._step, self._size, self._optimistic = step, size, optimistic
        self._sides = {direction: _Side(size) for direction in DIRECTIONS}
        self._mu2 = 0.0
        self.rounds = 0

    def compose(self, *, rate: float, mu: float, rounds: int = 1, replacing: bool = False) -> None:
        """Add `rounds` equal rounds.

        Args:
            rate: probability that a unit is in the round; 1 without sampling.
            mu: sensitivity over standard deviation of the noise.
            rounds: >= 1.
            replacing: a cohort of fixed size (accounting/README.md, "Sampling"): its profile is that of Poisson
                sampling at twice the distance, in both directions. Upper bounds only.
        """
        check_count("rounds", rounds)
        if replacing and self._optimistic:
            raise ParameterError("no lower bound is known here for cohorts of fixed size: ask for the upper one")
        if rate == 1.0 and not replacing:
            SampledGaussian(rate, mu)
            self._mu2 += rounds * mu * mu
        else:
            pair = SampledGaussian(rate, 2.0 * mu if replacing else mu, symmetric=replacing)
            self._multiply(self._sides, pair, rounds)
        self.rounds += rounds

    def epsilon(self, delta: float) -> float:
        """Epsilon at delta over all rounds, the larger of both directions; infinity where the method cannot tell."""
        if not 0.0 < delta < 1.0:
            raise ParameterError(f"delta is {delta!r}, expected 0 < delta < 1")
        return max(self._tails(side).epsilon(delta) for side in self._with_gaussian().values()) if self.rounds else 0.0

    def delta(self, epsilon: float) -> float:
        """Delta at epsilon >= 0 over all rounds, the larger of both directions."""
        if not epsilon >= 0.0:
            raise ParameterError(f"epsilon is {epsilon!r}, expected a number >= 0")
        return max(self._tails(side).delta(epsilon) for side in self._with_gaussian().values()) if self.rounds else 0.0

    @property
    def numerical_error(self) -> float:
        """Part of delta that the rounding of the transforms may account for: an estimate, not a bound."""
        return max(_rounding(self._masses(side)) for side in self._with_gaussian().values())

    # --- steps ----------------------------------------------------------------------------------------------------

    def _multiply(self, sides: dict[Direction, _Side], pair: SampledGaussian, rounds: int) -> None:
        for direction in DIRECTIONS:
            side = sides[direction]
            spectrum, infinite, log_moments, shift = _transformed(
                pair, direction, self._step, self._size, self._optimistic
            )
            side.spectrum = side.spectrum * (spectrum if rounds == 1 else spectrum**rounds)
            side.infinite += rounds * infinite
            side.log_moments = side.log_moments + rounds * log_moments
            side.shift += rounds * shift

    def _with_gaussian(self) -> dict[Direction, _Side]:
        """Sides with the plain Gaussian rounds, which together are one, multiplied in."""
        if self._mu2 == 0.0:
            return self._sides
        sides = {}
        for direction, side in self._sides.items():
            copy = sides[direction] = _Side(self._size)
            copy.spectrum, copy.infinite = side.spectrum, side.infinite
            copy.log_moments, copy.shift = side.log_moments, side.shift
        self._multiply(sides, SampledGaussian(1.0, math.sqrt(self._mu2)), 1)
        return sides

    def _masses(self, side: _Side) -> FloatArray:
        """Probabilities on the grid, starting from loss 0, negative losses after the positive ones."""
        return fft.irfft(side.spectrum, self._size)

    def _tails(self, side: _Side) -> _Tails:
        """Losses above 0 with the probabilities, under P and Q, of each or a larger one, and what is lost in rounding.

        A mass that wrapped around from below counts as a large loss: too much, never too little.
        """
        masses = self._masses(side)
        rounding = _rounding(masses)
        half = self._size // 2
        positive = np.maximum(masses[:half], 0.0)
        losses, weights = _grid(self._step, half)
        if self._optimistic:
            # Losses are lower than their place on the grid by a shift; those that fall below 0 cannot add to delta.
            moved = side.shift / self._step
            if moved != 0.0:
                losses = losses + side.shift
                weights = weights * math.exp(-side.shift)
            positive[-64:] = 0.0  # what wrapped around may lie here
            extra = -rounding
        else:
            extra = rounding + side.infinite + self._overflow(side)
        heavy = np.cumsum(positive[::-1])[::-1]
        light = np.cumsum((positive * weights)[::-1])[::-1]
        return _Tails(losses, heavy, light, extra)

    def _overflow(self, side: _Side) -> float:
        """Chernoff's bound on the probability of a loss beyond the grid, which the transform would fold back."""
        top = self._step * (self._size // 2 - 1)
        return math.exp(min(0.0, float(np.min(side.log_moments - np.array(_EXPONENTS) * top))))


@dataclass(frozen=True)
class _Tails:
    """delta(epsilon) = heavy[i] - e^epsilon light[i] + extra, i the first loss at or above epsilon."""

    losses: FloatArray
    heavy: FloatArray
    light: FloatArray
    extra: float

    def delta(self, epsilon: float) -> float:
        index = int(np.searchsorted(self.losses, epsilon))
        tail = 0.0 if index == self.losses.size else float(self.heavy[index] - math.exp(epsilon) * self.light[index])
        return min(1.0, max(0.0, max(0.0, tail) + self.extra))

    def epsilon(self, delta: float) -> float:
        room = delta - self.extra
        if not room > 0.0 or not self._at(self.losses.size - 1) <= room:
            return math.inf
        # delta falls along the grid: bisect for the first loss where it is small enough.
        low, high = -1, self.losses.size - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._at(middle) <= room else (middle, high)
        if self.heavy[high] <= room or self.light[high] <= 0.0:
            return max(0.0, float(self.losses[high - 1])) if high else 0.0
        return max(0.0, math.log((float(self.heavy[high]) - room) / float(self.light[high])))

    def _at(self, index: int) -> float:
        return float(self.heavy[index] - math.exp(self.losses[index]) * self.light[index])


@lru_cache(maxsize=16)
def _transformed(
    pair: SampledGaussian, direction: Direction, step: float, size: int, optimistic: bool
) -> tuple[npt.NDArray[np.complex128], float, FloatArray, float]:
    """Transform of one round's cells, its infinite part, the logarithms of its moments, and its grid's shift."""
    reach = size // 2 - 2
    shift = 0.0
    if optimistic:
        cells, shift = optimistic_cells(pair, direction, step=step, reach=reach)
    else:
        cells = pessimistic_cells(pair, direction, step=step, reach=reach)
    losses = step * (cells.first + np.arange(float(cells.mass.size)))
    placed = np.zeros(size)
    placed[np.arange(cells.first, cells.first + cells.mass.size) % size] = cells.mass
    log_moments = [_log_moment(cells, losses, exponent) for exponent in _EXPONENTS]
    spectrum = fft.rfft(placed)
    spectrum.setflags(write=False)
    return spectrum, cells.infinite, np.array(log_moments), shift


def _log_moment(cells: Cells, losses: FloatArray, exponent: float) -> float:
    """log of the mean of exp(exponent * loss) over the finite losses."""
    exponents = exponent * losses
    top = float(exponents[-1])
    with np.errstate(under="ignore"):
        total = float(np.dot(cells.mass, np.exp(exponents - top)))
    return top + math.log(total) if total > 0.0 else top - 700.0


def _rounding(masses: FloatArray) -> float:
    """What rounding may have moved: the true masses are >= 0, so negative ones are its trace. An estimate."""
    negative = -float(np.minimum(masses, 0.0).sum())
    if not negative < 1e-3:
        raise NumericalError(f"the transform left a negative mass of {negative!r}, expected rounding only")
    return 4.0 * negative + 1e-16


@lru_cache(maxsize=4)
def _grid(step: float, count: int) -> tuple[FloatArray, FloatArray]:
    """Losses from 0 on, and exp(-loss)."""
    losses = step * np.arange(float(count))
    weights = np.exp(-losses)
    for array in (losses, weights):
        array.setflags(write=False)
    return losses, weights
