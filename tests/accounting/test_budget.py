"""Views, budgets, calibration: the worked case, the caps, and what a budget refuses to be."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    Budget,
    Charge,
    ParameterError,
    Total,
    View,
    allowance,
    calibrate,
    calibrate_mu2,
    fine_grid_charge,
    gaussian_mu,
    standard_views,
)
from privfed_accounting.budget import leak
from tests.accounting.plans import plan


@pytest.mark.parametrize(
    ("view", "survivors", "epsilon"),
    [
        ("released", 50, "4.00"),
        ("client", 50, "4.05"),
        ("colluders(10)", 50, "4.54"),
        ("released", 35, "4.89"),  # 30 % dropped, nothing added
        ("colluders(10)", 35, "5.93"),
        ("unmasked", 50, "45"),
    ],
)
def test_worked_case(view: str, survivors: int, epsilon: str) -> None:
    """n = 50, T = 10, delta 1e-6, aimed at 4.0 released: the epsilons of every adversary, as printed in the design."""
    sigma = calibrate(4.0, 1e-6, 10, "released", shares=50) * 2.0**24
    rounds = [plan(l2_sensitivity=2.0**24, share_sigma=sigma / math.sqrt(50), guaranteed_shares=50) for _ in range(10)]
    total = Total.of(each.charge(view, survivors=survivors) for each in rounds)
    digits = len(epsilon.partition(".")[2])
    assert f"{total.epsilon(1e-6):.{digits}f}" == epsilon


@pytest.mark.parametrize(
    ("text", "of_50", "of_1"),
    [("released", 50, 1), ("server", 50, 1), ("client", 49, 0), ("colluders(3)", 47, 0), ("unmasked", 1, 1)],
)
def test_views_count_the_noise_they_do_not_know(text: str, of_50: int, of_1: int) -> None:
    view = View.parse(text)
    assert str(view) == text
    assert View.parse(str(view)) == view
    assert View.parse(view) is view
    assert view.noise_shares(50) == of_50
    assert view.noise_shares(1) == of_1
    assert view.noise_shares(0) == 0
    assert view.description


@given(st.sampled_from([*standard_views(7), View("colluders", 123)]), st.integers(0, 300))
def test_no_view_knows_less_with_more_survivors(view: View, survivors: int) -> None:
    assert 0 <= view.noise_shares(survivors) <= min(view.noise_shares(survivors + 1), survivors)


@pytest.mark.parametrize(
    "text", ["", "auditor", "colluders", "colluders(0)", "colluders(-1)", "server(2)", "Client", 3, None]
)
def test_no_such_view(text: str) -> None:
    with pytest.raises(ParameterError):
        View.parse(text)


def test_views_refuse_nonsense() -> None:
    for make in (lambda: View("nobody"), lambda: View("colluders", 1.5), lambda: View("server", 1)):
        with pytest.raises(ParameterError):
            make()
    for survivors in (-1, 1.5, True):
        with pytest.raises(ParameterError, match="surviving"):
            View("server").noise_shares(survivors)


def test_standard_views_always_have_a_colluder() -> None:
    assert [str(view) for view in standard_views(0)] == ["released", "server", "client", "colluders(1)", "unmasked"]


@given(st.floats(0.01, 30.0), st.floats(-50.0, -2.0).map(math.exp))
@settings(max_examples=60, deadline=None)
def test_caps_keep_the_promise(epsilon: float, delta: float) -> None:
    """A total that fills all three caps at once is (epsilon, delta)-DP, with almost nothing to spare."""
    caps = allowance(epsilon, delta)
    tail = caps.delta_leak / 2 / math.exp(epsilon) * (1 - 1e-12)
    distance = caps.delta_leak / 2 / (1 + math.exp(epsilon)) * (1 - 1e-12)
    full = Total.of([Charge(caps.mu2_cap, caps.epsilon_slack, tail, distance)])
    assert leak(full, epsilon) <= caps.delta_leak
    assert full.delta(epsilon) <= delta
    assert full.epsilon(delta) <= epsilon
    assert full.epsilon(delta) >= epsilon * (1 - 1e-6)
    assert caps.mu2 < caps.mu2_cap < caps.mu2 * (1 + 2e-9)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-6), (4.0, 1e-6), (10.0, 1e-9)])
def test_the_hair_is_a_hair(epsilon: float, delta: float) -> None:
    """What is kept for slack and tails costs under 0.03 % of the noise."""
    assert math.sqrt(calibrate_mu2(epsilon, delta)) >= gaussian_mu(epsilon, delta) * (1 - 3e-4)
    theirs = 1 / dp_accounting.get_sigma_gaussian(epsilon, delta)
    assert math.sqrt(calibrate_mu2(epsilon, delta)) == pytest.approx(theirs, rel=3e-4, abs=0.0)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-6), (4.0, 1e-11), (10.0, 1e-9)])
def test_ten_thousand_rounds_of_a_million_coordinates_fit(epsilon: float, delta: float) -> None:
    """Spending exactly the calibrated mu^2 at sigma = 2^24 leaves the caps standing."""
    rounds, shares = 10_000, 100
    sigma = 2.0**24
    charge = fine_grid_charge(
        l2_sensitivity=sigma * math.sqrt(calibrate_mu2(epsilon, delta) / rounds),
        dimension=10**6,
        share_sigma=sigma / math.sqrt(shares),
        shares=shares,
    )
    total, caps = Total.of([charge] * rounds), allowance(epsilon, delta)
    assert total.mu2 <= caps.mu2_cap
    assert total.epsilon_slack <= caps.epsilon_slack / 3
    assert leak(total, epsilon) <= caps.delta_leak / 3
    assert total.epsilon(delta) <= epsilon


@pytest.mark.parametrize("view", ["released", "client", "colluders(5)", "unmasked"])
@pytest.mark.parametrize("rounds", [1, 7, 1000])
def test_calibrated_noise_spends_the_budget_in_its_view(view: str, rounds: int) -> None:
    multiplier = calibrate(2.0, 1e-6, rounds, view, shares=40)
    share = multiplier / math.sqrt(40)
    mu2 = rounds / (View.parse(view).noise_shares(40) * share**2)
    assert mu2 <= calibrate_mu2(2.0, 1e-6) * (1 + 1e-12)
    assert mu2 == pytest.approx(calibrate_mu2(2.0, 1e-6), rel=1e-12, abs=0.0)


def test_a_reserve_of_ones_own() -> None:
    assert calibrate_mu2(2.0, 1e-6, slack_reserve=0.5) < calibrate_mu2(2.0, 1e-6)
    assert Budget(2.0, 1e-6, slack_reserve=0.5).allowance().epsilon_slack == 0.5
    assert Budget(1e-5, 1e-6).allowance().epsilon_slack == pytest.approx(1e-6, rel=1e-12, abs=0.0)
    for reserve in (2.0, -0.1, math.nan):
        with pytest.raises(ParameterError, match="slack_reserve"):
            calibrate_mu2(2.0, 1e-6, slack_reserve=reserve)
        with pytest.raises(ParameterError, match="slack_reserve"):
            Budget(2.0, 1e-6, slack_reserve=reserve)


def test_budget() -> None:
    budget = Budget(2, 1e-6, "client", "colluders(3)")
    assert budget.epsilon == 2.0
    assert budget.view == View("colluders", 3)
    assert budget.relation == "add/remove"
    assert str(budget) == "epsilon 2, delta 1e-06, unit client (add/remove), view colluders(3)"
    assert budget == Budget(2.0, 1e-6, unit="client", view=View("colluders", 3))
    assert len({budget, Budget(2.0, 1e-6, unit="client", view="colluders(3)")}) == 1
    assert Budget(epsilon=1.0, delta=1e-5) != Budget(epsilon=1.0, delta=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": True}, "epsilon"),
        ({"epsilon": "4"}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"unit": "row"}, "unit"),
        ({"view": "everybody"}, "view"),
    ],
)
def test_no_such_budget(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Budget(**{"epsilon": 1.0, "delta": 1e-6, **changes})


def test_calibration_refuses_nonsense() -> None:
    for rounds in (0, 1.5, True):
        with pytest.raises(ParameterError, match="rounds"):
            calibrate(1.0, 1e-6, rounds, shares=10)
    for shares in (0, 2.5):
        with pytest.raises(ParameterError, match="shares"):
            calibrate(1.0, 1e-6, 1, shares=shares)
    with pytest.raises(ParameterError, match="none of 3 noise shares"):
        calibrate(1.0, 1e-6, 1, "colluders(3)", shares=3)
    with pytest.raises(ParameterError, match="epsilon"):
        calibrate_mu2(0.0, 1e-6)
    with pytest.raises(ParameterError, match="1e-300"):
        allowance(1.0, 1e-305)


def test_leaks_beyond_the_floats() -> None:
    assert leak(Total.of([Charge(mu2=1.0)]), 800.0) == 0.0
    assert leak(Total.of([Charge(mu2=1.0, delta_tail=1e-300)]), 800.0) == math.inf
    assert leak(Total.of([Charge(mu2=1.0, delta_tail=1e-9), Charge.non_private()]), 1.0) == math.inf


@pytest.mark.parametrize("number", [np.float64(2.0), np.float32(2.0), np.int64(2)])
def test_numpy_scalars_are_numbers(number: Any) -> None:
    assert Budget(number, 1e-5) == Budget(2.0, 1e-5)
    assert type(Budget(number, 1e-5).epsilon) is float
