"""Local, central and no differential privacy behind the same door, and clients that check what they are told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import pytest

from privfed import Budget, FederationError, Ledger, LocalFederation, Loss, UsageError
from privfed.federation.agreement import Agreement
from privfed.federation.client import ClientSide, Task
from privfed.federation.vector import opened_vector, rotation_of
from privfed.mechanism.encode import to_ring
from privfed.mechanism.randomness import Keystream
from privfed.plan import SamplingTerms, Terms
from privfed.query import Block, Query, encode_query
from privfed.statistics.moments import VectorSum
from privfed_accounting import BudgetExhausted, Sampling, gaussian_delta, verify
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


def test_central_noise_comes_before_a_sum_is_read_as_signed() -> None:
    """Two sums one step apart, on either side of the ring's edge, must be released one step apart."""
    budget = Budget(epsilon=2.0, delta=1e-6, unit="client", view="released", accounting="renyi")
    federation = LocalFederation([np.zeros((1, 4096))] * 5, budget=budget, mode="central", noise="skellam", bits=12)
    plan = federation.plan(VectorSum(4096, 1.0), share=1.0)
    top = 2**11 - 1

    def released(total: int) -> np.ndarray:
        ring = to_ring(np.full(plan.length, total), plan.bits)
        keystream = Keystream.seeded(bytes(32))
        vector = opened_vector(ring, plan, survivors=5, surplus=(), keystream=keystream)
        return np.rint(rotation_of(plan).apply(vector) * plan.scale)

    below, above = released(top), released(top + 1)
    shift = above - below
    assert np.mean(shift == 1) > 0.99
    assert set(shift[shift != 1]) <= {1.0 - 2**12}  # where the noise is 0, at the edge itself
    assert (min(below.min(), above.min()), max(below.max(), above.max())) == (-(2**11), top)
    noise = np.where(below < 0, below + 2**12, below) - top
    assert abs(np.std(noise) / plan.share_sigma - 1) < 3.3 / math.sqrt(2 * plan.length)


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
        ({"guards": {"client-01": 7}}, r"client-01.*privfed\.ClientGuard"),
        ({"guards": [7]}, "expected a dict"),
        ({"security": "malicious", "mode": "trusted"}, "no meaning in mode 'trusted'"),
        ({"security": "malicious", "mode": "local"}, "no meaning in mode 'local'"),
        ({"security": "malicious", "mode": "central"}, "no meaning in mode 'central'"),
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


ALL = tuple(sorted(["clinic", *(f"other-{i}" for i in range(9))]))  # "clinic" is the first
COHORT = {"planned": 5, "guaranteed": 4}


def turn_taker(names=ALL) -> ClientSide:
    return ClientSide("clinic", lambda: np.ones((1, 3)), agreement=Agreement(TERMS, BUDGET, clients=names))


def sampled(sampling: Sampling, **changes) -> Task:
    return told(sampling=SamplingTerms.of(sampling), **changes)


def rota(turn: int, size: int = 5, population: int = 10) -> Sampling:
    return Sampling.round_robin(size, population, unit="client", turn=turn)


@pytest.mark.parametrize(
    "task",
    [
        sampled(rota(0), **COHORT),
        sampled(Sampling.fixed_size(5, 10, unit="client"), **COHORT),
        sampled(Sampling.poisson(0.99, unit="client"), planned=9, guaranteed=8),
    ],
)
def test_a_client_is_sampled_as_it_agreed_to(task) -> None:
    turn_taker().agree(task)


@pytest.mark.parametrize(
    ("task", "match"),
    [
        (sampled(rota(1), **COHORT), "cohort of turn 0"),
        (sampled(rota(0, 5, 20), **COHORT), "federation has 10"),
        (sampled(rota(0), planned=4, guaranteed=4), "'clinic' refuses the terms"),
        (sampled(Sampling.round_robin(5, 10, unit="record", turn=0)), "coins only"),
        (sampled(Sampling.fixed_size(5, 1000, unit="client"), **COHORT), "federation has 10"),
        (sampled(Sampling.fixed_size(5, 10, unit="client"), planned=6, guaranteed=5), "'clinic' refuses the terms"),
        (
            sampled(Sampling.fixed_size(5, 10, unit="client"), planned=5, guaranteed=4, population=20),
            "refuses the terms",
        ),
        (sampled(Sampling.poisson(0.1, unit="record")), "nothing for unit 'client'"),
        (sampled(Sampling.poisson(0.1, unit="client"), planned=2, guaranteed=2), "raise the rate"),
        (told(sampling=SamplingTerms("fixed_size", "client", rate=0.5, size=5, population=3), **COHORT), "5 of 3"),
    ],
)
def test_a_client_is_sampled_in_no_other_way(task, match) -> None:
    with pytest.raises(FederationError, match=match):
        turn_taker().agree(task)


@pytest.mark.parametrize("names", [(), ALL[1:]])
def test_who_does_not_know_the_others_takes_no_turns(names) -> None:
    with pytest.raises(FederationError, match="name all clients"):
        turn_taker(names).agree(sampled(rota(0), **COHORT))


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


@dataclass(frozen=True, eq=False)
class Failing(Query):
    """Fails if any row lies above a threshold: a yes or no about the rows, learned from an error."""

    kind: ClassVar[str] = "test_failing"
    threshold: float

    @property
    def blocks(self):
        return (Block("x", (), 1.0),)

    def contribution(self, data):
        if (data > self.threshold).any():
            raise ValueError("above")
        return {"x": np.array(0.0)}


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_a_guard_keeps_the_charge_of_a_query_that_failed_on_the_rows(tmp_path, mode) -> None:
    own = guard(tmp_path, queries={"test_failing": 1.01}, protections={"secure_aggregation", "trusted"})
    federation = clinics({"c0": own}, mode=mode)
    with pytest.raises(FederationError, match="failed on its rows") as caught:
        federation.release(Failing(0.5), share=0.1)
    assert caught.value.charged
    assert own.ledger.epsilon() > 0
    assert [record.status for record in own.ledger.rounds()] == ["reserved"]
