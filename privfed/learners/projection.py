"""Private principal components: the preprocessing of wide rows, for a part of the budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.query import FloatArray
from privfed.statistics.histograms import Magnitudes, radius_of
from privfed.statistics.moments import Moments, moments_of
from privfed.statistics.transform import LinearMap, principal_components

__all__ = ["protected_projection"]

# Parts of the share: range (only where no bounds are public), mean and spread, covariance.
RANGE, MEAN, COVARIANCE = 0.11, 0.11, 0.78
LEAST_SPREAD = 0.01  # of the ball's radius: noise must not shrink the ball to a point


def protected_projection(
    federation: Federation,
    n_components: int,
    *,
    bounds: tuple[FloatArray | float, FloatArray | float] | None = None,
    share: float = 0.28,
    callback: Callable[[str, Release], object] | None = None,
) -> tuple[LinearMap, FloatArray]:
    """Return the projection on the leading principal axes of all clients' rows, and the variances along them.

    Three protected sums: the range of the rows (only where `bounds` is None), their mean and spread in a ball around
    the bounds, and their covariance in a ball around the mean that holds most of them. All that follows is
    post-processing of the releases.

    Args:
        federation: whose rows are projected.
        n_components: axes to keep, 1 to the number of features.
        bounds: public `(low, high)` of the values, numbers or one per feature; None spends a part on a range query.
        share: of the whole budget, in (0, 1]; without effect where there is none.
        callback: called with a purpose and the release after each sum.

    Guarantees:
        Every number of the result comes from releases; `share` of the budget pays for all of them.

    Raises:
        UsageError: more axes than features, or bounds that are none.
        BudgetExhausted, FederationError: as `Federation.release`.
    """
    d = federation.n_features
    if d is None or not 1 <= n_components <= d:
        raise UsageError(f"n_components is {n_components}, expected 1 to {d}, the clients' number of features")

    def ask(query: Moments | Magnitudes, part: float, purpose: str) -> Release:
        release = federation.release(query, share=share * part, purpose=purpose)
        if callback is not None:
            callback(purpose, release)
        return release

    if bounds is None:
        radius, center, mean_part = radius_of(ask(Magnitudes(), RANGE, "range of the rows")), np.zeros(d), MEAN
    else:
        ball = Moments.in_box(np.broadcast_to(bounds[0], d).copy(), np.broadcast_to(bounds[1], d).copy())
        radius, center, mean_part = ball.radius, ball.center, RANGE + MEAN
    about = Moments(center=center, radius=radius, second="trace")
    mean, spread = _mean_and_spread(about, ask(about, mean_part, "mean and spread"))
    query = Moments(center=mean, radius=min(_room(d) * spread, radius))
    _, middle, covariance = moments_of(query, ask(query, COVARIANCE, "covariance"))
    return principal_components(middle, covariance, n_components)


def _room(d: int) -> float:
    """Return the second ball's radius over the spread: norms of rows scatter about the spread by its part in 1/sqrt(d).

    In one dimension a tenth of Gaussian rows lies beyond 1.6 spreads and a hundredth beyond 2.6; in 64 hardly any
    beyond 1.3. A ball too small shortens the long axes, one too large pays for noise that grows as its square.
    """
    return 1.1 + 1.4 / math.sqrt(d)


def _mean_and_spread(query: Moments, release: Release) -> tuple[FloatArray, float]:
    """Return the noised mean and the root of the noised total variance, at least a hundredth of the ball's radius."""
    count = max(float(release["count"]), 1.0)
    shift = release["sum"] / count
    variance = float(release["second"]) / count - float(shift @ shift)
    return query.center + shift, math.sqrt(max(variance, (LEAST_SPREAD * query.radius) ** 2))
