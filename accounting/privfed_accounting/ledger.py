"""The ledger: a durable, append-only, hash-chained record of every round, and the filter that guards the budget.

The order is the guarantee: reserve (charged, committed to disk) - reveal - settle. A crash, a kill or a full disk
between any two steps leaves the charge standing, so that the ledger may say too much and never too little.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from privfed_accounting.admission import (
    check_budget_left,
    check_fit,
    check_settlement,
    check_signature,
    open_reservation,
)
from privfed_accounting.budget import Budget
from privfed_accounting.canonical import checked_facts
from privfed_accounting.chain import Entry
from privfed_accounting.charge import Charge, Total
from privfed_accounting.checks import check_count
from privfed_accounting.errors import (
    GuaranteeBroken,
    LedgerError,
    LedgerReadOnly,
    LedgerUnreadable,
    ParameterError,
)
from privfed_accounting.filters import spent_share
from privfed_accounting.journal import Clock, again_on_conflict, append, catch_up, read_new, utc_now
from privfed_accounting.opening import begin, check_budget, has_content, no_step, read_budgeted
from privfed_accounting.records import Book, CheckpointRecord, NoteRecord, RoundRecord, charge_to_dict
from privfed_accounting.round_plan import RoundPlan
from privfed_accounting.signing import Head, HeadSignature, Signer, sign_head
from privfed_accounting.storage import Storage, file_of, is_url, open_storage
from privfed_accounting.views import View


class Ledger:
    """One budget's ledger; make it with `Ledger.open`. Safe to share between threads and processes.

    Guarantees:
        A round is charged, and the charge is on disk, before `reserve` returns. A refused round leaves the ledger as it
        was. Charges are never edited or removed; a voided one is given back by a new entry. Any number of processes
        spending one budget at once never overspend it.
    """

    def __init__(
        self,
        database: Storage,
        book: Book,
        *,
        writable: bool,
        clock: Clock,
        on_step: Callable[[str], None],
        signer: Signer | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._database = database
        self._book = book
        self._writable = writable
        self._clock = clock
        self._step = on_step
        self._signer = signer
        self._reserved_here: set[int] = set()
        self._closed = False
        # A ledger that is dropped, or still open at exit, leaves one whole file behind.
        self._finalizer = weakref.finalize(self, database.close)

    @classmethod
    def open(
        cls,
        path: str | Path | None,
        *,
        budget: Budget | None,
        timeout: float = 10.0,
        signer: Signer | None = None,
        clock: Clock | None = None,
        on_step: Callable[[str], None] = no_step,
    ) -> Self:
        """Open a ledger, or make a new one.

        Args:
            path: file, made if missing (its directory must exist); or the SQLAlchemy URL of a PostgreSQL database
                (`postgresql://user@host/database`, password in ~/.pgpass or PGPASSWORD) that coordinators share, or
                `sqlite:///path`; None for a ledger in memory.
            budget: for a new ledger, what may be spent. For an existing one the same budget again, to go on spending
                out of it. None reads an existing ledger with a budget, and makes or continues one without any DP.
            timeout: seconds to wait for another process's lock, and for a server to answer.
            signer: Ed25519 private key; the ledger's head is then signed after every settlement (`checkpoint`).
            clock: gives the time of an entry, for tests; must be time-zone aware.
            on_step: called with a name between any two steps of a write, for tests.

        Raises:
            BudgetMismatch: the ledger has another budget.
            LedgerVersionError: it is of an older schema and to be written (migrate it), or of a newer one.
            CorruptLedger, NotALedger, LedgerReadOnly, LedgerUnreadable, LedgerUnreachable, LedgerBusy, LedgerFull:
                each says what to do.
        """
        file = file_of(path)
        if file is not None and not file.exists() and not file.parent.is_dir():
            raise LedgerUnreadable(f"directory {file.parent} of ledger {file} does not exist: create it first")
        clock = utc_now if clock is None else clock
        if budget is None and path is not None and (is_url(path) if file is None else has_content(file)):
            found = read_budgeted(path, timeout=timeout)
            if found is not None:
                return cls(*found, writable=False, clock=clock, on_step=on_step)
        database = open_storage(path, timeout=timeout)
        try:
            database.prepare()
            again_on_conflict(lambda: begin(database, budget, clock, on_step))
            book = Book()
            catch_up(database, book)
            check_budget(book, budget, database)
        except BaseException:
            database.close()
            raise
        return cls(database, book, writable=True, clock=clock, on_step=on_step, signer=signer)

    # --- what was spent -------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """File of the ledger; None in memory and on a server."""
        return self._database.path

    @property
    def location(self) -> str | None:
        """What to give to `open` or `verify` to find it again: path, or URL without password; None in memory."""
        return self._database.location

    @property
    def identifier(self) -> str:
        """The ledger's random number, 32 hexadecimal digits."""
        return self._book.identifier

    @property
    def budget(self) -> Budget | None:
        """Budget the ledger was made with; None where there is no DP."""
        return self._book.budget

    @property
    def guarded_view(self) -> View:
        """View the budget guards; the server's without a budget."""
        return self._book.view

    @property
    def head(self) -> str:
        """Digest of the last entry: publish it elsewhere, and nobody can drop entries before it unnoticed."""
        return self._book.head

    @property
    def point(self) -> Head:
        """The head as what is signed, noted elsewhere or sent to clients; `str(point)` fits on a line."""
        return Head(self._book.identifier, self._book.length, self._book.head)

    def rounds(self) -> list[RoundRecord]:
        """All rounds in order, void ones included."""
        return list(self._book.rounds.values())

    def notes(self) -> list[NoteRecord]:
        """All notes in order."""
        return list(self._book.notes)

    def checkpoints(self) -> list[CheckpointRecord]:
        """All signatures under heads of this ledger, in the order they were recorded."""
        return list(self._book.checkpoints)

    def texts(self, *, after: int = 0) -> list[str]:
        """Stored texts of the entries after number `after`: what a client needs for `check_extension`."""
        with self._lock, self._database.transaction() as connection:
            return [row.text.decode("utf-8") for row in self._database.rows(connection, first=after + 1)]

    def spent(self, view: str | View | None = None, *, realised: bool = False) -> Total:
        """Sum of all charges so far.

        Args:
            view: whose eyes; None for the view the budget guards (the server's without a budget).
            realised: False charges every round for the survivors its plan guarantees, as the budget is charged;
                True counts the noise of those who really survived in settled rounds.
        """
        return self._book.total(None if view is None else View.parse(view), realised=realised)

    def epsilon(self, view: str | View | None = None, *, realised: bool = False, delta: float | None = None) -> float:
        """Epsilon spent so far at delta (the budget's by default) in a view; infinity where a round was not private."""
        if delta is None:
            if self.budget is None:
                if not self.spent(view, realised=realised).private:
                    return math.inf
                raise ParameterError("a ledger without a budget has no delta of its own, expected one: give delta=")
            delta = self.budget.delta
        return self.spent(view, realised=realised).epsilon(delta)

    def total_mu2(self) -> float:
        """Sum of mu^2 that the budget affords in its view; infinity without a budget."""
        return math.inf if self._book.allowance is None else self._book.allowance.mu2

    def remaining_mu2(self) -> float:
        """Part of `total_mu2` not yet charged, >= 0; infinity without a budget."""
        return max(0.0, self.total_mu2() - self._book.guarded.mu2) if self.budget is not None else math.inf

    def remaining_share(self) -> float:
        """Part of the budget not yet charged, from 1 down to 0, as its filter counts (`spent_share`); 1 without one."""
        if self.budget is None:
            return 1.0
        return max(0.0, 1.0 - spent_share(self._book.guarded, self.budget, self._book.allowance))

    # --- writing --------------------------------------------------------------------------------------------------

    def reserve(self, plan: RoundPlan) -> int:
        """Charge a round before anything of it is revealed.

        Returns:
            Number of the entry, for `settle` or `void`.

        Raises:
            BudgetExhausted: the round would pass the budget in the guarded view; the ledger is as it was.
            ParameterError: unit, relation or mechanism do not fit the budget; the ledger is as it was.
            LedgerError: the file refused; nothing was charged.
        """
        check_fit(self._book, plan)
        charge = plan.charge(self._book.view)
        body = {"plan": plan.as_dict(), "view": str(self._book.view), "charge": charge_to_dict(charge)}
        entry = self._write("reserve", body, check=lambda: self._check_budget_left(charge))
        self._reserved_here.add(entry.seq)
        return entry.seq

    def settle(
        self,
        entry: int,
        *,
        participants: int,
        survivors: int,
        bytes_up: int,
        facts: Mapping[str, float | str] | None = None,
    ) -> None:
        """Record how a reserved round ended, after its sum was opened.

        Args:
            entry: what `reserve` returned.
            participants: clients that started, at most as many as planned.
            survivors: clients whose noise is in the sum.
            bytes_up: bytes sent by all clients together.
            facts: public quantities of the round, from released values only.

        Raises:
            GuaranteeBroken: there were fewer survivors than the plan guaranteed. The round's true cost is recorded and
                counts from now on; the budget may be overspent.
            LedgerError: the entry is no open reservation; nothing was written.
        """
        for name, value in (("participants", participants), ("survivors", survivors), ("bytes_up", bytes_up)):
            check_count(name, value, least=0)
        body = {
            "entry": entry,
            "participants": participants,
            "survivors": survivors,
            "bytes_up": bytes_up,
            "facts": checked_facts(facts),
        }
        self._write("settle", body, check=lambda: check_settlement(self._book, entry, participants, survivors))
        if self._signer is not None:
            self.checkpoint()
        record = self._book.rounds[entry]
        if record.broke_guarantee:
            raise GuaranteeBroken(
                f"the round of entry {entry} was opened with {survivors} noise shares, expected at least "
                f"{record.plan.guaranteed_shares}; its true cost is recorded: find out why it did not fail closed"
            )

    def void(self, entry: int, *, reason: str) -> None:
        """Give a charge back because nothing was revealed: appends an entry, removes none.

        The caller may do this only when no adversary of the views can have learned anything of the sum: with secure
        aggregation, when no client was asked to unmask (no Survivors message left the server); in trusted mode, when no
        client's vector reached the server. In doubt, leave the charge.

        Raises:
            LedgerError: the entry is no open reservation of this very Ledger object. After a crash nobody can say what
                was revealed, so that a reopened ledger keeps the charge.
        """
        if not isinstance(reason, str) or not reason:
            raise ParameterError(f"the reason is {reason!r}, expected words: say why nothing was revealed")
        self._write("void", {"entry": entry, "reason": reason}, check=lambda: self._check_void(entry))

    def note(self, text: str, facts: Mapping[str, float | str] | None = None) -> int:
        """Record a public remark about the run; returns the entry's number.

        Only what anybody may see: configuration, and quantities computed from released values.
        """
        if not isinstance(text, str) or not text:
            raise ParameterError(f"a note is {text!r}, expected text")
        return self._write("note", {"text": text, "facts": checked_facts(facts)}, check=lambda: None).seq

    def checkpoint(self) -> HeadSignature:
        """Sign the head with the signer that the ledger was opened with, and record the signature.

        Raises:
            ParameterError: it was opened without one.
        """
        if self._signer is None:
            raise ParameterError("this ledger was opened without a signer, expected one: open it with signer=")
        with self._lock:
            self.refresh()
            signature = sign_head(self.point, self._signer)
            self._write("checkpoint", signature.as_dict(), check=lambda: check_signature(self._book, signature))
        return signature

    def countersign(self, signature: HeadSignature) -> int:
        """Record a client's signature under an entry of this ledger; returns the number of the new entry.

        Raises:
            ParameterError: the signature is not genuine, or under an entry that is not in this ledger.
        """
        return self._write("checkpoint", signature.as_dict(), check=lambda: check_signature(self._book, signature)).seq

    def refresh(self) -> None:
        """Read entries that other processes have written since."""
        with self._lock:
            catch_up(self._database, self._book)

    def close(self) -> None:
        """Close the file; reading what was read so far still works, writing does not."""
        self._closed = True
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self.location or "memory"
        return f"<Ledger {where}: {self._book.length} entries, budget {self.budget or 'none (no DP)'}>"

    # --- steps ----------------------------------------------------------------------------------------------------

    def _write(self, kind: str, body: dict[str, Any], *, check: Callable[[], None]) -> Entry:
        if self._closed:
            raise LedgerError("this ledger was closed: open it again to write")
        if not self._writable:
            raise LedgerReadOnly(
                f"{self._database.name} was opened without its budget, for reading: open it with its budget"
            )
        with self._lock:
            self._step(f"{kind}:begin")
            entry = again_on_conflict(lambda: self._append(kind, body, check))
            self._step(f"{kind}:committed")
            self._book.apply(entry)
            return entry

    def _append(self, kind: str, body: dict[str, Any], check: Callable[[], None]) -> Entry:
        """One transaction: read what is new, check against it, append."""
        with self._database.transaction() as connection:
            self._step(f"{kind}:locked")
            read_new(self._database, connection, self._book)
            check()
            self._step(f"{kind}:checked")
            entry = append(connection, self._book, kind, body, self._clock)
            self._step(f"{kind}:inserted")
        return entry

    def _check_budget_left(self, charge: Charge) -> None:
        check_budget_left(self._book, charge)

    def _check_void(self, entry: int) -> None:
        open_reservation(self._book, entry)
        if entry not in self._reserved_here:
            raise LedgerError(
                f"entry {entry} was not reserved by this object, and what it revealed is unknown here: leave it charged"
            )
