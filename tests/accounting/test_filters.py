"""The rule of a budget, its calibration and the odometer: fixed caps, the safe side, and the same answer everywhere."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    Allowance,
    Budget,
    Charge,
    GuaranteeBroken,
    Ledger,
    Odometer,
    ParameterError,
    RoundPlan,
    Sampling,
    Total,
    calibrate,
    calibrate_mu2,
    exceeded,
    least_multiplier,
    share_of,
)
from privfed_accounting.budget import renyi_caps
from privfed_accounting.filters import spent_share
from privfed_accounting.rdp import ORDERS, gaussian_row
from privfed_accounting.subsampled import poisson_gaussian_row
from tests.accounting.plans import plan

SAMPLED = tuple(poisson_gaussian_row(0.02, 0.25).tolist())
GAUSSIAN, RENYI = Budget(2.0, 1e-6), Budget(2.0, 1e-6, accounting="renyi")


def test_each_cap_by_itself() -> None:
    caps = GAUSSIAN.allowance()
    full = Charge(caps.mu2_cap, caps.epsilon_slack, 0.99 * caps.delta_leak / math.exp(2.0))
    assert exceeded(Total.of([full]), GAUSSIAN) == ()
    for charge, what in (
        (Charge(1.001 * caps.mu2_cap), "mu^2"),
        (Charge(0.0, 1.001 * caps.epsilon_slack), "grid slack"),
        (Charge(0.0, 0.0, 1.001 * caps.delta_leak / math.exp(2.0)), "tails and sampler distance"),
        (Charge(0.0, 0.0, 0.0, 1.001 * caps.delta_leak / (1 + math.exp(2.0))), "tails and sampler distance"),
        (Charge(0.0, rdp=SAMPLED), "Renyi divergence beside exact Gaussians"),
    ):
        (excess,) = exceeded(Total.of([charge]), GAUSSIAN)
        assert excess.what == what
        assert excess.used > excess.cap
        assert what in str(excess)
        assert excess.remedy
    assert len(exceeded(Total.of([Charge.non_private()]), GAUSSIAN)) == 1
    assert exceeded(Total.of([Charge.non_private()]), RENYI)


def test_stored_caps_are_the_ones_enforced() -> None:
    stored = Allowance(mu2=0.01, mu2_cap=0.01, epsilon_slack=1.0, delta_leak=1e-9)
    assert exceeded(Total.of([Charge(0.02)]), GAUSSIAN, stored)
    assert not exceeded(Total.of([Charge(0.02)]), GAUSSIAN)


@given(
    st.floats(0.05, 20.0),
    st.floats(1e-12, 1e-2),
    st.lists(st.floats(0.01, 1.0), min_size=len(ORDERS), max_size=len(ORDERS)),
)
@settings(max_examples=40, deadline=None)
def test_whatever_order_holds_in_the_end_delta_is_kept(epsilon: float, delta: float, fractions: list[float]) -> None:
    """Each order's cap converts to a part of delta, and the parts add up to no more than delta: a union bound."""
    caps = renyi_caps(epsilon, delta)
    orders = np.array(ORDERS, dtype=float)
    parts = np.exp((orders - 1) * (caps - epsilon) + (orders - 1) * np.log1p(-1 / orders) - np.log(orders))
    used = caps > 0
    assert parts[used].sum() <= delta
    assert parts[used].sum() > 0.3 * delta
    best = int(np.argmax(caps / orders))
    assert parts[best] > 0.2 * delta


@pytest.mark.parametrize("accounting", ["gaussian", "renyi"])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (2.0, 1e-6), (8.0, 1e-9)])
def test_what_a_budget_plans_it_accepts(accounting: Any, epsilon: float, delta: float) -> None:
    budget = Budget(epsilon, delta, accounting=accounting)
    mu2 = budget.allowance().mu2
    rounds = Total.of([Charge(mu2 / 100)] * 100)
    assert exceeded(rounds, budget) == ()
    assert exceeded(rounds + Charge(mu2 / 100), budget)
    assert rounds.epsilon(delta) <= epsilon
    assert math.sqrt(calibrate_mu2(epsilon, delta) / mu2) < 1.25, "what the Renyi route costs in noise"
    assert share_of(Charge(mu2 / 100), budget) == pytest.approx(0.01, rel=1e-6)


def test_renyi_budgets_take_any_round() -> None:
    each = Charge(0.0, rdp=SAMPLED)
    count = next(n for n in range(1, 10_000) if exceeded(Total.of([each]).times(n), RENYI))
    within, over = Total.of([each]).times(count - 1), Total.of([each]).times(count)
    assert within.epsilon(1e-6) <= 2.0
    assert over.epsilon(1e-6) > 1.8, "the filter's price is a few per cent"
    assert share_of(each, GAUSSIAN) == math.inf
    mixed = Total.of([Charge(0.5 * RENYI.allowance().mu2), *[each] * (count // 3)])
    assert mixed.epsilon(1e-6) <= 2.0
    assert exceeded(mixed, RENYI) == ()


def test_shares_that_add_to_one_are_accepted() -> None:
    charges = [
        Charge(0.005),
        Charge(0.0, rdp=SAMPLED),
        plan(mechanism="skellam", mu2=0.01, sigma=1e3, l1_sensitivity=900.0).charge("server"),
    ]
    total, parts = Total(), 0.0
    for charge in itertools.cycle(charges):
        if parts + share_of(charge, RENYI) > 1.0:
            break
        total, parts = total + charge, parts + share_of(charge, RENYI)
        assert exceeded(total, RENYI) == ()
    assert parts > 0.9


@pytest.mark.parametrize("budget", [GAUSSIAN, RENYI], ids=["gaussian", "renyi"])
def test_the_part_that_is_spent_is_the_filters(budget: Budget) -> None:
    """Below 1 as long as the filter accepts and above from then on, for charges of every size."""
    caps = budget.allowance()
    assert spent_share(Total(), budget) == 0.0
    for part in (0.1, 0.5, 1.0 - 1e-6, 1.0 + 1e-6, 3.0):
        total = Total.of([Charge(part * caps.mu2_cap)])
        assert spent_share(total, budget) == pytest.approx(part, rel=1e-8)
        assert (spent_share(total, budget) <= 1.0) == (exceeded(total, budget) == ())
    assert spent_share(Total.of([Charge.non_private()]), budget) == math.inf
    halved = Allowance(caps.mu2 / 2, caps.mu2_cap / 2, caps.epsilon_slack, caps.delta_leak)
    if budget is GAUSSIAN:
        assert spent_share(Total.of([Charge(caps.mu2_cap)]), budget, halved) == pytest.approx(2.0)
        assert spent_share(Total.of([Charge(0.0, rdp=SAMPLED)]), budget) == math.inf


def test_the_least_spent_order_counts() -> None:
    limits = renyi_caps(RENYI.epsilon - RENYI.allowance().epsilon_slack, RENYI.delta * (1 - 1e-4))
    uneven = np.where(limits > 0.0, 0.9 * limits, 1.0)
    uneven[int(np.argmax(limits / np.array(ORDERS))) + 1] /= 3.0
    assert spent_share(Total.of([Charge(0.0, rdp=tuple(uneven.tolist()))]), RENYI) == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("budget", [GAUSSIAN, RENYI], ids=["gaussian", "renyi"])
def test_a_ledger_tells_what_is_left(budget: Budget) -> None:
    with Ledger.open(None, budget=budget) as ledger:
        assert ledger.remaining_share() == 1.0
        ledger.reserve(plan(mu2=0.25 * ledger.total_mu2()))
        assert ledger.remaining_share() == pytest.approx(0.75, rel=1e-6)
        with pytest.raises(GuaranteeBroken):
            ledger.settle(2, participants=50, survivors=1, bytes_up=0)
        assert ledger.remaining_share() == 0.0
    with Ledger.open(None, budget=None) as ledger:
        assert ledger.remaining_share() == 1.0


def test_a_budget_reads_back() -> None:
    for budget in (GAUSSIAN, RENYI, Budget(1.0, 1e-5, "client", "colluders(3)", slack_reserve=0.1)):
        assert Budget.from_dict(budget.as_dict()) == budget
    assert "accounting" not in GAUSSIAN.as_dict()
    assert "renyi accounting" in str(RENYI)
    with pytest.raises(ParameterError, match="gaussian"):
        Budget(1.0, 1e-5, accounting="moments")  # type: ignore[arg-type]
    for wrong in ({**GAUSSIAN.as_dict(), "colour": 1}, {"epsilon": 1.0}, {**GAUSSIAN.as_dict(), "relation": "replace"}):
        with pytest.raises(ParameterError):
            Budget.from_dict(wrong)


def at(multiplier: float, shares: int = 20, **changes: Any) -> RoundPlan:
    sigma = multiplier * 2.0**24
    return plan(l2_sensitivity=2.0**24, share_sigma=sigma / math.sqrt(shares), shares=shares, dimension=1, **changes)


@pytest.mark.parametrize("view", ["released", "client", "colluders(5)"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling.poisson(0.05, unit="record"), Sampling.fixed_size(5, 100, unit="record"), Sampling.none()],
)
def test_calibrated_noise_is_accepted_and_a_hair_less_is_not(view: str, sampling: Sampling) -> None:
    rounds = 60
    multiplier = calibrate(2.0, 1e-6, rounds, view, shares=20, sampling=sampling)
    budget = Budget(2.0, 1e-6, view=view, accounting="gaussian" if sampling.kind == "none" else "renyi")
    for factor, fits in ((1.0 + 1e-9, True), (1.0 - 1e-6, False)):
        charge = at(factor * multiplier, sampling=sampling).charge(view)
        assert (exceeded(Total.of([charge]).times(rounds), budget) == ()) == fits


def test_calibration_of_rotas_central_noise_and_exact_drop_outs() -> None:
    plain = calibrate(2.0, 1e-6, 100, "server", shares=20)
    rota = calibrate(2.0, 1e-6, 100, "server", shares=20, sampling=Sampling.round_robin(4, 100, unit="client", turn=0))
    assert rota == pytest.approx(plain / 5.0, rel=1e-9)
    exact = calibrate(2.0, 1e-6, 100, "unmasked", shares=20, planned=40, drop_outs="exact")
    assert exact == pytest.approx(plain * math.sqrt(40), rel=1e-6)
    central = calibrate(2.0, 1e-6, 100, "released", shares=20, protection="central")
    assert central == pytest.approx(plain, rel=1e-9)
    with pytest.raises(ParameterError, match="guard another view"):
        calibrate(2.0, 1e-6, 100, "server", shares=20, protection="central")


def test_calibration_of_skellam_on_its_grid() -> None:
    grid = {"mechanism": "skellam", "l2_sensitivity": 100.0, "l1_sensitivity": 2000.0, "dimension": 4096}
    multiplier = calibrate(2.0, 1e-6, 50, "server", shares=20, **grid)  # type: ignore[arg-type]
    plain = calibrate(2.0, 1e-6, 50, "server", shares=20)
    assert 1.0 < multiplier / plain < 1.3
    sigma = multiplier * 100.0 / math.sqrt(20)
    each = plan(share_sigma=sigma * (1 + 1e-9), shares=20, **grid)
    assert exceeded(Total.of([each.charge("server")]).times(50), RENYI) == ()
    with pytest.raises(ParameterError, match="on its grid"):
        calibrate(2.0, 1e-6, 50, shares=20, mechanism="skellam")


def test_a_search_returns_the_safe_side() -> None:
    for threshold in (1e-3, 0.7, 1.0, 33.3, 1e6):
        found = least_multiplier(lambda z, threshold=threshold: z >= threshold)  # type: ignore[misc]
        assert threshold <= found <= threshold * (1 + 2e-9)
    with pytest.raises(ParameterError, match="no noise multiplier"):
        least_multiplier(lambda z: False)

    def refuses(multiplier: float) -> bool:
        if multiplier < 5.0:
            raise ParameterError("meaningless")
        return True

    assert least_multiplier(refuses) == pytest.approx(5.0, rel=1e-8)


CHARGES = st.one_of(
    st.builds(Charge, st.floats(1e-6, 0.1), st.floats(0.0, 1e-4), st.floats(0.0, 1e-20), st.floats(0.0, 1e-20)),
    st.builds(lambda mu2: Charge(0.0, rdp=tuple(poisson_gaussian_row(0.1, mu2))), st.sampled_from([0.1, 0.5, 2.0])),
    st.builds(lambda mu2, turn: Charge(mu2, cohort=f"rota:{turn}"), st.floats(1e-3, 0.1), st.integers(0, 3)),
)


@given(st.lists(CHARGES, min_size=1, max_size=10))
@settings(max_examples=60, deadline=None)
def test_the_odometer_reads_what_the_total_reads(charges: list[Charge]) -> None:
    odometer, total = Odometer(1e-6), Total()
    assert odometer.epsilon() == 0.0
    for charge in charges:
        total = total + charge
        assert odometer.add(charge).epsilon() == pytest.approx(total.epsilon(1e-6), rel=1e-12)
    assert odometer.rounds == total.rounds
    assert odometer.total.epsilon(1e-6) == pytest.approx(total.epsilon(1e-6), rel=1e-12)


def test_the_odometer_after_many_rounds() -> None:
    odometer = Odometer(1e-6)
    readings = [odometer.add(Charge(1e-3)).epsilon() for _ in range(300)]
    assert all(a < b for a, b in itertools.pairwise(readings))
    exact = [Total.of([Charge(1e-3)]).times(n).epsilon(1e-6) for n in (1, 2, 17, 300)]
    assert [readings[n - 1] for n in (1, 2, 17, 300)] == pytest.approx(exact, rel=1e-13)
    odometer.add(Charge.non_private())
    assert odometer.epsilon() == math.inf
    sudden = Odometer(1e-6)
    for mu2 in (1e-6, 1e-6, 4.0, 1e-9, 1e-9):
        sudden.add(Charge(mu2))
        assert sudden.epsilon() == pytest.approx(sudden.total.epsilon(1e-6), rel=1e-13)
    assert Odometer(1e-6).add(Charge(0.0, rdp=(math.inf,) * len(ORDERS))).epsilon() == math.inf
    with pytest.raises(ParameterError, match="delta"):
        Odometer(1.0)


def test_rounded_up_at_every_addition() -> None:
    odometer = Odometer(1e-6)
    for _ in range(500):
        odometer.add(Charge(0.0, rdp=SAMPLED))
    assert (np.array(odometer.total.rdp) >= 500 * np.array(SAMPLED)).all()
    assert odometer.total.joint_rdp == pytest.approx(500 * np.array(SAMPLED), rel=1e-12)
    assert Total.of([Charge(0.5)]).joint_rdp == pytest.approx(gaussian_row(0.5))
    with pytest.raises(ParameterError, match="count"):
        Total().times(-1)
