"""One round's privacy loss on a grid, from the closed form of its hockey-stick divergence: never too small, or never
too large.

A profile is f(e^x) = sum over y of (P(y) - e^x Q(y))_+ on a grid of x. *Pessimistic*: the pair whose profile joins the
values at the grid points by straight lines in e^x lies above f everywhere, as f is convex, and has all its losses on
the grid ("connecting the dots", Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022, arXiv:2207.04380); it dominates
the round, and so does a product of such pairs (Zhu, Dong and Wang 2022, arXiv:2106.08567, theorem 10). *Optimistic*:
joining all outcomes of one cell of the grid is post-processing, and the joint loss is then moved down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.special import erfcx, ndtr

from privfed_accounting.errors import NumericalError, ParameterError
from privfed_accounting.rdp import FloatArray

Direction = Literal["remove", "add"]

# Beyond this little probability per round the upper tail goes to infinite loss.
_TAIL: Final = 1e-22
_SQRT_HALF: Final = math.sqrt(0.5)
_MU_LARGEST: Final = 40.0


@dataclass(frozen=True)
class Cells:
    """Probabilities (under P) of losses (first + i) * step, and of an infinite loss."""

    first: int
    mass: FloatArray
    infinite: float


@dataclass(frozen=True)
class SampledGaussian:
    """P = (1 - rate) N(0, 1) + rate N(mu, 1) and Q = N(0, 1), or the other way round.

    Attributes:
        rate: 0 < rate <= 1; 1 is the plain Gaussian.
        mu: sensitivity over standard deviation, 0 < mu <= 40.
        symmetric: for cohorts of fixed size: the profile of "remove" above 1 in both directions, with `mu` taken for
            the replacement of a unit by another.
    """

    rate: float
    mu: float
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise ParameterError(f"the sampling rate is {self.rate!r}, expected 0 < rate <= 1")
        if not 0.0 < self.mu <= _MU_LARGEST:
            raise ParameterError(f"mu is {self.mu!r}, expected 0 < mu <= {_MU_LARGEST:g}: less noise hides nothing")

    def above(self, x: FloatArray, direction: Direction) -> FloatArray:
        """f(e^x) for x >= 0, to a small relative error."""
        if direction == "remove" or self.symmetric:
            return self.rate * _gaussian_profile(np.log1p(np.expm1(x) / self.rate), self.mu)
        return np.exp(x) * self._below_remove(x)

    def below(self, x: FloatArray, direction: Direction) -> FloatArray:
        """f(e^-x) - (1 - e^-x) for x >= 0: e^-x times the other direction's profile at e^x."""
        if self.symmetric or direction == "add":
            return np.exp(-x) * self.above(x, "remove")
        return self._below_remove(x)

    def _below_remove(self, x: FloatArray) -> FloatArray:
        """For "remove": with e^c = 1 + (e^-x - 1)/rate, rate e^c times the Gaussian profile at -c; 0 where e^c <= 0."""
        inside = np.expm1(-x) / self.rate
        reached = inside > -1.0
        c = np.log1p(np.where(reached, inside, 0.0))
        return np.where(reached, self.rate * np.exp(c) * _gaussian_profile(-c, self.mu), 0.0)


def pessimistic_cells(pair: SampledGaussian, direction: Direction, *, step: float, reach: int) -> Cells:
    """Cells of a pair on the grid that dominates the round; its losses stay within `reach` steps of 0 or are infinite.

    Raises:
        NumericalError: a cell came out negative beyond rounding.
    """
    high = _extent(lambda x: pair.above(x, direction), step=step, reach=reach)
    low = _extent(lambda x: pair.below(x, direction), step=step, reach=reach)
    up = pair.above(step * np.arange(high + 1.0), direction)
    down = pair.below(step * np.arange(low + 1.0), direction)
    values = np.concatenate([down[:0:-1], up])
    rise = np.diff(values)
    # Second differences in e^x: slope to the right less slope to the left, times e^x. Left of 0 the values are those of
    # f - (1 - e^x), whose slopes are f's plus 1: hence the unit of mass at 0.
    mass = np.zeros_like(values)
    mass[:-1] += rise / math.expm1(step)
    mass[1:] += rise / math.expm1(-step)
    mass[0] -= values[0]
    mass[low] += 1.0
    if mass.min() < -1e-9:
        raise NumericalError(f"a cell of the privacy loss came out as {mass.min()!r}, expected >= 0: take a wider step")
    return Cells(-low, np.maximum(mass, 0.0), float(up[-1]))


def optimistic_cells(pair: SampledGaussian, direction: Direction, *, step: float, reach: int) -> tuple[Cells, float]:
    """Cells of post-processings of the round, and how far below (first + i) * step each loss is put, in the same unit.

    The outcomes of one cell, joined, have the loss log(P(cell)/Q(cell)), half a step above its lower end up to terms of
    the step's square. All are put on one shifted grid, below their loss by the largest such term; cells where the loss
    bends more than that are put one step lower. What lies beyond the grid is dropped upwards and joined downwards.
    """
    cells = pessimistic_cells(pair, direction, step=step, reach=reach)
    # Splitting a cell's mass between its ends so that P and Q stay: here the cell's own masses are wanted back.
    count = cells.mass.size
    edges = step * (cells.first + np.arange(float(count)))
    p, q = _tails(pair, direction, edges)
    p_cell, q_cell = -np.diff(p), -np.diff(q)
    used = (p_cell > 1e-13) & (q_cell > 0.0)
    loss = np.full(count - 1, -math.inf)
    loss[used] = np.log(p_cell[used] / q_cell[used])
    short = 0.5 + cells.first + np.arange(count - 1.0) - loss / step  # by which the loss misses the half-way point
    lost = math.inf
    for allowed in (1e-4, 1e-3, 1e-2, 0.1):
        regular = used & (np.abs(short) <= allowed)
        shift = max(0.0, float(short[regular].max(initial=0.0)))
        lower = used & ~regular
        if shift + float(p_cell[lower].sum()) < lost:
            lost = shift + float(p_cell[lower].sum())
            best = regular, lower, shift
    regular, lower, shift = best
    mass = np.zeros(count)
    mass[1:][regular] = p_cell[regular]
    mass[:-1][lower] += p_cell[lower]
    return Cells(cells.first - 1, mass, 0.0), (0.5 - shift) * step


def _gaussian_profile(c: FloatArray, mu: float) -> FloatArray:
    """Phi(-a) - e^c Phi(-b) = phi(a) (m(a) - m(b)), a = c/mu - mu/2, b = a + mu, for c >= 0."""
    a = c / mu - 0.5 * mu
    gap = erfcx(a * _SQRT_HALF) - erfcx((a + mu) * _SQRT_HALF)
    with np.errstate(under="ignore"):
        return np.asarray(0.5 * np.exp(-0.5 * a * a) * gap)


def _tails(pair: SampledGaussian, direction: Direction, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """P(loss > x) and Q(loss > x)."""
    sign = 1.0 if direction == "remove" else -1.0
    inside = np.expm1(sign * x) / pair.rate
    reached = inside > -1.0
    with np.errstate(divide="ignore"):
        z = np.where(reached, np.log1p(np.where(reached, inside, 0.0)) / pair.mu + 0.5 * pair.mu, -math.inf)
    plain, moved = ndtr(-sign * z), ndtr(-sign * (z - pair.mu))
    mixed = (1.0 - pair.rate) * plain + pair.rate * moved
    return (mixed, plain) if direction == "remove" else (plain, mixed)


def _extent(profile: Callable[[FloatArray], FloatArray], *, step: float, reach: int) -> int:
    """Steps from 0 to where a falling profile is negligible, at most `reach`."""
    low, high = 1, 2
    while high < reach and profile(np.array([step * high]))[0] > _TAIL:
        low, high = high, 2 * high
    high = min(high, reach)
    while high - low > 16:
        middle = (low + high) // 2
        low, high = (middle, high) if profile(np.array([step * middle]))[0] > _TAIL else (low, middle)
    return high
