"""Opening a ledger: reading one that is there, beginning one that is not, and holding it to its own budget."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from privfed_accounting.budget import Budget
from privfed_accounting.errors import BudgetMismatch, NotALedger
from privfed_accounting.journal import Clock, append, read_ledger
from privfed_accounting.records import FORMAT, Book
from privfed_accounting.storage import SCHEMA_VERSION, Storage, file_of


def no_step(name: str) -> None:
    """Do nothing between two steps; tests put a crash here."""


def first_body(budget: Budget | None) -> dict[str, Any]:
    """Body of a new ledger's first entry."""
    return {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "ledger": secrets.token_hex(16),
        "budget": None if budget is None else budget.as_dict(),
        "allowance": None if budget is None else dataclasses.asdict(budget.allowance()),
        "software": "privfed_accounting",
    }


def has_content(file: Path) -> bool:
    """Whether a file is there and not empty."""
    return file.exists() and file.stat().st_size > 0


def read_budgeted(path: str | Path, *, timeout: float) -> tuple[Storage, Book] | None:
    """Open for reading if it is a ledger with a budget; None if it has none and may be written."""
    try:
        database, book = read_ledger(path, timeout=timeout)
    except NotALedger:
        if file_of(path) is not None:
            raise
        return None  # an empty database on a server, to become a ledger
    if book.budget is not None or database.version < SCHEMA_VERSION:
        return database, book
    database.close()
    return None


def begin(database: Storage, budget: Budget | None, clock: Clock, on_step: Callable[[str], None]) -> None:
    """Make table and first entry, unless they are there."""
    on_step("open:begin")
    with database.transaction() as connection:
        if not database.has_schema(connection):
            database.create_schema(connection)
            append(connection, Book(), "open", first_body(budget), clock)
            on_step("open:inserted")
    on_step("open:committed")


def check_budget(book: Book, budget: Budget | None, database: Storage) -> None:
    """Refuse to go on under another budget than the ledger was made with."""
    if book.budget != budget:
        raise BudgetMismatch(
            f"{database.name} was made with {book.budget or 'no budget'}, not {budget or 'none'}: "
            "open it with its own budget, or start another ledger for another budget"
        )
