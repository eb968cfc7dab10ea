"""Slow and plain routes to the accountant's numbers, in many digits."""

from __future__ import annotations

import mpmath
import numpy as np
import numpy.typing as npt
from mpmath import mpf

FloatArray = npt.NDArray[np.float64]


def gaussian_delta(epsilon: float, mu: float) -> mpf:
    """Balle and Wang 2018, theorem 8, as printed; mpmath's erfc keeps its relative digits however far the tail."""
    with mpmath.workdps(60 + 2 * int(abs(mpmath.log10(mu)))):
        e, m = mpf(epsilon), mpf(mu)
        upper, lower = e / m - m / 2, e / m + m / 2
        root = mpmath.sqrt(2)
        return mpmath.erfc(upper / root) / 2 - mpmath.exp(e) * mpmath.erfc(lower / root) / 2


def discrete_gaussian(sigma: float, reach: int) -> FloatArray:
    """Mass of the discrete Gaussian on -reach..reach, float64."""
    k = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-(k**2) / (2.0 * sigma**2))
    return np.asarray(weights / weights.sum())


def power(mass: FloatArray, times: int) -> FloatArray:
    """Mass of the sum of independent copies, by direct convolution (positive terms only, so every digit holds).

    Ends below 1e-45 are cut; the result stays centred.
    """
    if times == 1:
        return mass
    half = power(mass, times // 2)
    total = np.convolve(half, half)
    total = np.convolve(total, mass) if times % 2 else total
    first = int(np.argmax(total > 1e-45))
    return total[first : len(total) - first]


def hockey_stick(upper: FloatArray, lower: FloatArray, epsilon: float) -> float:
    """Sum of (upper - exp(epsilon) lower)_+."""
    return float(np.maximum(upper - np.exp(epsilon) * lower, 0.0).sum())
