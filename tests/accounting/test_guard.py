"""A client refuses what its own policy forbids before anything is charged or computed, whatever the server says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    Budget,
    ClientGuard,
    GuaranteeBroken,
    GuardPolicy,
    GuardRefused,
    Ledger,
    LedgerError,
    ParameterError,
    Sampling,
    Total,
    verify,
)
from tests.accounting.plans import SIGMA, open_plan, plan

OWN = Budget(2.0, 1e-6, view="colluders(5)")
SCALE = 2.0**20
# `plan()` of mu^2 = 0.01 has this norm per unit, in natural units.
NORM = 0.1 * SIGMA / SCALE


def policy(**changes: Any) -> GuardPolicy:
    fields: dict[str, Any] = {"budget": OWN, "queries": {"moments": NORM, "histogram": 1.0}, "largest_share": 0.25}
    return GuardPolicy(**{**fields, **changes})


def guard(path: Path | None = None, **changes: Any) -> ClientGuard:
    mine = policy(**changes)
    return ClientGuard(mine, Ledger.open(path, budget=mine.budget))


def test_what_is_allowed_is_charged_before_it_is_computed() -> None:
    mine = guard()
    entry = mine.admit(plan(mu2=0.01))
    assert mine.ledger.spent() == mine.ledger.spent(OWN.view)
    assert mine.ledger.spent().mu2 == pytest.approx(0.01 * 35 / 30), "in the view of the client's own budget"
    mine.settle(entry, participants=50, survivors=41)
    assert mine.ledger.rounds()[0].status == "settled"
    mine.void(mine.admit(plan(mu2=0.01)), reason="the round was called off before anything was sent")
    assert mine.ledger.spent().mu2 == pytest.approx(0.01 * 35 / 30)
    assert verify(mine.ledger).ok


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"query": "rows"}, "queries", "'rows' under queries, expected histogram, moments"),
        ({"query": "histogram"}, "queries", "at most 1"),
        ({"l2_sensitivity": 1.001 * NORM * SCALE}, "queries", "one unit may add"),
        ({"scale": SCALE / 2}, "queries", "one unit may add"),
        ({"unit": "client"}, "budget", "'client' under budget, expected record"),
        ({"protection": "trusted"}, "protections", "expected secure_aggregation"),
        ({"protection": "local"}, "protections", "expected secure_aggregation"),
        ({"noise_source": "seeded"}, "noise_sources", "expected os"),
        ({"guaranteed_shares": 1, "share_sigma": SIGMA}, "least_survivors", "wants at least 10"),
        ({"dimension": 1001}, "most_dimensions", "allows 1000"),
        ({"run": "another"}, "runs", "expected run-1"),
        ({"share_sigma": SIGMA / 35**0.5 / 4}, "largest_share", "at most 0.25 a round"),
        ({"guaranteed_shares": 10, "planned_shares": 10, "share_sigma": SIGMA / 10**0.5 / 2}, "largest_share", "takes"),
    ],
)
def test_what_the_policy_forbids_is_refused_and_named(changes: dict[str, Any], rule: str, message: str) -> None:
    mine = guard(least_survivors=10, most_dimensions=1000, runs={"run-1"})
    head = mine.ledger.head
    with pytest.raises(GuardRefused, match=message) as refusal:
        mine.admit(plan(mu2=0.01, **changes))
    assert refusal.value.rule == rule
    assert mine.ledger.head == head
    mine.admit(plan(mu2=0.01))


def test_no_noise_and_no_round_at_all() -> None:
    mine = guard()
    with pytest.raises(GuardRefused, match="'none' under mechanisms"):
        mine.admit(open_plan())
    with pytest.raises(GuardRefused, match="asked for a dict, expected a round's plan"):
        mine.admit({"query": "moments"})
    assert mine.ledger.rounds() == []


def test_the_whole_budget_and_nothing_more() -> None:
    """The server repeats itself; the client's own ledger runs out."""
    mine = guard()
    admitted = 0
    while mine.ledger.remaining_mu2() > 0.01 * 35 / 30:
        mine.admit(plan(mu2=0.01))
        admitted += 1
    with pytest.raises(GuardRefused, match="own budget does not cover") as refusal:
        mine.admit(plan(mu2=0.01))
    assert refusal.value.rule == "budget"
    assert admitted == len(mine.ledger.rounds()) > 5
    assert mine.ledger.epsilon() <= OWN.epsilon


def asked_every_round(claims: list[Sampling], *, accounting: Literal["gaussian", "renyi"], **changes: Any) -> None:
    """A coordinator asks one client again and again, and claims each time a sampling that would make it cheap."""
    budget = Budget(1.0, 1e-6, unit="client", view="released", accounting=accounting)
    each = plan(mu2=budget.allowance().mu2 / 4.0, unit="client", **changes)
    mine = guard(budget=budget, queries={"moments": 1e9}, largest_share=1.0)
    honest = 4  # rounds that the budget covers
    for admitted, claim in enumerate(claims, 1):
        if admitted > honest:
            with pytest.raises(GuardRefused, match="own budget does not cover") as refusal:
                mine.admit(replace(each, sampling=claim))
            assert refusal.value.rule == "budget"
            continue
        mine.admit(replace(each, sampling=claim))
        true = Total.of([each.charge("released")] * admitted)
        assert true.epsilon(1e-6) <= budget.epsilon, "the client was in every one of these rounds"
        assert mine.ledger.spent() == true
    assert len(claims) > honest == len(mine.ledger.rounds())
    assert {record.plan.sampling for record in mine.ledger.rounds()} == {Sampling.none()}
    assert verify(mine.ledger).ok


@pytest.mark.parametrize("unit", ["client", "record"])
def test_a_new_turn_every_round_is_not_believed(unit: Literal["client", "record"]) -> None:
    turns = [Sampling.round_robin(50, 5000, unit="client", turn=turn) for turn in range(20)]
    asked_every_round(turns, accounting="gaussian", drop_outs="exact")
    own = Budget(1.0, 1e-6, unit=unit)
    mine = guard(budget=own, queries={"moments": 1e9}, largest_share=0.25)
    too_dear = plan(mu2=0.26 * own.allowance().mu2, unit=unit, sampling=turns[3])
    with pytest.raises(GuardRefused, match="of this client's budget") as refusal:
        mine.check(too_dear)
    assert refusal.value.rule == "largest_share"


@pytest.mark.parametrize(
    "claim", [Sampling.poisson(1e-4, unit="client"), Sampling.fixed_size(50, 500_000, unit="client")]
)
def test_a_tiny_rate_every_round_is_not_believed(claim: Sampling) -> None:
    asked_every_round([claim] * 20, accounting="renyi", drop_outs="exact")
    own = Budget(1.0, 1e-6, unit="client", view="released", accounting="renyi")
    mine = guard(budget=own, queries={"moments": 1e9}, largest_share=0.25)
    too_dear = plan(mu2=0.26 * own.allowance().mu2, unit="client", drop_outs="exact", sampling=claim)
    assert too_dear.amplified("released")
    with pytest.raises(GuardRefused, match="of this client's budget") as refusal:
        mine.check(too_dear)
    assert refusal.value.rule == "largest_share"


def test_records_that_the_client_draws_itself_count_as_drawn() -> None:
    own = Budget(1.0, 1e-6, accounting="renyi")
    mine = guard(budget=own, queries={"moments": 1e9}, largest_share=1.0)
    drawn = plan(mu2=own.allowance().mu2, sampling=Sampling.poisson(0.01, unit="record"))
    mine.admit(drawn)
    assert mine.ledger.spent() == Total.of([drawn.charge("server")])
    assert mine.ledger.rounds()[0].plan == drawn


def test_it_remembers(tmp_path: Path) -> None:
    """A client that is restarted by its server, or by its operator, has spent what it has spent."""
    first = guard(tmp_path / "own.db")
    first.admit(plan(mu2=0.01))
    first.ledger.close()
    again = guard(tmp_path / "own.db")
    assert again.ledger.spent().mu2 == pytest.approx(0.01 * 35 / 30)


def test_a_ledger_that_cannot_be_written_admits_nothing() -> None:
    mine = guard()
    mine.ledger.close()
    with pytest.raises(LedgerError):
        mine.admit(plan(mu2=0.01))


def test_fewer_survivors_than_promised_are_charged_at_their_true_cost() -> None:
    mine = guard()
    entry = mine.admit(plan(mu2=0.01))
    with pytest.raises(GuaranteeBroken):
        mine.settle(entry, participants=50, survivors=15)
    assert mine.ledger.spent().mu2 == pytest.approx(0.01 * 35 / 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"largest_share": 0.0}, "largest_share"),
        ({"largest_share": 1.5}, "largest_share"),
        ({"queries": {"moments": 0.0}}, "bound of query 'moments'"),
        ({"queries": {"moments": float("inf")}}, "bound of query"),
        ({"least_survivors": 0}, "least_survivors"),
        ({"most_dimensions": True}, "most_dimensions"),
        ({"mechanisms": {"none"}}, "cannot allow rounds without noise"),
    ],
)
def test_policies_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        policy(**changes)


def test_policy_and_ledger_must_fit() -> None:
    with pytest.raises(ParameterError, match="open the ledger with the policy's budget"):
        ClientGuard(policy(), Ledger.open(None, budget=Budget(3.0, 1e-6)))
    with pytest.raises(ParameterError):
        ClientGuard(policy(), Ledger.open(None, budget=None))


@given(st.lists(st.tuples(st.floats(1e-4, 0.5), st.sampled_from(["settle", "void", "leave"])), max_size=8))
@settings(max_examples=10, deadline=None)
def test_whatever_the_server_asks_the_clients_budget_holds(asked: list[tuple[float, str]]) -> None:
    mine = guard(queries={"moments": 1e9}, largest_share=1.0)
    for mu2, end in asked:
        try:
            entry = mine.admit(plan(mu2=mu2))
        except GuardRefused:
            continue
        if end == "settle":
            mine.settle(entry, participants=50, survivors=35)
        elif end == "void":
            mine.void(entry, reason="nothing was sent")
        assert mine.ledger.epsilon() <= OWN.epsilon
    assert verify(mine.ledger).ok
