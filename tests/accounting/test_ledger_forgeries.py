"""Edited, removed, reordered, rewritten: what the chain finds and names, and what it takes a published head to find."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from privfed_accounting import CorruptLedger, Ledger, report_data, verify
from privfed_accounting.canonical import digest
from privfed_accounting.chain import Entry
from tests.accounting.forge import body, edit, forge, ten_entries
from tests.accounting.plans import BUDGET, Clock, plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ten_entries(tmp_path / "ledger.db")


SWAP = (
    "UPDATE entries SET seq = -1 WHERE seq = 4",
    "UPDATE entries SET seq = 4 WHERE seq = 6",
    "UPDATE entries SET seq = 6 WHERE seq = -1",
)


@pytest.mark.parametrize(
    ("statements", "entry", "message"),
    [
        (
            ["UPDATE entries SET entry = replace(entry, '\"dimension\":100', '\"dimension\":1') WHERE seq = 4"],
            4,
            "edited",
        ),
        (["UPDATE entries SET entry = x'ff' WHERE seq = 4"], 4, "edited"),
        (["UPDATE entries SET entry = '' WHERE seq = 5"], 5, "edited"),
        (["UPDATE entries SET digest = upper(digest) WHERE seq = 5"], 5, "edited"),
        (["UPDATE entries SET kind = 'note' WHERE seq = 6"], 6, "reordered"),
        (["DELETE FROM entries WHERE seq = 4"], 4, "missing"),
        (["DELETE FROM entries WHERE seq = 1"], 1, "missing"),
        (["DELETE FROM entries"], 1, "missing"),
        (["DELETE FROM entries WHERE seq IN (4, 5)", "UPDATE entries SET seq = seq - 2 WHERE seq > 5"], 4, "reordered"),
        (SWAP, 4, "reordered"),
    ],
)
def test_an_edited_removed_or_reordered_entry_is_found_and_named(
    path: Path, statements: list[str], entry: int, message: str
) -> None:
    edit(path, *statements)
    for budget in (BUDGET, None):
        with pytest.raises(CorruptLedger, match=f"entry {entry}.*{message}") as error:
            Ledger.open(path, budget=budget)
        assert error.value.entry == entry
    with pytest.raises(CorruptLedger):
        report_data(path)
    verdict = verify(path)
    assert not verdict.ok
    assert f"entry {entry}" in verdict.problems[0]
    assert verdict.entries == entry - 1


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (
            4,
            body(charge={"mu2": 1e-9, "epsilon_slack": 0.0, "delta_tail": 0.0, "sampler_distance": 0.0}),
            "entry 4 charges",
        ),
        (4, body(charge=None), "entry 4 charges"),
        (4, body(plan={"run": "x"}), "entry 4 .* makes no sense"),
        (5, body(entry=2), "entry 5 .* no open reservation"),
        (5, body(entry=77), "entry 5 .* no open reservation"),
        (5, body(survivors="many"), "entry 5 .* makes no sense"),
        (4, lambda e: Entry(e.seq, "open", e.time, e.previous, e.body), "entry 4 .* 'open' comes first"),
        (1, lambda e: Entry(e.seq, "note", e.time, e.previous, e.body), "entry 1 .* 'open' comes first"),
        (1, body(format="other"), "entry 1 is of format 'other'"),
        (1, body(budget={"epsilon": 4.0}), "entry 1 .* makes no sense"),
        (1, lambda e: body(budget={**e.body["budget"], "relation": "replace"})(e), "entry 1 .* reads back differently"),
        (4, lambda e: Entry(e.seq, "gift", e.time, e.previous, e.body), "entry 4 has kind 'gift'"),
        (4, lambda e: Entry(e.seq, e.kind, "yesterday", e.previous, e.body), "entry 4 has time 'yesterday'"),
        (4, lambda e: Entry(9, e.kind, e.time, e.previous, e.body), "entry 4 is stored as reserve number 4"),
    ],
)
def test_a_chain_written_anew_must_still_make_sense(
    path: Path, number: int, change: Callable[[Entry], Entry], message: str
) -> None:
    forge(path, number, change)
    with pytest.raises(CorruptLedger, match=message) as error:
        Ledger.open(path, budget=BUDGET)
    assert error.value.entry == number
    assert not verify(path).ok


def test_text_that_is_not_an_entry(path: Path) -> None:
    for text in ("nonsense", "[]", '{"a":1}', '{"a":1,"a":2}', '{"a":NaN}'):
        edit(path, ("UPDATE entries SET entry = ?, digest = ? WHERE seq = 7", (text, digest(text))))
        with pytest.raises(CorruptLedger, match="entry 7"):
            Ledger.open(path, budget=BUDGET)


def test_an_entry_must_be_in_canonical_form(path: Path) -> None:
    connection = sqlite3.connect(path)
    (text,) = connection.execute("SELECT entry || ' ' FROM entries WHERE seq = 10").fetchone()
    connection.close()
    edit(path, ("UPDATE entries SET entry = ?, digest = ? WHERE seq = 10", (text, digest(text))))
    with pytest.raises(CorruptLedger, match="entry 10 is not in canonical form"):
        Ledger.open(path, budget=BUDGET)


def test_caps_must_be_the_budgets(path: Path) -> None:
    """A chain written anew with wider caps opens, but does not verify."""
    with Ledger.open(path, budget=BUDGET) as ledger:
        caps = vars(BUDGET.allowance())
        assert ledger.total_mu2() == caps["mu2"]
    forge(path, 1, body(allowance={**caps, "mu2_cap": 2 * caps["mu2_cap"]}))
    assert any("entry 1 caps mu2_cap" in problem for problem in verify(path).problems)


def test_the_table_itself_refuses_changes(path: Path) -> None:
    connection = sqlite3.connect(path)
    for statement in ("UPDATE entries SET kind = 'note'", "DELETE FROM entries WHERE seq = 3"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.execute("DROP TRIGGER entries_no_delete")
    connection.commit()
    connection.close()
    verdict = verify(path)
    assert verdict.problems == ["the guards entries_no_delete against changing entries were removed or switched off"]


def test_the_end_cut_off_needs_a_head_from_elsewhere(path: Path) -> None:
    """What a chain cannot show, and what shows it."""
    head = verify(path).head
    assert verify(path, expected_head=head).ok
    edit(path, "DELETE FROM entries WHERE seq > 7")
    assert verify(path).ok
    assert any("missing at the end" in limit for limit in verify(path).cannot_show)
    verdict = verify(path, expected_head=head)
    assert not verdict.ok
    assert head in verdict.problems[0]


def test_a_file_rolled_back_under_an_open_ledger_is_noticed(path: Path) -> None:
    with Ledger.open(path, budget=BUDGET) as ledger:
        edit(path, "DELETE FROM entries WHERE seq > 7")
        with pytest.raises(CorruptLedger, match="entry 10 changed or vanished"):
            ledger.reserve(plan())


def test_a_chain_spliced_from_another_ledger(path: Path, tmp_path: Path) -> None:
    """Rows of another ledger fit by their own digests, and not by their predecessors."""
    other = tmp_path / "other.db"
    with Ledger.open(other, budget=BUDGET, clock=Clock()) as ledger:
        for _ in range(5):
            ledger.reserve(plan(mu2=1e-9))
    connection = sqlite3.connect(other)
    row = connection.execute("SELECT kind, entry, digest FROM entries WHERE seq = 4").fetchone()
    connection.close()
    edit(path, ("UPDATE entries SET kind = ?, entry = ?, digest = ? WHERE seq = 4", row))
    with pytest.raises(CorruptLedger, match="entry 4 names another predecessor"):
        Ledger.open(path, budget=BUDGET)
