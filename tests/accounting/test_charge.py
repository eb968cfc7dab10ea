"""Charges add; a total's epsilon and delta are each other's safe inverse; every error term counts."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import Charge, ParameterError, Total, gaussian_delta, gaussian_epsilon, second_route

SMALL = st.floats(0.0, 1e-3)
CHARGES = st.builds(
    Charge,
    mu2=st.floats(1e-9, 4.0),
    epsilon_slack=SMALL,
    delta_tail=st.floats(0.0, 1e-30),
    sampler_distance=st.floats(0.0, 1e-30),
)


@given(st.lists(CHARGES, max_size=12), st.lists(CHARGES, max_size=12))
def test_total_is_additive(left: list[Charge], right: list[Charge]) -> None:
    together, apart = Total.of([*left, *right]), Total.of(left) + Total.of(right)
    assert together.rounds == apart.rounds == len(left) + len(right)
    for name in ("mu2", "epsilon_slack", "delta_tail", "sampler_distance"):
        exact = sum((Fraction(getattr(charge, name)) for charge in [*left, *right]), Fraction(0))
        for total in (together, apart):
            found = getattr(total, name)
            assert Fraction(found) >= exact * (1 - Fraction(1, 2**90)), "rounded up"
            assert found == pytest.approx(float(exact), rel=3e-16, abs=0.0)


def test_a_million_tiny_charges_do_not_vanish() -> None:
    total = Total.of([Charge(mu2=1.0)])
    for _ in range(1000):
        total = total + Charge(mu2=1e-17)
    assert total.mu2 == pytest.approx(1.0 + 1e-14, rel=3e-16, abs=0.0)
    assert total.mu2 > 1.0


@given(st.lists(CHARGES, min_size=1, max_size=8), CHARGES, st.floats(1e-12, 1e-2))
@settings(max_examples=80, deadline=None)
def test_epsilon_never_falls_as_rounds_are_added(charges: list[Charge], more: Charge, delta: float) -> None:
    total = Total.of(charges)
    assert total.epsilon(delta) <= (total + more).epsilon(delta)


@given(st.lists(CHARGES, min_size=1, max_size=8), st.floats(1e-12, 0.3))
@settings(max_examples=80, deadline=None)
def test_epsilon_and_delta_are_safe_inverses(charges: list[Charge], delta: float) -> None:
    total = Total.of(charges)
    epsilon = total.epsilon(delta)
    assert total.delta(epsilon) <= delta * (1 + 1e-12)
    assert total.delta(math.inf) == 0.0
    costs = [
        second_route.Cost(charge.mu2, charge.epsilon_slack, charge.delta_tail, charge.sampler_distance)
        for charge in charges
    ]
    again = second_route.total_epsilon(costs, delta)
    assert epsilon == pytest.approx(again, rel=1e-9, abs=1e-9)


def test_plain_gaussian_without_error_terms() -> None:
    total = Total.of([Charge(mu2=0.36), Charge(mu2=0.64)])
    assert total.epsilon(1e-5) == pytest.approx(gaussian_epsilon(1e-5, 1.0), rel=1e-12, abs=0.0)
    assert total.delta(4.0) == pytest.approx(gaussian_delta(4.0, 1.0), rel=1e-12, abs=0.0)
    assert total.mu == pytest.approx(1.0, rel=1e-15, abs=0.0)


def test_every_error_term_counts() -> None:
    bare = Total.of([Charge(mu2=1.0)]).epsilon(1e-5)
    slack = Total.of([Charge(mu2=1.0, epsilon_slack=0.01)]).epsilon(1e-5)
    assert slack == pytest.approx(0.01 + gaussian_epsilon(1e-5 * math.exp(-0.01), 1.0), rel=1e-12, abs=0.0)
    for field in ("delta_tail", "sampler_distance"):
        leaking = Total.of([Charge(mu2=1.0, **{field: 1e-8})])
        assert leaking.epsilon(1e-5) > bare + 1e-3
        grown = math.exp(leaking.epsilon(1e-5))
        leaked = 1e-8 * (grown if field == "delta_tail" else 1 + grown)
        assert leaking.epsilon(1e-5) == pytest.approx(gaussian_epsilon(1e-5 - leaked, 1.0), rel=1e-9, abs=0.0)


def test_where_the_leak_eats_delta_there_is_no_epsilon() -> None:
    assert Total.of([Charge(mu2=1.0, delta_tail=1e-5)]).epsilon(1e-5) == math.inf
    assert Total.of([Charge(mu2=9.0, delta_tail=1e-10)]).epsilon(1e-5) == math.inf
    assert Total.of([Charge(mu2=1.0, epsilon_slack=800.0)]).epsilon(1e-5) == math.inf
    assert Total.of([Charge(mu2=1e9)]).epsilon(1e-5) == math.inf
    assert second_route.total_epsilon([second_route.Cost(9.0, 0.0, 1e-10, 0.0)], 1e-5) == math.inf


def test_leaks_near_the_limit_agree_on_both_routes() -> None:
    for tail in (1e-9, 1e-8, 4e-8, 6e-8):
        ours = Total.of([Charge(mu2=1.0, delta_tail=tail)]).epsilon(1e-5)
        again = second_route.total_epsilon([second_route.Cost(1.0, 0.0, tail, 0.0)], 1e-5)
        assert ours == pytest.approx(again, rel=1e-9, abs=0.0)


def test_non_private_is_infinite_and_stays_so() -> None:
    total = Total.of([Charge(mu2=1.0), Charge.non_private(), Charge(mu2=1.0)])
    assert not total.private
    assert not Charge.non_private().private
    assert total.mu2 == math.inf
    assert total.epsilon(1e-5) == math.inf
    assert total.delta(100.0) == 1.0


def test_nothing_costs_nothing() -> None:
    assert Total().epsilon(1e-5) == 0.0
    assert Total().delta(0.0) == 0.0
    assert Total.of([Charge(mu2=0.0)]).epsilon(1e-5) == 0.0


def test_below_the_slack_nothing_is_known() -> None:
    assert Total.of([Charge(mu2=1.0, epsilon_slack=0.5)]).delta(0.4) == 1.0
    assert Total.of([Charge(mu2=1.0, delta_tail=1e-300)]).delta(800.0) == 1.0


@pytest.mark.parametrize("value", [-1.0, math.nan, "1"])
@pytest.mark.parametrize("field", ["mu2", "epsilon_slack", "delta_tail", "sampler_distance"])
def test_nonsense_charges(field: str, value: float) -> None:
    with pytest.raises(ParameterError, match=field):
        Charge(**{"mu2": 1.0, field: value})


def test_nonsense_questions() -> None:
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(ParameterError, match="delta is"):
            Total().epsilon(delta)
    for epsilon in (-0.1, math.nan):
        with pytest.raises(ParameterError, match="epsilon is"):
            Total().delta(epsilon)
