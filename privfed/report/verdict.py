"""The first thing on the page: whether the budget holds and the ledger verifies, and what must not be overlooked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privfed.report.blocks import Notice
from privfed.report.data import Mark, ReportData
from privfed.report.scales import format_epsilon, format_number

__all__ = ["Verdict", "judge", "notices"]

HEADINGS = {
    "no_budget": "No budget, no differential privacy",
    "non_private": "Sums were released without noise",
    "trusted": "Trusted mode: sums were formed in the clear",
    "central": "Central noise: the operator saw every client's data",
    "local": "Local noise: no secure aggregation",
    "seeded": "The noise came from a seed",
    "guarantee_broken": "A sum was opened with too little noise",
    "outcome_unknown": "Charged, but the outcome is unknown",
    "void": "Charges were given back",
}
RESERVATIONS = {
    "trusted": "sums were formed in the clear",
    "central": "the operator saw every client's data",
    "seeded": "the noise can be computed again from its seed",
}


@dataclass(frozen=True)
class Verdict:
    """What a reader in a hurry takes away.

    Attributes:
        kind: "good", "caution" or "danger".
        headline: the verdict in one line.
        sentences: what was spent, and whether it was checked.
        facts: setting in short.
        fraction: part of the budget's epsilon that is spent; None without a budget.
    """

    kind: str
    headline: str
    sentences: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    fraction: float | None

    @property
    def meter_label(self) -> str:
        """The meter in words."""
        return f"{_percent(self.fraction or 0.0)} of the budget's epsilon is spent"

    @property
    def meter_width(self) -> str:
        """Width of the meter's bar."""
        return f"{100 * min(1.0, self.fraction or 0.0):.1f}%"


def judge(data: ReportData) -> Verdict:
    """Return the verdict on a ledger. It is never better than the worst that the data say."""
    budget, spent = data.setting.budget, data.spending.guaranteed.value
    codes = {mark.code for mark in data.marks}
    overspent = budget is not None and spent > budget.epsilon
    fraction = None if budget is None or math.isinf(spent) else spent / budget.epsilon
    if overspent:
        kind, headline = "danger", "The budget is overspent"
    elif not data.verification.ok:
        kind, headline = "danger", "This ledger does not verify: do not rely on its numbers"
    elif budget is None or "no_budget" in codes or "non_private" in codes or math.isinf(spent):
        kind, headline = "danger", "Not differentially private"
    elif reservations := [text for code, text in RESERVATIONS.items() if code in codes]:
        kind, headline = "danger", f"Within the budget, but {' and '.join(reservations)}"
    elif any(mark.severity == "danger" for mark in data.marks):
        kind, headline = "danger", "Within the budget, but not as planned"
    elif any(mark.severity == "caution" for mark in data.marks):
        kind, headline = "caution", "Within the budget, with something to look at"
    else:
        kind, headline = "good", "Within the budget, and the ledger verifies"
    return Verdict(kind, headline, (_spent(data), _checked(data)), _facts(data), fraction)


def notices(data: ReportData) -> tuple[Notice, ...]:
    """Return one notice per mark and per problem, the gravest first."""
    problems = tuple(
        Notice("danger", "Does not verify", f"{problem[:1].upper()}{problem[1:]}.")
        for problem in data.verification.problems
    )
    return problems + tuple(_notice(mark, data) for mark in data.marks)


def _notice(mark: Mark, data: ReportData) -> Notice:
    about = ""
    if mark.entries:
        shown = ", ".join(str(entry) for entry in mark.entries[:8])
        more = f" and {len(mark.entries) - 8} more" if len(mark.entries) > 8 else ""
        count = f"{len(mark.entries)} of {_count(data.spending.rounds, 'release')}"
        about = f" This concerns {count}: entr{'y' if len(mark.entries) == 1 else 'ies'} {shown}{more}."
    heading = HEADINGS.get(mark.code, mark.code.replace("_", " ").capitalize())
    return Notice("note" if mark.severity == "info" else mark.severity, heading, mark.text + about)


def _spent(data: ReportData) -> str:
    budget, rounds = data.setting.budget, _count(data.spending.rounds, "release")
    if budget is None:
        return f"{rounds}, none of them under a budget: every sum was released as it is."
    return (
        f"Epsilon {format_epsilon(data.spending.guaranteed.value)} of {format_epsilon(budget.epsilon)} is spent"
        f" at delta {format_number(budget.delta)}, by {rounds}, for {data.setting.relation} of one {data.setting.unit},"
        f" in the view “{data.setting.guarded_view}”."
    )


def _checked(data: ReportData) -> str:
    if not data.verification.ok:
        return f"Verification found {_count(len(data.verification.problems), 'problem')}; they are listed below."
    chain = f"The chain of {_count(data.verification.entries, 'entry', 'entries')} holds"
    if not data.verification.views:
        return f"{chain}."
    return f"{chain}, and a second, independent computation gives the same epsilon in every view."


def _facts(data: ReportData) -> tuple[tuple[str, str], ...]:
    budget = data.setting.budget
    if budget is None:
        return (("Budget", "none"),)
    left = max(0.0, 1.0 - (data.spending.fraction or 0.0))
    return (
        ("Protected", f"one {data.setting.unit}: {data.setting.unit_means}"),
        ("Guarded against", f"{data.guarded.description} (view “{data.guarded.view}”)"),
        ("With the survivors there were", f"epsilon {format_epsilon(data.guarded.realised.value)} instead"),
        ("Left for further releases", f"{_percent(left)} of the budget, counted in mu²"),
    )


def _percent(fraction: float) -> str:
    """Return a part in percent; what is not quite nothing or all is not rounded to it."""
    if 0.0 < fraction < 1e-3:
        return "less than 0.1 %"
    if 0.999 < fraction < 1.0:
        return "more than 99.9 %"
    return f"{100 * fraction:.3g} %"


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
