"""Public clip bounds for whitened rows, and what clipping does to a Gaussian, so that a server can undo it.

Everything here depends on the dimension alone. y is a row whitened under its component; under the component itself
it is standard normal, r^2 = |y|^2 is chi-squared with d degrees of freedom, and every bias below is known.

Bounds: rows keep |y| <= B with B^2 the 0.9 quantile of r^2. Second-order terms are
    full, tied   yy' - I of the clipped y, Frobenius norm at most sqrt(G), G = max(B^4 - 2 B^2 + d, d)
    diag         y*y - 1 of the whole y, cut to norm C, its 0.95 quantile
    spherical    r^2 / d - 1, cut to [-C, C], C the 0.95 quantile of its absolute value
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType

__all__ = ["Clipping", "block_costs", "clipping", "matrix_bound"]

MEAN_QUANTILE: Final = 0.9
SECOND_QUANTILE: Final = 0.95
LEAST_SCALE, GREATEST_SCALE = 0.02, 6.0  # variances, in old-whitened units, for which the bias is tabulated
DRAWS: Final = 2**15


@dataclass(frozen=True, eq=False)
class Clipping:
    """Clip bounds for one type and dimension, and the biases they cause.

    Attributes:
        mean_clip: B, bound of |y|.
        second_clip: bound of the second-order term: sqrt(G) or C.
        mean_slope: E[y clip(y)'] = mean_slope I: a shift of the rows moves the clipped mean by this much of it.
        scales: grid of variances s.
        responses: expected mean diagonal of the released second-order term, plus 1, when y ~ N(0, s I).
    """

    mean_clip: float
    second_clip: float
    mean_slope: float
    scales: FloatArray
    responses: FloatArray

    def variance(self, response: FloatArray) -> FloatArray:
        """Return the variance s that explains an average response: the clipping's bias undone.

        Args:
            response: mean diagonal of the second-order term, plus 1; any shape.
        """
        return np.interp(response, self.responses, self.scales)


@functools.cache
def clipping(covariance_type: CovarianceType, d: int) -> Clipping:
    """Return bounds and biases for rows of `d` features."""
    square = float(special.gammaincinv(d / 2, MEAN_QUANTILE)) * 2.0
    clip = math.sqrt(square)
    scales = np.geomspace(LEAST_SCALE, GREATEST_SCALE, 241)
    # E[r min(r, B)] / d: by Stein's lemma also the expected slope of the clip.
    inside = special.gammainc(d / 2 + 1, square / 2)
    outside = clip * math.sqrt(2) * math.exp(special.gammaln((d + 1) / 2) - special.gammaln(d / 2)) / d
    slope = float(inside + outside * special.gammaincc((d + 1) / 2, square / 2))
    if covariance_type in ("full", "tied"):
        second_clip, responses = math.sqrt(matrix_bound(clip, d)), _truncated_square(scales, square, d)
    elif covariance_type == "diag":
        second_clip, responses = _diagonal_response(d, scales)
    else:
        second_clip, responses = _spherical_response(d, scales)
    return Clipping(clip, second_clip, slope, scales, np.maximum.accumulate(responses))


def matrix_bound(mean_clip: float, d: int) -> float:
    """Return G, the greatest squared Frobenius norm of yy' - I over |y| <= `mean_clip`.

    |y|^4 - 2 |y|^2 + d is convex in |y|^2: it is greatest at an end.
    """
    square = mean_clip**2
    return max(square * square - 2 * square + d, float(d))


def block_costs(covariance_type: CovarianceType, n_components: int, d: int, clips: Clipping) -> tuple[float, ...]:
    """Return the excess loss, in nats, that unit noise on counts, means and second-order terms causes.

    Shares in proportion to the square roots minimise the total for a given sensitivity. Full: each component's
    d(d+1)/2 numbers have noise variance G/mu^2 over N_k^2 and cost a quarter of their square in Kullback-Leibler
    divergence, times the weight; the others are alike.
    """
    counts, means = 0.5, d * clips.mean_clip**2 / 2
    square = clips.second_clip**2
    second = {
        "full": d * (d + 1) * square / 8,
        "tied": d * (d + 1) * square / (8 * n_components**2),
        "diag": d * square / 4,
        "spherical": d * square / 4,
    }[covariance_type]
    return counts, means, second


def _truncated_square(scales: FloatArray, square: float, d: int) -> FloatArray:
    """E[min(s r^2, B^2)] / d for each s."""
    at = square / (2 * scales)
    return np.asarray(scales * special.gammainc(d / 2 + 1, at) + square / d * special.gammaincc(d / 2, at))


def _spherical_response(d: int, scales: FloatArray) -> tuple[float, FloatArray]:
    """The bound of |r^2/d - 1| and 1 + E[clip(s r^2/d - 1)] for each s."""
    low, high = 0.0, 50.0
    for _ in range(80):  # bisection on P(|r^2/d - 1| <= C) = 0.95
        middle = (low + high) / 2
        mass = special.gammainc(d / 2, d * (1 + middle) / 2) - special.gammainc(d / 2, d * max(1 - middle, 0.0) / 2)
        low, high = (middle, high) if mass < SECOND_QUANTILE else (low, middle)
    top, bottom = d * (1 + high) / (2 * scales), d * max(1 - high, 0.0) / (2 * scales)
    body = scales * (special.gammainc(d / 2 + 1, top) - special.gammainc(d / 2 + 1, bottom))
    tails = (1 + high) * special.gammaincc(d / 2, top) + max(1 - high, 0.0) * special.gammainc(d / 2, bottom)
    return high, np.asarray(body + tails)


def _diagonal_response(d: int, scales: FloatArray) -> tuple[float, FloatArray]:
    """The bound of |y*y - 1| and 1 + the mean of its clipped entries for each s, from fixed public draws."""
    squares = np.random.RandomState(d).standard_normal((max(DRAWS // d, 2048), d)) ** 2
    bound = float(np.quantile(np.linalg.norm(squares - 1, axis=1), SECOND_QUANTILE))
    mean_response: Callable[[float], float] = lambda s: 1 + float(_clipped_rows(s * squares - 1, bound).mean())  # noqa: E731
    return bound, np.array([mean_response(float(s)) for s in scales])


def _clipped_rows(rows: FloatArray, bound: float) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * np.minimum(1.0, bound / np.maximum(norms, 1e-300)))
