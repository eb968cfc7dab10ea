"""Ledgers of older schema versions are read as they are, and brought up to date on request: a copy, then one entry.

Nothing that was written is written anew, or no digest known elsewhere would be found again. What changes between
versions is what newer entries may say:

    1   open, reserve, settle, void, note; discrete Gaussian shares only
    2   checkpoint (signatures) and migrate; rounds with a mechanism, a drop-out policy and a sampler
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privfed_accounting.database import translate
from privfed_accounting.errors import LedgerError, LedgerUnreadable
from privfed_accounting.journal import Clock, append, catch_up, read_ledger, read_new, utc_now
from privfed_accounting.opening import no_step
from privfed_accounting.records import Book
from privfed_accounting.storage import SCHEMA_VERSION, file_of, open_storage


@dataclass(frozen=True)
class Migration:
    """What a migration did.

    Attributes:
        location: the ledger.
        found, made: schema versions before and after; equal where nothing was to be done.
        backup: copy of the ledger as it was; None where nothing was to be done.
        head_before, head: digest of the last entry before and after; the first is still in the chain.
    """

    location: str
    found: int
    made: int
    backup: Path | None
    head_before: str
    head: str


def migrate(
    ledger: str | Path,
    *,
    backup: str | Path | None = None,
    timeout: float = 10.0,
    clock: Clock = utc_now,
    on_step: Callable[[str], None] = no_step,
) -> Migration:
    """Bring a ledger to this software's schema version, after copying it.

    Args:
        ledger: the file, or a URL.
        backup: where to copy the file to; `NAME.version-1` beside it unless said. Must not exist.
        timeout: seconds to wait for another process's lock.
        clock: gives the time of the entry, for tests.
        on_step: called with a name between any two steps, for tests.

    Guarantees:
        Entries stay byte for byte what they are, so that the chain and every head noted elsewhere stay valid. The
        change is one transaction: after a crash the ledger is of the one version or the other, and whole in either.

    Raises:
        CorruptLedger: the chain does not hold; nothing was changed.
        LedgerVersionError: it is newer than this software.
        LedgerError: the backup exists, or something cannot be read or written; the ledger is as it was.
    """
    database, book = read_ledger(ledger, timeout=timeout)
    found, location = database.version, database.location or str(ledger)
    database.close()
    if found == SCHEMA_VERSION:
        return Migration(location, found, found, None, book.head, book.head)
    file = file_of(ledger)
    if file is None:
        raise LedgerError(f"ledger {location} has schema version {found}, which no server ever held: restore a backup")
    target = file.with_name(f"{file.name}.version-{found}") if backup is None else Path(backup)
    _copy(file, target, timeout=timeout)
    on_step("migrate:copied")
    database, book = open_storage(ledger, timeout=timeout), Book()
    database.accepts_older = True
    try:
        database.prepare()
        catch_up(database, book)
        with database.transaction() as connection:
            on_step("migrate:locked")
            read_new(database, connection, book)
            before = book.head
            body = {"from": book.schema, "to": SCHEMA_VERSION}
            entry = append(connection, book, "migrate", body, clock)
            on_step("migrate:inserted")
            database.set_version(connection, SCHEMA_VERSION)
            on_step("migrate:versioned")
    finally:
        database.close()
    return Migration(location, found, SCHEMA_VERSION, target, before, entry.digest)


def _copy(source: Path, target: Path, *, timeout: float) -> None:
    """Copy a ledger with whatever its log still holds, and have it on disk before going on."""
    if target.exists():
        raise LedgerError(f"the backup {target} exists already, nothing was changed: move it away, or name another")
    if not target.parent.is_dir():
        raise LedgerUnreadable(f"directory {target.parent} of the backup does not exist: create it first")
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=timeout)) as original,
            contextlib.closing(sqlite3.connect(target, timeout=timeout)) as copy,
        ):
            original.backup(copy)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise translate(error, target) from error
