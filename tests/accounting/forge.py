"""A ledger on disk, and what somebody with the file in hands could do to it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from privfed_accounting import Ledger
from privfed_accounting import database as database_module
from privfed_accounting.chain import Entry
from tests.accounting.plans import BUDGET, Clock, plan


def ten_entries(path: Path) -> Path:
    """Write a ledger of ten entries: opened, four rounds settled, a note."""
    with Ledger.open(path, budget=BUDGET, clock=Clock()) as ledger:
        for _ in range(4):
            entry = ledger.reserve(plan(mu2=0.01))
            ledger.settle(entry, participants=50, survivors=40, bytes_up=1)
        ledger.note("done")
    return path


def edit(path: Path, *statements: str | tuple[str, tuple[object, ...]]) -> None:
    """Change a ledger as somebody with the file in hands would; a statement may come with its values."""
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER IF EXISTS entries_no_update")
    connection.execute("DROP TRIGGER IF EXISTS entries_no_delete")
    for statement in statements:
        connection.execute(*((statement,) if isinstance(statement, str) else statement))
    for trigger in database_module._TRIGGERS.values():
        connection.execute(trigger)
    connection.commit()
    connection.close()


def forge(path: Path, number: int, change: Callable[[Entry], Entry]) -> None:
    """Rewrite one entry and every digest after it: what a hash chain alone cannot show."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT seq, entry FROM entries ORDER BY seq").fetchall()
    connection.close()
    previous, statements = "0" * 64, []
    for seq, text in rows:
        fields = json.loads(text)
        entry = Entry(fields["seq"], fields["kind"], fields["time"], previous, fields["body"])
        entry = change(entry) if seq == number else entry
        values = (entry.kind, entry.text, entry.digest, seq)
        statements.append(("UPDATE entries SET kind = ?, entry = ?, digest = ? WHERE seq = ?", values))
        previous = entry.digest
    edit(path, *statements)


def body(**changes: object) -> Callable[[Entry], Entry]:
    return lambda entry: Entry(entry.seq, entry.kind, entry.time, entry.previous, {**entry.body, **changes})
