"""Adaptive clipping: the clipping norm follows a quantile of the clients' norms, privately and for little noise.

Andrew, Thakkar, McMahan and Ramaswamy 2021 (arXiv:1905.03871), with the count as one more coordinate of the same
protected vector. Client i clips its update to norm C and adds the coordinate b_i - 1/2, where b_i says whether its
norm was at most C. The sum tells the noisy fraction of unclipped clients, and C moves geometrically towards the
target quantile:

    C <- C exp(-rate (fraction - quantile)).

How one noise serves both: the vector is (alpha x, beta 2C (b - 1/2)) with alpha^2 + beta^2 = 1. Its norm is at most C,
because |x| <= C and |2C (b - 1/2)| = C; so noise of standard deviation z C on every coordinate gives multiplier z, as
without the count. Divided by its weight, the update carries multiplier z / alpha and the count standard deviation
z / (2 beta): the paper's sigma_b = z / (2 beta) and z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2) (its Theorem 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.clip import MAX_BOUND, MIN_BOUND, clip_l2

__all__ = ["COUNT_SHARE", "RATE", "CountSplit", "join", "next_bound", "separate", "split"]

RATE: Final = 0.2  # that of arXiv:1905.03871: a factor of e in ten rounds of unanimity around the median
COUNT_SHARE: Final = 1 / 20  # its sigma_b = n / 20: the fraction is known to 5 %


@dataclass(frozen=True)
class CountSplit:
    """How much of the vector's length the count takes.

    Attributes:
        update_weight: alpha, weight of the update.
        count_weight: beta, weight of the count; alpha^2 + beta^2 <= 1.
    """

    update_weight: float
    count_weight: float

    def update_multiplier(self, multiplier: float) -> float:
        """z_delta: noise on the update over C, when the joint vector has noise multiplier z = `multiplier`."""
        return multiplier / self.update_weight

    def count_deviation(self, multiplier: float) -> float:
        """sigma_b: standard deviation of the noise on the count of clients."""
        return multiplier / (2 * self.count_weight)


def split(*, multiplier: float, count_deviation: float) -> CountSplit:
    """The weights for which the noise on the count is `count_deviation`.

    Args:
        multiplier: z, standard deviation of the noise on the sum over the sensitivity C, > 0.
        count_deviation: sigma_b, in clients, > z/2; n/20 as a rule (`COUNT_SHARE`).

    Guarantees:
        update_multiplier(z) = (z^-2 - (2 sigma_b)^-2)^(-1/2), and the squares of the weights add up to at most 1.

    Raises:
        UsageError: sigma_b is at most z/2: no noise could be that small, even with nothing but the count.

    >>> weights = split(multiplier=1.0, count_deviation=5.0)
    >>> round(weights.update_multiplier(1.0), 6), round(weights.count_deviation(1.0), 6)
    (1.005038, 5.0)
    """
    if not (0 < multiplier < math.inf and multiplier / 2 < count_deviation < math.inf):
        raise UsageError(
            f"multiplier is {multiplier} and count_deviation {count_deviation}, expected a finite number above 0 and"
            " one above half of it: with so few clients choose the clipping norm by hand"
        )
    count = multiplier / (2 * count_deviation)
    update = math.sqrt((1 - count) * (1 + count)) * (1 - 2.0**-50)  # keeps the sum of squares at or below 1
    return CountSplit(update_weight=update, count_weight=count)


def join(update: npt.ArrayLike, *, bound: float, weights: CountSplit) -> npt.NDArray[np.float64]:
    """A client's vector: its clipped update and whether it was short enough.

    Args:
        update: shape (d,), not clipped.
        bound: C, the round's clipping norm, natural units.
        weights: from `split`.

    Returns:
        float64, shape (d + 1,), the count last.

    Guarantees:
        The exact L2 norm is at most C: the joint vector is clipped once more, which only undoes roundings. That is the
        sensitivity to replacing a client's contribution by zero, update and count together.

    Raises:
        DataError, UsageError: as for `clip_l2`.
    """
    vector = np.asarray(update, dtype=np.float64)
    clipped = clip_l2(vector, bound)
    short = bool((clipped == vector).all())
    count = weights.count_weight * bound * (1.0 if short else -1.0)  # 2C (b - 1/2)
    return clip_l2(np.append(weights.update_weight * clipped, count), bound)


def separate(
    total: npt.NDArray[np.float64], *, clients: int, bound: float, weights: CountSplit
) -> tuple[npt.NDArray[np.float64], float]:
    """The sum of the updates and the fraction of clients that were not clipped, from a (noised) sum of `join`s.

    Args:
        total: shape (d + 1,), natural units.
        clients: how many vectors were added; known to everybody who sees the sum.
        bound: C, as given to `join`.
        weights: as given to `join`.

    Returns:
        The sum, shape (d,), and the fraction, which noise may push out of [0, 1]. Post-processing.
    """
    if clients < 1:
        raise UsageError(f"clients is {clients}, expected at least 1")
    fraction = 0.5 + float(total[-1]) / (2 * weights.count_weight * bound * clients)
    return total[:-1] / weights.update_weight, fraction


def next_bound(bound: float, fraction: float, *, quantile: float = 0.5, rate: float = RATE) -> float:
    """The next round's clipping norm: C exp(-rate (fraction - quantile)).

    Args:
        bound: C.
        fraction: from `separate`; a step is limited to that of unanimity, a factor of exp(rate) either way.
        quantile: gamma in [0, 1], which fraction should go unclipped.
        rate: step of the logarithm, > 0.

    Returns:
        The norm, within what `clip_l2` accepts. Post-processing.

    >>> next_bound(1.0, 1.0) < 1.0 < next_bound(1.0, 0.0)
    True
    """
    if not (0 <= quantile <= 1 and 0 < rate < math.inf):
        raise UsageError(f"quantile is {quantile} and rate {rate}, expected a number in [0, 1] and one above 0")
    if not math.isfinite(fraction):
        raise UsageError(f"fraction is {fraction}, expected a finite number")
    moved = bound * math.exp(-rate * min(max(fraction - quantile, -1.0), 1.0))
    return min(max(moved, MIN_BOUND), MAX_BOUND)
