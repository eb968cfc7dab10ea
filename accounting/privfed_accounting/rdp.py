"""Renyi differential privacy at fixed integer orders: rows that add, and their conversion to (epsilon, delta).

A row holds D_a, the Renyi divergence of order a between the round's outputs on neighbouring data, both directions, for
each a in `ORDERS`. Rows of rounds that are chosen adaptively add, order by order (Mironov 2017, arXiv:1702.07476,
proposition 1). At any one order a row of r is (epsilon, delta)-DP with

    log delta = (a - 1) (r - epsilon) + (a - 1) log(1 - 1/a) - log a

(Canonne, Kamath and Steinke 2020, arXiv:2004.00010, proposition 12, = Balle et al. 2020, arXiv:1905.09982, theorem 21).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed_accounting.errors import NumericalError, ParameterError

FloatArray = npt.NDArray[np.float64]

# Every integer where few rounds at a large epsilon need it, then steps of an eighth or less: between neighbours the
# best order loses under 0.2 % of epsilon.
ORDERS: Final[tuple[int, ...]] = (
    *range(2, 33),
    *(36, 40, 44, 48, 52, 56, 60, 64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 208, 224, 240, 256),
    *(288, 320, 352, 384, 448, 512, 640, 768, 1024, 1536, 2048, 4096),
)

# Allowance for rounding in the few operations of a conversion.
_ROUNDING: Final = 1e-13


def rdp_epsilon(row: Sequence[float] | FloatArray, delta: float, *, orders: Sequence[float] = ORDERS) -> float:
    """Least epsilon at delta over all orders, rounded up; infinity if the row is infinite everywhere.

    Args:
        row: D_a for each order, >= 0; infinite entries are passed over.
        delta: 0 < delta < 1.
        orders: the orders, each > 1.

    Raises:
        NumericalError: a divergence is negative or not a number: never taken for zero.
    """
    if not 0.0 < delta < 1.0:
        raise ParameterError(f"delta is {delta!r}, expected 0 < delta < 1")
    values = _checked(row, orders)
    return converted(values, delta, orders=orders) if values.any() else 0.0


def converted(row: FloatArray, delta: float, *, orders: Sequence[float] = ORDERS) -> float:
    """`rdp_epsilon` without its checks, for rows that are sums of checked ones and not all zero."""
    _, offsets, scale = _conversion(orders if isinstance(orders, tuple) else tuple(orders))
    best = float((row + (offsets - math.log(delta) * scale)).min())
    return max(0.0, best * (1.0 + _ROUNDING) + _ROUNDING)


def rdp_log_delta(row: Sequence[float] | FloatArray, epsilon: float, *, orders: Sequence[float] = ORDERS) -> float:
    """Natural logarithm of the least delta at epsilon >= 0 over all orders, rounded up, at most 0."""
    if not epsilon >= 0.0:
        raise ParameterError(f"epsilon is {epsilon!r}, expected a number >= 0")
    values = _checked(row, orders)
    if not values.any() or epsilon == math.inf:
        return -math.inf
    order_array, offsets, _ = _conversion(tuple(orders))
    logs = (order_array - 1.0) * (values * (1.0 + 1e-15) + offsets - epsilon)
    return min(0.0, float(np.min(logs + _ROUNDING * (1.0 + np.abs(np.where(np.isfinite(logs), logs, 0.0))))))


def gaussian_row(mu2: float) -> FloatArray:
    """Row of the Gaussian mechanism with (sensitivity / standard deviation)^2 = mu2: a mu2 / 2, over `ORDERS`."""
    return 0.5 * mu2 * _conversion(ORDERS)[0]


def _checked(row: Sequence[float] | FloatArray, orders: Sequence[float]) -> FloatArray:
    values = np.asarray(row, dtype=np.float64)
    if values.shape != (len(orders),):
        raise ParameterError(f"a row has shape {values.shape}, expected one value for each of {len(orders)} orders")
    if not (values >= 0.0).all():
        worst = values[~(values >= 0.0)][0]
        raise NumericalError(f"a Renyi divergence came out as {worst!r}, expected >= 0: nothing may be read from it")
    return values


@lru_cache(maxsize=32)
def _conversion(orders: tuple[float, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Orders a, log(1 - 1/a) - log(a)/(a - 1), and 1/(a - 1)."""
    array = np.array(orders, dtype=np.float64)
    if not ((array > 1.0) & np.isfinite(array)).all():
        raise ParameterError("a Renyi order is at most 1 or not finite, expected orders > 1")
    scale = 1.0 / (array - 1.0)
    offsets = np.log1p(-1.0 / array) - np.log(array) * scale
    for each in (array, offsets, scale):
        each.setflags(write=False)
    return array, offsets, scale
