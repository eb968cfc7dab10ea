"""The fine-grid theorem, step by step and end to end, against exact one-dimensional privacy losses.

The proof (accounting/README.md) has two lemmas, checked here pointwise in many digits at sigmas where they matter, and
a conclusion, checked against hockey-stick sums over the true masses: no Gaussian, no Mills ratio, no quadrature.
"""

from __future__ import annotations

import functools
import math
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

from privfed_accounting import Charge, ParameterError, Total, ddg_tau, fine_grid_charge, gaussian_delta
from privfed_accounting.fine_grid import TAIL_EXPONENT, noise_radius
from tests.accounting import reference

SMALL_SIGMAS = (0.7, 1.0, 2.0, 5.0, 20.0)


def rounded_gaussian(k: int, sigma: float) -> mpf:
    """Mass that a rounded continuous Gaussian gives to the integer k (upper tail, so that nothing cancels)."""
    root = mpf(sigma) * mpmath.sqrt(2)
    low, high = (abs(k) - mpf(1) / 2) / root, (abs(k) + mpf(1) / 2) / root
    return (mpmath.erfc(low) - mpmath.erfc(high)) / 2


def discrete_gaussian(k: int, sigma: float) -> mpf:
    return mpmath.exp(-(mpf(k) ** 2) / (2 * mpf(sigma) ** 2)) / mpmath.jtheta(
        3, 0, mpmath.exp(-1 / (2 * mpf(sigma) ** 2))
    )


def log_ratios(sigma: float, reach: int) -> list[mpf]:
    """log(rounded / discrete) at k = 0 .. reach."""
    with mpmath.workdps(60 + int(reach**2 / sigma**2)):
        return [mpmath.log(rounded_gaussian(k, sigma) / discrete_gaussian(k, sigma)) for k in range(reach + 1)]


@pytest.mark.parametrize("sigma", SMALL_SIGMAS)
def test_lemma_1_rounded_against_discrete(sigma: float) -> None:
    """constant - 1/(24 sigma^2) <= log ratio <= constant + k^2/(24 sigma^4), at every k; and 24 is right."""
    reach = math.ceil(12 * sigma)
    constant = mpmath.log(mpmath.jtheta(3, 0, mpmath.exp(-2 * mpmath.pi**2 * mpf(sigma) ** 2)))
    ratios = log_ratios(sigma, reach)
    for k, ratio in enumerate(ratios):
        assert constant - mpf(1) / (24 * mpf(sigma) ** 2) <= ratio <= constant + mpf(k) ** 2 / (24 * mpf(sigma) ** 4)
    if sigma >= 5.0:  # both bounds are attained to first order: a constant of 27 would be wrong
        far = math.ceil(8 * sigma)
        assert ratios[0] < constant - mpf(1) / (27 * mpf(sigma) ** 2)
        assert ratios[far] > constant + mpf(far) ** 2 / (27 * mpf(sigma) ** 4)


@pytest.mark.parametrize("share_sigma", [0.5, 0.55, 0.7, 1.0])
@pytest.mark.parametrize("shares", [2, 3, 9])
def test_lemma_2_sums_of_shares(share_sigma: float, shares: int) -> None:
    """The sum's log ratio to one discrete Gaussian spans less than tau, and more than a tenth of it for two shares."""
    # Convolving exactly, in integers: floating point would have nothing to say in the tails.
    reach = 32
    scale = mpf(10) ** 400
    with mpmath.workdps(420):
        weight = [int(scale * discrete_gaussian(k, share_sigma)) for k in range(-reach, reach + 1)]
    total = np.array(weight, dtype=object)
    for _ in range(shares - 1):
        total = np.convolve(total, np.array(weight, dtype=object))
    middle = len(total) // 2
    with mpmath.workdps(60):
        sigma = share_sigma * math.sqrt(shares)
        ratios = [
            mpmath.log(mpf(int(total[middle + k])) / scale**shares / discrete_gaussian(k, sigma))
            for k in range(math.ceil(8 * sigma))
        ]
        span = float(max(ratios) - min(ratios))
    tau = ddg_tau(share_sigma=share_sigma, shares=shares)
    assert span <= tau
    assert span >= 0.1 * tau or shares > 2


@pytest.mark.parametrize("sigma", [2.0, 5.0, 20.0])
def test_slack_covers_the_worst_log_ratio_and_little_more(sigma: float) -> None:
    """At dimension 1 the slack must exceed the exact worst ratio inside the radius; half of it would not do."""
    exponent = 30.0
    charge = fine_grid_charge(l2_sensitivity=1.0, dimension=1, share_sigma=sigma, shares=1, tail_exponent=exponent)
    ratios = log_ratios(sigma, math.floor(noise_radius(dimension=1, sigma=sigma, tail_exponent=exponent) * sigma))
    worst = float(max(ratios) - min(ratios))
    assert worst <= charge.epsilon_slack <= 1.3 * worst


@functools.lru_cache(maxsize=4)
def noise(sigma: float, reach: int, terms: int) -> reference.FloatArray:
    return reference.power(reference.discrete_gaussian(sigma, reach), terms)


def exact_delta(*, sigma: float, shares: int, sensitivity: int, terms: int, epsilon: float) -> float:
    """Delta of `terms` releases with noise from `shares` discrete Gaussians, each moved by `sensitivity`, exactly.

    With one share the loss depends on the sum of the noise alone, whose mass is a convolution; a vector moved by
    `sensitivity` in each of d coordinates is the same thing with terms = d.
    """
    if shares != 1 and terms != 1:
        raise ValueError("the loss is a function of the sum only for true discrete Gaussians")
    mass = noise(sigma, math.ceil(14 * sigma) + sensitivity, shares * terms)
    if terms == 1:
        pad = np.zeros(sensitivity)
        return reference.hockey_stick(np.concatenate([mass, pad]), np.concatenate([pad, mass]), epsilon)
    k = np.arange(len(mass)) - len(mass) // 2
    # x' moves every noise value down by the sensitivity: log p(k)/p(k + s) = (2 k s + s^2) / (2 sigma^2), summed.
    loss = (2.0 * k * sensitivity + terms * sensitivity**2) / (2.0 * sigma**2)
    return float((mass * -np.expm1(np.minimum(epsilon - loss, 0.0))).sum())


EPSILONS = [0.0, 0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0, 40.0])
@pytest.mark.parametrize(("sensitivity", "terms"), [(1, 1), (3, 1), (1, 10), (2, 10), (1, 100)])
def test_many_rounds_never_cost_more_than_charged(sigma: float, sensitivity: int, terms: int) -> None:
    target = 1e-5
    lowest = lowest_epsilon(sigma=sigma, shares=1, sensitivity=sensitivity, terms=terms, delta=target)
    exponent = 25.0 + 2.0 * lowest  # tails far below the target, with the slack that costs
    rounds = Total.of(
        fine_grid_charge(
            l2_sensitivity=sensitivity,
            dimension=1,
            share_sigma=sigma,
            shares=1,
            sampler_distance=0.0,
            tail_exponent=exponent,
        )
        for _ in range(terms)
    )
    vector = Total.of(
        [
            fine_grid_charge(
                l2_sensitivity=sensitivity * math.sqrt(terms),
                dimension=terms,
                share_sigma=sigma,
                shares=1,
                sampler_distance=0.0,
                tail_exponent=exponent,
            )
        ]
    )
    for epsilon in (*EPSILONS, lowest):
        exact = exact_delta(sigma=sigma, shares=1, sensitivity=sensitivity, terms=terms, epsilon=epsilon)
        assert exact <= rounds.delta(epsilon) * (1 + 1e-9)
        assert exact <= vector.delta(epsilon) * (1 + 1e-9)
    # The bound is not vacuous: one vector of that dimension costs little more than it must.
    assert lowest <= vector.epsilon(target) <= lowest + 2.0 * vector.epsilon_slack + 0.02 * lowest + 0.2 / sigma


def lowest_epsilon(*, delta: float, sigma: float, shares: int, sensitivity: int, terms: int) -> float:
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        exact = exact_delta(sigma=sigma, shares=shares, sensitivity=sensitivity, terms=terms, epsilon=middle)
        low, high = (low, middle) if exact <= delta else (middle, high)
    return high


@pytest.mark.parametrize(("share_sigma", "shares"), [(0.5, 3), (0.6, 6), (1.0, 4), (2.0, 8)])
@pytest.mark.parametrize("sensitivity", [1, 2])
def test_sums_of_shares_never_cost_more_than_charged(share_sigma: float, shares: int, sensitivity: int) -> None:
    total = Total.of(
        [
            fine_grid_charge(
                l2_sensitivity=sensitivity,
                dimension=1,
                share_sigma=share_sigma,
                shares=shares,
                sampler_distance=0.0,
                tail_exponent=25.0,
            )
        ]
    )
    for epsilon in EPSILONS:
        exact = exact_delta(sigma=share_sigma, shares=shares, sensitivity=sensitivity, terms=1, epsilon=epsilon)
        assert exact <= total.delta(epsilon) * (1 + 1e-9)


def test_the_slack_is_needed() -> None:
    """On a coarse grid the plain Gaussian's delta is too small at some epsilon: the slack is no decoration."""
    sigma, found = 1.0, []
    for epsilon in np.linspace(0.0, 4.0, 81):
        exact = exact_delta(sigma=sigma, shares=1, sensitivity=1, terms=1, epsilon=float(epsilon))
        found.append(exact > gaussian_delta(float(epsilon), 1.0 / sigma) * (1 + 1e-6))
    assert any(found)


def test_golden_discrete_gaussian_losses() -> None:
    """The exact route used here gives dp-accounting's own upper values (golden.json, dgauss1d)."""
    for sigma, terms, value in ((10.0, 1, 0.340818285246244), (10.0, 100, 4.377187413466975)):
        lowest = lowest_epsilon(sigma=sigma, shares=1, sensitivity=1, terms=terms, delta=1e-5)
        assert lowest == pytest.approx(value, rel=2e-4, abs=0.0)
        charge = fine_grid_charge(
            l2_sensitivity=math.sqrt(terms), dimension=terms, share_sigma=sigma, shares=1, tail_exponent=25.0
        )
        assert lowest <= Total.of([charge]).epsilon(1e-5) <= value + 1.3 * charge.epsilon_slack


@given(
    st.floats(0.5, 2.0**40), st.integers(1, 500), st.integers(1, 10**7), st.floats(1e-3, 2.0**40), st.integers(1, 50)
)
@settings(max_examples=100, deadline=None)
def test_more_shares_and_less_sensitivity_never_cost_more(
    share_sigma: float, shares: int, dimension: int, l2: float, more: int
) -> None:
    charge = fine_grid_charge(l2_sensitivity=l2, dimension=dimension, share_sigma=share_sigma, shares=shares)
    half = fine_grid_charge(l2_sensitivity=l2 / 2, dimension=dimension, share_sigma=share_sigma, shares=shares)
    wide = fine_grid_charge(l2_sensitivity=l2, dimension=dimension, share_sigma=share_sigma, shares=shares + more)
    assert wide.mu2 < charge.mu2
    assert half.mu2 < charge.mu2
    assert min(charge.epsilon_slack, charge.delta_tail, charge.sampler_distance) > 0.0


def test_nothing_underflows_to_zero() -> None:
    """At a huge sigma every term is far below the floats, and none of them is zero."""
    charge = fine_grid_charge(
        l2_sensitivity=1e-140, dimension=1, share_sigma=2.0**50, shares=2, sampler_distance=1e-320
    )
    assert ddg_tau(share_sigma=2.0**50, shares=2) >= 10 * sys.float_info.min
    for value in (charge.mu2, charge.epsilon_slack, charge.delta_tail, charge.sampler_distance):
        assert value >= sys.float_info.min
    assert fine_grid_charge(l2_sensitivity=1e-170, dimension=1, share_sigma=2.0**50, shares=1).mu2 > 0.0
    deep = fine_grid_charge(l2_sensitivity=1.0, dimension=1, share_sigma=2.0, shares=1, tail_exponent=5000.0)
    assert deep.delta_tail >= sys.float_info.min


def test_known_values() -> None:
    charge = fine_grid_charge(
        l2_sensitivity=3.0, dimension=100, share_sigma=7.0, shares=4, sampler_distance=2.0**-112, tail_exponent=64.0
    )
    assert charge.mu2 == pytest.approx(9.0 / 196.0, rel=1e-12, abs=0.0)
    assert charge.delta_tail == pytest.approx(math.exp(-64.0), rel=1e-12, abs=0.0)
    assert charge.sampler_distance == pytest.approx(400 * 2.0**-112, rel=1e-12, abs=0.0)
    radius = math.sqrt(100 + 2 * math.sqrt(6400) + 128) + 10 / 28
    assert charge.epsilon_slack == pytest.approx((100 + radius**2) / (24 * 196.0), rel=1e-9, abs=0.0)


def test_the_convolution_is_in_the_slack() -> None:
    several = fine_grid_charge(l2_sensitivity=1.0, dimension=7, share_sigma=0.6, shares=6)
    tau = 10 * sum(math.exp(-2 * math.pi**2 * 0.36 * k / (k + 1)) for k in range(1, 6))
    one = fine_grid_charge(l2_sensitivity=1.0, dimension=7, share_sigma=0.6 * math.sqrt(6), shares=1)
    assert tau > 0.1
    assert several.epsilon_slack - one.epsilon_slack == pytest.approx(7 * tau, rel=1e-9, abs=0.0)


def test_one_share_has_no_convolution() -> None:
    assert ddg_tau(share_sigma=0.5, shares=1) == 0.0


def test_no_unknown_share_costs_infinity() -> None:
    assert fine_grid_charge(l2_sensitivity=1.0, dimension=1, share_sigma=5.0, shares=0) == Charge.non_private()


def test_chi_square_radius_is_conservative() -> None:
    """The radius against the exact chi-square tail (regularised gamma function), over dimensions and exponents."""
    for dimension in (1, 2, 10, 100, 3000):
        for exponent in (1.0, 10.0, 40.0, TAIL_EXPONENT):
            radius = noise_radius(dimension=dimension, sigma=1e300, tail_exponent=exponent)
            with mpmath.workdps(30):
                tail = mpmath.gammainc(mpf(dimension) / 2, mpf(radius) ** 2 / 2, regularized=True)
            assert tail <= mpmath.exp(-mpf(exponent))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_sigma": 0.49}, "at least 0.5.*scale"),
        ({"share_sigma": math.inf}, "share_sigma"),
        ({"share_sigma": math.nan}, "share_sigma"),
        ({"shares": -1}, "shares"),
        ({"shares": 1.5}, "shares"),
        ({"shares": True}, "shares"),
        ({"dimension": 0}, "dimension"),
        ({"dimension": 2.0}, "dimension"),
        ({"l2_sensitivity": 0.0}, "l2_sensitivity"),
        ({"l2_sensitivity": math.nan}, "l2_sensitivity"),
        ({"sampler_distance": 1.0}, "sampler_distance"),
        ({"sampler_distance": -1e-9}, "sampler_distance"),
        ({"tail_exponent": 0.0}, "tail_exponent"),
    ],
)
def test_nonsense(changes: dict[str, float], message: str) -> None:
    arguments = {"l2_sensitivity": 1.0, "dimension": 2, "share_sigma": 3.0, "shares": 4, **changes}
    with pytest.raises(ParameterError, match=message):
        fine_grid_charge(**arguments)
