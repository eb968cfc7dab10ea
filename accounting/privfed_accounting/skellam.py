"""Skellam noise, for coarse grids: the Renyi bound, as two zCDP events of which a round picks one.

The difference of two Poisson variables of mean mu/2 has variance mu; sums of independent Skellam shares are Skellam, so
that no convolution error is needed however many shares. For an integer vector that one unit moves by at most D2 in L2
and D1 in L1, and integer orders a > 1 (Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, corollary 3.6),

    D_a <= a D2^2/(2 mu) + min( ((2a - 1) D2^2 + 6 D1)/(4 mu^2), 3 D1/(2 mu) ).

Each branch is affine in a: a (rho, xi) event. Skellam noise is symmetric, so one direction is both.
"""

from __future__ import annotations

from privfed_accounting.checks import check_positive
from privfed_accounting.errors import ParameterError
from privfed_accounting.zcdp import ZCdp

# Below this every second coordinate or so of the sum is left as it is: P(noise = 0) = exp(-mu) I_0(mu) = 0.47 at 1.
LEAST_SKELLAM_VARIANCE = 1.0

# Order at which the branches are compared when a round picks one: between the best orders at epsilon 0.5 and 10.
_PIVOT = 16.0


def skellam_branches(*, l1_sensitivity: float, l2_sensitivity: float, variance: float) -> tuple[ZCdp, ZCdp]:
    """Both branches of the bound: the first in 1/mu^2, better at large variance, the second in 1/mu.

    Args:
        l1_sensitivity, l2_sensitivity: D1 and D2 of the integer vector, in grid steps, 0 < D2 <= D1.
        variance: mu, of the noise that the view does not know, in grid steps^2, > 0.

    Guarantees:
        Rounded up; each holds by itself at every integer order.

    >>> first, second = skellam_branches(l1_sensitivity=100, l2_sensitivity=10, variance=1e4)
    >>> f"{min(first.divergence(8), second.divergence(8)):.8f}"
    '0.04000525'
    """
    for name, value in (("l1_sensitivity", l1_sensitivity), ("l2_sensitivity", l2_sensitivity), ("variance", variance)):
        check_positive(name, value)
    if l1_sensitivity < l2_sensitivity * (1.0 - 1e-12):
        raise ParameterError(f"l1_sensitivity is {l1_sensitivity!r}, expected at least the L2 one, {l2_sensitivity!r}")
    up = 1.0 + 2.0**-50
    squared = l2_sensitivity * l2_sensitivity
    main = squared / (2.0 * variance)
    offset = max(0.0, (6.0 * l1_sensitivity - squared) / (4.0 * variance * variance))
    first = ZCdp(up * (main + main / variance), up * offset)
    return first, ZCdp(up * main, up * 3.0 * l1_sensitivity / (2.0 * variance))


def skellam_event(*, l1_sensitivity: float, l2_sensitivity: float, variance: float) -> ZCdp:
    """The branch that a round is charged: the smaller at order 16, so that any accountant's zCDP event is the same."""
    branches = skellam_branches(l1_sensitivity=l1_sensitivity, l2_sensitivity=l2_sensitivity, variance=variance)
    return min(branches, key=lambda event: event.divergence(_PIVOT))


def skellam_rdp(order: int, *, l1_sensitivity: float, l2_sensitivity: float, variance: float) -> float:
    """Bound at one integer order, the smaller branch there."""
    if isinstance(order, bool) or not isinstance(order, int) or order < 2:
        raise ParameterError(f"the order is {order!r}, expected an integer >= 2: the bound is proved for integers")
    branches = skellam_branches(l1_sensitivity=l1_sensitivity, l2_sensitivity=l2_sensitivity, variance=variance)
    return min(event.divergence(order) for event in branches)


def require_meaningful(variance: float) -> None:
    """Refuse a sum whose noise is too small for the bound to mean anything.

    Raises:
        ParameterError: the variance is below 1 grid step^2.
    """
    if not variance >= LEAST_SKELLAM_VARIANCE:
        raise ParameterError(
            f"the sum's Skellam noise has variance {variance!r} grid steps^2, expected at least "
            f"{LEAST_SKELLAM_VARIANCE:g} for a bound that means anything: raise the encoding scale and the bits"
        )
