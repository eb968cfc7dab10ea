"""What a budget buys, before it is spent: predicted loss, simpler models, how many rounds and starting components.

Unit noise on the three blocks of a round costs c0, c1 and c2 nats
(`privfed.statistics.mixture_clipping.block_costs`). Shares in proportion to the square roots of the costs give an
expected excess loss, against the same fit without noise, of

    (sqrt c0 + sqrt c1 + sqrt c2)^2 K^2 / (0.6 mu^2 n^2)

where mu^2 is what all rounds of the main stage may spend together and 0.6 the part of them that is averaged at the end.
That is the first order, e. Rows that noise misplaces, and a start that is noisier still, cost more as e grows. The
correction, e (1 + 8 e), was read off small sets. Of 13 settings for which it says 0.009 to 0.7 nats, twelve lost within
a factor of 2.1 of it in the median over seeds; MNIST, which is no mixture of ten Gaussians, lost eight times as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from privfed.errors import UsageError
from privfed.statistics.mixture_clipping import QUANTILE, block_costs, clipping
from privfed.statistics.mixture_model import COVARIANCE_TYPES, CovarianceType
from privfed_accounting import gaussian_mu

__all__ = [
    "Choice",
    "choose",
    "excess",
    "expected_excess_nats",
    "findable",
    "noise_of_counts",
    "quantile_within",
    "rounds_within",
    "start_components",
    "start_type",
]

MAIN_SHARE: Final = 0.7
TAIL: Final = 0.6
SECOND_ORDER, SATURATED = 8.0, 0.5  # of e; fallbacks keep losses from growing on beyond
ACCEPTABLE: Final = 0.5  # nats, to first order; beyond, a simpler model is better than a noisy one
WIDE_QUANTILES: Final = (0.9999, 0.999, 0.99, 0.97)
UNHEARD: Final = 0.003  # nats that wide clip bounds may be expected to lose to noise
DISTINCT: Final = 2.5  # an average component should hold so many standard deviations of its count's noise
FINDABLE: Final = 2.0  # rounds in which it does that the start must afford; with fewer, a single Gaussian is better
LIKELIHOOD_SHARE: Final = 0.02  # of each round's mu^2
# What each type can express, itself first, in the order in which they are tried.
SIMPLER: Final[Mapping[CovarianceType, tuple[CovarianceType, ...]]] = {
    "full": ("full", "tied", "spherical"),
    "tied": ("tied",),
    "diag": ("diag", "spherical"),
    "spherical": ("spherical",),
}


def expected_excess_nats(
    n: float,
    n_features: int,
    n_components: int,
    epsilon: float,
    *,
    delta: float = 1e-5,
    covariance_type: CovarianceType = "full",
    share: float = MAIN_SHARE,
) -> float:
    """Predict how many nats per row a fit under a budget loses to the same fit without noise. Costs nothing.

    Args:
        n: rows in the federation; with unit "client" the number of clients times `records_per_client`.
        n_features: d.
        n_components: K.
        epsilon: budget, add/remove.
        delta: its delta.
        covariance_type: of the mixture.
        share: part of mu^2 that the main stage gets.

    Returns:
        Expected excess loss in nats per row, where the data are such a mixture and no cluster is lost: within a factor
        of 2.1 of what was measured in twelve of 13 settings. A lost cluster costs 0.1 to 1 nats more. Above about 3
        the fit falls back to a simpler model, and often below.

    >>> round(expected_excess_nats(12_000, 8, 10, 1.0), 3)
    0.067
    >>> expected_excess_nats(12_000, 8, 10, 1.0, covariance_type="tied") < 0.01
    True
    """
    if not (n >= 1 and n_features >= 1 and n_components >= 1 and 0 < share <= 1):
        raise UsageError("expected n >= 1, n_features >= 1, n_components >= 1 and 0 < share <= 1")
    if covariance_type not in COVARIANCE_TYPES:
        raise UsageError(f"covariance_type is {covariance_type!r}, expected one of {COVARIANCE_TYPES}")
    mu = gaussian_mu(epsilon, delta)
    first = excess(n, n_features, n_components, covariance_type, mu2=mu * mu * share)
    return first * (1 + SECOND_ORDER * min(first, SATURATED))


def excess(
    n: float, d: int, K: int, covariance_type: CovarianceType, *, mu2: float, quantile: float = QUANTILE
) -> float:
    """Return the expected excess loss to first order, nats per row, when the main stage may spend `mu2` in all."""
    roots = sum(math.sqrt(cost) for cost in block_costs(covariance_type, K, d, clipping(covariance_type, d, quantile)))
    return (roots * K / n) ** 2 / (TAIL * mu2)


def quantile_within(n: float, d: int, K: int, covariance_type: CovarianceType, *, mu2: float) -> float:
    """Return which part of a Gaussian's rows the clip bounds leave alone: the most that stays `UNHEARD`, 0.9 at least.

    Wide bounds cost noise and serve rows of heavier tails than a Gaussian's, which narrow ones cut short.
    """
    for quantile in WIDE_QUANTILES:
        if excess(n, d, K, covariance_type, mu2=mu2, quantile=quantile) <= UNHEARD:
            return quantile
    return QUANTILE


@dataclass(frozen=True)
class Choice:
    """The model that the budget carries, and the loss expected of it to first order, in nats per row."""

    covariance_type: CovarianceType
    n_components: int
    excess: float


def choose(
    n: float, d: int, K: int, covariance_type: CovarianceType, *, mu2: float, start_mu2: float | None = None
) -> Choice:
    """Return the first model, from the one asked for to a single Gaussian, that the budget carries.

    The order: as asked; with a tied, then with spherical covariances; then the same with half the components, and
    so on. A simpler type is tried only where the asked type can express it (full expresses all, diag spherical
    ones). Where no type lets a start find K components, fewer are not looked for either: few wide ones, half found,
    are worse than one Gaussian.

    Args:
        n, d, K, covariance_type: rows, features, components and type asked for.
        mu2: what the main stage may spend: the expected excess must be acceptable.
        start_mu2: what the stage that looks for the clusters may spend: they must be findable. None: they are given.
    """

    def found(kind: CovarianceType, components: int) -> bool:
        return start_mu2 is None or findable(n, d, components, kind, mu2=start_mu2)

    single = Choice(covariance_type, 1, excess(n, d, 1, covariance_type, mu2=mu2))
    if not any(found(kind, K) for kind in SIMPLER[covariance_type]):
        return single
    for kind, components in _candidates(covariance_type, K):
        choice = Choice(kind, components, excess(n, d, components, kind, mu2=mu2))
        if choice.excess <= ACCEPTABLE and found(kind, components):
            return choice
    return single


def findable(n: float, d: int, K: int, covariance_type: CovarianceType, *, mu2: float) -> bool:
    """Return whether a start that costs `mu2` can tell K components from noise, for `FINDABLE` rounds at least.

    A mixture whose start saw noise is worse than the single Gaussian that the whole budget buys: wide components on
    top of each other, in a frame that is noise as well.
    """
    kind = start_type(covariance_type)
    return K == 1 or _distinct_rounds(n, d, K, kind, mu2=mu2, likelihood_share=LIKELIHOOD_SHARE) >= FINDABLE


def start_type(covariance_type: CovarianceType) -> CovarianceType:
    """Return the covariances that a start has at first: common ones for the types that have directions."""
    return "tied" if covariance_type in ("full", "tied") else covariance_type


def _candidates(covariance_type: CovarianceType, K: int) -> Iterator[tuple[CovarianceType, int]]:
    while K > 1:
        for kind in SIMPLER[covariance_type]:
            yield kind, K
        K = (K + 1) // 2 if K > 2 else 1
    yield covariance_type, 1


def noise_of_counts(d: int, K: int, covariance_type: CovarianceType, *, mu2: float, likelihood_share: float) -> float:
    """Return the noise's standard deviation on a component's count in one round that costs `mu2`."""
    roots = [math.sqrt(cost) for cost in block_costs(covariance_type, K, d, clipping(covariance_type, d))]
    return 1.0 / math.sqrt((1 - likelihood_share) * roots[0] / sum(roots) * mu2)


def rounds_within(
    n: float,
    d: int,
    K: int,
    covariance_type: CovarianceType,
    *,
    mu2: float,
    most: int,
    least: int,
    likelihood_share: float,
) -> int:
    """Return the number of rounds, `least` to `most`, that leaves components distinct from the noise in each round."""
    distinct = _distinct_rounds(n, d, K, covariance_type, mu2=mu2, likelihood_share=likelihood_share)
    return min(max(int(distinct), least), most)


def _distinct_rounds(
    n: float, d: int, K: int, covariance_type: CovarianceType, *, mu2: float, likelihood_share: float
) -> float:
    """Return into how many rounds `mu2` may be divided with an average component `DISTINCT` in each."""
    single = noise_of_counts(d, K, covariance_type, mu2=mu2, likelihood_share=likelihood_share)
    return (n / (DISTINCT * K * single)) ** 2


def start_components(
    n: float, d: int, K: int, covariance_type: CovarianceType, *, mu2: float, rounds: int, likelihood_share: float
) -> int:
    """Return how many components to start with, 3 K down to K: as many as stay distinct from the noise."""
    for components in range(3 * K, K, -1):
        noise = noise_of_counts(d, components, covariance_type, mu2=mu2 / rounds, likelihood_share=likelihood_share)
        if n >= DISTINCT * components * noise:
            return components
    return K
