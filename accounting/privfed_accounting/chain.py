"""Entries of the ledger and the hash chain that ties each to the one before.

An entry is stored as the canonical JSON of {seq, kind, time, previous, body}; its digest is the SHA-256 of that text and
is what the next entry names as `previous`. The first entry names 64 zeros and binds the format, a random ledger number,
the budget and its caps, so that two ledgers never share a chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from privfed_accounting.canonical import canonical_json, digest, parse
from privfed_accounting.errors import CorruptLedger

KINDS: Final = ("open", "reserve", "settle", "void", "note")
GENESIS: Final = "0" * 64
_KEYS: Final = {"seq", "kind", "time", "previous", "body"}
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@dataclass(frozen=True)
class Entry:
    """One entry of the chain.

    Attributes:
        seq: number, 1 for the first.
        kind: open | reserve | settle | void | note.
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


def read_entry(seq: int, text: str, stored_digest: str, *, after: str, expected_seq: int) -> Entry:
    """Check one stored row against the chain and read it.

    Args:
        seq: number the row is stored under.
        text: canonical JSON of the entry.
        stored_digest: digest the row claims.
        after: digest of the entry before.
        expected_seq: number this entry must have.

    Raises:
        CorruptLedger: names the entry and what about it is wrong.
    """
    if seq != expected_seq:
        raise CorruptLedger(f"entry {expected_seq} is missing: after entry {expected_seq - 1} comes {seq}", entry=expected_seq)
    if digest(text) != stored_digest:
        raise CorruptLedger(f"entry {seq} was edited: its content does not have the digest stored with it", entry=seq)
    try:
        fields = parse(text)
    except ValueError as error:
        raise CorruptLedger(f"entry {seq} is not JSON: {error}", entry=seq) from error
    if not isinstance(fields, dict) or set(fields) != _KEYS or not isinstance(fields["body"], dict):
        raise CorruptLedger(f"entry {seq} lacks the fields of an entry", entry=seq)
    entry = Entry(fields["seq"], fields["kind"], fields["time"], fields["previous"], fields["body"])
    _check_fields(entry, seq, text)
    if entry.previous != after:
        raise CorruptLedger(
            f"entry {seq} does not follow entry {seq - 1}: it names another predecessor, so entries were edited, "
            "reordered, removed or taken from another ledger",
            entry=seq,
        )
    return entry


def read_chain(rows: Iterable[tuple[int, str, str]], *, after: str = GENESIS, last_seq: int = 0) -> Iterator[Entry]:
    """Read stored rows (seq, text, digest) in order, checking each against the one before."""
    for seq, text, stored_digest in rows:
        entry = read_entry(seq, text, stored_digest, after=after, expected_seq=last_seq + 1)
        yield entry
        after, last_seq = stored_digest, seq


def _check_fields(entry: Entry, seq: int, text: str) -> None:
    if entry.seq != seq or isinstance(entry.seq, bool):
        raise CorruptLedger(f"entry {seq} calls itself number {entry.seq!r}: entries were reordered", entry=seq)
    if entry.kind not in KINDS:
        raise CorruptLedger(f"entry {seq} has kind {entry.kind!r}, expected one of {', '.join(KINDS)}", entry=seq)
    if not isinstance(entry.time, str) or _TIME.fullmatch(entry.time) is None:
        raise CorruptLedger(f"entry {seq} has time {entry.time!r}, expected UTC like 2025-01-31T12:00:00.000000Z", entry=seq)
    if entry.text != text:
        raise CorruptLedger(f"entry {seq} is not in canonical form", entry=seq)
