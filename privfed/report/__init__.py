"""Reports: the privacy budget as one self-contained HTML page and as JSON, with figures that need no script."""

from __future__ import annotations

from privfed.report.blocks import Block, Column, Command, Facts, Notice, Paragraph, Points, Section, Table
from privfed.report.charts import LineChart, Rule, Series
from privfed.report.files import write_json, write_text
from privfed.report.images import ImageGrid
from privfed.report.page import render_report, write_report
from privfed.report.scales import Axis, format_epsilon, format_number

__all__ = [
    "Axis",
    "Block",
    "Column",
    "Command",
    "Facts",
    "ImageGrid",
    "LineChart",
    "Notice",
    "Paragraph",
    "Points",
    "Rule",
    "Section",
    "Series",
    "Table",
    "format_epsilon",
    "format_number",
    "render_report",
    "write_json",
    "write_report",
    "write_text",
]
