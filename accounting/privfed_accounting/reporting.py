"""The report's data: everything an auditor asks of a ledger, as a dictionary that is JSON by construction.

Schema in accounting/report.schema.json. JSON has no infinity: an epsilon is always the pair {"epsilon": number or null,
"infinite": true or false}, null exactly when it is infinite. The data depend on the ledger alone (no clock, no host).
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from privfed_accounting.budget import leak
from privfed_accounting.charge import Charge, Total
from privfed_accounting.fine_grid import TAIL_EXPONENT
from privfed_accounting.journal import read_ledger
from privfed_accounting.ledger import Ledger
from privfed_accounting.marks import ledger_marks, round_marks
from privfed_accounting.records import Book, RoundRecord, charge_to_dict
from privfed_accounting.verification import Verification, chosen_views, verify
from privfed_accounting.views import View

FORMAT: Final = "privfed-report"
VERSION: Final = 1

# Deltas beside the budget's own, relative to it: a delta is a choice, and a curve says more than a point.
_OTHER_DELTAS: Final = (1.0, 1e-1, 1e-3)

_UNITS: Final = {
    "record": "one row at one client, present or absent",
    "client": "one client's whole contribution, present or replaced by zero",
}
_NOT_PROTECTED: Final = (
    (
        "cohort sizes and participation",
        "who was invited, took part, dropped out and survived is known to the coordinator and to fellow clients",
    ),
    ("drop-out timing", "when a client answers or falls silent may depend on its data; the noise does not cover it"),
    (
        "configuration",
        "bounds, scales, numbers of components and other choices are public and must not come from the data",
    ),
    ("tuning runs", "every run on the same data counts; runs outside this ledger are not in its epsilons"),
    ("what a release teaches about everybody", "differential privacy hides one unit, not facts about the population"),
    ("side channels of clients", "time, memory and traffic of a client's own computation"),
)
_MEANING: Final = (
    "Guaranteed: charged before each round for the fewest survivors its plan allows; this is what the budget limits.",
    "Realised: with the survivors there were.",
    "The budget's epsilon holds even when rounds were chosen after seeing earlier answers.",
    "An epsilon spent so far holds for the rounds as they stand, had they been fixed in advance.",
    "Epsilons of different views are not added: each adversary has its own.",
    "That the generator behind noise and masks looks random is assumed, as in cryptography, and is no term of delta.",
)


def report_data(ledger: Ledger | str | Path, *, views: Iterable[str | View] | None = None) -> dict[str, Any]:
    """Everything a report shows, recomputed from the ledger and verified.

    Args:
        ledger: an open Ledger, or its file.
        views: adversaries to report on; None takes released, server, client, colluders and unmasked.

    Returns:
        JSON-able dictionary after accounting/report.schema.json; the same ledger gives the same data.

    Raises:
        LedgerError: the ledger cannot be read, or its chain is broken (CorruptLedger names the entry).
    """
    if isinstance(ledger, Ledger):
        ledger.refresh()
        book, path = ledger._book, ledger.location
    else:
        database, book = read_ledger(ledger)
        path = database.location
        database.close()
    wanted = chosen_views(book) if views is None else tuple(View.parse(view) for view in views)
    wanted = tuple(dict.fromkeys((*wanted, book.view)))
    return {
        "format": FORMAT,
        "version": VERSION,
        "ledger": _ledger(book, path),
        "setting": _setting(book),
        "marks": [
            dataclasses.asdict(mark) | {"severity": mark.severity, "text": mark.text} for mark in ledger_marks(book)
        ],
        "views": [_view(book, view) for view in wanted],
        "spending": _spending(book),
        "releases": _releases(book, wanted),
        "notes": [dataclasses.asdict(note) for note in book.notes],
        "error_terms": _error_terms(book),
        "meaning": list(_MEANING),
        "not_protected": [{"what": what, "why": why} for what, why in _NOT_PROTECTED],
        "verification": _verification(verify(ledger, views=wanted)),
        "command": "privfed verify LEDGER" if path is None else f"privfed verify {shlex.quote(path)}",
    }


def epsilon_value(epsilon: float) -> dict[str, float | bool | None]:
    """Encode an epsilon as JSON can: {"epsilon": number or null, "infinite": flag}."""
    infinite = math.isinf(epsilon)
    return {"epsilon": None if infinite else epsilon, "infinite": infinite}


def _ledger(book: Book, path: str | None) -> dict[str, Any]:
    return {
        "identifier": book.identifier,
        "path": path,
        "created": book.created,
        "last_entry": book.last_time,
        "entries": book.length,
        "head": book.head,
    }


def _setting(book: Book) -> dict[str, Any]:
    budget = book.budget
    if budget is None:
        return {
            "private": False,
            "unit": None,
            "unit_means": None,
            "relation": None,
            "budget": None,
            "guarded_view": None,
        }
    return {
        "private": True,
        "unit": budget.unit,
        "unit_means": _UNITS[budget.unit],
        "relation": budget.relation,
        "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
        "guarded_view": str(budget.view),
    }


def _view(book: Book, view: View) -> dict[str, Any]:
    guaranteed, realised = book.total(view), book.total(view, realised=True)
    deltas = [] if book.budget is None else [book.budget.delta * factor for factor in _OTHER_DELTAS]
    return {
        "view": str(view),
        "description": view.description,
        "guarded": book.budget is not None and view == book.view,
        "mu_guaranteed": guaranteed.mu if guaranteed.private else None,
        "mu_realised": realised.mu if realised.private else None,
        "guaranteed": _at_delta(book, guaranteed),
        "realised": _at_delta(book, realised),
        "at_deltas": [
            {
                "delta": delta,
                "guaranteed": epsilon_value(guaranteed.epsilon(delta)),
                "realised": epsilon_value(realised.epsilon(delta)),
            }
            for delta in deltas
        ],
    }


def _spending(book: Book) -> dict[str, Any]:
    statuses = [record.status for record in book.rounds.values()]
    caps, total = book.allowance, book.guarded
    return {
        "guaranteed": _at_delta(book, total),
        "mu2": total.mu2 if total.private else None,
        "mu2_budget": None if caps is None else caps.mu2,
        "fraction": None if caps is None else total.mu2 / caps.mu2_cap,
        "rounds": len(statuses),
        "settled": statuses.count("settled"),
        "reserved": statuses.count("reserved"),
        "void": statuses.count("void"),
        "bytes_up": sum(record.bytes_up or 0 for record in book.rounds.values()),
    }


def _releases(book: Book, views: tuple[View, ...]) -> list[dict[str, Any]]:
    totals = {(view, realised): Total() for view in views for realised in (False, True)}
    alone = lru_cache(maxsize=None)(lambda charge: _at_delta(book, Total.of([charge])))
    releases = []
    for number, record in enumerate(book.rounds.values(), 1):
        epsilons = []
        for view in views:
            entry: dict[str, Any] = {"view": str(view)}
            for name, realised in (("guaranteed", False), ("realised", True)):
                charge = record.charge(view, realised=realised)
                if record.status != "void":
                    totals[view, realised] = totals[view, realised] + charge
                entry[name] = dict(alone(charge))
                entry[f"cumulative_{name}"] = _at_delta(book, totals[view, realised])
            epsilons.append(entry)
        releases.append(_release(number, record, epsilons))
    return releases


def _release(number: int, record: RoundRecord, epsilons: list[dict[str, Any]]) -> dict[str, Any]:
    plan = record.plan
    return {
        "round": number,
        "entry": record.entry,
        "time": record.time,
        "closed_time": record.closed_time,
        "status": record.status,
        "reason": record.reason,
        "private": plan.private,
        "marks": list(round_marks(record)),
        **plan.as_dict(),
        "noise_multiplier": plan.noise_multiplier,
        "participants": record.participants,
        "survivors": record.survivors,
        "bytes_up": record.bytes_up,
        "facts": dict(record.facts),
        "charge": charge_to_dict(record.reserved_charge),
        "epsilons": epsilons,
    }


def _error_terms(book: Book) -> dict[str, Any]:
    """What the epsilon in the guarded view contains beside the Gaussian's own."""
    total, budget = book.guarded, book.budget
    bare = Total.of([Charge(mu2=total.mu2)]) if total.private else total
    return {
        "epsilon_slack": total.epsilon_slack if total.private else None,
        "delta_tail": total.delta_tail if total.private else None,
        "sampler_distance": total.sampler_distance if total.private else None,
        "delta_leak": None if budget is None or not total.private else leak(total, budget.epsilon),
        "without_them": _at_delta(book, bare),
        "with_them": _at_delta(book, total),
        "tail_exponent": TAIL_EXPONENT,
        "explanation": "The noise is a sum of discrete Gaussian shares, accounted as a rounded continuous Gaussian: "
        "probabilities differ by at most exp(epsilon_slack) outside an event of probability delta_tail; the sampler is "
        "within sampler_distance of the ideal one in total variation. All three are in every epsilon of this report.",
    }


def _verification(verdict: Verification) -> dict[str, Any]:
    return {
        "ok": verdict.ok,
        "problems": list(verdict.problems),
        "warnings": list(verdict.warnings),
        "entries": verdict.entries,
        "head": verdict.head,
        "views": [
            {
                "view": result.view,
                "guaranteed": epsilon_value(result.guaranteed),
                "guaranteed_again": epsilon_value(result.guaranteed_again),
                "realised": epsilon_value(result.realised),
                "realised_again": epsilon_value(result.realised_again),
            }
            for result in verdict.views
        ],
        "cannot_show": list(verdict.cannot_show),
    }


def _at_delta(book: Book, total: Total) -> dict[str, Any]:
    """Epsilon at the budget's delta; without a budget there is none, and a release costs infinity."""
    if book.budget is None:
        return epsilon_value(0.0 if total.private else math.inf)
    return epsilon_value(total.epsilon(book.budget.delta))
