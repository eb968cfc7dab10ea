"""Entries of the ledger and the hash chain that ties each to the one before.

An entry is stored as the canonical JSON of {seq, kind, time, previous, body}; its digest is the SHA-256 of that text
and is what the next entry names as `previous`. The first entry names 64 zeros and binds the format, a random ledger
number, the budget and its caps, so that two ledgers never share a chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from privfed_accounting.canonical import canonical_json, digest, parse
from privfed_accounting.errors import CorruptLedger

KINDS: Final = ("open", "reserve", "settle", "void", "note", "checkpoint", "migrate")
GENESIS: Final = "0" * 64
_KEYS: Final = {"seq", "kind", "time", "previous", "body"}
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Row(NamedTuple):
    """One row as it is stored: number, kind, the entry's text as bytes, and the digest claimed for it."""

    seq: int
    kind: str
    text: bytes
    digest: str


@dataclass(frozen=True)
class Entry:
    """One entry of the chain.

    Attributes:
        seq: number, 1 for the first.
        kind: open | reserve | settle | void | note | checkpoint | migrate.
        time: UTC, as "2025-01-31T12:00:00.000000Z".
        previous: digest of the entry before, 64 zeros for the first.
        body: what the kind records.
    """

    seq: int
    kind: str
    time: str
    previous: str
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """Canonical JSON of the entry: what is stored and hashed."""
        return canonical_json(
            {"seq": self.seq, "kind": self.kind, "time": self.time, "previous": self.previous, "body": self.body}
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return digest(self.text)


def read_chain(rows: Iterable[Row], *, after: str = GENESIS, last_seq: int = 0) -> Iterator[Entry]:
    """Read stored rows in order, checking each against the one before.

    Args:
        rows: from the one after `last_seq` on.
        after: digest of the entry numbered `last_seq`.
        last_seq: number of the last entry already read; 0 for none.

    Raises:
        CorruptLedger: names the first entry that is not as it was written, and what about it is wrong.
    """
    for row in rows:
        last_seq += 1
        if row.seq != last_seq:
            raise CorruptLedger(f"entry {last_seq} is missing, next comes {row.seq}: restore a backup", entry=last_seq)
        yield _read_row(row, after)
        after = row.digest


def _read_row(row: Row, after: str) -> Entry:
    seq = row.seq
    try:
        text = row.text.decode("utf-8")
        intact = digest(text) == row.digest
    except UnicodeDecodeError:
        text, intact = "", False
    if not intact:
        raise CorruptLedger(f"entry {seq} was edited, its content has another digest: restore a backup", entry=seq)
    entry = parse_entry(seq, text)
    if entry.seq != seq or entry.kind != row.kind:
        raise CorruptLedger(
            f"entry {seq} is stored as {row.kind} number {seq} and calls itself {entry.kind} number {entry.seq!r}, "
            "so entries were reordered: restore a backup",
            entry=seq,
        )
    if entry.previous != after:
        raise CorruptLedger(
            f"entry {seq} names another predecessor than entry {seq - 1}, so entries were edited, reordered, removed "
            "or taken from another ledger: restore a backup",
            entry=seq,
        )
    return entry


def parse_entry(seq: int, text: str) -> Entry:
    """Read an entry's text; digest and place in the chain are the caller's to check."""
    try:
        fields = parse(text)
    except ValueError as error:
        raise CorruptLedger(f"entry {seq} is not JSON ({error}): restore a backup", entry=seq) from error
    if not isinstance(fields, dict) or set(fields) != _KEYS or not isinstance(fields["body"], dict):
        raise CorruptLedger(f"entry {seq} lacks the fields of an entry: restore a backup", entry=seq)
    entry = Entry(fields["seq"], fields["kind"], fields["time"], fields["previous"], fields["body"])
    if entry.kind not in KINDS or isinstance(entry.seq, bool):
        raise CorruptLedger(
            f"entry {seq} has kind {entry.kind!r}, expected one of {KINDS}: restore a backup", entry=seq
        )
    if not isinstance(entry.time, str) or _TIME.fullmatch(entry.time) is None:
        raise CorruptLedger(f"entry {seq} has time {entry.time!r}, which is not UTC: restore a backup", entry=seq)
    if entry.text != text:
        raise CorruptLedger(f"entry {seq} is not in canonical form: restore a backup", entry=seq)
    return entry
