"""Ledgers of version 1 are read as they are, migrated on request and then written; old heads stay in the chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from privfed_accounting import CorruptLedger, Ledger, LedgerError, LedgerReadOnly, LedgerVersionError, migrate, verify
from privfed_accounting.storage import SCHEMA_VERSION
from tests.accounting.forge import edit, forge
from tests.accounting.plans import BUDGET, Clock, plan

DATA = Path(__file__).parent / "data"
# Written by the software of schema version 1, with what it said of it: see the commit that added them.
KNOWN = json.loads((DATA / "version-1.json").read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "version-1.ledger", tmp_path / "old.db"))


def check_numbers(path: Path) -> None:
    with Ledger.open(path, budget=None) as ledger:
        for view, (guaranteed, realised) in KNOWN["views"].items():
            assert ledger.epsilon(view) == pytest.approx(guaranteed, rel=1e-12, abs=0.0)
            assert ledger.epsilon(view, realised=True) == pytest.approx(realised, rel=1e-12, abs=0.0)


def test_version_1_is_read_and_verified_without_migration(old: Path) -> None:
    before = old.read_bytes()
    verdict = verify(old, expected_head=KNOWN["head"])
    assert verdict.ok, verdict.problems
    assert (verdict.entries, verdict.head) == (KNOWN["entries"], KNOWN["head"])
    check_numbers(old)
    assert old.read_bytes() == before


def test_version_1_is_not_written(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(LedgerVersionError, match=r"schema version 1, expected 2 for writing: .*migrate\(\)"):
        Ledger.open(old, budget=BUDGET)
    with Ledger.open(old, budget=None) as reader, pytest.raises(LedgerReadOnly):
        reader.note("x")
    assert old.read_bytes() == before


def test_migrated_it_is_copied_kept_and_continued(old: Path) -> None:
    before = old.read_bytes()
    done = migrate(old, clock=Clock())
    assert (done.found, done.made, done.head_before) == (1, SCHEMA_VERSION, KNOWN["head"])
    assert done.backup == old.with_name("old.db.version-1")
    assert verify(done.backup).head == KNOWN["head"]
    assert len(done.backup.read_bytes()) == len(before)
    verdict = verify(old, expected_head=KNOWN["head"])
    assert verdict.ok, verdict.problems
    assert (verdict.entries, verdict.head) == (KNOWN["entries"] + 1, done.head)
    check_numbers(old)
    with Ledger.open(old, budget=BUDGET) as ledger:
        ledger.settle(ledger.reserve(plan(mu2=1e-4)), participants=50, survivors=40, bytes_up=1)
        assert len(ledger.rounds()) == 6
    assert verify(old, expected_head=KNOWN["head"]).ok


def test_a_second_migration_does_nothing(old: Path) -> None:
    migrate(old)
    before = old.read_bytes()
    again = migrate(old)
    assert (again.found, again.made, again.backup) == (SCHEMA_VERSION, SCHEMA_VERSION, None)
    assert old.read_bytes() == before


def test_a_backup_is_never_overwritten(old: Path) -> None:
    old.with_name("old.db.version-1").write_text("precious")
    with pytest.raises(LedgerError, match="exists already, nothing was changed: move it away"):
        migrate(old)
    assert verify(old).entries == KNOWN["entries"]
    with pytest.raises(LedgerError, match="create it first"):
        migrate(old, backup=old.parent / "no" / "copy.db")
    assert migrate(old, backup=old.parent / "copy.db").backup == old.parent / "copy.db"


@pytest.mark.parametrize("step", ["copied", "locked", "inserted", "versioned"])
def test_a_crash_leaves_one_version_or_the_other(old: Path, step: str) -> None:
    def crash(name: str) -> None:
        if name == f"migrate:{step}":
            raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        migrate(old, on_step=crash)
    verdict = verify(old)
    assert verdict.ok
    assert verdict.head == KNOWN["head"]
    done = migrate(old, backup=old.parent / "second.db")
    assert done.made == SCHEMA_VERSION
    assert verify(old).ok


def test_a_damaged_ledger_is_not_migrated(old: Path) -> None:
    edit(old, "DELETE FROM entries WHERE seq = 4")
    with pytest.raises(CorruptLedger, match="entry 4"):
        migrate(old)
    assert not old.with_name("old.db.version-1").exists()


def test_a_header_that_disagrees_with_the_chain(old: Path) -> None:
    """A version raised by hand, or a migration entry taken out, does not pass for a migration."""
    edit(old, f"PRAGMA user_version = {SCHEMA_VERSION}")
    with pytest.raises(CorruptLedger, match="calls itself schema version 2, its entries are of 1"):
        Ledger.open(old, budget=BUDGET)
    assert not verify(old).ok


def test_a_migration_entry_that_makes_no_sense(tmp_path: Path) -> None:
    path = Path(shutil.copy(DATA / "version-1.ledger", tmp_path / "l.db"))
    migrate(path)
    forge(
        path,
        KNOWN["entries"] + 1,
        lambda entry: type(entry)(entry.seq, "migrate", entry.time, entry.previous, {"from": 0, "to": 2}),
    )
    with pytest.raises(CorruptLedger, match=rf"entry {KNOWN['entries'] + 1} \(migrate\) makes no sense"):
        Ledger.open(path, budget=BUDGET)
