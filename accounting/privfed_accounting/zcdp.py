"""Concentrated differential privacy: (rho, xi) events, whose Renyi divergence is affine in the order.

(xi, rho)-zCDP says D_a <= xi + rho a for every a > 1, both directions (Bun and Steinke 2016, arXiv:1605.02065,
definition 8.1). Events add term by term, also when each is chosen after seeing the answers before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privfed_accounting.errors import ParameterError
from privfed_accounting.rdp import ORDERS, FloatArray, rdp_epsilon


@dataclass(frozen=True)
class ZCdp:
    """One event, or a sum of them: D_a <= xi + rho a.

    Attributes:
        rho: slope, >= 0.
        xi: offset, >= 0.

    >>> ZCdp(0.5) + ZCdp(0.25, xi=0.1)
    ZCdp(rho=0.75, xi=0.1)
    """

    rho: float
    xi: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rho", "xi"):
            value = getattr(self, name)
            if not (isinstance(value, float | int) and value >= 0.0):
                raise ParameterError(f"{name} of a zCDP event is {value!r}, expected a number >= 0")

    def __add__(self, other: ZCdp) -> ZCdp:
        return ZCdp(self.rho + other.rho, self.xi + other.xi)

    def divergence(self, order: float) -> float:
        """Bound on the Renyi divergence of this order, > 1."""
        if not order > 1.0:
            raise ParameterError(f"the order is {order!r}, expected a number > 1")
        return self.xi + self.rho * order

    def row(self, orders: Sequence[float] = ORDERS) -> FloatArray:
        """Bounds at many orders, rounded up."""
        values = self.xi + self.rho * np.asarray(orders, dtype=np.float64)
        return np.asarray(values * (1.0 + 2.0**-50))

    def epsilon(self, delta: float, *, orders: Sequence[float] = ORDERS) -> float:
        """Epsilon at delta by the conversion of `privfed_accounting.rdp`; infinite for an infinite event."""
        return math.inf if math.inf in (self.rho, self.xi) else rdp_epsilon(self.row(orders), delta, orders=orders)


def gaussian_event(mu2: float) -> ZCdp:
    """Event of a Gaussian mechanism with (sensitivity / standard deviation)^2 = mu2: rho = mu2 / 2."""
    return ZCdp(mu2 / 2.0)
