"""Every way in which a file can refuse or lie: a clear error with its remedy, and nothing charged or lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from privfed_accounting import (
    Budget,
    CorruptLedger,
    Ledger,
    LedgerBusy,
    LedgerError,
    LedgerFull,
    LedgerReadOnly,
    LedgerUnreadable,
    LedgerVersionError,
    NotALedger,
    report_data,
    verify,
)
from privfed_accounting import database as database_module
from privfed_accounting.storage import SCHEMA_VERSION
from tests.accounting.forge import edit, ten_entries
from tests.accounting.plans import BUDGET, plan
from tests.accounting.test_ledger_crash import Run, run

__all__ = ["run"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ten_entries(tmp_path / "ledger.db")


# --- the file is damaged ------------------------------------------------------------------------------------------


def test_a_truncated_file(path: Path) -> None:
    size = path.stat().st_size
    for length in (size - 4096, size // 2, 4096, 100, 60):
        damaged = path.with_name(f"cut-{length}.db")
        damaged.write_bytes(path.read_bytes()[:length])
        with pytest.raises((CorruptLedger, NotALedger)):
            Ledger.open(damaged, budget=BUDGET)
        try:
            verdict = verify(damaged)
        except NotALedger:
            continue
        assert not verdict.ok


def test_damaged_bytes_anywhere_never_pass_unnoticed(path: Path) -> None:
    """One page after another overwritten: no ledger opens with different content, and none crashes."""
    intact = path.read_bytes()
    with Ledger.open(path, budget=BUDGET) as ledger:
        head, spent = ledger.head, ledger.spent()
    found = set()
    for offset in range(0, len(intact), 512):
        damaged = path.with_name("damaged.db")
        damaged.write_bytes(
            intact[:offset] + bytes(byte ^ 0x5A for byte in intact[offset : offset + 64]) + intact[offset + 64 :]
        )
        try:
            with Ledger.open(damaged, budget=BUDGET) as ledger:
                assert (ledger.head, ledger.spent()) == (head, spent), "free space or an index"
        except LedgerError as error:
            found.add(type(error))
        for leftover in path.parent.glob("damaged.db*"):
            leftover.unlink()
    assert CorruptLedger in found


def test_not_a_database(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are notes, " * 1000)
    for open_it in (
        lambda: Ledger.open(text, budget=BUDGET),
        lambda: Ledger.open(text, budget=None),
        lambda: verify(text),
    ):
        with pytest.raises(NotALedger, match="not a database"):
            open_it()
    assert text.read_text().startswith("these are notes, ")


def test_another_programs_database(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE entries (x)")
    connection.commit()
    connection.close()
    before = other.read_bytes()
    for open_it in (lambda: Ledger.open(other, budget=BUDGET), lambda: verify(other)):
        with pytest.raises(NotALedger, match="its own path"):
            open_it()
    assert other.read_bytes() == before


def test_a_newer_schema_is_refused(path: Path) -> None:
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for refused in (
        lambda: Ledger.open(path, budget=BUDGET),
        lambda: Ledger.open(path, budget=None),
        lambda: verify(path),
    ):
        with pytest.raises(LedgerVersionError, match=f"version {SCHEMA_VERSION + 1}.*or a newer one"):
            refused()


def test_an_empty_file_becomes_a_ledger_but_verifies_as_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(NotALedger, match="empty"):
        verify(empty)
    Ledger.open(empty, budget=BUDGET).close()
    assert verify(empty).ok


# --- the file cannot be used --------------------------------------------------------------------------------------


def test_nowhere_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreadable, match="create it first"):
        Ledger.open(tmp_path / "no" / "ledger.db", budget=BUDGET)
    with pytest.raises(LedgerUnreadable):
        Ledger.open(tmp_path, budget=BUDGET)
    for missing in (lambda: verify(tmp_path / "none.db"), lambda: report_data(tmp_path / "none.db")):
        with pytest.raises(LedgerUnreadable, match=r"none\.db"):
            missing()
    assert list(tmp_path.iterdir()) == []


def test_strange_names(tmp_path: Path) -> None:
    for name in ("a b.db", "50%.db", "what?.db", "#1.db", "ümlaut.db", "file:x?mode=memory"):
        Ledger.open(tmp_path / name, budget=BUDGET).close()
        assert verify(tmp_path / name).ok
    assert len(list(tmp_path.iterdir())) == 6


def test_a_commit_is_on_disk_before_it_is_reported(path: Path) -> None:
    """Kill -9 cannot tell synchronous FULL from OFF, a power cut can."""
    with Ledger.open(path, budget=BUDGET) as ledger, ledger._database._driver() as connection:
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("application_id", 0x70666C31)):
            assert connection.execute(f"PRAGMA {pragma}").fetchone()[0] == value


def test_locked_by_another(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Ledger.open(path, budget=None) as reader:
        assert len(reader.rounds()) == 4, "a reader does not wait"
    with pytest.raises(LedgerBusy, match="nothing was charged: wait"):
        Ledger.open(path, budget=BUDGET, timeout=0.0)
    other.execute("ROLLBACK")
    with Ledger.open(path, budget=BUDGET, timeout=0.0) as ledger:
        other.execute("BEGIN IMMEDIATE")
        head = ledger.head
        with pytest.raises(LedgerBusy):
            ledger.reserve(plan())
        other.execute("ROLLBACK")
        assert ledger.head == head
        ledger.reserve(plan())
    other.close()


def test_moved_or_replaced_while_in_use(path: Path) -> None:
    with Ledger.open(path, budget=BUDGET) as ledger:
        path.rename(path.with_name("elsewhere.db"))
        with pytest.raises(LedgerUnreadable, match="moved or deleted"):
            ledger.reserve(plan())
        shutil.copy(path.with_name("elsewhere.db"), path)
        with pytest.raises(LedgerUnreadable, match="replaced"):
            ledger.reserve(plan())
        path.unlink()
        path.with_name("elsewhere.db").rename(path)
        ledger.reserve(plan())


def reserve_until_refused(ledger: Ledger) -> None:
    while True:
        ledger.reserve(plan(mu2=1e-6))


def test_disk_full(path: Path) -> None:
    """A database that may not grow: refused, unchanged, and usable again once there is room."""
    with Ledger.open(path, budget=BUDGET) as ledger:
        with ledger._database._driver() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerFull, match="nothing was charged: free some space"):
            reserve_until_refused(ledger)
        accepted = len(ledger.rounds()) - 4
        spent = ledger.spent()
        with ledger._database._driver() as connection:
            connection.execute("PRAGMA max_page_count = 100000")
        ledger.refresh()
        assert ledger.spent() == spent
        assert len(ledger.rounds()) == 4 + accepted
        ledger.reserve(plan(mu2=1e-6))
    assert verify(path).ok


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of 200 KiB, where we may mount one."""
    folder = Path(tempfile.mkdtemp())
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        folder.rmdir()
        pytest.skip("may not mount a file system here; test_disk_full covers it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_disk_that_really_is_full(tiny_disk: Path) -> None:
    path, filler = tiny_disk / "ledger.db", tiny_disk / "filler"
    with Ledger.open(path, budget=BUDGET) as ledger:
        with pytest.raises(LedgerFull):
            reserve_until_refused(ledger)
        accepted = len(ledger.rounds())
        assert accepted > 10
    with Ledger.open(path, budget=None) as ledger:
        assert len(ledger.rounds()) == accepted
    for leftover in tiny_disk.iterdir():
        leftover.unlink()
    filler.write_bytes(bytes(190 * 1024))
    with pytest.raises(LedgerFull):
        Ledger.open(path, budget=BUDGET)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, with a ledger of one round."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with Ledger.open(folder / "ledger.db", budget=BUDGET) as ledger:
        ledger.reserve(plan())
    (folder / "ledger.db").chmod(0o644)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_file_or_folder_is_read_and_not_written(run: Run, open_folder: Path) -> None:
    path = open_folder / "ledger.db"
    if os.geteuid() != 0:
        path.chmod(0o444)
        open_folder.chmod(0o555)
    answer = run(do="nobody", path=str(path))
    assert answer["status"] == 0
    assert answer["read"] == "1 rounds"
    assert answer["write"].startswith("LedgerReadOnly: ")
    assert "nothing was charged: make the file and its directory writable" in answer["write"]


def test_a_read_only_file_in_a_writable_folder(run: Run, open_folder: Path) -> None:
    path = open_folder / "ledger.db"
    open_folder.chmod(0o777)
    path.chmod(0o444)
    answer = run(do="nobody", path=str(path))
    assert answer["read"] == "1 rounds"
    assert answer["write"].startswith("LedgerReadOnly: ")


def test_an_unreadable_file(run: Run, open_folder: Path) -> None:
    path = open_folder / "ledger.db"
    path.chmod(stat.S_IWUSR)
    answer = run(do="nobody", path=str(path))
    assert answer["write"].startswith("LedgerUnreadable: ")
    assert answer["read"].startswith("LedgerUnreadable: ")


def test_a_new_ledger_in_a_read_only_folder(run: Run, open_folder: Path) -> None:
    if os.geteuid() != 0:
        open_folder.chmod(0o555)
    answer = run(do="nobody", path=str(open_folder / "new.db"))
    assert answer["write"].startswith("LedgerUnreadable: ")
    assert not (open_folder / "new.db").exists()


def test_the_log_beside_the_file_counts(tmp_path: Path) -> None:
    """Nobody closed the ledger: what is still in its log is read, and charged."""
    with Ledger.open(tmp_path / "l.db", budget=BUDGET) as ledger:
        ledger.reserve(plan())
        assert (tmp_path / "l.db-wal").stat().st_size > 0
        for name in ("l.db", "l.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / name.replace("l.db", "copy.db"))
    with Ledger.open(tmp_path / "copy.db", budget=Budget(4.0, 1e-6)) as copy:
        assert len(copy.rounds()) == 1


# --- the driver's words in ours -----------------------------------------------------------------------------------


class Refusal(sqlite3.OperationalError):
    """An error of the driver with a code of our choice."""

    def __init__(self, code: int) -> None:
        super().__init__("the driver's words")
        self.sqlite_errorcode = code  # type: ignore[misc]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_BUSY, LedgerBusy),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, LedgerBusy),
        (sqlite3.SQLITE_LOCKED, LedgerBusy),
        (sqlite3.SQLITE_READONLY_DBMOVED, LedgerReadOnly),
        (sqlite3.SQLITE_FULL, LedgerFull),
        (sqlite3.SQLITE_NOTADB, NotALedger),
        (sqlite3.SQLITE_CORRUPT_INDEX, CorruptLedger),
        (sqlite3.SQLITE_CANTOPEN, LedgerUnreadable),
        (sqlite3.SQLITE_IOERR, LedgerError),
        (sqlite3.SQLITE_NOMEM, LedgerError),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_every_refusal_has_a_name_and_a_remedy(path: Path, code: int, expected: type, named: bool) -> None:
    error = database_module.translate(Refusal(code), path if named else None)
    assert type(error) is expected
    assert (str(path) if named else "in memory") in str(error)
    assert ": " in str(error)


def test_an_unknown_refusal_is_not_mistaken_for_damage(path: Path) -> None:
    with Ledger.open(path, budget=BUDGET) as ledger:

        class Connection:
            def execute(self, query: object) -> object:
                raise sqlalchemy.exc.OperationalError("SELECT", {}, Refusal(sqlite3.SQLITE_BUSY))

        with pytest.raises(sqlalchemy.exc.OperationalError):
            list(ledger._database.rows(Connection(), first=1))


class Switch:
    """A connection whose file system, or whose neighbours, have something against a write-ahead log."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)

    def execute(self, statement: str) -> Switch:
        return self

    def fetchone(self) -> tuple[str]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return (answer,)


def test_the_switch_to_the_log_waits_for_others_and_insists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module.time, "sleep", lambda seconds: None)
    database = database_module.Database(tmp_path / "l.db", timeout=60.0)
    database._switch_to_wal(Switch(Refusal(sqlite3.SQLITE_BUSY), Refusal(sqlite3.SQLITE_BUSY), "wal"))
    with pytest.raises(LedgerError, match="put the ledger on a local disk"):
        database._switch_to_wal(Switch("delete"))
    with pytest.raises(Refusal):
        database._switch_to_wal(Switch(Refusal(sqlite3.SQLITE_IOERR)))
    impatient = database_module.Database(tmp_path / "l.db", timeout=-1.0)
    with pytest.raises(Refusal):
        impatient._switch_to_wal(Switch(Refusal(sqlite3.SQLITE_BUSY)))
