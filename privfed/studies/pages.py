"""A sweep as a table for the terminal and as a figure."""

from __future__ import annotations

from privfed.report import Axis, LineChart, Rule, Series
from privfed.report.scales import format_number
from privfed.studies.sweep import NOISE, Summary, Sweep

__all__ = ["figure", "table"]


def figure(sweep: Sweep) -> LineChart:
    """Return the median gap to pooled training against epsilon, one line per mode, and the worst seed of each."""
    series = []
    for mode in sweep.options.modes:
        lines = sorted((one for one in sweep.summaries() if one.mode == mode), key=_epsilon)
        epsilons = [_epsilon(one) for one in lines]
        series.append(Series(NOISE[mode], epsilons, [one.median for one in lines]))
        if sweep.options.seeds > 1:
            series.append(Series(f"{NOISE[mode]}, worst seed", epsilons, [one.worst for one in lines]))
    return LineChart(
        f"What a budget costs: {sweep.options.learner} on {sweep.data}",
        Axis(f"epsilon (record unit, delta {format_number(sweep.options.delta)})", logarithmic=True),
        Axis(f"{sweep.unit}, less pooled", include=(0.0,)),
        tuple(series),
        rules=(Rule("pooled, not private", 0.0),),
        caption=f"{sweep.metric}. Median and worst of {sweep.options.seeds} seeds over {sweep.options.clients} silos.",
    )


def _epsilon(summary: Summary) -> float:
    return summary.epsilon or 0.0


def table(sweep: Sweep) -> str:
    """Return the summaries as lines of text."""
    head = f"{'noise':<46}{'epsilon':>9}{'median':>12}{'worst':>12}{'best':>12}{'refused':>10}"
    lines = [
        f"{sweep.options.learner} on {sweep.data}",
        f"{sweep.metric}, {sweep.unit}, less that of pooled training",
        "",
        head,
    ]
    for one in sweep.summaries():
        name = NOISE.get(one.mode, one.mode)
        epsilon = "-" if one.epsilon is None else format_number(one.epsilon)
        cells = "".join(f"{format_number(value):>12}" for value in (one.median, one.worst, one.best))
        lines.append(f"{name:<46}{epsilon:>9}{cells}{one.failed or '':>10}")
    lines += [f"refused: {reason}" for reason in sweep.refusals()]
    return "\n".join(lines) + "\n"
