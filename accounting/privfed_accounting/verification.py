"""Checks a ledger from its file alone: the chain, every charge, every epsilon by a second route, the caps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from privfed_accounting import second_route
from privfed_accounting.budget import Budget, leak
from privfed_accounting.chain import Entry, read_chain
from privfed_accounting.errors import CorruptLedger
from privfed_accounting.fine_grid import TAIL_EXPONENT
from privfed_accounting.ledger import Ledger
from privfed_accounting.marks import ledger_marks
from privfed_accounting.records import Book, RoundRecord
from privfed_accounting.storage import Storage, open_storage
from privfed_accounting.views import View, standard_views

CANNOT_SHOW: Final = (
    "that no entries are missing at the end, or that the whole file was not written anew: compare the head with one "
    "published or signed elsewhere at the time",
    "that every release went through this ledger",
    "that sensitivities, noise and survivors were as recorded: the rounds' code and digests are for that",
    "that times are true: they are the coordinator's clock",
)

# The two routes must agree to this: the first rounds up by 1e-12, quadrature is good to 1e-11.
_AGREEMENT: Final = 1e-9


@dataclass(frozen=True)
class Recomputed:
    """Epsilon in one view by the first and the second route, guaranteed and realised; infinite where not private."""

    view: str
    guaranteed: float
    guaranteed_again: float
    realised: float
    realised_again: float

    @property
    def agrees(self) -> bool:
        """Whether both routes give the same up to 1e-9, and the first is not below the second by more."""
        pairs = ((self.guaranteed, self.guaranteed_again), (self.realised, self.realised_again))
        return all(first == again or abs(first - again) <= _AGREEMENT * max(1.0, again) for first, again in pairs)


@dataclass(frozen=True)
class Verification:
    """Verdict on a ledger.

    Attributes:
        ok: no problem was found.
        path: the file; None for memory.
        problems: what does not hold, each naming its entry; empty if ok.
        warnings: what holds but deserves a look: seeded noise, trusted mode, rounds without noise, open reservations.
        entries: number of entries that were read and fit the chain.
        head: digest of the last of them.
        identifier: the ledger's random number.
        budget: in words, None without one.
        delta: at which the epsilons are; None without a budget.
        views: epsilon in every view by both routes; empty without a budget or where the chain is broken.
        rounds, settled, void, reserved: counts of rounds, in all and by status.
        cannot_show: what a hash chain by itself cannot show.
    """

    ok: bool
    path: str | None
    problems: list[str]
    warnings: list[str]
    entries: int
    head: str
    identifier: str
    budget: str | None
    delta: float | None
    views: tuple[Recomputed, ...]
    rounds: int
    settled: int
    void: int
    reserved: int
    cannot_show: tuple[str, ...] = CANNOT_SHOW


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def verify(
    ledger: str | Path | Ledger,
    *,
    expected_head: str | None = None,
    views: Iterable[str | View] | None = None,
    timeout: float = 10.0,
) -> Verification:
    """Check a ledger and recompute every charge and every epsilon by a second, independent route.

    Args:
        ledger: the file, or an open Ledger.
        expected_head: digest of an entry known from elsewhere, such as a published head; a problem if it is not there.
        views: views to recompute epsilon in; all standard ones if None.
        timeout: seconds to wait for another process's lock.

    Returns:
        The verdict; a damaged chain is reported there, up to the first entry that is not as it was written.

    Raises:
        LedgerError: the file cannot be read at all, or is no ledger.
    """
    findings, book = _Findings(), Book()
    if isinstance(ledger, Ledger):
        database, own = ledger._database, False
    else:
        database, own = open_storage(ledger, read_only=True, timeout=timeout), True
    seen = _walk(database, book, findings, own=own)
    if expected_head is not None and expected_head not in seen:
        findings.problems.append(
            f"no entry has the digest {expected_head}: entries known from elsewhere were removed or rewritten"
        )
    _check_caps(book, findings)
    _check_rounds(book, findings)
    recomputed = _recompute(book, findings, views)
    counts = [record.status for record in book.rounds.values()]
    return Verification(
        ok=not findings.problems,
        path=database.location,
        problems=findings.problems,
        warnings=findings.warnings,
        entries=book.length,
        head=book.head,
        identifier=book.identifier,
        budget=None if book.budget is None else str(book.budget),
        delta=None if book.budget is None else book.budget.delta,
        views=recomputed,
        rounds=len(counts),
        settled=counts.count("settled"),
        void=counts.count("void"),
        reserved=counts.count("reserved"),
    )


def chosen_views(book: Book) -> tuple[View, ...]:
    """The five kinds of view, colluders as many as the budget guards against or a fifth of the fewest survivors."""
    guarded = book.view
    fewest = min((record.plan.guaranteed_shares for record in book.rounds.values()), default=1)
    return standard_views(guarded.t if guarded.kind == "colluders" else fewest // 5)


def _walk(database: Storage, book: Book, findings: _Findings, *, own: bool) -> set[str]:
    """Read the whole chain into the book; stop at the first entry that is not as it was written."""
    seen: set[str] = set()
    try:
        if own:
            database.prepare()
        with database.transaction() as connection:
            missing = database.missing_guards(connection)
            for entry in read_chain(database.rows(connection, first=1)):
                _apply(book, entry, findings)
                seen.add(entry.digest)
        if missing:
            findings.problems.append(
                f"the guards {', '.join(missing)} against changing entries were removed or switched off"
            )
        if not book.length:
            findings.problems.append("entry 1, which opens the ledger, is missing")
    except CorruptLedger as error:
        findings.problems.append(str(error))
    finally:
        if own:
            database.close()
    return seen


def _apply(book: Book, entry: Entry, findings: _Findings) -> None:
    """Take one entry, and hold the filter to its promise at every reservation."""
    book.apply(entry)
    caps = book.allowance
    if caps is None or entry.kind != "reserve":
        return
    if book.guarded.mu2 > caps.mu2_cap or book.guarded.epsilon_slack > caps.epsilon_slack:
        findings.problems.append(f"entry {entry.seq} was accepted although it passes the budget")


def _check_caps(book: Book, findings: _Findings) -> None:
    """The caps in the first entry must be those of the budget, and the total must keep to them."""
    budget, caps = book.budget, book.allowance
    if budget is None or caps is None:
        return
    expected = budget.allowance()
    for name in ("mu2", "mu2_cap", "epsilon_slack", "delta_leak"):
        stored, again = getattr(caps, name), getattr(expected, name)
        if not abs(stored - again) <= _AGREEMENT * again:
            findings.problems.append(f"entry 1 caps {name} at {stored!r}, the budget affords {again!r}")
    total = book.guarded
    over = total.mu2 > caps.mu2_cap or total.epsilon_slack > caps.epsilon_slack
    if over or leak(total, budget.epsilon) > caps.delta_leak:
        findings.problems.append(
            f"the budget of {budget} is overspent: epsilon is {total.epsilon(budget.delta):.6g} at its delta"
        )


def _check_rounds(book: Book, findings: _Findings) -> None:
    for record in book.rounds.values():
        _check_charge(record, book.view, findings)
    findings.warnings.extend(str(mark) for mark in ledger_marks(book))


def _check_charge(record: RoundRecord, view: View, findings: _Findings) -> None:
    """The stored charge against the second route's; to be below it is what must not happen."""
    again = round_cost(record, view, record.plan.guaranteed_shares)
    stored = record.reserved_charge
    if again is None or not stored.private:
        if (again is None) == stored.private:
            findings.problems.append(f"entry {record.entry} charges {stored}, the second route says otherwise: {again}")
        return
    for name, second in dataclasses.asdict(again).items():
        first = getattr(stored, name)
        # Terms below 1e-290 are floors against underflow, and no two routes agree on dust.
        if not (second * (1.0 - _AGREEMENT) <= first <= second * (1.0 + _AGREEMENT) + 1e-290):
            findings.problems.append(
                f"entry {record.entry} charges {name} {first!r}, the second route finds {second!r}"
            )


def round_cost(record: RoundRecord, view: View, survivors: int) -> second_route.Cost | None:
    """Cost of a round by the second route; None if it is infinite."""
    plan, shares = record.plan, view.noise_shares(survivors)
    if not plan.private or shares == 0:
        return None
    return second_route.round_cost(
        l2_sensitivity=plan.l2_sensitivity,
        dimension=plan.dimension,
        share_sigma=plan.share_sigma,
        shares=shares,
        sampler_distance=plan.sampler_distance,
        exponent=TAIL_EXPONENT,
    )


def _recompute(book: Book, findings: _Findings, views: Iterable[str | View] | None) -> tuple[Recomputed, ...]:
    if book.budget is None:
        return ()
    wanted = chosen_views(book) if views is None else tuple(View.parse(view) for view in views)
    wanted = tuple(dict.fromkeys((*wanted, book.view)))
    results = tuple(_recompute_view(book, book.budget, view) for view in wanted)
    for result in results:
        if not result.agrees:
            findings.problems.append(
                f"in view {result.view} the two routes differ: {result.guaranteed!r} and {result.guaranteed_again!r} "
                f"guaranteed, {result.realised!r} and {result.realised_again!r} realised"
            )
    return results


def _recompute_view(book: Book, budget: Budget, view: View) -> Recomputed:
    first = [book.total(view, realised=realised).epsilon(budget.delta) for realised in (False, True)]
    again = [_second_epsilon(book, budget, view, realised=realised) for realised in (False, True)]
    return Recomputed(str(view), first[0], again[0], first[1], again[1])


def _second_epsilon(book: Book, budget: Budget, view: View, *, realised: bool) -> float:
    costs = []
    for record in book.charged():
        fewest = record.plan.guaranteed_shares
        survivors = fewest if record.survivors is None else record.survivors
        cost = round_cost(record, view, survivors if realised else min(survivors, fewest))
        if cost is None:
            return math.inf
        costs.append(cost)
    return second_route.total_epsilon(costs, budget.delta)
