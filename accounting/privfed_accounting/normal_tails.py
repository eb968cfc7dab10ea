"""The Mills ratio of the normal distribution and its differences, without cancellation.

m(x) = (1 - Phi(x)) / phi(x) = integral over t > 0 of exp(-x t - t^2/2), positive and decreasing.
Everything the Gaussian mechanism needs is phi(a) (m(a) - m(b)); the difference is where naive formulas lose all digits.
"""

from __future__ import annotations

import math
from typing import Final

from scipy.special import erfcx

SQRT_HALF: Final = math.sqrt(0.5)
SQRT_HALF_PI: Final = math.sqrt(math.pi / 2)
LOG_SQRT_2PI: Final = 0.5 * math.log(2 * math.pi)


# From here on 1 - x m(x) loses more than 400 ulp to cancellation, and twelve terms of its asymptotic series are exact
# to 1e-16 (first term left out: 23!! / 20^24 against 1 / 20^2).
_ASYMPTOTIC_FROM: Final = 20.0
_ASYMPTOTIC_TERMS: Final = 12

# Gauss-Legendre, 10 points on [-1, 1]: nodes and weights (Abramowitz and Stegun, table 25.4).
_LEGENDRE: Final = (
    (0.1488743389816312, 0.2955242247147529),
    (0.4333953941292472, 0.2692667193099963),
    (0.6794095682990244, 0.2190863625159820),
    (0.8650633666889845, 0.1494513491505806),
    (0.9739065285171717, 0.0666713443086881),
)


def mills(x: float) -> float:
    """Mills ratio m(x) = (1 - Phi(x)) / phi(x): relative error below 1e-14 from x = -6 on, and x^2 ulp below."""
    return SQRT_HALF_PI * float(erfcx(x * SQRT_HALF))


def mills_slope(x: float) -> float:
    """Return -m'(x) = 1 - x m(x) > 0, to a relative error below 2e-13, for x >= -6."""
    if x < _ASYMPTOTIC_FROM:
        return 1.0 - x * mills(x)
    term = total = 1.0 / (x * x)
    for j in range(1, _ASYMPTOTIC_TERMS):
        term *= -(2 * j + 1) / (x * x)
        total += term
    return total


def mills_difference(start: float, width: float) -> float:
    """Return m(start) - m(start + width) for width >= 0 and start >= -6, to a relative error below 4e-13."""
    left, right = mills(start), mills(start + width)
    if right <= 0.9 * left:
        return left - right
    # The two nearly cancel: integrate the slope over the short interval instead. There m changes by a tenth at most,
    # and ten nodes are exact to rounding.
    centre, half = start + 0.5 * width, 0.5 * width
    return half * math.fsum(
        weight * (mills_slope(centre - half * node) + mills_slope(centre + half * node)) for node, weight in _LEGENDRE
    )


def log_normal_density(x: float) -> float:
    """Natural logarithm of the standard normal density at x."""
    return -0.5 * x * x - LOG_SQRT_2PI
