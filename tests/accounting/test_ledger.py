"""The ledger's promises: charge first, refuse before anything moves, give back only what nobody saw, never forget."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    Budget,
    BudgetExhausted,
    BudgetMismatch,
    GuaranteeBroken,
    Ledger,
    LedgerError,
    LedgerReadOnly,
    ParameterError,
    Total,
    verify,
)
from tests.accounting.plans import BUDGET, SIGMA, Clock, open_plan, plan


def share_of(ledger: Ledger, share: float) -> float:
    return share * ledger.total_mu2()


def test_a_round_from_reservation_to_settlement(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db", budget=BUDGET, clock=Clock()) as ledger:
        entry = ledger.reserve(plan(mu2=share_of(ledger, 0.25)))
        assert ledger.spent().mu2 == pytest.approx(share_of(ledger, 0.25))
        assert [record.status for record in ledger.rounds()] == ["reserved"]
        ledger.settle(entry, participants=48, survivors=40, bytes_up=1234, facts={"log_likelihood": -3.5, "kind": "em"})
        record = ledger.rounds()[0]
    assert (record.entry, record.status, record.participants, record.survivors) == (entry, "settled", 48, 40)
    assert (record.bytes_up, record.facts) == (1234, {"log_likelihood": -3.5, "kind": "em"})
    assert record.time == "2025-01-31T12:00:02.000000Z"
    assert record.closed_time == "2025-01-31T12:00:03.000000Z"
    assert record.plan == plan(mu2=0.25 * BUDGET.allowance().mu2)


@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize("view", ["server", "client", "colluders(4)"])
def test_exactly_the_budget_can_be_spent_and_nothing_more(tmp_path: Path, where: str, view: str) -> None:
    budget = Budget(2.0, 1e-5, view=view)
    with Ledger.open(tmp_path / "ledger.db" if where == "file" else None, budget=budget) as ledger:
        unknown = budget.view.noise_shares(35)
        share = SIGMA / math.sqrt(unknown)
        for part in (0.1, 0.2, 0.3, 0.15, 0.25):
            sensitivity = math.sqrt(share_of(ledger, part)) * SIGMA
            entry = ledger.reserve(plan(share_sigma=share, l2_sensitivity=sensitivity))
            ledger.settle(entry, participants=50, survivors=35, bytes_up=1)
        assert ledger.remaining_mu2() == pytest.approx(0.0, abs=1e-12)
        assert budget.epsilon * (1 - 3e-4) < ledger.epsilon() <= budget.epsilon
        before = (ledger.head, ledger.rounds(), ledger.spent())
        with pytest.raises(BudgetExhausted, match=r"nothing was charged: stop here") as refusal:
            ledger.reserve(plan(share_sigma=share, l2_sensitivity=math.sqrt(share_of(ledger, 1e-3)) * SIGMA))
        assert (ledger.head, ledger.rounds(), ledger.spent()) == before
        assert refusal.value.needed_epsilon > refusal.value.budget_epsilon == budget.epsilon
        assert verify(ledger).ok


def test_the_refusal_is_in_the_guarded_view() -> None:
    """What fits in the server's view does not fit in a colluder's."""
    for view, fits in (("server", True), ("colluders(10)", False)):
        ledger = Ledger.open(None, budget=Budget(4.0, 1e-6, view=view))
        whole = plan(mu2=share_of(ledger, 1.0))
        if fits:
            ledger.reserve(whole)
        else:
            with pytest.raises(BudgetExhausted):
                ledger.reserve(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 2.0**5, "dimension": 10**6}, "finer grid"),
        ({"sampler_distance": 1e-12}, "larger delta"),
    ],
)
def test_error_terms_are_refused_too(changes: dict[str, float], message: str) -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    with pytest.raises(BudgetExhausted, match=message):
        ledger.reserve(plan(mu2=1e-6, **changes))
    assert ledger.rounds() == []


def test_a_reserve_of_ones_own_lets_a_coarse_grid_in() -> None:
    ledger = Ledger.open(None, budget=Budget(4.0, 1e-6, slack_reserve=1.0))
    ledger.reserve(plan(mu2=1e-3, sigma=2.0**8, dimension=10**5))
    assert 0.01 < ledger.spent().epsilon_slack < 1.0
    assert ledger.epsilon() <= 4.0


def test_void_gives_back_and_leaves_a_trace() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    ledger.reserve(plan(mu2=share_of(ledger, 0.5)))
    entry = ledger.reserve(plan(mu2=share_of(ledger, 0.5)))
    ledger.void(entry, reason="nobody came")
    assert ledger.spent().mu2 == pytest.approx(share_of(ledger, 0.5))
    assert ledger.rounds()[1].status == "void"
    assert ledger.rounds()[1].reason == "nobody came"
    assert ledger.rounds()[1].charge("server").mu2 == 0.0
    ledger.reserve(plan(mu2=share_of(ledger, 0.5)))
    assert verify(ledger).ok


def test_only_who_reserved_may_void(tmp_path: Path) -> None:
    """After a crash nobody can say what was revealed."""
    first = Ledger.open(tmp_path / "l.db", budget=BUDGET)
    entry = first.reserve(plan())
    with Ledger.open(tmp_path / "l.db", budget=BUDGET) as again:
        with pytest.raises(LedgerError, match="leave it charged"):
            again.void(entry, reason="it was not me")
        again.settle(entry, participants=50, survivors=50, bytes_up=0)
    with pytest.raises(LedgerError, match="settled already"):
        first.void(entry, reason="too late")
    first.close()


def test_a_round_is_closed_once() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    entry = ledger.reserve(plan())
    ledger.settle(entry, participants=50, survivors=50, bytes_up=0)
    head = ledger.head
    for again in (
        lambda: ledger.settle(entry, participants=50, survivors=50, bytes_up=0),
        lambda: ledger.void(entry, reason="no"),
        lambda: ledger.settle(99, participants=1, survivors=1, bytes_up=0),
        lambda: ledger.void(1, reason="no"),
    ):
        with pytest.raises(LedgerError):
            again()
    assert ledger.head == head


def test_guaranteed_and_realised() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    entry = ledger.reserve(plan(mu2=0.1, shares=35))
    assert ledger.spent(realised=True).mu2 == ledger.spent().mu2
    ledger.settle(entry, participants=50, survivors=50, bytes_up=0)
    assert ledger.spent().mu2 == pytest.approx(0.1)
    assert ledger.spent(realised=True).mu2 == pytest.approx(0.1 * 35 / 50)
    assert ledger.spent("colluders(5)", realised=True).mu2 == pytest.approx(0.1 * 35 / 45)
    assert ledger.spent("client").mu2 == pytest.approx(0.1 * 35 / 34)
    assert ledger.epsilon("unmasked") > ledger.epsilon("client") > ledger.epsilon() > ledger.epsilon(realised=True)
    assert ledger.epsilon(delta=1e-8) > ledger.epsilon()


def test_a_broken_guarantee_is_recorded_at_its_true_cost_and_told(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db", budget=BUDGET) as ledger:
        entry = ledger.reserve(plan(mu2=share_of(ledger, 0.9), shares=35))
        with pytest.raises(GuaranteeBroken, match="20 noise shares, expected at least 35"):
            ledger.settle(entry, participants=50, survivors=20, bytes_up=0)
        assert ledger.spent().mu2 == pytest.approx(share_of(ledger, 0.9) * 35 / 20)
        assert ledger.remaining_mu2() == 0.0
        assert ledger.epsilon() > BUDGET.epsilon
        with pytest.raises(BudgetExhausted):
            ledger.reserve(plan(mu2=1e-9))
    again = Ledger.open(tmp_path / "l.db", budget=BUDGET)
    assert again.epsilon() > BUDGET.epsilon
    verdict = verify(again)
    assert not verdict.ok
    assert "overspent" in verdict.problems[-1]
    again.close()


def test_nobody_survived_is_infinite() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    entry = ledger.reserve(plan(mu2=0.1))
    with pytest.raises(GuaranteeBroken):
        ledger.settle(entry, participants=3, survivors=0, bytes_up=0)
    assert ledger.epsilon() == math.inf
    assert ledger.spent().epsilon(1e-6) == math.inf


def test_reopening_continues(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path, budget=BUDGET) as ledger:
        entry = ledger.reserve(plan(mu2=share_of(ledger, 0.6)))
        ledger.settle(entry, participants=50, survivors=44, bytes_up=9)
        ledger.note("half-time", {"round": 1})
        spent, head = ledger.spent(), ledger.head
    with Ledger.open(str(path), budget=Budget(4.0, 1e-6)) as again:
        assert (again.spent(), again.head, again.path) == (spent, head, path)
        assert again.notes()[0].text == "half-time"
        assert again.notes()[0].facts == {"round": 1}
        with pytest.raises(BudgetExhausted):
            again.reserve(plan(mu2=share_of(again, 0.5)))
        again.reserve(plan(mu2=share_of(again, 0.4)))


@pytest.mark.parametrize(
    "other",
    [
        Budget(4.5, 1e-6),
        Budget(4.0, 1e-7),
        Budget(4.0, 1e-6, unit="client"),
        Budget(4.0, 1e-6, view="client"),
        Budget(4.0, 1e-6, slack_reserve=0.1),
    ],
)
def test_another_budget_is_refused(tmp_path: Path, other: Budget) -> None:
    Ledger.open(tmp_path / "l.db", budget=BUDGET).close()
    with pytest.raises(BudgetMismatch, match="open it with its own budget"):
        Ledger.open(tmp_path / "l.db", budget=other)
    Ledger.open(tmp_path / "l.db", budget=BUDGET).close()


def test_without_its_budget_a_ledger_is_only_read(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db", budget=BUDGET) as ledger:
        entry = ledger.reserve(plan())
        reader = Ledger.open(tmp_path / "l.db", budget=None)
        assert reader.budget == BUDGET
        assert reader.spent() == ledger.spent()
        for write in (lambda: reader.reserve(plan()), lambda: reader.note("x"), lambda: reader.void(entry, reason="x")):
            with pytest.raises(LedgerReadOnly, match="open it with its budget"):
                write()
        ledger.settle(entry, participants=50, survivors=50, bytes_up=0)
        assert reader.rounds()[0].status == "reserved"
        reader.refresh()
        assert reader.rounds()[0].status == "settled"
        reader.close()


@pytest.mark.parametrize("where", ["file", "memory"])
def test_without_any_budget_every_entry_is_not_private(tmp_path: Path, where: str) -> None:
    path = tmp_path / "l.db" if where == "file" else None
    with Ledger.open(path, budget=None) as ledger:
        assert ledger.epsilon(delta=1e-5) == 0.0
        with pytest.raises(ParameterError, match="give delta="):
            ledger.epsilon()
        with pytest.raises(ParameterError, match="open one with a budget"):
            ledger.reserve(plan())
        entry = ledger.reserve(open_plan())
        ledger.settle(entry, participants=50, survivors=50, bytes_up=0)
        assert ledger.epsilon() == ledger.total_mu2() == ledger.remaining_mu2() == math.inf
        assert "no DP" in repr(ledger)
    if path is not None:
        with Ledger.open(path, budget=None) as again:
            again.reserve(open_plan())
            assert len(again.rounds()) == 2
        with pytest.raises(BudgetMismatch, match="no budget"):
            Ledger.open(path, budget=BUDGET)


def test_a_round_without_noise_does_not_fit_a_budget() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    with pytest.raises(ParameterError, match="costs infinity"):
        ledger.reserve(open_plan())
    assert ledger.rounds() == []


def test_units_do_not_mix() -> None:
    ledger = Ledger.open(None, budget=Budget(4.0, 1e-6, unit="client"))
    with pytest.raises(ParameterError, match=r"'record'.*'client'"):
        ledger.reserve(plan())
    ledger.reserve(plan(unit="client"))


@pytest.mark.parametrize(
    "changes",
    [
        {"participants": 51},
        {"survivors": 51},
        {"participants": 30},
        {"survivors": -1},
        {"bytes_up": 1.5},
        {"participants": True},
        {"facts": {"x": math.nan}},
        {"facts": {"x": math.inf}},
        {"facts": {"x": [1]}},
        {"facts": {"": 1}},
        {"facts": {3: 1}},
    ],
)
def test_a_settlement_that_makes_no_sense_changes_nothing(changes: dict[str, object]) -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    entry = ledger.reserve(plan())
    head = ledger.head
    with pytest.raises(ParameterError):
        ledger.settle(entry, **{"participants": 50, "survivors": 40, "bytes_up": 0, **changes})
    assert ledger.head == head
    assert ledger.rounds()[0].status == "reserved"


def test_numpy_scalars_are_facts() -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    ledger.note("numpy", {"f": np.float64(1.5), "i": np.int64(3), "n": None, "b": True})
    assert ledger.notes()[0].facts == {"f": 1.5, "i": 3, "n": None, "b": True}


@pytest.mark.parametrize("text", ["", None, 3])
def test_empty_words_are_refused(text: object) -> None:
    ledger = Ledger.open(None, budget=BUDGET)
    entry = ledger.reserve(plan())
    with pytest.raises(ParameterError):
        ledger.note(text)
    with pytest.raises(ParameterError):
        ledger.void(entry, reason=text)


def test_a_closed_ledger_is_not_written(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "l.db", budget=BUDGET)
    ledger.reserve(plan())
    ledger.close()
    assert len(ledger.rounds()) == 1
    with pytest.raises(LedgerError, match="closed"):
        ledger.reserve(plan())
    assert os.listdir(tmp_path) == ["l.db"], "the last one out folds the log into the file"


def test_the_clock_must_know_its_zone() -> None:
    with pytest.raises(ParameterError, match="UTC"):
        Ledger.open(None, budget=BUDGET, clock=lambda: datetime.datetime(2025, 1, 1))
    eastern = datetime.timezone(datetime.timedelta(hours=3))
    ledger = Ledger.open(None, budget=BUDGET, clock=lambda: datetime.datetime(2025, 1, 1, 2, tzinfo=eastern))
    ledger.note("x")
    assert ledger.notes()[0].time == "2024-12-31T23:00:00.000000Z"


def test_two_handles_share_one_budget(tmp_path: Path) -> None:
    left = Ledger.open(tmp_path / "l.db", budget=BUDGET)
    right = Ledger.open(tmp_path / "l.db", budget=BUDGET)
    left.reserve(plan(mu2=share_of(left, 0.7)))
    with pytest.raises(BudgetExhausted):
        right.reserve(plan(mu2=share_of(right, 0.7)))
    right.reserve(plan(mu2=share_of(right, 0.3)))
    with pytest.raises(BudgetExhausted):
        left.reserve(plan(mu2=share_of(left, 0.1)))
    assert left.spent() == right.spent()
    left.close()
    right.close()


def test_threads_share_one_handle(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "l.db", budget=BUDGET)
    accepted: list[int] = []

    def spend() -> None:
        for _ in range(10):
            try:
                accepted.append(ledger.reserve(plan(mu2=share_of(ledger, 1 / 25))))
            except BudgetExhausted:
                return

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accepted) == len(set(accepted)) == 25
    assert verify(ledger).ok
    ledger.close()


def test_an_error_between_commit_and_return_is_caught_up_with() -> None:
    """The charge stands; the object does not lose its place."""
    armed = []

    def fail(name: str) -> None:
        if armed and name == armed[0]:
            armed.clear()
            raise RuntimeError(name)

    ledger = Ledger.open(None, budget=BUDGET, on_step=fail)
    for step, count in (("begin", 0), ("locked", 0), ("checked", 0), ("inserted", 0), ("committed", 1)):
        armed.append(f"reserve:{step}")
        with pytest.raises(RuntimeError, match=step):
            ledger.reserve(plan())
        ledger.refresh()
        assert len(ledger.rounds()) == count
    ledger.reserve(plan())
    assert len(ledger.rounds()) == 2
    assert verify(ledger).ok


@given(st.lists(st.tuples(st.floats(1e-4, 0.4), st.sampled_from(["settle", "void", "leave"])), max_size=8))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_keeps_the_budget_and_verifies(history: list[tuple[float, str]]) -> None:
    ledger, kept = Ledger.open(None, budget=BUDGET), []
    for share, end in history:
        before = ledger.epsilon()
        try:
            entry = ledger.reserve(plan(mu2=share_of(ledger, share)))
        except BudgetExhausted:
            assert sum(kept) + share > 1.0
            assert ledger.epsilon() == before
            continue
        assert before < ledger.epsilon() <= BUDGET.epsilon
        if end == "void":
            ledger.void(entry, reason="nothing was revealed")
            assert ledger.epsilon() == before
        else:
            kept.append(share)
        if end == "settle":
            ledger.settle(entry, participants=50, survivors=42, bytes_up=1)
    charges = Total.of(record.charge(BUDGET.view) for record in ledger.rounds() if record.status != "void")
    assert ledger.spent().mu2 == pytest.approx(charges.mu2, rel=1e-12, abs=0.0)
    assert ledger.spent().mu2 == pytest.approx(share_of(ledger, sum(kept)), rel=1e-9, abs=0.0)
    assert verify(ledger).ok
    ledger.close()


def test_nothing_of_a_ledger_is_said_in_its_repr_but_the_public(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db", budget=BUDGET) as ledger:
        assert repr(ledger) == f"<Ledger {tmp_path / 'l.db'}: 1 entries, budget {BUDGET}>"
        assert ledger.guarded_view == BUDGET.view
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().run = "other"
