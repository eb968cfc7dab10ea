"""The report's data: everything an auditor asks of a ledger, as a dictionary that is JSON by construction.

Schema in accounting/report.schema.json. JSON has no infinity: an epsilon is always the pair {"epsilon": number or null,
"infinite": true or false}, null exactly when it is infinite. The data depend on the ledger alone (no clock, no host).
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from privfed_accounting.canonical import canonical_json, parse
from privfed_accounting.charge import Total
from privfed_accounting.gaussian import gaussian_epsilon
from privfed_accounting.journal import read_ledger
from privfed_accounting.ledger import Ledger
from privfed_accounting.marks import ledger_marks, round_marks
from privfed_accounting.records import Book, RoundRecord, charge_to_dict, seen_view
from privfed_accounting.report_terms import (
    DROP_OUTS,
    NOT_PROTECTED,
    SAMPLING,
    UNITS,
    at_delta,
    error_terms,
    meaning,
)
from privfed_accounting.round_charge import round_event
from privfed_accounting.tight import tight_bounds
from privfed_accounting.verdict import epsilon_value
from privfed_accounting.verification import chosen_views, verify
from privfed_accounting.views import View

__all__ = ["FORMAT", "VERSION", "computed_data", "epsilon_value", "report_data"]

FORMAT: Final = "privfed-report"
VERSION: Final = 1

# Deltas beside the budget's own, relative to it: a delta is a choice, and a curve says more than a point.
_OTHER_DELTAS: Final = (1.0, 1e-1, 1e-3)


def report_data(
    ledger: Ledger | str | Path,
    *,
    views: Iterable[str | View] | None = None,
    empirical: Mapping[str, Any] | None = None,
    peer: bool = False,
) -> dict[str, Any]:
    """Everything a report shows, recomputed from the ledger and verified.

    Args:
        ledger: an open Ledger, its file or its URL.
        views: adversaries to report on; None takes released, server, client, colluders and unmasked.
        empirical: what an audit found, as its `as_dict()` gives it: shown as a lower bound beside the claim.
        peer: also ask dp-accounting for its epsilons (extra `verify`).

    Returns:
        JSON-able dictionary after accounting/report.schema.json; the same ledger gives the same data.

    Raises:
        LedgerError: the ledger cannot be read, or its chain is broken (CorruptLedger names the entry).
        ParameterError: `empirical` is no JSON, or dp-accounting was asked for and is not installed.
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
    computed = computed_data(book, wanted)
    return {
        "format": FORMAT,
        "version": VERSION,
        "ledger": _ledger(book, path),
        **computed,
        "notes": [dataclasses.asdict(note) for note in book.notes],
        "empirical": None if empirical is None else parse(canonical_json(dict(empirical))),
        "meaning": meaning(book, empirical=empirical is not None),
        "not_protected": [{"what": what, "why": why} for what, why in NOT_PROTECTED],
        "verification": verify(ledger, views=wanted, peer=peer).as_dict(),
        "command": "privfed verify LEDGER" if path is None else f"privfed verify {shlex.quote(path)}",
    }


def computed_data(book: Book, views: tuple[View, ...]) -> dict[str, Any]:
    """The sections that follow from budget and rounds alone, and that a report's check computes again."""
    return {
        "setting": _setting(book),
        "marks": [
            dataclasses.asdict(mark) | {"entries": list(mark.entries), "severity": mark.severity, "text": mark.text}
            for mark in ledger_marks(book)
        ],
        "views": [_view(book, view) for view in views],
        "spending": _spending(book),
        "releases": _releases(book, views),
        "error_terms": error_terms(book),
    }


def _ledger(book: Book, path: str | None) -> dict[str, Any]:
    return {
        "identifier": book.identifier,
        "path": path,
        "created": book.created,
        "last_entry": book.last_time,
        "entries": book.length,
        "head": book.head,
        "schema": book.schema,
    }


def _setting(book: Book) -> dict[str, Any]:
    return _budget_setting(book) | {
        "mechanisms": _distinct(book, "mechanism"),
        "protections": _distinct(book, "protection"),
        "drop_outs": [{"policy": name, "means": DROP_OUTS[name]} for name in _distinct(book, "drop_outs")],
        "sampling": [{"kind": name, "means": SAMPLING[name]} for name in _sampling_kinds(book)],
    }


def _distinct(book: Book, name: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(record.plan, name)) for record in book.rounds.values()))


def _sampling_kinds(book: Book) -> list[str]:
    return list(dict.fromkeys(record.plan.sampling.kind for record in book.rounds.values()))


def _budget_setting(book: Book) -> dict[str, Any]:
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
        "unit_means": UNITS[budget.unit],
        "relation": budget.relation,
        "budget": {
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "slack_reserve": budget.slack_reserve,
            "accounting": budget.accounting,
        },
        "guarded_view": str(budget.view),
    }


def _view(book: Book, view: View) -> dict[str, Any]:
    guaranteed, realised = book.seen(view), book.seen(view, realised=True)
    deltas = [] if book.budget is None else [book.budget.delta * factor for factor in _OTHER_DELTAS]
    return {
        "view": str(view),
        "description": view.description,
        "guarded": book.budget is not None and view == book.view,
        "mu_guaranteed": guaranteed.mu if guaranteed.private else None,
        "mu_realised": realised.mu if realised.private else None,
        "guaranteed": at_delta(book, guaranteed),
        "realised": at_delta(book, realised),
        "charged": at_delta(book, book.total(view)),
        "tight": None if book.budget is None else _tight(book, view, book.budget.delta),
        "at_deltas": [
            {
                "delta": delta,
                "guaranteed": epsilon_value(guaranteed.epsilon(delta)),
                "realised": epsilon_value(realised.epsilon(delta)),
                "tight": _tight(book, view, delta),
                "gdp": _gdp(guaranteed, delta),
            }
            for delta in deltas
        ],
    }


def _tight(book: Book, view: View, delta: float) -> dict[str, Any] | None:
    bounds = tight_bounds(book.rounds.values(), view, delta)
    return None if bounds is None else {"lower": epsilon_value(bounds.lower), "upper": epsilon_value(bounds.upper)}


def _gdp(total: Total, delta: float) -> dict[str, Any] | None:
    """Epsilon of the Gaussian mechanism with the total's mu, no error terms; None where a round is no Gaussian."""
    if total.rdp:
        return None
    return epsilon_value(gaussian_epsilon(delta, total.mu) if total.private and total.mu <= 1e4 else math.inf)


def _spending(book: Book) -> dict[str, Any]:
    statuses = [record.status for record in book.rounds.values()]
    caps, total = book.allowance, book.guarded
    return {
        "guaranteed": at_delta(book, total),
        "mu2": total.mu2 if total.private else None,
        "mu2_budget": None if caps is None else caps.mu2,
        "fraction": _fraction(book),
        "rounds": len(statuses),
        "settled": statuses.count("settled"),
        "reserved": statuses.count("reserved"),
        "void": statuses.count("void"),
        "bytes_up": sum(record.bytes_up or 0 for record in book.rounds.values()),
    }


def _fraction(book: Book) -> float | None:
    """Part of the budget that is spent; above 1 it is overspent. In mu^2 where every round is a Gaussian."""
    if book.budget is None or book.allowance is None:
        return None
    total = book.guarded
    if total.rdp or not total.private:
        epsilon = total.epsilon(book.budget.delta)
        return epsilon / book.budget.epsilon if math.isfinite(epsilon) else None
    return total.mu2 / book.allowance.mu2_cap


def _releases(book: Book, views: tuple[View, ...]) -> list[dict[str, Any]]:
    totals = {(view, realised): Total() for view in views for realised in (False, True)}
    alone = lru_cache(maxsize=None)(lambda charge: at_delta(book, Total.of([charge])))
    releases = []
    for number, record in enumerate(book.rounds.values(), 1):
        epsilons = []
        for view in views:
            entry: dict[str, Any] = {"view": str(view)}
            for name, realised in (("guaranteed", False), ("realised", True)):
                charge = record.charge(seen_view(record.plan, view), realised=realised)
                if record.status != "void":
                    totals[view, realised] = totals[view, realised] + charge
                entry[name] = dict(alone(charge))
                entry[f"cumulative_{name}"] = at_delta(book, totals[view, realised])
            epsilons.append(entry)
        releases.append(_release(number, record, epsilons, book.view))
    return releases


def _release(number: int, record: RoundRecord, epsilons: list[dict[str, Any]], view: View) -> dict[str, Any]:
    plan = record.plan
    event = round_event(plan, view)
    return {
        "round": number,
        "entry": record.entry,
        "time": record.time,
        "closed_time": record.closed_time,
        "status": record.status,
        "reason": record.reason,
        "private": plan.private,
        "marks": list(round_marks(record)),
        **dataclasses.asdict(plan),
        "noise_multiplier": plan.noise_multiplier,
        "participants": record.participants,
        "survivors": record.survivors,
        "bytes_up": record.bytes_up,
        "facts": dict(record.facts),
        "charge": charge_to_dict(record.reserved_charge),
        "zcdp": None if event is None else {"rho": event.rho, "xi": event.xi},
        "epsilons": epsilons,
    }
