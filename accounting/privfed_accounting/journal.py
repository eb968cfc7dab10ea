"""Reading a ledger's entries from its file and appending to them: the only place where the two meet."""

from __future__ import annotations

import dataclasses
import datetime
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from privfed_accounting.budget import Budget
from privfed_accounting.chain import Entry, read_chain
from privfed_accounting.database import ENTRIES, Database
from privfed_accounting.errors import CorruptLedger, ParameterError
from privfed_accounting.records import FORMAT, Book, budget_to_dict

Clock = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    """Time of day, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def opening(budget: Budget | None) -> dict[str, Any]:
    """Body of a new ledger's first entry."""
    return {
        "format": FORMAT,
        "ledger": secrets.token_hex(16),
        "budget": None if budget is None else budget_to_dict(budget),
        "allowance": None if budget is None else dataclasses.asdict(budget.allowance()),
        "software": "privfed_accounting",
    }


def append(connection: sa.Connection, book: Book, kind: str, body: dict[str, Any], clock: Clock) -> Entry:
    """Insert the entry that follows a book's last, inside the caller's transaction; the book is left as it is."""
    entry = Entry(book.length + 1, kind, _timestamp(clock()), book.head, body)
    connection.execute(sa.insert(ENTRIES).values(seq=entry.seq, kind=kind, entry=entry.text, digest=entry.digest))
    return entry


def read_ledger(path: Path, *, timeout: float = 10.0) -> tuple[Database, Book]:
    """Open an existing ledger for reading and replay it; raises the errors of `Ledger.open`."""
    database, book = Database(path, read_only=True, timeout=timeout), Book()
    try:
        database.prepare()
        catch_up(database, book)
    except BaseException:
        database.close()
        raise
    return database, book


def catch_up(database: Database, book: Book) -> None:
    """Bring a book up to its database."""
    with database.transaction() as connection:
        read_new(database, connection, book)


def read_new(database: Database, connection: sa.Connection, book: Book) -> None:
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
    if not book.length:
        raise CorruptLedger("entry 1, which opens the ledger, is missing: restore a backup", entry=1)


def _timestamp(moment: datetime.datetime) -> str:
    if moment.tzinfo is None:
        raise ParameterError("the clock gave a time without a time zone, expected one: entries are dated in UTC")
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
