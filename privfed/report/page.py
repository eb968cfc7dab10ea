"""The report as one HTML page: no script, no request to anywhere, light and dark, for the screen and for paper."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privfed._version import __version__
from privfed.errors import UsageError
from privfed.report.blocks import Command, Facts, Notice, Paragraph, Points, Section, Table
from privfed.report.charts import CSS, PALETTE_DARK, PALETTE_LIGHT, LineChart
from privfed.report.files import write_text
from privfed.report.images import ImageGrid
from privfed.report.privacy import privacy_report
from privfed.report.scales import format_number
from privfed.report.svg import clean

__all__ = ["DEFAULT_TITLE", "render_report", "write_report"]

DEFAULT_TITLE = "Privacy report"
KINDS: Mapping[str, type] = {
    "paragraph": Paragraph,
    "points": Points,
    "facts": Facts,
    "command": Command,
    "notice": Notice,
    "table": Table,
    "chart": LineChart,
    "images": ImageGrid,
}


def render_report(data: Mapping[str, Any], *, title: str = DEFAULT_TITLE, sections: Sequence[Section] = ()) -> str:
    """Return the report on a ledger as one self-contained HTML page.

    Args:
        data: from `privfed_accounting.report_data`, schema in `accounting/report.schema.json`.
        title: heading of the page.
        sections: what the caller adds, such as what was learned; they stand after the epsilons.

    Guarantees:
        The same arguments give the same bytes. Every string is escaped; the page's own content security policy
        forbids scripts and requests, so that even a mistake here could load nothing.

    Raises:
        UsageError: `data` lacks a field, or a block is of no kind that the page knows.
    """
    report = privacy_report(data)
    everything = (*report.sections, *sections, *report.fine_print)
    for section in everything:
        for block in section.content:
            if not isinstance(block, tuple(KINDS.values())):
                raise UsageError(
                    f"section {section.title!r} holds a {type(block).__name__}, expected one of {', '.join(KINDS)}"
                )
    numbers = itertools.count(1)
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=title,
        subtitle=report.subtitle,
        verdict=report.verdict,
        notices=report.notices,
        sections=everything,
        new_id=lambda: f"figure-{next(numbers)}",
        version=__version__,
    )


def write_report(
    path: str | os.PathLike[str],
    data: Mapping[str, Any],
    *,
    title: str = DEFAULT_TITLE,
    sections: Sequence[Section] = (),
) -> Path:
    """Render the report and write it in one step; return the path. See `render_report` and `write_text`."""
    return write_text(path, render_report(data, title=title, sections=sections))


def _wide(chart: LineChart, identifier: str) -> Markup:
    # The one place where markup enters: from our own SVG writer, which escapes by construction.
    return Markup(chart.svg(f"{identifier}-wide", width=860, height=400, css="chart wide"))  # noqa: S704


def _narrow(chart: LineChart, identifier: str) -> Markup:
    return Markup(chart.svg(f"{identifier}-narrow", width=360, height=360, css="chart narrow"))  # noqa: S704


def _finalize(value: object) -> object:
    """Clean every string on its way into the page; what is markup already was made by us."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _series_colours(palette: Sequence[str]) -> str:
    return " ".join(f"--series-{index}: {colour};" for index, colour in enumerate(palette))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("privfed.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = format_number
    for name, kind in KINDS.items():
        environment.tests[name] = lambda block, kind=kind: isinstance(block, kind)
    environment.globals.update(
        wide=_wide,
        narrow=_narrow,
        chart_css=Markup(CSS),  # noqa: S704 - a constant
        light_series=_series_colours(PALETTE_LIGHT),
        dark_series=_series_colours(PALETTE_DARK),
    )
    return environment
