"""The fine grid: sums of discrete Gaussian shares, accounted as a Gaussian mechanism plus named error terms.

Proof in accounting/README.md ("The fine-grid theorem"). In one line: a rounded continuous Gaussian is post-processing
of the Gaussian mechanism, and at sigma = sqrt(shares) * share_sigma its mass at k over a discrete Gaussian's is
constant * sinh(y)/y * (factor in [exp(-1/(24 sigma^2)), 1]) with y = k/(2 sigma^2), hence within
[exp(-1/(24 sigma^2)), exp(k^2/(24 sigma^4))] of the constant.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Final

import numpy as np

from privfed_accounting.charge import Charge
from privfed_accounting.checks import check_count, check_positive
from privfed_accounting.errors import ParameterError

# The noise vector's norm passes the radius with probability exp(-TAIL_EXPONENT) = 2^-369 a round: negligible against
# any delta in use, after a million rounds and times exp(epsilon) for an epsilon of 200 (the unmasked view has such).
# The slack grows with it like its root at large dimension, and is 546/(24 sigma^2) at dimension 1.
TAIL_EXPONENT: Final = 256.0

# Assumed of a noise sampler that does not say: total variation distance per drawn number.
DEFAULT_SAMPLER_DISTANCE: Final = 2.0**-100

# arXiv:2102.06387 proves the convolution of discrete Gaussians for standard deviations from 1/2 on.
LEAST_SHARE_SIGMA: Final = 0.5

# Relative allowance for the rounding of the few operations below; results are multiplied by 1 + this.
_ROUNDING: Final = 1e-14


def ddg_tau(*, share_sigma: float, shares: int) -> float:
    """Largest log-ratio, both directions together, of a sum of discrete Gaussians to one discrete Gaussian.

    10 * sum over 1 <= k < shares of exp(-2 pi^2 share_sigma^2 k / (k + 1)), per coordinate
    (arXiv:2102.06387, theorem 1: 5 for either direction).

    Args:
        share_sigma: standard deviation parameter of each share, >= 1/2, in grid steps.
        shares: number of shares in the sum, >= 1; a single share gives 0.

    Guarantees:
        Terms that underflow are counted as the least normal float, never as zero.

    >>> ddg_tau(share_sigma=2.0, shares=1000) < 1e-16
    True
    """
    _check_noise(share_sigma, shares)
    if shares == 1:
        return 0.0
    k = np.arange(1, shares, dtype=np.float64)
    exponents = -2.0 * math.pi**2 * share_sigma * share_sigma * (k / (k + 1.0))
    with np.errstate(under="ignore"):
        terms = np.maximum(np.exp(exponents), sys.float_info.min)
    return 10.0 * math.fsum(terms.tolist())


def fine_grid_charge(
    *,
    l2_sensitivity: float,
    dimension: int,
    share_sigma: float,
    shares: int,
    sampler_distance: float = DEFAULT_SAMPLER_DISTANCE,
    tail_exponent: float = TAIL_EXPONENT,
) -> Charge:
    """Cost of releasing an integer vector plus `shares` discrete Gaussian shares, to a view that knows none of them.

    Args:
        l2_sensitivity: how far one unit moves the integer vector, L2, in grid steps, > 0.
        dimension: coordinates of the vector, >= 1.
        share_sigma: standard deviation parameter of each share, in grid steps, >= 1/2.
        shares: shares in the sum that the view does not know; 0 gives an infinite charge.
        sampler_distance: total variation distance of one drawn number from the discrete Gaussian.
        tail_exponent: the radius of the noise is passed with probability exp(-tail_exponent).

    Returns:
        A charge that also holds for any larger number of shares: more independent noise is post-processing.

    Guarantees:
        Every field is rounded up, and no term is lost to underflow.
    """
    check_positive("l2_sensitivity", l2_sensitivity)
    check_count("dimension", dimension)
    if not 0.0 <= sampler_distance < 1.0:
        raise ParameterError(f"sampler_distance is {sampler_distance!r}, expected 0 <= distance < 1")
    check_positive("tail_exponent", tail_exponent)
    if shares == 0:
        return Charge.non_private()
    return _charge(l2_sensitivity, dimension, share_sigma, shares, sampler_distance, tail_exponent)


@lru_cache(maxsize=4096)
def _charge(l2: float, dimension: int, share_sigma: float, shares: int, distance: float, exponent: float) -> Charge:
    """Cost of checked arguments; ledgers ask for the same few again and again."""
    tau = ddg_tau(share_sigma=share_sigma, shares=shares)
    ratio = l2 / share_sigma
    return _bounded(
        ratio * ratio / shares, dimension, shares * share_sigma * share_sigma, tau, distance * shares, exponent
    )


def _bounded(mu2: float, dimension: int, variance: float, tau: float, distance: float, exponent: float) -> Charge:
    """Charge of noise of this variance whose sum is within tau of one discrete Gaussian, all rounded up."""
    radius2 = noise_radius(dimension=dimension, sigma=math.sqrt(variance), tail_exponent=exponent) ** 2
    return Charge(
        mu2=_up(mu2),
        epsilon_slack=_up((dimension + radius2) / (24.0 * variance) + dimension * tau),
        delta_tail=_up(math.exp(-exponent)),
        sampler_distance=_up(distance * dimension) if distance > 0.0 else 0.0,
    )


def smallest_component(*, total_variance: float, planned: int, tolerated: int) -> float:
    """Variance of the smallest noise component of the exact drop-out policy (arXiv:2209.12528).

    Each of n planned clients adds a component of variance v/n and, for k = 1..t, one of v/((n - k)(n - k + 1)); k = 1
    has the smallest.
    """
    return total_variance / (planned * (planned - 1)) if tolerated else total_variance / planned


def exact_tau(*, total_variance: float, planned: int, tolerated: int) -> float:
    """Log-ratio, both directions together, of any sum of the policy's components to one discrete Gaussian, at most.

    A component of variance a joining a sum of at least its own size has a harmonic combination v >= a/2, and costs at
    most 10 exp(-2 pi^2 v) <= 10 exp(-pi^2 a) (accounting/README.md, "Unequal widths"); there are at most
    planned * (tolerated + 1) components, each at least as wide as the smallest.

    Raises:
        ParameterError: the smallest component has a standard deviation below 1/2.
    """
    least = smallest_component(total_variance=total_variance, planned=planned, tolerated=tolerated)
    if least < LEAST_SHARE_SIGMA**2:
        raise ParameterError(
            f"the smallest noise component has standard deviation {math.sqrt(least):.3g} grid steps, expected at least "
            f"{LEAST_SHARE_SIGMA}: raise the encoding scale, or use Skellam noise or drop_outs='provision'"
        )
    return 10.0 * planned * (tolerated + 1) * max(math.exp(-(math.pi**2) * least), sys.float_info.min)


@lru_cache(maxsize=4096)
def exact_drop_out_charge(
    *,
    l2_sensitivity: float,
    dimension: int,
    total_variance: float,
    unknown_variance: float,
    planned: int,
    tolerated: int,
    sampler_distance: float = DEFAULT_SAMPLER_DISTANCE,
    tail_exponent: float = TAIL_EXPONENT,
) -> Charge:
    """Cost of a round whose surplus noise was removed exactly, to a view that does not know `unknown_variance` of it.

    Args:
        l2_sensitivity, dimension, sampler_distance, tail_exponent: as in `fine_grid_charge`.
        total_variance: v, of the noise that the released sum carries, grid steps^2.
        unknown_variance: part of v that the view does not know, > 0; 0 gives an infinite charge.
        planned, tolerated: clients planned, and drop-outs tolerated.

    Guarantees:
        Holds for every number of drop-outs up to the tolerance that leaves `unknown_variance` unknown or more.
    """
    check_positive("l2_sensitivity", l2_sensitivity)
    check_positive("total_variance", total_variance)
    if unknown_variance == 0.0:
        return Charge.non_private()
    tau = exact_tau(total_variance=total_variance, planned=planned, tolerated=tolerated)
    draws = planned * (tolerated + 1)
    mu2 = l2_sensitivity * l2_sensitivity / unknown_variance
    return _bounded(mu2, dimension, unknown_variance, tau, sampler_distance * draws, tail_exponent)


def noise_radius(*, dimension: int, sigma: float, tail_exponent: float = TAIL_EXPONENT) -> float:
    """Norm, in units of sigma, that a rounded Gaussian vector passes with probability at most exp(-tail_exponent).

    Laurent and Massart 2000, lemma 1 (chi^2_d >= d + 2 sqrt(d x) + 2 x with probability <= exp(-x)), plus half a step
    of rounding in each coordinate.
    """
    x = tail_exponent
    return math.sqrt(dimension + 2.0 * math.sqrt(dimension * x) + 2.0 * x) + math.sqrt(dimension) / (2.0 * sigma)


def _up(value: float) -> float:
    """Round a positive quantity up, also one that has underflowed to zero."""
    return max(value * (1.0 + _ROUNDING), sys.float_info.min)


def _check_noise(share_sigma: float, shares: int) -> None:
    check_count("the number of noise shares", shares)
    if not (math.isfinite(share_sigma) and share_sigma >= LEAST_SHARE_SIGMA):
        raise ParameterError(
            f"share_sigma is {share_sigma!r} grid steps, expected at least {LEAST_SHARE_SIGMA}: "
            "raise the encoding scale, so that the same noise spans more grid steps"
        )
