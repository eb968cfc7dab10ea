"""The ledger's state, replayed from its entries: rounds with what they cost, notes, the total in the guarded view."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from privfed_accounting.budget import Allowance, Budget
from privfed_accounting.canonical import Fact
from privfed_accounting.chain import GENESIS, Entry
from privfed_accounting.charge import Charge, Total
from privfed_accounting.errors import AccountingError, CorruptLedger
from privfed_accounting.round_plan import RoundPlan
from privfed_accounting.signing import HeadSignature
from privfed_accounting.views import View

FORMAT = "privfed-ledger"

Status = Literal["reserved", "settled", "void"]


def seen_view(plan: RoundPlan, view: View) -> View:
    """The view whose cost tells what `view` really saw of a round.

    In trusted mode the budget is charged as if masks were on, so that experiments cost what the real thing will. But
    the operator, and whoever colludes with it, saw every client's vector: that is the view `unmasked`.
    """
    return View("unmasked") if plan.protection == "trusted" and view.kind in ("server", "colluders") else view


@dataclass(frozen=True)
class RoundRecord:
    """One round of the ledger.

    Attributes:
        entry: number of the entry that reserved it.
        time: when it was reserved, UTC.
        plan: what was reserved.
        reserved_charge: what the budget was charged, as it stands in the entry.
        status: reserved (charged, outcome unknown) | settled (the sum was opened) | void (nothing was revealed).
        participants, survivors, bytes_up: as settled; None before. bytes_up counts all clients together.
        facts: public quantities recorded when it was settled.
        closed_time, reason: when it was settled or voided, and why it was voided.
    """

    entry: int
    time: str
    plan: RoundPlan
    reserved_charge: Charge
    status: Status = "reserved"
    participants: int | None = None
    survivors: int | None = None
    bytes_up: int | None = None
    facts: dict[str, Fact] = field(default_factory=dict)
    closed_time: str | None = None
    reason: str | None = None

    def charge(self, view: str | View, *, realised: bool = False) -> Charge:
        """Cost in a view: guaranteed (what the budget is charged) or with the survivors there really were.

        A round that is not settled costs what was guaranteed; a void one costs nothing. The guaranteed cost of a round
        that broke its guarantee is its true cost.
        """
        if self.status == "void":
            return Charge(mu2=0.0)
        if self.survivors is None or (not realised and self.survivors >= self.plan.guaranteed_shares):
            return self.plan.charge(view)
        return self.plan.charge(view, survivors=self.survivors)

    @property
    def broke_guarantee(self) -> bool:
        """Whether the sum was opened with fewer noise shares than the plan guaranteed."""
        return self.survivors is not None and self.survivors < self.plan.guaranteed_shares


@dataclass(frozen=True)
class NoteRecord:
    """A public remark: entry number, UTC time, text and facts."""

    entry: int
    time: str
    text: str
    facts: dict[str, Fact]


@dataclass(frozen=True)
class CheckpointRecord:
    """A signature under an earlier entry of the chain: entry number, UTC time, and the signed head."""

    entry: int
    time: str
    signature: HeadSignature


class Book:
    """State of a ledger after its entries so far; `apply` takes the next one."""

    def __init__(self) -> None:
        self.budget: Budget | None = None
        self.allowance: Allowance | None = None
        self.identifier = ""
        self.created = ""
        self.last_time = ""
        self.software = ""
        self.schema = 1
        self.digests: list[str] = []
        self.head = GENESIS
        self.length = 0
        self.rounds: dict[int, RoundRecord] = {}
        self.notes: list[NoteRecord] = []
        self.checkpoints: list[CheckpointRecord] = []
        self.guarded = Total()
        self._open: dict[int, None] = {}  # reserved, not yet closed
        self._settled: list[int] = []  # entries in the order of their settlement: from then on their cost stands
        self._totals: dict[tuple[View, bool], tuple[int, Total]] = {}

    @classmethod
    def of(cls, budget: Budget | None, records: Iterable[RoundRecord], notes: Iterable[NoteRecord]) -> Book:
        """A book of rounds whose chain is elsewhere, as a report tells of them."""
        book = cls()
        book.budget, book.allowance = budget, None if budget is None else budget.allowance()
        book.rounds = {record.entry: record for record in records}
        book._open = dict.fromkeys(book.rounds)  # none is settled for good: totals are added up when asked for
        for entry, record in book.rounds.items():
            if record.status == "void":
                del book._open[entry]
        book.notes = list(notes)
        book._recount()
        return book

    @property
    def view(self) -> View:
        """View that the budget guards; the server's where there is no budget."""
        return View("server") if self.budget is None else self.budget.view

    def apply(self, entry: Entry) -> None:
        """Take one entry that the chain has accepted.

        Raises:
            CorruptLedger: its content contradicts the entries before it.
        """
        if (entry.kind == "open") != (self.length == 0):
            raise CorruptLedger(
                f"entry {entry.seq} is of kind {entry.kind!r}, 'open' comes first and only once: restore a backup",
                entry=entry.seq,
            )
        try:
            getattr(self, f"_apply_{entry.kind}")(entry)
        except (AccountingError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, CorruptLedger):
                raise
            raise CorruptLedger(
                f"entry {entry.seq} ({entry.kind}) makes no sense ({error}): restore a backup", entry=entry.seq
            ) from error
        self.head, self.length, self.last_time = entry.digest, entry.seq, entry.time
        self.digests.append(entry.digest)

    def total(self, view: View | None = None, *, realised: bool = False) -> Total:
        """Sum of the charges in a view."""
        if not realised and view in (None, self.view):
            return self.guarded
        view = self.view if view is None else view
        # What is settled is added once; what is still open may change and is added anew each time.
        counted, total = self._totals.get((view, realised), (0, Total()))
        for entry in self._settled[counted:]:
            total = total + self.rounds[entry].charge(view, realised=realised)
        self._totals[view, realised] = len(self._settled), total
        for entry in self._open:
            total = total + self.rounds[entry].charge(view, realised=realised)
        return total

    def seen(self, view: View, *, realised: bool = False) -> Total:
        """Sum of what the rounds told a view: `total`, but for trusted rounds, whose every vector the operator saw."""
        if not any(record.plan.protection == "trusted" for record in self.rounds.values()):
            return self.total(view, realised=realised)
        return Total.of(record.charge(seen_view(record.plan, view), realised=realised) for record in self.charged())

    def read(self) -> ReadRounds:
        """The rounds so far, without the ledger around them."""
        return ReadRounds(self.budget, self.view, tuple(self.rounds.values()))

    def charged(self) -> list[RoundRecord]:
        """Rounds that count: all but the void ones."""
        return [record for record in self.rounds.values() if record.status != "void"]

    def _apply_open(self, entry: Entry) -> None:
        body = entry.body
        if body["format"] != FORMAT:
            raise CorruptLedger(
                f"entry 1 is of format {body['format']!r}, expected {FORMAT!r}: check the path", entry=entry.seq
            )
        if body["budget"] is not None:
            budget = Budget.from_dict(body["budget"])
            stored = Allowance(**body["allowance"])
            # Enforced are the caps as they stand in the chain; `verify` recomputes them.
            self.budget, self.allowance = budget, stored
        self.identifier, self.software, self.created = body["ledger"], body["software"], entry.time
        self.schema = body.get("schema", 1)

    def _apply_reserve(self, entry: Entry) -> None:
        plan = RoundPlan.from_dict(entry.body["plan"])
        charge = charge_from_dict(entry.body["charge"])
        if not charge.agrees(plan.charge(self.view)):
            raise CorruptLedger(
                f"entry {entry.seq} charges {charge} for a round that costs {plan.charge(self.view)}: restore a backup",
                entry=entry.seq,
            )
        self.rounds[entry.seq] = RoundRecord(entry.seq, entry.time, plan, charge)
        self._open[entry.seq] = None
        self.guarded = self.guarded + charge

    def _apply_settle(self, entry: Entry) -> None:
        body = entry.body
        record = self._reserved(entry)
        for name in ("participants", "survivors", "bytes_up"):
            if type(body[name]) is not int or body[name] < 0:
                raise ValueError(f"{name} is {body[name]!r}")
        settled = dataclasses.replace(
            record,
            status="settled",
            participants=body["participants"],
            survivors=body["survivors"],
            bytes_up=body["bytes_up"],
            facts=dict(body["facts"]),
            closed_time=entry.time,
        )
        self.rounds[record.entry] = settled
        self._settled.append(record.entry)
        del self._open[record.entry]
        if settled.broke_guarantee:
            self._recount()

    def _apply_void(self, entry: Entry) -> None:
        record = self._reserved(entry)
        self.rounds[record.entry] = dataclasses.replace(
            record, status="void", closed_time=entry.time, reason=str(entry.body["reason"])
        )
        del self._open[record.entry]
        self._recount()

    def _apply_note(self, entry: Entry) -> None:
        self.notes.append(NoteRecord(entry.seq, entry.time, str(entry.body["text"]), dict(entry.body["facts"])))

    def _apply_checkpoint(self, entry: Entry) -> None:
        """Take a signature; that it is over this chain is checked here, that it is genuine by who has the keys."""
        signature = HeadSignature.from_dict(entry.body)
        head = signature.head
        if head.ledger != self.identifier or not self.holds(head.seq, head.digest):
            raise CorruptLedger(
                f"entry {entry.seq} is a signature under {head}, which is not in this chain: the signed entries were "
                "rewritten, restore a backup",
                entry=entry.seq,
            )
        self.checkpoints.append(CheckpointRecord(entry.seq, entry.time, signature))

    def _apply_migrate(self, entry: Entry) -> None:
        if entry.body["from"] != self.schema or type(entry.body["to"]) is not int or entry.body["to"] <= self.schema:
            raise ValueError(f"a migration from schema {entry.body['from']!r}, it is {self.schema} so far")
        self.schema = entry.body["to"]

    def holds(self, seq: int, digest: str) -> bool:
        """Whether entry `seq` is in the chain so far and has this digest."""
        return 1 <= seq <= len(self.digests) and self.digests[seq - 1] == digest

    def _reserved(self, entry: Entry) -> RoundRecord:
        record = self.rounds.get(entry.body["entry"])
        if record is None or record.status != "reserved":
            raise CorruptLedger(
                f"entry {entry.seq} ({entry.kind}) closes entry {entry.body['entry']}, which is no open reservation: "
                "restore a backup",
                entry=entry.seq,
            )
        return record

    def _recount(self) -> None:
        self.guarded = Total.of(
            record.charge(self.view) if record.broke_guarantee else record.reserved_charge for record in self.charged()
        )


@dataclass(frozen=True)
class ReadRounds:
    """A ledger's rounds as they were read, for whoever needs no database: dp-accounting's door, a report's check.

    Attributes:
        budget: None without one.
        guarded_view: view the budget guards.
        records: all rounds, void ones included.
    """

    budget: Budget | None
    guarded_view: View
    records: tuple[RoundRecord, ...]

    def rounds(self) -> list[RoundRecord]:
        """All rounds in order, as `Ledger.rounds` gives them."""
        return list(self.records)


def charge_to_dict(charge: Charge) -> dict[str, Any] | None:
    """Charge as it stands in an entry; None (JSON null) for an infinite one."""
    return charge.as_dict() if charge.private else None


def charge_from_dict(fields: dict[str, Any] | None) -> Charge:
    """Read back what `charge_to_dict` gave."""
    return Charge.non_private() if fields is None else Charge.from_dict(fields)
