"""Reading a ledger's entries from its file and appending to them: the only place where the two meet."""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from privfed_accounting.chain import Entry, read_chain
from privfed_accounting.errors import CorruptLedger, LedgerBusy, ParameterError
from privfed_accounting.records import Book
from privfed_accounting.storage import ENTRIES, Conflict, Storage, open_storage

Clock = Callable[[], datetime.datetime]
Result = TypeVar("Result")

# Writers queue for a lock, so that a conflict is rare; these tries are spread over some seconds.
ATTEMPTS: Final = 12


def utc_now() -> datetime.datetime:
    """Time of day, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def append(connection: sa.Connection, book: Book, kind: str, body: dict[str, Any], clock: Clock) -> Entry:
    """Insert the entry that follows a book's last, inside the caller's transaction; the book is left as it is."""
    entry = Entry(book.length + 1, kind, _timestamp(clock()), book.head, body)
    connection.execute(sa.insert(ENTRIES).values(seq=entry.seq, kind=kind, entry=entry.text, digest=entry.digest))
    return entry


def read_ledger(location: str | Path, *, timeout: float = 10.0) -> tuple[Storage, Book]:
    """Open an existing ledger for reading and replay it; raises the errors of `Ledger.open`."""
    database, book = open_storage(location, read_only=True, timeout=timeout), Book()
    try:
        database.prepare()
        catch_up(database, book)
    except BaseException:
        database.close()
        raise
    return database, book


def catch_up(database: Storage, book: Book) -> None:
    """Bring a book up to its database."""

    def read() -> None:
        with database.transaction() as connection:
            read_new(database, connection, book)

    again_on_conflict(read)


def again_on_conflict(work: Callable[[], Result]) -> Result:
    """Run a transaction, and again if it lost against another one, a bounded number of times.

    Raises:
        LedgerBusy: it lost every time; nothing was written.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            # Apart in time, so that the same two do not meet again.
            time.sleep(random.uniform(0.0, 0.002) * 2**attempt)  # noqa: S311 - a pause, not a secret
        try:
            return work()
        except Conflict as error:
            conflict = error
    raise LedgerBusy(f"{conflict} (it failed {ATTEMPTS} times)") from conflict


def read_new(database: Storage, connection: sa.Connection, book: Book) -> None:
    """Read entries after the last one known, and check that the last one known is still there.

    Raises:
        CorruptLedger: names the first entry that is not as it was written.
    """
    rows = database.rows(connection, first=max(1, book.length))
    if book.length:
        last = next(rows, None)
        if last is None or last.seq != book.length or last.digest != book.head:
            raise CorruptLedger(
                f"entry {book.length} changed or vanished since it was read: restore the file that was rolled back",
                entry=book.length,
            )
    for entry in read_chain(rows, after=book.head, last_seq=book.length):
        book.apply(entry)
    if database.version > book.schema and book.length:
        raise CorruptLedger(
            f"{database.name} calls itself schema version {database.version}, its entries are of {book.schema}: "
            "restore a backup"
        )
    if not book.length:
        raise CorruptLedger("entry 1, which opens the ledger, is missing: restore a backup", entry=1)


def _timestamp(moment: datetime.datetime) -> str:
    if moment.tzinfo is None:
        raise ParameterError("the clock gave a time without a time zone, expected one: entries are dated in UTC")
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
