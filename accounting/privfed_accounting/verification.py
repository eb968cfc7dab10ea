"""Checks a ledger from its file alone: the chain, every charge, every epsilon by a second route, the caps."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privfed_accounting.budget import Budget
from privfed_accounting.chain import Entry, read_chain
from privfed_accounting.errors import CorruptLedger, ParameterError
from privfed_accounting.filters import exceeded
from privfed_accounting.fine_grid import TAIL_EXPONENT
from privfed_accounting.ledger import Ledger
from privfed_accounting.marks import ledger_marks
from privfed_accounting.rdp import ORDERS
from privfed_accounting.records import Book, RoundRecord, seen_view
from privfed_accounting.second_route_plans import PlanCost, joint_epsilon, plan_cost
from privfed_accounting.signing import Head, HeadSignature, public_key_text
from privfed_accounting.storage import Storage, file_of, open_storage
from privfed_accounting.verdict import AGREEMENT, Recomputed, SignedHead, Verification
from privfed_accounting.views import View, standard_views

__all__ = ["Findings", "Verification", "check_book", "chosen_views", "is_report", "peer_of", "verify"]

_DIGEST = re.compile("[0-9a-f]{64}")
_PEER_AGREEMENT = 1e-6  # of dp-accounting's exact Gaussian, whose root is found to about this
_NUMBERS = ("mu2", "epsilon_slack", "delta_tail", "sampler_distance")


@dataclass
class Findings:
    """What a check found so far; `views` at its end."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    views: tuple[Recomputed, ...] = ()


def verify(
    ledger: str | Path | Ledger,
    *,
    expected_head: str | None = None,
    anchors: Iterable[str | Head | HeadSignature] = (),
    keys: Mapping[str, Any] | Iterable[Any] | None = None,
    views: Iterable[str | View] | None = None,
    peer: bool = False,
    timeout: float = 10.0,
) -> Verification:
    """Check a ledger, or a report, and recompute every charge and every epsilon by a second, independent route.

    Args:
        ledger: file or URL of a ledger, an open Ledger, or a report.json (schema and numbers, without the ledger).
        expected_head: digest of an entry known from elsewhere, such as a published head; a problem if it is not there.
        anchors: more such: digests, heads as they are printed ("ledger:entry:digest"), Heads, or signed heads that were
            kept elsewhere. Each must be in the chain, a signature genuine.
        keys: Ed25519 public keys that are known to be the right ones, by name or not (key objects, bytes or hex).
            Then some entry must be signed by one of them, and signatures by others are warned of.
        views: views to recompute epsilon in; all standard ones if None.
        peer: ask dp-accounting for its epsilons, too (extra `verify`).
        timeout: seconds to wait for another process's lock.

    Returns:
        The verdict; a damaged chain is reported there, up to the first entry that is not as it was written.

    Raises:
        LedgerError: the ledger cannot be read at all, or is none.
        ParameterError: a key or an anchor is malformed; dp-accounting was asked for and is not installed.
    """
    if not isinstance(ledger, Ledger) and is_report(ledger):
        from privfed_accounting.report_check import verify_report

        if keys is not None:
            raise ParameterError("a report carries no signatures to hold keys against: verify the ledger itself")
        return verify_report(Path(ledger), anchors=_anchors(expected_head, anchors), peer=peer)
    wanted, known = _anchors(expected_head, anchors), _known_keys(keys)
    findings, book = Findings(), Book()
    if isinstance(ledger, Ledger):
        database, own = ledger._database, False
    else:
        database, own = open_storage(ledger, read_only=True, timeout=timeout), True
    _walk(database, book, findings, own=own)
    _check_anchors(book, wanted, findings)
    signatures = _check_signatures(book, known, findings)
    _check_numbers(book, views, findings)
    asked = _ask_peer(book, findings) if peer else None
    trusted = [each.signs for each in signatures if each.genuine and (known is None or each.signer is not None)]
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
        views=findings.views,
        rounds=len(counts),
        settled=counts.count("settled"),
        void=counts.count("void"),
        reserved=counts.count("reserved"),
        signatures=signatures,
        signed_through=max(trusted, default=0),
        anchors=tuple(map(str, wanted)),
        peer=asked,
    )


def check_book(book: Book, views: Iterable[str | View] | None = None) -> Findings:
    """Check charges, epsilons and caps of rounds whose chain is no matter here, as of a report's."""
    findings = Findings()
    _check_numbers(book, views, findings)
    return findings


def _check_numbers(book: Book, views: Iterable[str | View] | None, findings: Findings) -> None:
    _check_caps(book, findings)
    _check_rounds(book, findings)
    findings.views = _recompute(book, findings, views)


def peer_of(book: Book) -> dict[str, Any] | None:
    """dp-accounting's epsilon in the guarded view beside ours; None without a budget."""
    from privfed_accounting.export import compare

    if book.budget is None:
        return None
    return dataclasses.asdict(compare(book.read()))  # type: ignore[arg-type]  # rounds are all that compare reads


def _ask_peer(book: Book, findings: Findings) -> dict[str, Any] | None:
    """Ask, and hold ours against theirs where both are exact."""
    numbers = peer_of(book)
    if numbers is None or numbers["theirs_exact"] is None:
        return numbers
    ours, theirs = numbers["ours_bare"], numbers["theirs_exact"]
    if not (ours == theirs or abs(ours - theirs) <= _PEER_AGREEMENT * max(1.0, theirs)):
        findings.problems.append(f"dp-accounting finds epsilon {theirs!r} for the Gaussian rounds, ours is {ours!r}")
    return numbers


def is_report(path: str | Path) -> bool:
    """Whether a file is JSON by its first character, as a report is and a ledger never."""
    file = file_of(path)
    try:
        with open(file or "", "rb") as stream:
            return stream.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False  # for whoever opens it as a ledger to complain about


def chosen_views(book: Book) -> tuple[View, ...]:
    """The five kinds of view, colluders as many as the budget guards against or a fifth of the fewest survivors."""
    guarded = book.view
    fewest = min((record.plan.guaranteed_shares for record in book.rounds.values()), default=1)
    return standard_views(guarded.t if guarded.kind == "colluders" else fewest // 5)


def _walk(database: Storage, book: Book, findings: Findings, *, own: bool) -> None:
    """Read the whole chain into the book; stop at the first entry that is not as it was written."""
    try:
        if own:
            database.prepare()
        with database.transaction() as connection:
            missing = database.missing_guards(connection)
            for entry in read_chain(database.rows(connection, first=1)):
                _apply(book, entry, findings)
        if missing:
            findings.problems.append(
                f"the guards {', '.join(missing)} against changing entries were removed or switched off"
            )
        if book.length and database.version > book.schema:
            findings.problems.append(
                f"the ledger calls itself schema version {database.version}, its entries are of {book.schema}"
            )
        if not book.length:
            findings.problems.append("entry 1, which opens the ledger, is missing")
    except CorruptLedger as error:
        findings.problems.append(str(error))
    finally:
        if own:
            database.close()


def _anchors(expected: str | None, more: Iterable[str | Head | HeadSignature]) -> list[str | Head | HeadSignature]:
    """Heads to look for, read where they are text of three parts; a bare digest stays one."""
    if isinstance(more, str | Head | HeadSignature):
        more = (more,)
    given = [*([] if expected is None else [expected]), *more]
    return [_anchor(each) if isinstance(each, str) else each for each in given]


def _anchor(text: str) -> str | Head:
    """A head as it was printed, or the digest alone; a slip of the pen is no sign of a forgery."""
    if ":" in text:
        return Head.parse(text)
    if _DIGEST.fullmatch(text) is None:
        raise ParameterError(f"{text!r} is no head, expected ledger:entry:digest or 64 hexadecimal digits")
    return text


def _check_anchors(book: Book, anchors: list[str | Head | HeadSignature], findings: Findings) -> None:
    for anchor in anchors:
        head = anchor.head if isinstance(anchor, HeadSignature) else anchor
        if isinstance(anchor, HeadSignature) and not anchor.valid:
            findings.problems.append(
                f"the signature of {anchor.public_key} under {head}, kept elsewhere, is not genuine"
            )
        if isinstance(head, str):
            found = head in book.digests
        else:
            found = head.ledger == book.identifier and book.holds(head.seq, head.digest)
        if not found:
            what = f"the digest {head}" if isinstance(head, str) else f"the head {head}"
            findings.problems.append(f"no entry has {what}: entries known from elsewhere were removed or rewritten")


def _known_keys(keys: Mapping[str, Any] | Iterable[Any] | None) -> dict[str, str] | None:
    """Names by public key, in hexadecimal digits."""
    if keys is None:
        return None
    if isinstance(keys, Mapping):
        return {public_key_text(key): str(name) for name, key in keys.items()}
    return {text: text for text in map(public_key_text, keys)}


def _check_signatures(book: Book, known: dict[str, str] | None, findings: Findings) -> tuple[SignedHead, ...]:
    found = tuple(
        SignedHead(
            entry=each.entry,
            signs=each.signature.head.seq,
            role=each.signature.role,
            public_key=each.signature.public_key,
            signer=None if known is None else known.get(each.signature.public_key),
            genuine=each.signature.valid,
        )
        for each in book.checkpoints
    )
    for signed in found:
        if not signed.genuine:
            findings.problems.append(f"entry {signed.entry} holds a signature that is not that of {signed.public_key}")
        elif known is not None and signed.signer is None:
            findings.warnings.append(f"entry {signed.entry} is signed by {signed.public_key}, none of the keys given")
    if known is not None:
        last = max((signed.signs for signed in found if signed.genuine and signed.signer is not None), default=0)
        _check_coverage(book, last, findings)
    return found


def _check_coverage(book: Book, last: int, findings: Findings) -> None:
    if not last:
        findings.problems.append("no entry is signed by any of the keys given: ask for the ledger that they signed")
        return
    later = [record.entry for record in book.rounds.values() if record.entry > last]
    if later:
        findings.warnings.append(
            f"entries after {last} are signed by none of the keys given, among them {len(later)} rounds from {later[0]}"
        )


def _apply(book: Book, entry: Entry, findings: Findings) -> None:
    """Take one entry, and hold the filter to its promise at every reservation."""
    book.apply(entry)
    caps = book.allowance
    if book.budget is None or caps is None or entry.kind != "reserve":
        return
    excesses = exceeded(book.guarded, book.budget, caps)
    if excesses:
        what = "; ".join(map(str, excesses))
        findings.problems.append(f"entry {entry.seq} was accepted although it passes the budget ({what})")


def _check_caps(book: Book, findings: Findings) -> None:
    """The caps in the first entry must be those of the budget, and the total must keep to them."""
    budget, caps = book.budget, book.allowance
    if budget is None or caps is None:
        return
    expected = budget.allowance()
    for name in ("mu2", "mu2_cap", "epsilon_slack", "delta_leak"):
        stored, again = getattr(caps, name), getattr(expected, name)
        if not abs(stored - again) <= AGREEMENT * again:
            findings.problems.append(f"entry 1 caps {name} at {stored!r}, the budget affords {again!r}")
    total = book.guarded
    excesses = exceeded(total, budget, caps)
    if excesses:
        findings.problems.append(
            f"the budget of {budget} is overspent ({excesses[0]}): epsilon is {total.epsilon(budget.delta):.6g} at its "
            "delta"
        )


def _check_rounds(book: Book, findings: Findings) -> None:
    for record in book.rounds.values():
        _check_charge(record, book.view, findings)
    findings.warnings.extend(str(mark) for mark in ledger_marks(book))


def _check_charge(record: RoundRecord, view: View, findings: Findings) -> None:
    """The stored charge against the second route's; to be below it is what must not happen."""
    again = round_cost(record, view, None)
    stored = record.reserved_charge
    if again is None or not stored.private:
        if (again is None) == stored.private:
            findings.problems.append(f"entry {record.entry} charges {stored}, the second route says otherwise: {again}")
        return
    if stored.cohort != again.cohort or len(stored.rdp) != len(again.rdp):
        findings.problems.append(
            f"entry {record.entry} charges cohort {stored.cohort!r} and {len(stored.rdp)} divergences, the second "
            f"route finds {again.cohort!r} and {len(again.rdp)}"
        )
        return
    pairs = {name: (getattr(stored, name), getattr(again, name)) for name in _NUMBERS}
    orders = zip(ORDERS, stored.rdp, again.rdp, strict=False)
    pairs |= {f"the divergence of order {order}": (first, second) for order, first, second in orders}
    for name, (first, second) in pairs.items():
        # Terms below 1e-290 are floors against underflow, and no two routes agree on dust.
        if not (second * (1.0 - AGREEMENT) <= first <= second * (1.0 + AGREEMENT) + 1e-290):
            findings.problems.append(
                f"entry {record.entry} charges {name} {first!r}, the second route finds {second!r}"
            )


def round_cost(record: RoundRecord, view: View, survivors: int | None) -> PlanCost | None:
    """Cost of a round by the second route, at what the plan guarantees if survivors is None; None if it is infinite."""
    return plan_cost(record.plan.as_dict(), str(view), survivors, exponent=TAIL_EXPONENT, orders=ORDERS)


def _recompute(book: Book, findings: Findings, views: Iterable[str | View] | None) -> tuple[Recomputed, ...]:
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
    first = [book.seen(view, realised=realised).epsilon(budget.delta) for realised in (False, True)]
    again = [_second_epsilon(book, budget, view, realised=realised) for realised in (False, True)]
    return Recomputed(str(view), first[0], again[0], first[1], again[1])


def _second_epsilon(book: Book, budget: Budget, view: View, *, realised: bool) -> float:
    costs = []
    for record in book.charged():
        survivors = record.survivors if realised or record.broke_guarantee else None
        cost = round_cost(record, seen_view(record.plan, view), survivors)
        if cost is None:
            return math.inf
        costs.append(cost)
    return joint_epsilon(costs, budget.delta, orders=ORDERS)
