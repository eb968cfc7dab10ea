"""The report's data, typed: the part of `accounting/report.schema.json` that the page shows.

Unknown fields are ignored, so that a page still reads what a newer accountant writes within the same version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from privfed.errors import UsageError

__all__ = ["Epsilon", "Mark", "Release", "ReportData", "ViewEpsilon", "parse"]

Severity = Literal["danger", "caution", "info"]


class Epsilon(msgspec.Struct, frozen=True):
    """An epsilon as JSON holds it: null where it is infinite."""

    epsilon: float | None
    infinite: bool

    @property
    def value(self) -> float:
        """The epsilon as a float, infinity included."""
        return math.inf if self.infinite or self.epsilon is None else self.epsilon


class LedgerFacts(msgspec.Struct, frozen=True):
    """Which ledger."""

    identifier: str
    path: str | None
    created: str
    last_entry: str
    entries: int
    head: str


class BudgetFacts(msgspec.Struct, frozen=True):
    """What may be spent."""

    epsilon: float
    delta: float


class DropOutPolicy(msgspec.Struct, frozen=True):
    """What the noise does about clients that drop out."""

    policy: str
    means: str


class Sampler(msgspec.Struct, frozen=True):
    """How units were chosen."""

    kind: str
    means: str


class Setting(msgspec.Struct, frozen=True):
    """What is protected, and in whose eyes."""

    private: bool
    unit: str | None
    unit_means: str | None
    relation: str | None
    budget: BudgetFacts | None
    guarded_view: str | None
    drop_outs: list[DropOutPolicy]
    sampling: list[Sampler]


class Mark(msgspec.Struct, frozen=True):
    """Something to be told loudly, and the entries it is about."""

    code: str
    severity: Severity
    text: str
    entries: list[int]


class Bounds(msgspec.Struct, frozen=True):
    """An epsilon known from both sides."""

    lower: Epsilon
    upper: Epsilon


class AtDelta(msgspec.Struct, frozen=True):
    """Epsilons at one delta; `gdp` is that of the Gaussian mechanism alone."""

    delta: float
    guaranteed: Epsilon
    realised: Epsilon
    tight: Bounds | None
    gdp: Epsilon | None


class View(msgspec.Struct, frozen=True):
    """One adversary with its totals."""

    view: str
    description: str
    guarded: bool
    mu_guaranteed: float | None
    mu_realised: float | None
    guaranteed: Epsilon
    realised: Epsilon
    charged: Epsilon
    tight: Bounds | None
    at_deltas: list[AtDelta]


class Spending(msgspec.Struct, frozen=True):
    """What was spent in the guarded view."""

    guaranteed: Epsilon
    mu2: float | None
    mu2_budget: float | None
    fraction: float | None
    rounds: int
    settled: int
    reserved: int
    void: int
    bytes_up: int


class Charge(msgspec.Struct, frozen=True):
    """What one round was charged in the guarded view."""

    mu2: float


class SamplerNumbers(msgspec.Struct, frozen=True):
    """The sampler of one round: `rate` for coins, `size` of `population` for cohorts."""

    kind: Literal["none", "poisson", "fixed_size", "round_robin"]
    unit: str
    rate: float
    size: int
    population: int


class ViewEpsilon(msgspec.Struct, frozen=True):
    """One round's epsilons in one view."""

    view: str
    guaranteed: Epsilon
    cumulative_guaranteed: Epsilon
    realised: Epsilon
    cumulative_realised: Epsilon


class Release(msgspec.Struct, frozen=True):
    """One round."""

    round: int
    entry: int
    time: str
    status: Literal["reserved", "settled", "void"]
    reason: str | None
    private: bool
    marks: list[str]
    run: str
    purpose: str
    query: str
    mechanism: str
    protection: str
    drop_outs: Literal["provision", "exact"]
    sampling: SamplerNumbers
    dimension: int
    bits: int
    planned_shares: int
    guaranteed_shares: int
    noise_source: str
    software: str
    noise_multiplier: float
    participants: int | None
    survivors: int | None
    bytes_up: int | None
    charge: Charge | None
    epsilons: list[ViewEpsilon]

    def epsilon(self, view: str) -> ViewEpsilon:
        """Return the epsilons in a view."""
        for one in self.epsilons:
            if one.view == view:
                return one
        raise UsageError(f"round {self.round} of the report data has no epsilon in view {view!r}: report that view")


class Note(msgspec.Struct, frozen=True):
    """A public remark in the ledger."""

    entry: int
    time: str
    text: str
    facts: dict[str, float | str | bool | None]


class ErrorTerm(msgspec.Struct, frozen=True):
    """One approximation, and what it counts in."""

    name: str
    counts_in: Literal["epsilon", "delta", "accuracy"]
    value: float | None
    explanation: str


class ErrorTerms(msgspec.Struct, frozen=True):
    """What the epsilons contain beside the Gaussian's own."""

    epsilon_slack: float | None
    delta_tail: float | None
    sampler_distance: float | None
    delta_leak: float | None
    without_them: Epsilon
    with_them: Epsilon
    explanation: str
    terms: list[ErrorTerm]


class Claim(msgspec.Struct, frozen=True):
    """What an audit held its finding against."""

    epsilon: float
    delta: float
    view: str
    unit: str


class LowerBound(msgspec.Struct, frozen=True):
    """What an audit found: epsilon is at least this, with a confidence."""

    epsilon: float
    confidence: float
    method: str


class Audit(msgspec.Struct, frozen=True):
    """An empirical lower bound beside the claim."""

    audit: str
    claimed: Claim
    lower_bound: LowerBound
    caveat: str


class NotProtected(msgspec.Struct, frozen=True):
    """One thing that no epsilon covers."""

    what: str
    why: str


class Recomputed(msgspec.Struct, frozen=True):
    """Epsilon in one view by two routes."""

    view: str
    guaranteed: Epsilon
    guaranteed_again: Epsilon
    realised: Epsilon
    realised_again: Epsilon


class Verdict(msgspec.Struct, frozen=True):
    """What verification found."""

    ok: bool
    problems: list[str]
    warnings: list[str]
    entries: int
    head: str
    views: list[Recomputed]
    cannot_show: list[str]


class ReportData(msgspec.Struct, frozen=True):
    """Everything the page shows of a ledger."""

    format: Literal["privfed-report"]
    version: Literal[1]
    ledger: LedgerFacts
    setting: Setting
    marks: list[Mark]
    views: list[View]
    spending: Spending
    releases: list[Release]
    notes: list[Note]
    error_terms: ErrorTerms
    empirical: Audit | None
    meaning: list[str]
    not_protected: list[NotProtected]
    verification: Verdict
    command: str

    @property
    def guarded(self) -> View:
        """The view that the budget guards; without a budget the first one."""
        return next((view for view in self.views if view.guarded), self.views[0])


def parse(data: Mapping[str, Any]) -> ReportData:
    """Return the data typed.

    Raises:
        UsageError: a field is missing or of another type; the message names its place.
    """
    try:
        parsed = msgspec.convert(data, ReportData)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise UsageError(
            f"the report data do not fit the schema: {error}: give what privfed_accounting.report_data returns"
        ) from None
    if not parsed.views:
        raise UsageError("the report data have no view: give what privfed_accounting.report_data returns")
    return parsed
