"""Who pays what for which round: protections, drop-out policies and samplers, in every view."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import Charge, ParameterError, RoundPlan, Sampling, Total, View
from privfed_accounting.fine_grid import exact_drop_out_charge, exact_tau, smallest_component
from privfed_accounting.subsampled import poisson_gaussian_row
from tests.accounting import reference
from tests.accounting.plans import plan

VIEWS = ("released", "server", "client", "colluders(7)", "unmasked")
POISSON_RECORDS = Sampling.poisson(0.03, unit="record")
POISSON_CLIENTS = Sampling.poisson(0.03, unit="client")
COHORT = Sampling.fixed_size(3, 100, unit="client")


def variance_of(each: RoundPlan, view: str, survivors: int | None = None) -> float:
    """Noise that the charge says is unknown, in shares of the plan; 0 where nothing is."""
    charge = each.charge(view, survivors=survivors)
    return each.l2_sensitivity**2 / charge.mu2 / each.share_sigma**2 if charge.private else 0.0


@pytest.mark.parametrize(
    ("protection", "shares"),
    [
        ("secure_aggregation", (35, 35, 34, 28, 1)),
        ("trusted", (35, 35, 34, 28, 1)),
        ("local", (35, 1, 34, 1, 1)),
        ("central", (1, 0, 1, 0, 0)),
    ],
)
def test_noise_that_each_view_does_not_know(protection: Any, shares: tuple[int, ...]) -> None:
    each = plan(shares=35, protection=protection)
    assert [variance_of(each, view) for view in VIEWS] == pytest.approx(shares)
    assert each.noise_multiplier == pytest.approx(math.sqrt(shares[0]) * each.share_sigma / each.l2_sensitivity)


def test_local_noise_leaves_no_more_to_the_server_than_to_a_thief_of_one_vector() -> None:
    each = plan(protection="local")
    assert each.charge("server") == each.charge("unmasked") == each.charge("colluders(49)")


@pytest.mark.parametrize(("survivors", "left"), [(35, 35.0), (42, 35.0), (50, 35.0), (20, 20.0)])
def test_exact_drop_outs_leave_the_same_noise_whoever_dropped(survivors: int, left: float) -> None:
    """v in all, v/s from each survivor; below the guarantee there is no surplus, and noise is missing."""
    each = plan(shares=35, planned=50, drop_outs="exact")
    assert variance_of(each, "released", survivors) == pytest.approx(left)
    known = left * (survivors - 7) / survivors
    assert variance_of(each, "colluders(7)", survivors) == pytest.approx(known)
    assert variance_of(each, "unmasked", survivors) == pytest.approx(left / survivors)


def test_exact_drop_outs_are_charged_at_their_worst() -> None:
    each = plan(shares=35, planned=50, drop_outs="exact")
    for view in VIEWS:
        charged = each.charge(view).mu2
        worst = max(each.charge(view, survivors=s).mu2 for s in range(35, 51))
        assert charged == pytest.approx(worst, rel=1e-12, abs=0.0)
    assert variance_of(each, "unmasked") == pytest.approx(35 / 50), "a survivor keeps least when all survive"


def components(total: float, planned: int, dropped: int) -> list[float]:
    """Variances that one survivor keeps: the base and what `dropped` drop-outs need."""
    return [total / planned, *(total / ((planned - k) * (planned - k + 1)) for k in range(1, dropped + 1))]


@given(st.integers(2, 60), st.data())
@settings(max_examples=50, deadline=None)
def test_components_add_up_to_the_total(planned: int, data: st.DataObject) -> None:
    tolerated = data.draw(st.integers(0, planned - 1))
    dropped = data.draw(st.integers(0, tolerated))
    kept = (planned - dropped) * sum(components(1.0, planned, dropped))
    assert kept == pytest.approx(1.0, rel=1e-12)
    least = min(components(1.0, planned, tolerated))
    assert smallest_component(total_variance=1.0, planned=planned, tolerated=tolerated) == pytest.approx(least)


@pytest.mark.parametrize(("planned", "dropped", "least"), [(4, 2, 0.5), (5, 1, 0.6), (3, 2, 0.8), (6, 3, 0.55)])
def test_unequal_widths_stay_within_tau(planned: int, dropped: int, least: float) -> None:
    """The sum of the survivors' components against one discrete Gaussian of its variance, exactly, at coarse widths."""
    total = least**2 * planned * (planned - 1)
    reach = int(14 * math.sqrt(total)) + 4
    mass = np.array([1.0])
    for variance in components(total, planned, dropped) * (planned - dropped):
        mass = np.convolve(mass, reference.discrete_gaussian(math.sqrt(variance), int(14 * math.sqrt(variance)) + 4))
    centre = mass.size // 2
    k = np.arange(-reach // 2, reach // 2 + 1)
    one = reference.discrete_gaussian(math.sqrt(total), 2 * reach)
    ratio = np.log(mass[centre + k] / one[2 * reach + k])
    tau = exact_tau(total_variance=total, planned=planned, tolerated=dropped)
    assert np.ptp(ratio) <= tau
    assert np.ptp(ratio) > 1e-6 * tau, "a bound that says something"


def test_exact_drop_outs_against_the_exact_divergence() -> None:
    """Three of four clients kept, on a grid so coarse that the error terms show."""
    planned, dropped, least = 4, 1, 2.0
    total = least**2 * planned * (planned - 1)
    mass = np.array([1.0])
    for variance in components(total, planned, dropped) * (planned - dropped):
        mass = np.convolve(mass, reference.discrete_gaussian(math.sqrt(variance), int(14 * math.sqrt(variance))))
    charge = exact_drop_out_charge(
        l2_sensitivity=6.0, dimension=1, total_variance=total, unknown_variance=total, planned=planned, tolerated=1,
        sampler_distance=0.0, tail_exponent=30.0,
    )  # fmt: skip
    moved = np.concatenate([np.zeros(6), mass])
    still = np.concatenate([mass, np.zeros(6)])
    for epsilon in (0.5, 1.0, 2.0, 4.0):
        assert reference.hockey_stick(moved, still, epsilon) <= Total.of([charge]).delta(epsilon)
        assert Total.of([charge]).delta(epsilon) <= 1.6 * reference.hockey_stick(moved, still, epsilon)


def test_a_grid_too_coarse_for_the_smallest_component_is_refused() -> None:
    with pytest.raises(ParameterError, match="smallest noise component"):
        plan(sigma=10.0, drop_outs="exact")
    plan(sigma=50.0, drop_outs="exact")


@pytest.mark.parametrize(
    ("sampling", "changes", "views"),
    [
        (POISSON_RECORDS, {}, VIEWS),
        (POISSON_RECORDS, {"unit": "client"}, ()),
        (POISSON_CLIENTS, {"unit": "client"}, ()),
        (POISSON_CLIENTS, {"drop_outs": "exact", "unit": "client"}, ("released",)),
        (POISSON_CLIENTS, {"protection": "central", "unit": "client"}, ("released",)),
        (POISSON_CLIENTS, {"protection": "local", "unit": "client"}, ()),
        (COHORT, {"drop_outs": "exact", "unit": "client"}, ("released",)),
        (POISSON_CLIENTS, {"drop_outs": "exact"}, ()),
        (POISSON_CLIENTS, {"protection": "central"}, ()),
        (COHORT, {"drop_outs": "exact"}, ()),
        (COHORT, {"protection": "central"}, ()),
        (Sampling.poisson(1.0, unit="record"), {}, ()),
        (Sampling.round_robin(3, 100, unit="client", turn=0), {"drop_outs": "exact"}, ()),
    ],
)
def test_only_views_that_cannot_see_the_sample_pay_less(
    sampling: Sampling, changes: dict[str, Any], views: tuple[str, ...]
) -> None:
    sampled, everybody = plan(mu2=0.3, sampling=sampling, **changes), plan(mu2=0.3, **changes)
    assert tuple(view for view in VIEWS if sampled.amplified(view)) == views
    for view in VIEWS:
        cost, full = sampled.charge(view), everybody.charge(view)
        if not full.private:
            assert not cost.private
        elif view in views:
            assert cost.mu2 == 0.0
            assert cost.rdp[0] < 0.5 * full.mu2, "below the unsampled divergence of order 2"
        else:
            assert cost.mu2 == full.mu2
            assert cost.rdp == ()


def test_a_sampled_round_is_the_sampled_gaussian() -> None:
    charge = plan(mu2=0.25, sampling=POISSON_RECORDS).charge("server")
    assert charge.rdp == pytest.approx(poisson_gaussian_row(0.03, 0.25), rel=1e-9)
    assert charge.epsilon_slack == plan(mu2=0.25).charge("server").epsilon_slack


def test_cohorts_of_fixed_size_cost_more_than_poisson_would() -> None:
    """They hide a replacement: at least what twice the distance costs, and never more than no sampling."""
    each = plan(mu2=1.0, unit="client", drop_outs="exact")
    cohort, poisson, nothing = (
        Total.of([replace(each, sampling=sampling).charge("released")]).times(300)
        for sampling in (COHORT, POISSON_CLIENTS, Sampling.none())
    )
    assert 1.7 * poisson.epsilon(1e-5) < cohort.epsilon(1e-5) < nothing.epsilon(1e-5)


def test_cohorts_that_take_turns_add_up_within_a_cohort_only() -> None:
    rota = [Sampling.round_robin(10, 100, unit="client", turn=r) for r in range(25)]
    assert rota[0].period == 10
    charges = [plan(mu2=0.1, sampling=each).charge("server") for each in rota]
    total = Total.of(charges)
    assert total.mu2 == pytest.approx(3 * 0.1), "25 rounds, at most 3 for each client"
    assert rota[0].participations(25) == 3
    assert total.epsilon(1e-6) == pytest.approx(Total.of([plan(mu2=0.1).charge("server")] * 3).epsilon(1e-6), rel=1e-9)
    other = plan(mu2=0.5, sampling=Sampling.round_robin(50, 100, unit="client", turn=0)).charge("server")
    assert (total + other).mu2 == pytest.approx(0.8), "another rota's cohorts may hold the same client"
    assert (Total.of(charges[:13]) + Total.of(charges[13:])).mu2 == total.mu2
    spread = plan(mu2=0.1, unit="client", sampling=Sampling.round_robin(10, 100, unit="record", turn=3))
    assert spread.charge("server").cohort == "", "a client's rows are in every cohort of rows"


def test_the_largest_of_each_number_counts() -> None:
    row = tuple(float(k) for k in range(len(plan(sampling=POISSON_RECORDS).charge("server").rdp)))
    one = Charge(0.2, 1e-9, 1e-30, 0.0, row, cohort="a:0")
    two = Charge(0.1, 2e-9, 0.0, 1e-25, cohort="a:1")
    total = Total.of([one, two, two])
    assert (total.mu2, total.epsilon_slack) == pytest.approx((0.2, 4e-9))
    assert (total.delta_tail, total.sampler_distance) == pytest.approx((1e-30, 2e-25))
    assert total.rdp == pytest.approx(row)


def test_round_trip_of_everything_new() -> None:
    for sampling, drop_outs in itertools.product((POISSON_RECORDS, COHORT), ("provision", "exact")):
        each = plan(sampling=sampling, drop_outs=drop_outs)
        assert RoundPlan.from_dict(each.as_dict()) == each
        charge = each.charge("released")
        assert Charge.from_dict(charge.as_dict()) == charge
    version_1 = plan()
    assert not {"sampling", "drop_outs", "l1_sensitivity"} & set(version_1.as_dict())
    assert set(version_1.charge("server").as_dict()) == {"mu2", "epsilon_slack", "delta_tail", "sampler_distance"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_outs": "hope"}, "provision, exact"),
        ({"drop_outs": "exact", "protection": "local"}, "make no sense"),
        ({"drop_outs": "exact", "protection": "central"}, "make no sense"),
        ({"sampling": "poisson"}, "expected a Sampling"),
        ({"mechanism": "skellam"}, "l1_sensitivity"),
        ({"mechanism": "skellam", "l1_sensitivity": 1e12}, "l1_sensitivity"),
        ({"mechanism": "skellam", "l1_sensitivity": 0.3, "sigma": 0.9}, "raise the encoding scale and the bits"),
    ],
)
def test_no_such_round(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bernoulli"}, "poisson"),
        ({"unit": "row"}, "unit"),
        ({"kind": "poisson", "rate": 0.0}, "rate"),
        ({"kind": "poisson", "rate": math.nan}, "rate"),
        ({"rate": 0.5}, "name the sampler"),
        ({"kind": "fixed_size", "size": 5, "population": 3, "rate": 1.0}, "5 of 3"),
        ({"kind": "fixed_size", "size": 1, "population": 3, "rate": 0.5}, "their ratio"),
        ({"kind": "poisson", "size": 3}, "no size"),
        ({"kind": "round_robin", "size": 1, "population": 4, "rate": 0.25, "turn": 4}, "turn 4 of 4"),
        ({"turn": -1}, "turn"),
    ],
)
def test_no_such_sampling(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Sampling(**fields)


def test_sampling_reads_back_and_refuses_what_it_does_not_know() -> None:
    for each in (Sampling.none(), POISSON_RECORDS, COHORT, Sampling.round_robin(10, 95, unit="record", turn=19)):
        assert Sampling.from_dict(each.as_dict()) == each
    with pytest.raises(ParameterError, match="expected the fields"):
        Sampling.from_dict({"colour": "red"})


def test_amplified_takes_views_and_names() -> None:
    assert plan(sampling=POISSON_RECORDS).amplified(View("client"))
