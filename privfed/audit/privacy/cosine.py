"""Canary clients: random unit vectors in the sum, found again by their angle (Andrew et al. 2023, arXiv:2302.03098).

The cosine between a fixed vector and an independent uniform direction of R^d is known in closed form: (1 + cosine) / 2
is Beta((d - 1) / 2, (d - 1) / 2), with mean 0 and variance 1/d, close to a Gaussian for large d. So the case "the
canary was not in" needs no run of its own, and all canaries can be in at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, ndtr

from privfed.errors import UsageError

__all__ = ["CanaryClients", "canary_clients", "canary_epsilon", "cosine_p_value", "gaussian_pair_epsilon"]

_LARGEST_EPSILON = 500.0
_HALVINGS = 60


@dataclass(frozen=True)
class CanaryClients:
    """How clearly canary clients show in a sum.

    Attributes:
        clients: number of canaries, all of them in the sum.
        dimension: of the vectors.
        mean: of the cosines, in standard deviations of the null (times sqrt(dimension)).
        std: of the cosines, in the same unit.
        estimate: epsilon at the claim's delta between a Gaussian of that mean and the null, both of the null's
            variance. An estimate, without a confidence.
        low: the same with the mean two standard errors, 2 / sqrt(clients), lower.
        high: and higher.
    """

    clients: int
    dimension: int
    mean: float
    std: float
    estimate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types; an infinite epsilon is null."""
        return {
            "clients": self.clients,
            "dimension": self.dimension,
            "mean": self.mean,
            "std": self.std,
            **{name: _finite(getattr(self, name)) for name in ("estimate", "low", "high")},
        }


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def unit_vectors(count: int, dimension: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return `count` uniform directions, float64 of shape `(count, dimension)`."""
    vectors = rng.standard_normal((count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def canary_clients(total: npt.NDArray[np.float64], canaries: npt.NDArray[np.float64], *, delta: float) -> CanaryClients:
    """Measure how clearly `canaries`, unit vectors of shape `(clients, dimension)`, show in `total`, `(dimension,)`."""
    clients, dimension = canaries.shape
    if clients < 2 or dimension < 2:
        raise UsageError(f"{clients} canaries in {dimension} dimensions: expected at least 2 of each")
    scaled = canaries @ total / np.linalg.norm(total) * math.sqrt(dimension)
    mean, std = float(scaled.mean()), float(scaled.std(ddof=1))
    epsilons = [
        gaussian_pair_epsilon(max(mean + errors / math.sqrt(clients), 0.0), 1.0, 1.0, delta=delta)
        for errors in (0, -2, 2)
    ]
    return CanaryClients(clients, dimension, mean, std, *epsilons)


def canary_epsilon(cosines: npt.NDArray[np.float64], dimension: int, *, delta: float) -> float:
    """Return the paper's estimate: epsilon between a Gaussian fitted to `cosines` and the null N(0, 1/dimension).

    With few canaries the fitted variance decides the answer at a small delta; hundreds are needed.

    Source: arXiv:2302.03098, algorithm 2 and section 3.
    """
    mean, std = float(np.mean(cosines)), float(np.std(cosines, ddof=1))
    return gaussian_pair_epsilon(mean, std, 1.0 / math.sqrt(dimension), delta=delta)


def cosine_p_value(cosine: float, dimension: int) -> float:
    """Return the chance of a cosine at least as large with an independent uniform direction, exactly."""
    if not (-1.0 <= cosine <= 1.0 and dimension >= 2):
        raise UsageError(f"cosine {cosine!r} in {dimension!r} dimensions: expected -1 to 1, and at least 2")
    half = (dimension - 1) / 2
    return float(betainc(half, half, (1.0 - cosine) / 2))


def gaussian_pair_epsilon(mean: float, std: float, null_std: float, *, delta: float) -> float:
    """Return the least epsilon at `delta` for N(mean, std^2) against N(0, null_std^2), both ways; upper side.

    Args:
        mean: of one, any finite number.
        std: of one, > 0.
        null_std: of the other, > 0.
        delta: in (0, 1).
    """
    if not (math.isfinite(mean) and std > 0 and null_std > 0 and 0 < delta < 1):
        raise UsageError(
            f"mean {mean!r}, std {std!r}, null_std {null_std!r}, delta {delta!r}: expected a finite mean, positive"
            " deviations and a delta between 0 and 1"
        )

    def enough(epsilon: float) -> bool:
        there = _hockey_stick(epsilon, mean, std, 0.0, null_std)
        return max(there, _hockey_stick(epsilon, 0.0, null_std, mean, std)) <= delta

    if enough(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not enough(high):
        if high > _LARGEST_EPSILON:
            return math.inf
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _hockey_stick(epsilon: float, mean: float, std: float, other_mean: float, other_std: float) -> float:
    """Return P(S) - e^epsilon Q(S) for P = N(mean, std^2), Q = N(other...), S where P's density exceeds e^epsilon Q's.

    log P/Q is a quadratic in x; S is where it exceeds epsilon: a half line, an interval, or what an interval leaves.
    """
    shift = mean - other_mean  # in coordinates where Q has mean 0
    square = 0.5 / other_std**2 - 0.5 / std**2
    linear = shift / std**2
    constant = math.log(other_std / std) - 0.5 * (shift / std) ** 2 - epsilon

    def mass(low: float, high: float) -> float:
        inside = _between((low - shift) / std, (high - shift) / std)
        return inside - math.exp(epsilon) * _between(low / other_std, high / other_std)

    if abs(square) * other_std**2 < 1e-12:
        if linear == 0:
            return max(0.0, 1.0 - math.exp(epsilon)) if constant > 0 else 0.0
        root = -constant / linear
        return mass(root, math.inf) if linear > 0 else mass(-math.inf, root)
    discriminant = linear**2 - 4 * square * constant
    if discriminant <= 0:
        return 0.0 if square < 0 else mass(-math.inf, math.inf)
    low, high = sorted((-linear + sign * math.sqrt(discriminant)) / (2 * square) for sign in (-1, 1))
    return mass(low, high) if square < 0 else mass(-math.inf, low) + mass(high, math.inf)


def _between(low: float, high: float) -> float:
    """Return a standard Gaussian's mass from `low` to `high`, from the tail on their side of zero."""
    return float(ndtr(-low) - ndtr(-high)) if low > 0 else float(ndtr(high) - ndtr(low))
