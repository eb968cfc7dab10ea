"""Renyi rows: the conversion, the Skellam bound and the sampled rounds, each against another route."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, ZCDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, logsumexp

from privfed_accounting import Charge, NumericalError, ParameterError, Total, ZCdp, gaussian_epsilon, rdp_epsilon
from privfed_accounting.rdp import ORDERS, FloatArray, gaussian_row, rdp_log_delta
from privfed_accounting.second_route_plans import sampled_gaussian_divergence
from privfed_accounting.skellam import skellam_branches, skellam_event, skellam_rdp
from privfed_accounting.subsampled import fixed_size_row, poisson_gaussian_row, poisson_row
from privfed_accounting.zcdp import gaussian_event
from tests.accounting.plans import plan


@given(st.floats(1e-4, 20.0), st.floats(1e-12, 0.3))
@settings(max_examples=100, deadline=None)
def test_conversion_is_theirs_and_safe(mu2: float, delta: float) -> None:
    accountant = RdpAccountant(ORDERS)
    accountant.compose(ZCDpEvent(mu2 / 2.0))
    ours = rdp_epsilon(gaussian_row(mu2), delta)
    assert ours >= accountant.get_epsilon(delta) * (1 - 1e-12)
    assert ours >= gaussian_epsilon(delta, math.sqrt(mu2)) * (1 - 1e-9), "a bound never beats the exact value"
    assert rdp_log_delta(gaussian_row(mu2), ours) <= math.log(delta) + 1e-12
    if accountant.get_epsilon(delta) > 0.1:
        assert ours == pytest.approx(accountant.get_epsilon(delta), rel=1e-9)


def test_a_negative_divergence_is_an_error_never_zero() -> None:
    for bad in (-1e-18, math.nan):
        row = gaussian_row(1.0).copy()
        row[3] = bad
        with pytest.raises(NumericalError, match="divergence came out"):
            rdp_epsilon(row, 1e-5)
        with pytest.raises(ParameterError, match="rdp of a charge"):
            Charge(0.0, rdp=tuple(row))


def test_rows_of_nothing_and_of_infinity() -> None:
    zero, infinite = np.zeros(len(ORDERS)), np.full(len(ORDERS), math.inf)
    assert rdp_epsilon(zero, 1e-5) == 0.0
    assert rdp_epsilon(infinite, 1e-5) == math.inf
    half = infinite.copy()
    half[:6] = gaussian_row(1.0)[:6]
    assert gaussian_epsilon(1e-5, 1.0) < rdp_epsilon(half, 1e-5) < 5.0
    with pytest.raises(ParameterError, match="one value for each"):
        rdp_epsilon([1.0], 1e-5)
    with pytest.raises(ParameterError, match="orders > 1"):
        rdp_epsilon([1.0], 1e-5, orders=(1.0,))


def test_a_total_joins_gaussians_and_rows() -> None:
    row = poisson_gaussian_row(0.01, 1.0)
    total = Total.of([Charge(0.2), *[Charge(0.0, rdp=tuple(row))] * 50])
    by_hand = rdp_epsilon(gaussian_row(0.2) + 50 * row, 1e-6)
    assert total.epsilon(1e-6) == pytest.approx(by_hand, rel=1e-12)
    assert total.epsilon(1e-6) >= by_hand
    assert total.delta(total.epsilon(1e-6)) <= 1e-6
    assert Total.of([Charge(0.0, rdp=tuple(row))] * 1000).rdp == pytest.approx(1000 * row, rel=1e-12)
    assert (np.array(Total.of([Charge(0.0, rdp=tuple(row))] * 1000).rdp) >= 1000 * row).all()
    leaking = Total.of([Charge(0.2, 0.01, 1e-9, 1e-9, tuple(row))])
    assert leaking.epsilon(1e-6) > Total.of([Charge(0.2, rdp=tuple(row))]).epsilon(1e-6) + 0.01


def skellam_log_mass(variance: float, reach: int) -> FloatArray:
    """log of exp(-mu) I_k(mu) for |k| <= reach, by Miller's recurrence downwards."""
    ratios = np.zeros(reach + 202)
    for k in range(reach + 200, 0, -1):
        ratios[k] = 1.0 / (2.0 * k / variance + ratios[k + 1])
    right = math.log(ive(0, variance)) + np.concatenate([[0.0], np.cumsum(np.log(ratios[1 : reach + 1]))])
    return np.concatenate([right[:0:-1], right])


@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0, 50.0, 1000.0])
def test_skellam_bound_holds_exactly_in_one_dimension(variance: float) -> None:
    mass = skellam_log_mass(variance, 600 + int(100 * math.sqrt(variance)))
    assert logsumexp(mass) == pytest.approx(0.0, abs=1e-11)
    tightest = math.inf
    for shift, order in itertools.product((1, 2, 5, 10), (2, 3, 8, 16, 64)):
        terms = order * mass[:-shift] + (1 - order) * mass[shift:]
        if np.argmax(terms) > terms.size - 50:
            continue
        exact = logsumexp(terms) / (order - 1)
        bound = skellam_rdp(order, l1_sensitivity=shift, l2_sensitivity=shift, variance=variance)
        assert exact <= bound
        tightest = min(tightest, bound / exact)
    assert tightest < 1.0 + 2.0 / variance + 0.01 if variance > 1.0 else tightest < 8.0, "and says something"


@pytest.mark.parametrize(("l1", "l2", "variance"), [(100.0, 10.0, 1e4), (4000.0, 200.0, 1e6), (9.0, 3.0, 2.0)])
def test_an_accountant_that_knows_zcdp_recomputes_skellam(l1: float, l2: float, variance: float) -> None:
    event = skellam_event(l1_sensitivity=l1, l2_sensitivity=l2, variance=variance)
    accountant = RdpAccountant(ORDERS)
    accountant.compose(ComposedDpEvent([ZCDpEvent(event.rho, event.xi)] * 7))
    ours = Total.of([Charge(0.0, rdp=tuple(event.row()))] * 7).epsilon(1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    branches = skellam_branches(l1_sensitivity=l1, l2_sensitivity=l2, variance=variance)
    assert event in branches
    assert event.divergence(16) == min(each.divergence(16) for each in branches)


def test_skellam_rounds_in_views() -> None:
    each = plan(mechanism="skellam", mu2=0.04, sigma=1000.0, l1_sensitivity=1500.0)
    fine = plan(mu2=0.04)
    for view, shares in (("released", 35), ("client", 34), ("unmasked", 1)):
        event = skellam_event(l1_sensitivity=1500.0, l2_sensitivity=200.0, variance=1e6 * shares / 35)
        assert each.charge(view).rdp == pytest.approx(event.row(), rel=1e-9)
        assert each.charge(view).mu2 == each.charge(view).epsilon_slack == 0.0
    ratio = Total.of([each.charge("server")]).epsilon(1e-6) / Total.of([fine.charge("server")]).epsilon(1e-6)
    assert 1.05 < ratio < 1.25, "the conversion's price"


def test_skellam_refuses_nonsense() -> None:
    with pytest.raises(ParameterError, match="at least the L2"):
        skellam_event(l1_sensitivity=1.0, l2_sensitivity=2.0, variance=1.0)
    with pytest.raises(ParameterError, match="variance"):
        skellam_event(l1_sensitivity=1.0, l2_sensitivity=1.0, variance=0.0)
    for order in (1, 2.5, True):
        with pytest.raises(ParameterError, match="integer >= 2"):
            skellam_rdp(order, l1_sensitivity=1.0, l2_sensitivity=1.0, variance=1.0)  # type: ignore[arg-type]


def test_zcdp_events_add() -> None:
    total = ZCdp(0.3, 0.1) + gaussian_event(0.4)
    assert total == ZCdp(0.5, 0.1)
    assert total.divergence(8) == pytest.approx(4.1)
    assert total.epsilon(1e-5) == rdp_epsilon(total.row(), 1e-5)
    assert ZCdp(math.inf).epsilon(1e-5) == math.inf
    for bad in (-0.1, math.nan):
        with pytest.raises(ParameterError, match="zCDP"):
            ZCdp(bad)


@pytest.mark.parametrize(("rate", "mu2"), [(0.01, 1.0), (1e-4, 0.25), (0.3, 4.0), (0.9, 0.01), (1e-6, 1.0)])
def test_sampled_gaussian_is_the_integral_and_theirs(rate: float, mu2: float) -> None:
    row = poisson_gaussian_row(rate, mu2)
    again = [min(sampled_gaussian_divergence(a, rate, mu2), a * mu2 / 2) for a in ORDERS]
    assert row == pytest.approx(again, rel=1e-9)
    assert (row >= np.array(again) * (1 - 1e-12)).all()
    accountant = RdpAccountant(ORDERS)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(mu2**-0.5)))
    big = row > 1e-6
    assert row[big] == pytest.approx(np.minimum(accountant._rdp, gaussian_row(mu2))[big], rel=1e-6)
    assert poisson_gaussian_row(1.0, mu2) == pytest.approx(gaussian_row(mu2))


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_general_bounds_lie_between_the_sampled_gaussian_and_no_sampling(rate: float) -> None:
    """And randomised response, sampled: the exact divergence, both directions, under Zhu and Wang's bound."""
    exact = poisson_gaussian_row(rate, 0.5)
    general = poisson_row(rate, lambda a: 0.25 * a)
    assert (exact <= general * (1 + 1e-12)).all()
    assert (general <= gaussian_row(0.5) * (1 + 1e-12)).all()
    assert general[0] == pytest.approx(exact[0], rel=1e-9), "at order 2 nothing is lost"
    p = math.e / (1 + math.e)
    here, there = np.array([p, 1 - p]), np.array([1 - p, p])
    mixed = (1 - rate) * here + rate * there

    def divergence(a: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
        logs = np.outer(a, np.log(left)) + np.outer(1 - a, np.log(right))
        return np.asarray(logsumexp(logs, axis=1) / (a - 1))

    orders = np.array(ORDERS, dtype=float)
    bound = poisson_row(rate, lambda a: divergence(a, here, there))
    for pair in ((mixed, here), (here, mixed)):
        assert (divergence(orders, *pair) <= bound * (1 + 1e-9)).all()


def test_fixed_size_bound_holds_for_a_small_cohort() -> None:
    """Two of four clients in one dimension, every placement of the others: the exact mixture under the bound."""
    sigma, grid = 1.5, np.linspace(-14.0, 14.0, 4001)

    def density(values: tuple[float, ...]) -> FloatArray:
        sums = [sum(pair) for pair in itertools.combinations(values, 2)]
        return np.asarray(np.mean([np.exp(-0.5 * ((grid - s) / sigma) ** 2) for s in sums], axis=0))

    event = gaussian_event(sigma**-2)
    bound = fixed_size_row(0.5, lambda a: event.rho * a, lambda a: 4 * event.rho * a, orders=(2, 3, 5, 9))
    for others in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        there, gone = density((1.0, *others)), density((0.0, *others))
        for left, right in ((there, gone), (gone, there)):
            for index, order in enumerate((2, 3, 5, 9)):
                terms = order * np.log(left) + (1 - order) * np.log(right)
                exact = (logsumexp(terms) - logsumexp(np.log(right))) / (order - 1)
                assert exact <= bound[index] + 1e-12


def test_sampled_rows_refuse_nonsense() -> None:
    for rate in (0.0, 1.1, math.nan):
        with pytest.raises(ParameterError, match="rate"):
            poisson_gaussian_row(rate, 1.0)
    with pytest.raises(ParameterError, match="mu2"):
        poisson_gaussian_row(0.1, 0.0)
    with pytest.raises(ParameterError, match="integers"):
        poisson_gaussian_row(0.1, 1.0, orders=(2, 2.5))  # type: ignore[arg-type]
