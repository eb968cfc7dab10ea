"""Every number of the ledger once more, by another route that shares no formula and no code with the first.

The first route writes delta as a difference of Mills ratios and finds epsilon by Newton's method; here delta is the
hockey-stick integral itself, done by quadrature, and epsilon is found by bisection on the whole bound. Charges are
recomputed from the plan in exact rational arithmetic where the first route rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

_PANELS: Final = 96
_NODES: Final = 16
_REACH2: Final = 150.0  # the integrand falls below exp(-75) of its peak beyond the range integrated


@dataclass(frozen=True)
class Cost:
    """The four numbers of a round, as the second route finds them; addition is left to `math.fsum`."""

    mu2: float
    epsilon_slack: float
    delta_tail: float
    sampler_distance: float


@lru_cache(maxsize=1024)
def round_cost(
    *, l2_sensitivity: float, dimension: int, share_sigma: float, shares: int, sampler_distance: float, exponent: float
) -> Cost:
    """Cost of one round to a view that knows none of `shares` discrete Gaussian shares; see accounting/README.md."""
    variance = shares * Fraction(share_sigma) ** 2
    slack = slack_of(dimension, variance, exponent) + dimension * _convolution(share_sigma, shares)
    return Cost(
        mu2=float(Fraction(l2_sensitivity) ** 2 / variance),
        epsilon_slack=slack,
        delta_tail=math.exp(-exponent),
        sampler_distance=float(Fraction(sampler_distance) * shares * dimension),
    )


def slack_of(dimension: int, variance: Fraction, exponent: float) -> float:
    """Slack of rounding a Gaussian of this variance, (d + R^2)/(24 variance)."""
    chi = dimension + 2.0 * math.sqrt(dimension) * math.sqrt(exponent) + 2.0 * exponent
    rounding = 0.25 * dimension / float(variance)
    radius2 = chi + 2.0 * math.sqrt(chi * rounding) + rounding
    return float((dimension + Fraction(radius2)) / (24 * variance))


@lru_cache(maxsize=64)
def _convolution(share_sigma: float, shares: int) -> float:
    """Ten times the sum over k of exp(-2 pi^2 v_k), v_k the harmonic combination of the variances being added."""
    total, variance = 0.0, share_sigma * share_sigma
    for k in range(1, shares):
        harmonic = 1.0 / (1.0 / (k * variance) + 1.0 / variance)
        total += math.exp(-2.0 * (math.pi * math.pi) * harmonic)
    return 10.0 * total


def delta_by_quadrature(epsilon: float, mu: float) -> float:
    """Hockey-stick divergence of N(mu, 1) from N(0, 1) at exp(epsilon), integrated numerically.

    The loss at z (in standard deviations above mu) is mu z + mu^2/2; the integrand phi(z) (1 - exp(epsilon - loss)) is
    positive where the loss exceeds epsilon and nothing cancels.
    """
    if mu == 0.0:
        return 0.0
    start = epsilon / mu - 0.5 * mu
    low = max(start, -math.sqrt(_REACH2))
    high = math.sqrt(max(low, 0.0) ** 2 + _REACH2)
    nodes, weights = _panel()
    # Panels grow geometrically from the point where the integrand starts, where it may be as narrow as 1/start.
    edges = low + (high - low) * (np.expm1(np.linspace(0.0, 6.0, _PANELS + 1)) / math.expm1(6.0))
    half, centre = np.diff(edges) / 2.0, (edges[1:] + edges[:-1]) / 2.0
    z = centre[:, None] + half[:, None] * nodes[None, :]
    peak = max(low, 0.0) ** 2 / 2.0  # taken out, so that tails do not underflow before the last step
    with np.errstate(under="ignore"):
        values = np.exp(peak - z * z / 2.0) * -np.expm1(-mu * np.maximum(z - start, 0.0))
        integral = float(np.sum(half[:, None] * weights[None, :] * values))
    return min(1.0, math.exp(-peak) * integral / math.sqrt(2.0 * math.pi))


@lru_cache(maxsize=1)
def _panel() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def total_epsilon(costs: Iterable[Cost], delta: float) -> float:
    """Least epsilon at which all rounds together stay within delta, by bisection on the whole bound, or infinity."""
    listed = list(costs)
    mu = math.sqrt(math.fsum(cost.mu2 for cost in listed))
    slack = math.fsum(cost.epsilon_slack for cost in listed)
    tail = math.fsum(cost.delta_tail for cost in listed)
    distance = math.fsum(cost.sampler_distance for cost in listed)
    if not listed or (mu, slack, tail, distance) == (0.0, 0.0, 0.0, 0.0):
        return 0.0
    if not all(map(math.isfinite, (mu, slack, tail, distance))) or slack > 600.0 or mu > 1e3:
        return math.inf

    def bound(epsilon: float) -> float:
        gaussian = delta_by_quadrature(epsilon - slack, mu) * math.exp(slack)
        if tail + distance == 0.0:
            return gaussian
        grown = math.exp(epsilon) if epsilon <= 700.0 else math.inf
        return gaussian + grown * tail + (1.0 + grown) * distance

    # Without the leaks this end is safe with room to spare: Phi(-a) <= exp(-a^2/2).
    high = slack + 0.5 * mu * mu + mu * math.sqrt(2.0 * (math.log(4.0 / delta) + slack))
    if bound(high) > delta:
        if tail + distance == 0.0 or not delta - distance > math.exp(slack) * (tail + distance):
            return math.inf
        # The leaks alone reach delta here. In between the bound is convex in exp(epsilon): find its lowest point.
        high = lowest(bound, low=slack, high=min(high, math.log((delta - distance) / (tail + distance))))
        if bound(high) > delta:
            return math.inf
    return bisected(bound, low=slack, high=high, delta=delta)


def bisected(bound: Callable[[float], float], *, low: float, high: float, delta: float) -> float:
    """Upper end of the last bracket around the first epsilon with bound(epsilon) <= delta."""
    if bound(low) <= delta:
        return low
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if bound(middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def lowest(bound: Callable[[float], float], *, low: float, high: float) -> float:
    """Point near the minimum of a function that falls and then rises."""
    for _ in range(120):
        left, right = low + (high - low) / 3.0, high - (high - low) / 3.0
        if bound(left) < bound(right):
            high = right
        else:
            low = left
    return 0.5 * (low + high)
