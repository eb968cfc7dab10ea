"""What changed between two ledgers, or two reports: how far they are one, rounds, epsilon per view, budget."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privfed_accounting.journal import read_ledger
from privfed_accounting.ledger import Ledger
from privfed_accounting.records import Book, RoundRecord
from privfed_accounting.verdict import epsilon_value
from privfed_accounting.verification import chosen_views, is_report
from privfed_accounting.views import View


@dataclass(frozen=True)
class RoundChange:
    """One round that both sides have under the same number of entry, and what differs: field -> (before, after)."""

    entry: int
    fields: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class EpsilonChange:
    """Guaranteed epsilon in one view, before and after; infinite where not private, None without a budget."""

    view: str
    delta: float | None
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Difference:
    """How the second of two ledgers differs from the first.

    Attributes:
        before, after: path or URL, None in memory.
        same_ledger: both carry one ledger's random number.
        common_entries: entries they share from the start; None where a side is a report, which has no chain.
        extends: the second is the first with entries added: nothing was dropped or rewritten. None if unknown.
        budget: in words, before and after.
        added, missing: entries of rounds that only the second, or only the first has.
        changed: rounds that both have, and what about them differs.
        epsilons: guaranteed epsilon in each view, each side at its own budget's delta.
    """

    before: str | None
    after: str | None
    same_ledger: bool
    common_entries: int | None
    extends: bool | None
    budget: tuple[str | None, str | None]
    added: tuple[int, ...]
    missing: tuple[int, ...]
    changed: tuple[RoundChange, ...]
    epsilons: tuple[EpsilonChange, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        one = self.budget[0] == self.budget[1] and all(each.before == each.after for each in self.epsilons)
        return self.same_ledger and one and not (self.added or self.missing or self.changed)

    @property
    def continues(self) -> bool:
        """Whether the second may be the first gone on: one ledger, nothing missing, open rounds closed at most."""
        if self.extends is not None:
            return self.extends and self.same_ledger
        closed = all(change.fields.get("status", ("", ""))[0] == "reserved" for change in self.changed)
        return self.same_ledger and closed and not self.missing and self.budget[0] == self.budget[1]

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON; an epsilon as {"epsilon", "infinite"}, null where there is none."""
        data = dataclasses.asdict(self) | {"same": self.same, "continues": self.continues}
        for each in data["epsilons"]:
            for side in ("before", "after"):
                each[side] = None if each[side] is None else epsilon_value(each[side])
        return data


def difference(before: Ledger | str | Path, after: Ledger | str | Path) -> Difference:
    """Compare two ledgers (open, files or URLs) or report.json files, or one of each.

    Raises:
        LedgerError: a side cannot be read, or its chain is broken.
    """
    (left, left_at), (right, right_at) = _read(before), _read(after)
    common = _common(left, right)
    shared = left.rounds.keys() & right.rounds.keys() if left.identifier == right.identifier else set()
    changes = (_changed(left.rounds[entry], right.rounds[entry]) for entry in sorted(shared))
    views = tuple(dict.fromkeys((*chosen_views(left), *chosen_views(right), left.view, right.view)))
    return Difference(
        before=left_at,
        after=right_at,
        same_ledger=left.identifier == right.identifier,
        common_entries=common,
        extends=None if common is None else common == left.length,
        budget=(_words(left), _words(right)),
        added=tuple(sorted(right.rounds.keys() - shared)),
        missing=tuple(sorted(left.rounds.keys() - shared)),
        changed=tuple(change for change in changes if change.fields),
        epsilons=tuple(_epsilons(left, right, view) for view in views),
    )


def _read(side: Ledger | str | Path) -> tuple[Book, str | None]:
    if isinstance(side, Ledger):
        side.refresh()
        return side._book, side.location
    if is_report(side):
        from privfed_accounting.report_check import book_of, read_report

        return book_of(read_report(side)), str(side)
    database, book = read_ledger(side)
    database.close()
    return book, database.location


def _common(left: Book, right: Book) -> int | None:
    """Entries with the same digests from the start; a chain is pinned by any one digest, so that it cannot rejoin."""
    if not (left.digests and right.digests):
        return None
    pairs = zip(left.digests, right.digests, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(left.length, right.length))


def _changed(left: RoundRecord, right: RoundRecord) -> RoundChange:
    one, other = _fields(left), _fields(right)
    names = [name for name in one if one[name] != other[name]]
    return RoundChange(left.entry, {name: (one[name], other[name]) for name in names})


def _fields(record: RoundRecord) -> dict[str, Any]:
    own = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    plan = dataclasses.asdict(own.pop("plan"))
    return {**plan, **own, "reserved_charge": record.reserved_charge.as_dict() if record.plan.private else None}


def _words(book: Book) -> str | None:
    return None if book.budget is None else str(book.budget)


def _epsilons(left: Book, right: Book, view: View) -> EpsilonChange:
    deltas = [book.budget.delta for book in (right, left) if book.budget is not None]
    values = [None if book.budget is None else book.seen(view).epsilon(book.budget.delta) for book in (left, right)]
    return EpsilonChange(str(view), deltas[0] if deltas else None, values[0], values[1])
