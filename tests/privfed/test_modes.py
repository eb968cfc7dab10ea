"""Local, central and no differential privacy behind the same door, and clients that check what they are told."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from privfed import Budget, FederationError, Ledger, LocalFederation, Loss, UsageError
from privfed.federation.agreement import Agreement
from privfed.federation.client import ClientSide, Task
from privfed.plan import Terms
from privfed.query import encode_query
from privfed.statistics.moments import VectorSum
from privfed_accounting import BudgetExhausted, gaussian_delta, verify
from privfed_accounting.guard import ClientGuard, GuardPolicy

CLIENTS, WIDTH = 9, 4000
QUERY = VectorSum(WIDTH, 1.0)


def release(mode, *, view="server", ledger=None, losses=(), **options):
    rows = {f"c{i}": np.zeros((1, WIDTH)) for i in range(CLIENTS)}
    budget = Budget(epsilon=2.0, delta=1e-5, unit="client", view=view)
    options = {"max_records": 1, "noise_seed": 6} | options
    with LocalFederation(rows, budget=budget, mode=mode, ledger=ledger, losses=losses, **options) as federation:
        return federation.release(QUERY, share=1.0)


def within(result) -> bool:
    return abs(np.std(result["sum"]) / result.noise_std["sum"] - 1) < 3.3 / math.sqrt(2 * WIDTH)


def test_noise_of_the_modes_stands_as_theory_says() -> None:
    """Shares add up to the central noise; local noise is sqrt(n) larger; all carry what they say."""
    shared, local, central = release("trusted"), release("local"), release("central", view="released")
    for result in (shared, local, central):
        assert within(result)
    assert shared.noise_std["sum"] == pytest.approx(central.noise_std["sum"], rel=1e-3)
    assert local.noise_std["sum"] == pytest.approx(3.0 * central.noise_std["sum"], rel=1e-3)
    assert gaussian_delta(2.0, 1 / central.noise_std["sum"]) == pytest.approx(1e-5, rel=0.05)


def test_local_noise_protects_each_vector_and_central_noise_only_the_release() -> None:
    local, central = release("local"), release("central", view="released")
    assert local.epsilon["server"] == pytest.approx(2.0, rel=1e-3)
    assert local.epsilon["unmasked"] == pytest.approx(2.0, rel=1e-3)
    assert local.epsilon["released"] < 1.0
    assert central.epsilon["released"] == pytest.approx(2.0, rel=1e-3)
    assert math.isinf(central.epsilon["server"])


@pytest.mark.parametrize(
    ("mode", "view", "protection"),
    [
        ("secure", "server", "secure_aggregation"),
        ("trusted", "server", "trusted"),
        ("local", "server", "local"),
        ("central", "released", "central"),
    ],
)
def test_releases_and_ledgers_name_the_mode(mode, view, protection, tmp_path) -> None:
    result = release(mode, view=view, ledger=tmp_path / "b.db")
    assert result.protection == protection
    assert verify(tmp_path / "b.db").ok
    with Ledger.open(tmp_path / "b.db", budget=None) as ledger:
        assert ledger.rounds()[0].plan.protection == protection


def test_no_budget_is_no_privacy_and_says_so() -> None:
    with LocalFederation([np.ones((2, 3))] * 3, mode="central") as federation:
        result = federation.release(VectorSum(3, 9.0))
        assert federation.ledger.rounds()[0].plan.mechanism == "none"
    assert (result.private, result.plan.mechanism, result.noise_std["sum"]) == (False, "none", 0.0)
    np.testing.assert_allclose(result["sum"], 6.0, atol=1e-9)


@pytest.mark.parametrize("view", ["server", "unmasked", "colluders(2)"])
def test_a_trusted_operator_is_no_protection_from_itself(view) -> None:
    with pytest.raises(UsageError, match="view='released'"):
        release("central", view=view)


@pytest.mark.parametrize("mode", ["local", "central"])
def test_exact_drop_outs_have_nothing_to_take_out(mode) -> None:
    with pytest.raises(UsageError, match="provision"):
        release(mode, drop_outs="exact", dropout=0.2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "open"}, "mode"),
        ({"security": "honest"}, "security"),
        ({"noise": "laplace"}, "noise"),
        ({"drop_outs": "none"}, "drop_outs"),
        ({"bits": 7}, "bits"),
        ({"bits": 12.5}, "bits"),
        ({"bits": True}, "bits"),
        ({"guards": {"nobody": None}}, "nobody"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, match) -> None:
    with pytest.raises(UsageError, match=match):
        LocalFederation([np.ones((2, 2))] * 3, **options)


# --- clients that are lied to ----------------------------------------------------------------------------------------

BUDGET = Budget(epsilon=1.0, delta=1e-5, unit="client")
TERMS = Terms(
    unit="client",
    view="server",
    noise_multiplier=0.0,
    planned=10,
    guaranteed=8,
    population=10,
    dropout=0.2,
    max_records=5,
    records_per_client=1.0,
    protection="secure_aggregation",
)


def side(loaded, *, budget=BUDGET, guard=None) -> ClientSide:
    def load() -> np.ndarray:
        loaded.append(1)
        return np.ones((1, 3))

    return ClientSide("clinic", load, agreement=Agreement(TERMS, budget), guard=guard)


def told(**changes) -> Task:
    terms = msgspec.structs.replace(TERMS, **({"noise_multiplier": 8.0} | changes))
    return Task(encode_query(VectorSum(3, 1.0)), terms.encode())


def test_a_client_takes_what_it_agreed_to() -> None:
    query, plan = side([]).agree(told())
    assert (query.kind, plan.terms.noise_multiplier) == ("vector_sum", 8.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "record"},
        {"view": "released"},
        {"noise": "skellam"},
        {"bits": 8},
        {"planned": 11, "population": 11},
        {"population": 12},
        {"dropout": 0.1},
        {"planned": 3, "guaranteed": 2},
        {"guaranteed": 7},
        {"guaranteed": 10},
        {"drop_outs": "exact"},
        {"max_records": 6},
        {"records_per_client": 2.0},
        {"protection": "central"},
        {"protection": "trusted"},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 1.0},
    ],
)
def test_a_lying_coordinator_gets_nothing_computed(changes) -> None:
    loaded: list[int] = []
    with pytest.raises(FederationError, match="'clinic' refuses"):
        side(loaded).agree(told(**changes))
    assert loaded == []


def test_noise_without_a_budget_is_refused_too() -> None:
    with pytest.raises(FederationError, match="noise without a budget"):
        side([], budget=None).agree(told())


class SpentGuard:
    """A client's own policy, which has had enough."""

    def __init__(self) -> None:
        self.asked = []

    def admit(self, plan):
        self.asked.append(plan)
        raise BudgetExhausted("the clinic's own budget is spent", needed_epsilon=2.0, budget_epsilon=1.0)


def test_a_guard_refuses_before_anything_is_computed() -> None:
    loaded: list[int] = []
    guard = SpentGuard()
    with pytest.raises(FederationError, match=r"guard of client 'clinic'.*own budget is spent"):
        side(loaded, guard=guard).agree(told())
    assert loaded == []
    assert guard.asked[0].share_sigma > 0


def clinics(guards, *, losses=(), budget=None, mode="secure"):
    """A coordinator that opens a fresh ledger each time: by its own books nothing was ever spent."""
    rows = {f"c{i}": np.ones((1, 3)) for i in range(4)}
    budget = Budget(epsilon=2.0, delta=1e-5, unit="client") if budget is None else budget
    return LocalFederation(rows, budget=budget, guards=guards, losses=losses, max_records=1, dropout=0.25, mode=mode)


def guard(tmp_path, **policy):
    budget = Budget(epsilon=1.0, delta=1e-5, unit="client")
    settings = {"budget": budget, "queries": {"vector_sum": 1.01}} | policy
    return ClientGuard(GuardPolicy(**settings), Ledger.open(tmp_path / "own.db", budget=budget))


def test_a_client_keeps_its_own_books_whatever_the_coordinator_says(tmp_path) -> None:
    own = guard(tmp_path)
    for _ in range(2):
        clinics({"c1": own}).release(VectorSum(3, 9.0), share=0.1)
    with pytest.raises(FederationError, match=r"guard of client 'c1'.*own budget") as caught:
        clinics({"c1": own}).release(VectorSum(3, 9.0), share=0.1)
    assert not caught.value.charged
    assert 0.5 < own.ledger.epsilon() <= 1.0
    assert [record.status for record in own.ledger.rounds()] == ["settled"] * 2


@pytest.mark.parametrize(
    ("policy", "options", "match"),
    [
        ({"queries": {"count": 1.01}}, {}, "vector_sum"),
        ({"queries": {"vector_sum": 0.5}}, {}, "at most 0.5"),
        ({"largest_share": 0.01}, {}, "0.01"),
        ({"least_survivors": 4}, {}, "at least 4"),
        ({}, {"mode": "trusted"}, "trusted"),
    ],
)
def test_a_guard_holds_its_policy(tmp_path, policy, options, match) -> None:
    own = guard(tmp_path, **policy)
    federation = clinics({"c1": own}, **options)
    with pytest.raises(FederationError, match=match) as caught:
        federation.release(VectorSum(3, 9.0), share=0.1)
    assert not caught.value.charged
    assert federation.remaining_share == pytest.approx(1.0)
    assert own.ledger.rounds() == []


def test_a_guard_that_others_let_down_gets_its_charge_back_if_nothing_left(tmp_path) -> None:
    """c0 has admitted the release when c1 refuses; in the clear nobody had computed anything by then."""
    (tmp_path / "c0").mkdir()
    first, second = guard(tmp_path / "c0", protections={"trusted"}), SpentGuard()
    with pytest.raises(FederationError, match="'c1'"):
        clinics({"c0": first, "c1": second}, mode="trusted").release(VectorSum(3, 9.0), share=0.1)
    assert [record.status for record in first.ledger.rounds()] == ["void"]
    assert first.ledger.epsilon() == 0.0


def test_a_guard_keeps_the_charge_once_a_vector_left(tmp_path) -> None:
    own = guard(tmp_path)
    with pytest.raises(FederationError):
        clinics({"c0": own}, losses=[Loss(f"c{i}", "masked") for i in (1, 2)]).release(VectorSum(3, 9.0), share=0.1)
    assert own.ledger.epsilon() > 0
