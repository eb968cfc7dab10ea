"""Two ledgers, or reports, compared: how far they are one, which rounds differ, what it does to every epsilon."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from privfed_accounting import Budget, Ledger, NotALedger, difference, report_data
from tests.accounting.forge import body, forge, ten_entries
from tests.accounting.plans import BUDGET, Clock, open_plan, plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ten_entries(tmp_path / "ledger.db")


def test_a_ledger_and_itself(path: Path) -> None:
    found = difference(path, path)
    assert found.same
    assert found.extends
    assert (found.common_entries, found.added, found.missing, found.changed) == (10, (), (), ())
    assert all(each.before == each.after for each in found.epsilons)


def test_a_ledger_that_went_on(path: Path, tmp_path: Path) -> None:
    before = Path(shutil.copy(path, tmp_path / "before.db"))
    with Ledger.open(path, budget=BUDGET, clock=Clock()) as ledger:
        ledger.reserve(plan(mu2=0.02))
    found = difference(before, path)
    assert (found.same, found.same_ledger, found.extends) == (False, True, True)
    assert (found.common_entries, found.added, found.missing, found.changed) == (10, (11,), (), ())
    assert [each.view for each in found.epsilons] == ["released", "server", "client", "colluders(7)", "unmasked"]
    for each in found.epsilons:
        assert each.delta == BUDGET.delta
        assert each.before < each.after
    assert difference(path, before).missing == (11,)
    assert difference(path, before).extends is False
    assert (found.continues, difference(path, before).continues) == (True, False)


def test_a_round_that_was_open_and_is_settled(path: Path, tmp_path: Path) -> None:
    with Ledger.open(path, budget=BUDGET, clock=Clock()) as ledger:
        entry = ledger.reserve(plan(mu2=0.02))
        before = Path(shutil.copy(path, tmp_path / "before.db"))
        shutil.copy(f"{path}-wal", tmp_path / "before.db-wal")
        ledger.settle(entry, participants=50, survivors=41, bytes_up=7)
        (change,) = difference(before, ledger).changed
    assert change.entry == entry
    assert change.fields["status"] == ("reserved", "settled")
    assert change.fields["survivors"] == (None, 41)
    assert "share_sigma" not in change.fields


def test_a_ledger_written_anew(path: Path, tmp_path: Path) -> None:
    """The same rounds with one settlement forged: the prefix ends there, and the field is named."""
    forged = Path(shutil.copy(path, tmp_path / "forged.db"))
    forge(forged, 5, body(survivors=50))
    found = difference(path, forged)
    assert (found.common_entries, found.extends) == (4, False)
    (change,) = found.changed
    assert change.fields == {"survivors": (40, 50)}
    assert not found.same


def test_other_ledgers_and_other_budgets(path: Path, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "other.db", budget=Budget(2.0, 1e-7), clock=Clock()) as other:
        other.reserve(plan(mu2=0.01))
    found = difference(path, tmp_path / "other.db")
    assert not found.same_ledger
    assert not found.continues
    assert found.common_entries == 0
    assert found.budget == (str(BUDGET), str(Budget(2.0, 1e-7)))
    assert (found.added, found.missing) == ((2,), (2, 4, 6, 8))


def test_without_a_budget_there_is_no_epsilon(path: Path) -> None:
    with Ledger.open(None, budget=None) as bare:
        bare.reserve(open_plan())
        found = difference(path, bare)
    assert found.budget == (str(BUDGET), None)
    assert all(each.after is None for each in found.epsilons)


def test_reports_are_compared_like_ledgers_but_for_the_chain(path: Path, tmp_path: Path) -> None:
    reports = []
    with Ledger.open(path, budget=BUDGET, clock=Clock()) as ledger:
        for name in ("one", "two"):
            reports.append(tmp_path / f"{name}.json")
            reports[-1].write_text(json.dumps(report_data(ledger)))
            ledger.reserve(plan(mu2=0.02))
    found = difference(*reports)
    assert (found.common_entries, found.extends, found.added) == (None, None, (11,))
    assert found.epsilons[1].before < found.epsilons[1].after
    assert (found.continues, difference(*reversed(reports)).continues) == (True, False)
    mixed = difference(reports[0], path)
    assert mixed.same_ledger
    assert mixed.added == (11, 12)
    (tmp_path / "letter.json").write_text('{"dear": "ledger"}')
    with pytest.raises(NotALedger):
        difference(path, tmp_path / "letter.json")


def test_as_json(path: Path) -> None:
    with Ledger.open(None, budget=BUDGET) as other:
        other.settle(other.reserve(plan(mu2=0.1, shares=8)), participants=50, survivors=50, bytes_up=0)
        other.reserve(plan(mu2=0.1, shares=5))
        found = difference(path, other)
        assert math.inf in [each.after for each in difference(path, other).epsilons] or not found.same
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["epsilons"][0]["before"]["infinite"] is False
    assert data["same"] is False
