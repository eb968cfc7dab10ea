"""From a ledger's report data to sections: setting, views, epsilon per round, every release, how to check it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from privfed.report.blocks import Cell, Column, Command, Facts, Notice, Points, Section, Table
from privfed.report.data import Audit, Bounds, Release, ReportData, SamplerNumbers, View, parse
from privfed.report.epsilons import per_round
from privfed.report.scales import format_bytes, format_epsilon, format_number
from privfed.report.verdict import Verdict, judge, notices
from privfed.report.views import described, view_name

__all__ = ["PrivacyReport", "privacy_report"]


@dataclass(frozen=True)
class PrivacyReport:
    """The parts of the page that come from the ledger; the caller's own sections stand before the fine print."""

    subtitle: str
    verdict: Verdict
    notices: tuple[Notice, ...]
    sections: tuple[Section, ...]
    fine_print: tuple[Section, ...]


def privacy_report(data: Mapping[str, Any]) -> PrivacyReport:
    """Return verdict, notices and sections for what `privfed_accounting.report_data` gave.

    Raises:
        UsageError: the data do not fit the schema.
    """
    report = parse(data)
    fine_print = [_releases(report), _error_terms(report), _not_protected(report), _verification(report)]
    if report.empirical is not None:
        fine_print.insert(1, _empirical(report.empirical))
    if report.notes:
        fine_print.insert(1, _notes(report))
    return PrivacyReport(
        subtitle=_subtitle(report),
        verdict=judge(report),
        notices=notices(report),
        sections=(_setting(report), _views(report), per_round(report)),
        fine_print=tuple(fine_print),
    )


def _subtitle(report: ReportData) -> str:
    name = "in memory" if report.ledger.path is None else PurePath(report.ledger.path).name
    times = dict.fromkeys((_moment(report.ledger.created), _moment(report.ledger.last_entry)))
    return f"Ledger {name}, {' to '.join(times)}"


def _setting(report: ReportData) -> Section:
    setting, ledger = report.setting, report.ledger
    budget = setting.budget
    items = [
        (
            "Budget",
            "none: nothing here is differentially private"
            if budget is None
            else f"epsilon {format_epsilon(budget.epsilon)} at delta {format_number(budget.delta)}",
        ),
    ]
    if budget is not None:
        items += [
            ("Unit", f"{setting.unit}: {setting.unit_means}"),
            ("Relation", f"{setting.relation} of one {setting.unit}"),
            ("Guarded view", f"{setting.guarded_view}: a release that would pass the budget there is refused"),
        ]
    items += [
        ("Protection", _distinct(report, "protection", PROTECTIONS)),
        ("Mechanism", _distinct(report, "mechanism", MECHANISMS)),
        *(("Drop-outs", f"{one.policy}: {one.means}") for one in setting.drop_outs),
        *(("Sampling", one.means) for one in setting.sampling),
        ("Noise from", _distinct(report, "noise_source", SOURCES)),
        ("Software", _distinct(report, "software", {})),
        ("Run", _distinct(report, "run", {})),
        ("Sent by all clients", format_bytes(report.spending.bytes_up)),
        ("Ledger", ledger.identifier),
    ]
    return Section("Setting", (Facts(tuple(items)),))


PROTECTIONS = {
    "secure_aggregation": "secure aggregation: the server sees sums only",
    "trusted": "trusted: the server sees every client's vector",
    "local": "local: no masks, each client's own noise protects it",
    "central": "central: the operator sees every client's data and adds the noise",
}
MECHANISMS = {
    "discrete_gaussian": "discrete Gaussian, one share at each client, accounted exactly as a Gaussian",
    "skellam": "Skellam on a coarse grid, one share at each client, accounted by Rényi divergences",
    "none": "none: sums without noise",
}
SOURCES = {"os": "the operating system's generator", "seeded": "a seed: whoever knows it can take the noise away"}


def _distinct(report: ReportData, name: str, words: Mapping[str, str]) -> str:
    values = dict.fromkeys(str(getattr(release, name)) for release in report.releases)
    return "; ".join(words.get(value, value) for value in values if value) or "nothing was released"


def _views(report: ReportData) -> Section:
    budget = report.setting.budget
    at = "" if budget is None else f" at delta {format_number(budget.delta)}"
    rows: list[list[Cell]] = [
        [
            view.view + (", guarded" if view.guarded else ""),
            described(view),
            view.guaranteed.value,
            view.realised.value,
            _bounds(view.tight),
        ]
        for view in report.views
    ]
    blocks: list[str | Table | Points] = [
        "Each adversary knows something different, so each has an epsilon of its own. The budget is enforced in the"
        " guarded view; the others follow from it.",
        Table(
            f"Epsilon of everything so far, in each view{at}",
            (
                "view",
                "who that is",
                Column("guaranteed", "epsilon"),
                Column("realised", "epsilon"),
                "tight",
            ),
            rows,
            note="Guaranteed: for the fewest survivors that each plan allowed; this is charged. Realised: with the"
            " noise of those who did survive. Tight: the guaranteed value from both sides, had the schedule been fixed"
            " in advance.",
        ),
    ]
    if any(view.at_deltas for view in report.views):
        blocks.append(_at_deltas(report.views))
    blocks += ["How to read the epsilons on this page:", Points(tuple(report.meaning))]
    return Section("Who sees what", tuple(blocks))


def _bounds(tight: Bounds | None) -> str:
    """Return an epsilon known from both sides as one number where four digits do not tell them apart."""
    if tight is None:
        return ""
    lower, upper = format_number(tight.lower.value), format_epsilon(tight.upper.value)
    near = math.isfinite(tight.upper.value) and tight.upper.value - tight.lower.value <= 1e-3 * tight.upper.value
    return upper if near or lower == upper else f"{lower} to {upper}"


def _at_deltas(views: list[View]) -> Table:
    rows: list[list[Cell]] = [
        [
            view_name(view.view),
            format_number(one.delta, digits=2),
            one.guaranteed.value,
            _bounds(one.tight),
            None if one.gdp is None else one.gdp.value,
            view.mu_guaranteed,
        ]
        for view in views
        for one in view.at_deltas
    ]
    return Table(
        "Guaranteed epsilon at several deltas",
        ("view", "delta", Column("guaranteed", "epsilon"), "tight", Column("GDP", "epsilon"), Column("mu", "number")),
        rows,
        note="A delta is a choice; the same noise gives every one of these. GDP: of one Gaussian mechanism with the"
        " total's mu, no error terms; without a value where a round is no plain Gaussian.",
    )


def _releases(report: ReportData) -> Section:
    if not report.releases:
        return Section("Every release", ("Nothing was released.",))
    guarded = report.guarded.view
    columns = {column.title if isinstance(column, Column) else column: column for column in RELEASE_COLUMNS}
    rows = [_release(release, guarded) for release in report.releases]
    note = (
        "Planned, guaranteed, survived: clients whose noise share was expected, needed at least, and there. Noise"
        " multiplier: standard deviation of the sum's noise at the guaranteed survivors over the sensitivity. Mu² is"
        f" what was charged, and epsilon so far what that comes to, in the view “{guarded}”."
    )
    if all(release.sampling.kind == "none" for release in report.releases):
        del columns["sample"]
    if {row["status"] for row in rows} == {"settled"}:
        del columns["status"]
        note += " All releases were settled."
    cells = [[row[title] for title in columns] for row in rows]
    return Section("Every release", (Table("Every release, in order", tuple(columns.values()), cells, note=note),))


RELEASE_COLUMNS: tuple[str | Column, ...] = (
    Column("round", "number"),
    "purpose",
    "status",
    "sample",
    Column("dimension", "number"),
    Column("noise multiplier", "number"),
    Column("planned", "number"),
    Column("guaranteed", "number"),
    Column("survived", "number"),
    Column("mu²", "number"),
    Column("epsilon so far", "epsilon"),
    "bytes up",
)


def _release(release: Release, guarded: str) -> dict[str, Cell]:
    return {
        "round": release.round,
        "purpose": release.purpose or release.query,
        "status": _status(release),
        "sample": _sample(release.sampling),
        "dimension": release.dimension,
        "noise multiplier": release.noise_multiplier if release.private else None,
        "planned": release.planned_shares,
        "guaranteed": release.guaranteed_shares,
        "survived": release.survivors,
        "mu²": None if release.charge is None else release.charge.mu2,
        "epsilon so far": release.epsilon(guarded).cumulative_guaranteed.value,
        "bytes up": None if release.bytes_up is None else format_bytes(release.bytes_up),
    }


def _sample(sampler: SamplerNumbers) -> str:
    if sampler.kind == "none":
        return "all"
    if sampler.kind == "poisson":
        return f"{format_number(sampler.rate)} of the {sampler.unit}s"
    turn = ", in turns" if sampler.kind == "round_robin" else ""
    return f"{sampler.size:,} of {sampler.population:,} {sampler.unit}s{turn}"


def _status(release: Release) -> str:
    marks = [mark.replace("_", " ") for mark in release.marks if mark not in ("void", "outcome_unknown")]
    status = {"settled": "settled", "reserved": "charged, outcome unknown", "void": "void"}[release.status]
    reason = f": {release.reason}" if release.reason else ""
    return ", ".join([status + reason, *marks])


def _notes(report: ReportData) -> Section:
    rows: list[list[Cell]] = [
        [note.entry, _moment(note.time), note.text, ", ".join(f"{name}: {_fact(v)}" for name, v in note.facts.items())]
        for note in report.notes
    ]
    table = Table("Public remarks in the ledger", (Column("entry", "number"), "time", "note", "facts"), rows)
    return Section("Notes", (table,))


def _fact(value: float | str | bool | None) -> str:
    return Column("").show(value)


def _error_terms(report: ReportData) -> Section:
    terms = report.error_terms
    with_them, without = terms.with_them.value, terms.without_them.value
    added: Cell = with_them - without if math.isfinite(with_them) and math.isfinite(without) else None
    if added == 0.0:
        added = "below 1e-15"
    rows: list[list[Cell]] = [
        ["epsilon_slack", terms.epsilon_slack, "the grid: rounded noise against continuous noise"],
        ["delta_tail", terms.delta_tail, "probability that noise lies beyond where the slack holds"],
        ["sampler_distance", terms.sampler_distance, "total variation distance of all drawn noise from the ideal"],
        ["part of delta", terms.delta_leak, "what tails and sampler take of delta, at the budget's epsilon"],
        ["added to epsilon", added, "epsilon with these terms less epsilon without them"],
    ]
    table = Table(
        f"Error terms in the view “{report.guarded.view}”, sums over all rounds",
        ("term", Column("value", "number"), "meaning"),
        rows,
    )
    each: list[list[Cell]] = [[one.name, one.counts_in, one.value, one.explanation] for one in terms.terms]
    kinds = Table("Where each approximation counts", ("term", "counts in", Column("value", "number"), "what"), each)
    return Section("Numerical error terms", (terms.explanation, table, kinds))


def _empirical(audit: Audit) -> Section:
    claim, found = audit.claimed, audit.lower_bound
    facts = Facts(
        (
            ("Claimed", f"epsilon {format_epsilon(claim.epsilon)} at delta {format_number(claim.delta)}"),
            ("In the view", f"{view_name(claim.view)}, unit {claim.unit}"),
            ("Found", f"epsilon at least {format_number(found.epsilon)}, confidence {_percent(found.confidence)}"),
            ("Method", found.method),
        )
    )
    about = (
        "The audit sent invented records and clients through the same code, under a budget of its own: it says that"
        " clip, noise and masks work there, not what this ledger's rounds released."
    )
    return Section("What an audit found", (facts, audit.caveat, about))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def _not_protected(report: ReportData) -> Section:
    points = Points(tuple(f"{one.what[:1].upper()}{one.what[1:]}: {one.why}." for one in report.not_protected))
    return Section("What is not protected", ("No epsilon on this page covers the following.", points))


def _verification(report: ReportData) -> Section:
    verdict = report.verification
    blocks: list[str | Command | Table | Facts | Points | Notice] = [
        "Run this on the ledger's file. It walks the chain of entries and computes every charge and every epsilon"
        " again by a second route; its exit status is 0 only if everything holds.",
        Command(report.command),
        Facts((("Digest of the last entry", verdict.head), ("Entries", f"{verdict.entries:,}"))),
    ]
    if verdict.views:
        blocks.append(_routes(report))
    blocks += ["What the chain alone cannot show:", Points(tuple(_sentence(text) for text in verdict.cannot_show))]
    return Section("How to verify", tuple(blocks))


def _routes(report: ReportData) -> Table:
    digits = 12
    rows: list[list[Cell]] = [
        [
            view_name(one.view),
            format_number(one.guaranteed.value, digits=digits),
            format_number(one.guaranteed_again.value, digits=digits),
            format_number(one.realised.value, digits=digits),
            format_number(one.realised_again.value, digits=digits),
        ]
        for one in report.verification.views
    ]
    return Table(
        "Epsilon by two routes",
        ("view", "guaranteed", "second route", "realised", "second route"),
        rows,
        note="The first route rounds up; the second one integrates numerically.",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _moment(time: str) -> str:
    """Return a UTC time to the minute, from the ledger's ISO 8601 form."""
    return f"{time[:10]} {time[11:16]} UTC"
