"""A report.json checked by itself: its schema, and every number in it computed again from the rounds it tells of.

Two ways, as for a ledger: the accountant's own, number by number, and the second route for every charge and epsilon.
That the rounds are those of a ledger, and all of them, only the ledger can show.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from privfed_accounting.budget import Budget
from privfed_accounting.canonical import parse
from privfed_accounting.errors import AccountingError, LedgerUnreadable, LedgerVersionError, NotALedger
from privfed_accounting.json_schema import violations
from privfed_accounting.records import Book, NoteRecord, RoundRecord, charge_from_dict
from privfed_accounting.reporting import FORMAT, VERSION, computed_data
from privfed_accounting.round_plan import RoundPlan
from privfed_accounting.signing import Head, HeadSignature
from privfed_accounting.verdict import AGREEMENT, REPORT_CANNOT_SHOW, Verification
from privfed_accounting.verification import check_book, peer_of
from privfed_accounting.views import View

_PLAN_FIELDS: Final = {field.name for field in dataclasses.fields(RoundPlan)}
# Of the verdict in a report: what follows from its rounds. The chain and the signatures it tells of do not.
_VERDICT: Final = ("identifier", "entries", "head", "budget", "delta", "rounds", "settled", "void", "reserved", "views")


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report and check it against the schema's form, as far as a reader needs it.

    Raises:
        LedgerUnreadable: the file cannot be read.
        NotALedger: it is no report.
        LedgerVersionError: it is a report of a newer version.
    """
    try:
        data = parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LedgerUnreadable(f"report {path} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise NotALedger(f"{path} is no report ({error}), expected the JSON that privfed writes: check it") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise NotALedger(f"{path} is JSON and no report of privfed: give what privfed report --json wrote")
    if data.get("version") != VERSION:
        raise LedgerVersionError(
            f"report {path} has version {data.get('version')!r}, this software knows {VERSION}: use a newer privfed"
        )
    return data


def verify_report(path: Path, *, anchors: list[str | Head | HeadSignature], peer: bool = False) -> Verification:
    """Check a report without its ledger; see `verify`."""
    data, problems = read_report(path), []
    problems += [f"the report does not fit its schema: {each}" for each in violations(data, schema())]
    if problems:
        return _verdict(path, Book(), problems, [])
    try:
        book = book_of(data)
    except (AccountingError, KeyError, TypeError, ValueError) as error:
        return _verdict(path, Book(), [f"the report's rounds make no sense ({error})"], [])
    views = tuple(View.parse(view["view"]) for view in data["views"])
    again = computed_data(book, views)
    for section in again:
        problems += differences(data[section], again[section], f"/{section}")
    checked = check_book(book, views)
    problems += checked.problems
    verdict = _verdict(path, book, problems, checked.warnings)
    verdict = dataclasses.replace(verdict, views=checked.views, peer=peer_of(book) if peer else None)
    stated, computed = data["verification"], verdict.as_dict()
    for name in _VERDICT:
        verdict.problems.extend(differences(stated[name], computed[name], f"/verification/{name}"))
    if not stated["ok"]:
        verdict.problems.append("the report itself says that its ledger does not verify")
    for anchor in anchors:
        _check_anchor(anchor, data["ledger"], verdict.problems)
    return dataclasses.replace(verdict, ok=not verdict.problems, anchors=tuple(map(str, anchors)))


def book_of(data: Mapping[str, Any]) -> Book:
    """The rounds of a report as a book, budget and notes included; raises on what makes no sense."""
    setting = data["setting"]
    budget = None
    if setting["budget"] is not None:
        fields = setting["budget"] | {"unit": setting["unit"], "view": setting["guarded_view"]}
        budget = Budget(**fields)
    notes = [NoteRecord(**note) for note in data["notes"]]
    book = Book.of(budget, (_record(release) for release in data["releases"]), notes)
    ledger = data["ledger"]
    book.identifier, book.created, book.last_time = ledger["identifier"], ledger["created"], ledger["last_entry"]
    book.length, book.head, book.schema = ledger["entries"], ledger["head"], ledger["schema"]
    return book


def differences(found: Any, again: Any, at: str) -> Iterator[str]:
    """Places where two JSON values differ, numbers up to the agreement of the two routes."""
    if isinstance(found, dict) and isinstance(again, dict):
        for name in sorted(found.keys() | again.keys()):
            if name not in found or name not in again:
                yield f"{at}/{name} is {'missing' if name not in found else 'nothing that follows from the rounds'}"
            else:
                yield from differences(found[name], again[name], f"{at}/{name}")
    elif isinstance(found, list) and isinstance(again, list) and len(found) == len(again):
        for number, (left, right) in enumerate(zip(found, again, strict=True)):
            yield from differences(left, right, f"{at}/{number}")
    elif not _equal(found, again):
        yield f"{at} is {_short(found)}, computed again it is {_short(again)}"


def schema() -> dict[str, Any]:
    """The published schema of reports, from the package or from beside it in the source tree."""
    here = Path(__file__).resolve().parent
    for place in (here / "report.schema.json", here.parent / "report.schema.json"):
        if place.is_file():
            found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            return found
    raise LedgerUnreadable("report.schema.json is not beside the package, expected it there: install privfed again")


def _record(release: Mapping[str, Any]) -> RoundRecord:
    names = ("entry", "time", "status", "participants", "survivors", "bytes_up", "closed_time", "reason")
    return RoundRecord(
        plan=RoundPlan.from_dict({name: value for name, value in release.items() if name in _PLAN_FIELDS}),
        reserved_charge=charge_from_dict(release["charge"]),
        facts=dict(release["facts"]),
        **{name: release[name] for name in names},
    )


def _verdict(path: Path, book: Book, problems: list[str], warnings: list[str]) -> Verification:
    counts = [record.status for record in book.rounds.values()]
    return Verification(
        ok=not problems,
        path=str(path),
        problems=problems,
        warnings=warnings,
        entries=book.length,
        head=book.head,
        identifier=book.identifier,
        budget=None if book.budget is None else str(book.budget),
        delta=None if book.budget is None else book.budget.delta,
        views=(),
        rounds=len(counts),
        settled=counts.count("settled"),
        void=counts.count("void"),
        reserved=counts.count("reserved"),
        cannot_show=REPORT_CANNOT_SHOW,
        source="report",
    )


def _check_anchor(anchor: str | Head | HeadSignature, ledger: Mapping[str, Any], problems: list[str]) -> None:
    """A report knows its own head alone; an earlier one is for the ledger to show."""
    head = anchor.head if isinstance(anchor, HeadSignature) else anchor
    if isinstance(anchor, HeadSignature) and not anchor.valid:
        problems.append(f"the signature of {anchor.public_key} under {head}, kept elsewhere, is not genuine")
    same = (
        head == ledger["head"]
        if isinstance(head, str)
        else (head.ledger, head.seq, head.digest) == (ledger["identifier"], ledger["entries"], ledger["head"])
    )
    if not same:
        problems.append(f"the report is of another head than {head}: an earlier one is looked for in the ledger itself")


def _equal(found: Any, again: Any) -> bool:
    numbers = isinstance(found, int | float) and isinstance(again, int | float)
    if numbers and not isinstance(found, bool) and not isinstance(again, bool):
        return found == again or math.isclose(found, again, rel_tol=AGREEMENT, abs_tol=1e-290)
    return type(found) is type(again) and bool(found == again)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
