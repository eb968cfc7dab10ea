"""Public clip bounds for whitened rows, and what clipping does to a Gaussian, so that a server can undo it.

Everything here depends on the dimension alone. y is a row whitened under its component; under the component itself
it is standard normal, r^2 = |y|^2 is chi-squared with d degrees of freedom, and every bias below is known.

Bounds: rows keep |y| <= B with B^2 the q quantile of r^2, q = 0.9 unless noise is quiet. Second-order terms are
    full, tied   yy' - I of the clipped y, Frobenius norm at most sqrt(G), G = max(B^4 - 2 B^2 + d, d)
    diag         y*y - 1 of the whole y, cut to norm C, its (1 + q) / 2 quantile
    spherical    r^2 / d - 1, cut to [-C, C], C the (1 + q) / 2 quantile of its absolute value

A low q costs least noise, and a Gaussian loses nothing by it. Rows of heavier tails do: what is cut is not what a
Gaussian would have lost.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType

__all__ = ["QUANTILE", "Clipping", "block_costs", "clipping", "clipping_at", "matrix_bound"]

QUANTILE: Final = 0.9
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
def clipping(covariance_type: CovarianceType, d: int, quantile: float = QUANTILE) -> Clipping:
    """Return bounds and biases for rows of `d` features.

    Args:
        covariance_type: of the mixture.
        d: features.
        quantile: q, part of a Gaussian's rows that the bound of means leaves alone, in (0, 1).
    """
    mean_clip = math.sqrt(float(special.gammaincinv(d / 2, quantile)) * 2.0)
    tail = (1 - quantile) / 2
    if covariance_type in ("full", "tied"):
        second_clip = math.sqrt(matrix_bound(mean_clip, d))
    elif covariance_type == "diag":
        second_clip = float(np.quantile(np.linalg.norm(_standard_squares(d) - 1, axis=1), 1 - tail))
    else:
        second_clip = _spherical_bound(d, 1 - tail)
    return clipping_at(covariance_type, d, mean_clip, second_clip)


@functools.cache
def clipping_at(covariance_type: CovarianceType, d: int, mean_clip: float, second_clip: float) -> Clipping:
    """Return the biases of given bounds for rows of `d` features."""
    square = mean_clip**2
    scales = np.geomspace(LEAST_SCALE, GREATEST_SCALE, 241)
    # E[r min(r, B)] / d: by Stein's lemma also the expected slope of the clip.
    inside = special.gammainc(d / 2 + 1, square / 2)
    outside = mean_clip * math.sqrt(2) * math.exp(special.gammaln((d + 1) / 2) - special.gammaln(d / 2)) / d
    slope = float(inside + outside * special.gammaincc((d + 1) / 2, square / 2))
    if covariance_type in ("full", "tied"):
        responses = _truncated_square(scales, square, d)
    elif covariance_type == "diag":
        responses = _diagonal_response(d, scales, second_clip)
    else:
        responses = _spherical_response(d, scales, second_clip)
    return Clipping(mean_clip, second_clip, slope, scales, np.maximum.accumulate(responses))


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


def _spherical_bound(d: int, quantile: float) -> float:
    """Return C with P(|r^2/d - 1| <= C) = `quantile`, by bisection."""
    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        mass = special.gammainc(d / 2, d * (1 + middle) / 2) - special.gammainc(d / 2, d * max(1 - middle, 0.0) / 2)
        low, high = (middle, high) if mass < quantile else (low, middle)
    return high


def _spherical_response(d: int, scales: FloatArray, bound: float) -> FloatArray:
    """1 + E[clip(s r^2/d - 1)] for each s."""
    top, bottom = d * (1 + bound) / (2 * scales), d * max(1 - bound, 0.0) / (2 * scales)
    body = scales * (special.gammainc(d / 2 + 1, top) - special.gammainc(d / 2 + 1, bottom))
    tails = (1 + bound) * special.gammaincc(d / 2, top) + max(1 - bound, 0.0) * special.gammainc(d / 2, bottom)
    return np.asarray(body + tails)


def _diagonal_response(d: int, scales: FloatArray, bound: float) -> FloatArray:
    """1 + the mean of the clipped entries of s y*y - 1 for each s, from fixed public draws."""
    squares = _standard_squares(d)
    return np.array([1 + float(_clipped_rows(float(s) * squares - 1, bound).mean()) for s in scales])


@functools.cache
def _standard_squares(d: int) -> FloatArray:
    """Fixed public draws of y*y, y standard normal."""
    return np.asarray(np.random.RandomState(d).standard_normal((max(DRAWS // d, 2048), d)) ** 2)


def _clipped_rows(rows: FloatArray, bound: float) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * np.minimum(1.0, bound / np.maximum(norms, 1e-300)))
