"""Epsilon after each round: two figures and a table, against the budget."""

from __future__ import annotations

import math

from privfed.report.blocks import Column, Section, Table
from privfed.report.charts import LineChart, Rule, Series
from privfed.report.data import Release, ReportData
from privfed.report.scales import Axis, format_epsilon, format_number
from privfed.report.views import view_name

__all__ = ["per_round"]

LOGARITHMIC_FROM = 4.0  # where an epsilon passes the budget that many times, a linear axis would flatten the others


def per_round(report: ReportData) -> Section:
    """Return the section on epsilon after each round, in every view."""
    if report.setting.budget is None or not report.releases:
        reason = "Nothing was released." if not report.releases else "Without a budget every epsilon is infinite."
        return Section("Epsilon per round and view", (reason,))
    guarded = report.guarded.view
    others = [view.view for view in report.views if view.view != guarded]
    table = Table(
        "Guaranteed epsilon after each round, by view",
        (
            Column("round", "number"),
            "purpose",
            Column(f"{guarded} (guarded)", "epsilon"),
            *(Column(view, "epsilon") for view in others),
            Column(f"{guarded}, realised", "epsilon"),
        ),
        [
            [
                release.round,
                release.purpose or release.query,
                *(release.epsilon(view).cumulative_guaranteed.value for view in (guarded, *others)),
                release.epsilon(guarded).cumulative_realised.value,
            ]
            for release in report.releases
        ],
    )
    return Section("Epsilon per round and view", (_view_chart(report), _realised_chart(report), table))


def _view_chart(report: ReportData) -> LineChart:
    budget = report.setting.budget
    limit = math.inf if budget is None else budget.epsilon
    groups: dict[tuple[float, ...], list[str]] = {}
    for view in sorted(report.views, key=lambda view: not view.guarded):
        line = tuple(release.epsilon(view.view).cumulative_guaranteed.value for release in report.releases)
        groups.setdefault(line, []).append(view.view)
    largest = max((line[-1] for line in groups if math.isfinite(line[-1])), default=limit)
    wide = largest > LOGARITHMIC_FROM * limit
    series = tuple(
        Series(_names(views), _rounds(report.releases), line, step=True, note=format_epsilon(line[-1]))
        for line, views in groups.items()
    )
    return LineChart(
        "Guaranteed epsilon after each round",
        Axis("round", integer=True),
        _epsilon_axis(report, logarithmic=wide),
        series,
        _budget_rule(report),
        "One step per release. The budget limits the guarded view; where another line passes it, that adversary knows"
        " more than the budget assumes." + (" The axis is logarithmic." if wide else ""),
    )


def _realised_chart(report: ReportData) -> LineChart:
    guarded = report.guarded.view
    epsilons = [release.epsilon(guarded) for release in report.releases]
    lines = {
        "guaranteed": [one.cumulative_guaranteed.value for one in epsilons],
        "realised": [one.cumulative_realised.value for one in epsilons],
    }
    return LineChart(
        f"Guaranteed and realised epsilon, view “{guarded}”",
        Axis("round", integer=True),
        _epsilon_axis(report, logarithmic=False),
        tuple(
            Series(name, _rounds(report.releases), line, step=True, note=format_epsilon(line[-1]))
            for name, line in lines.items()
        ),
        _budget_rule(report),
        "Guaranteed is charged before a round, for the fewest survivors its plan allows. Every client that survives"
        " beyond those adds noise: realised counts it.",
    )


def _names(views: list[str]) -> str:
    return ", ".join(view_name(view) for view in views)


def _rounds(releases: list[Release]) -> list[int]:
    return [release.round for release in releases]


def _epsilon_axis(report: ReportData, *, logarithmic: bool) -> Axis:
    budget = report.setting.budget
    delta = "" if budget is None else f" at delta {format_number(budget.delta)}"
    return Axis(f"epsilon{delta}", logarithmic=logarithmic, include=() if logarithmic else (0.0,))


def _budget_rule(report: ReportData) -> tuple[Rule, ...]:
    budget = report.setting.budget
    return () if budget is None else (Rule(f"budget {format_epsilon(budget.epsilon)}", budget.epsilon),)
