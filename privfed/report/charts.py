"""Line and step charts as SVG: no script, no font, no style sheet from elsewhere.

Series differ by colour (Okabe and Ito's palette, told apart by colour-blind readers), by dash and by marker, so that a
print in grey still reads. Colours come from custom properties of the page (`CSS`), light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from privfed.errors import UsageError
from privfed.report.scales import Axis, Scale, format_number, make_scale
from privfed.report.svg import child, document, polyline, serialise, shorten, text_width

__all__ = ["CSS", "LineChart", "Rule", "Series"]

# Okabe and Ito 2008, "Color Universal Design"; of its eight colours those with a contrast of at least 3:1 against the
# page (WCAG 2.2, 1.4.11), which differ between a light page and a dark one.
PALETTE_LIGHT = ("#0072b2", "#d55e00", "#008060", "#b0558c", "#000000")
PALETTE_DARK = ("#56b4e9", "#e69f00", "#00b98a", "#cc79a7", "#f0e442")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "1 4")
MAX_MARKERS = 24  # per series; more run together
MAX_POINTS = 1200  # per series; a screen has no more columns

CSS = """\
.chart text{font-family:inherit;fill:var(--ink,#1b1f24)}
.chart .tick,.chart .axis-title{fill:var(--muted,#57606a)}
.chart .grid{stroke:var(--grid,#d8dee4);stroke-width:1}
.chart .frame{stroke:var(--muted,#57606a);stroke-width:1;fill:none}
.chart .rule{stroke:var(--alert,#b3261e);stroke-width:1.5;fill:none}
.chart .rule-label{fill:var(--alert,#b3261e);font-weight:600;stroke:var(--page,#fff);stroke-width:4;paint-order:stroke;\
stroke-linejoin:round}
.chart .line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.chart .mark{fill:var(--page,#fff);stroke:currentColor;stroke-width:1.75}
""" + "".join(f".chart .s{i}{{color:var(--series-{i},{colour})}}\n" for i, colour in enumerate(PALETTE_LIGHT))


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        label: in the legend.
        x: ascending.
        y: as many; where a value is not finite the line has a gap.
        step: hold each value until the next x, as a running total does.
        note: what the legend says after the label, for instance the last value.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    step: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise UsageError(f"series {self.label!r} has {len(self.x)} x and {len(self.y)} y, expected as many of both")
        if any(later < earlier for earlier, later in zip(self.x, self.x[1:], strict=False)):
            raise UsageError(f"series {self.label!r} has an x that falls, expected ascending: sort the points")


@dataclass(frozen=True)
class Rule:
    """A horizontal line that means something: a budget, a reference value."""

    label: str
    value: float


@dataclass(frozen=True)
class LineChart:
    """Lines over one pair of axes.

    Attributes:
        title: accessible name of the picture, and its heading.
        x: horizontal axis.
        y: vertical axis.
        series: at least one.
        rules: horizontal lines to compare with; the vertical axis reaches them.
        caption: below the picture; what to see in it.

    Examples:
        >>> server = Series("server", [1, 2], [1, 2])
        >>> chart = LineChart("Spent", Axis("round", integer=True), Axis("epsilon"), (server,))
        >>> chart.describe()
        'Spent. Horizontal: round, 1 to 2. Vertical: epsilon. server: 1 at the start, 2 at the end.'
        >>> chart.svg().startswith("<svg")
        True
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.series:
            raise UsageError(f"chart {self.title!r} has no series, expected at least one")

    def describe(self) -> str:
        """Return the chart in words: axes, first and last value of each series, rules."""
        parts = [f"{self.title}.", f"Horizontal: {self.x.title}{self._extent()}.", f"Vertical: {self.y.title}."]
        for series in self.series:
            known = [value for value in series.y if math.isfinite(value)]
            first, last = (format_number(known[0]), format_number(known[-1])) if known else ("", "")
            parts.append(
                f"{series.label}: {first} at the start, {last} at the end."
                if known
                else f"{series.label}: no finite value."
            )
        parts += [f"{rule.label}: {format_number(rule.value)}." for rule in self.rules]
        return " ".join(parts)

    def _extent(self) -> str:
        values = [value for series in self.series for value in series.x]
        return f", {format_number(min(values))} to {format_number(max(values))}" if values else ""

    def svg(self, identifier: str = "chart", *, width: int = 760, height: int = 380, css: str = "chart") -> str:
        """Return the chart as an `<svg>` element.

        Args:
            identifier: prefix of the ids inside; unique in the page.
            width: of the view box; below 500 the layout is that for a telephone.
            height: of the view box.
            css: classes of the element.
        """
        return serialise(self._element(identifier, width, height, css))

    def standalone(self, *, width: int = 760, height: int = 380) -> str:
        """Return the chart as an SVG file of its own, with its style inside."""
        root = self._element("chart", width, height, "chart")
        root.set("font-family", "sans-serif")
        style = ET.Element("style")
        style.text = CSS
        root.insert(2, style)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + serialise(root) + "\n"

    def _element(self, identifier: str, width: int, height: int, css: str) -> ET.Element:
        size = 13.0 if width >= 500 else 12.0
        root = document(
            identifier=identifier, width=width, height=height, title=self.title, description=self.describe(), css=css
        )
        root.set("font-size", str(size))
        top = _draw_legend(root, self.series, width, size)
        across = [value for series in self.series for value in series.x]
        down = [value for series in self.series for value in series.y] + [rule.value for rule in self.rules]
        x = make_scale(across, self.x, target=10 if width >= 500 else 5)
        y = make_scale(down, self.y, target=6 if height >= 300 else 5)
        left = size * 2.9 + max((text_width(label, size) for label in y.labels), default=0.0)
        plot = _Plot(
            x,
            y,
            left=left,
            top=top + size * (1.9 if self.rules else 1.0),
            right=width - size,
            bottom=height - size * 3.6,
        )
        _draw_axes(root, plot, self.x, self.y, size)
        for rule in self.rules:
            _draw_rule(root, plot, rule)
        for index, series in enumerate(self.series):
            _draw_series(root, plot, series, index)
        for rule in self.rules:
            _draw_rule_label(root, plot, rule, self.series, size)
        return root


@dataclass(frozen=True)
class _Plot:
    """Two scales laid over a rectangle of the view box."""

    x: Scale
    y: Scale
    left: float
    top: float
    right: float
    bottom: float

    def across(self, value: float) -> float:
        return self.left + (self.right - self.left) * self.x.position(value)

    def down(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * self.y.position(value)


def _draw_legend(root: ET.Element, series: Sequence[Series], width: float, size: float) -> float:
    """Draw the legend in rows from the top; return where it ends."""
    group = child(root, "g", class_="legend")
    swatch, gap, row = size * 2.6, size * 1.6, size * 1.7
    x, y = size, row * 0.7
    for index, one in enumerate(series):
        note = f": {one.note}" if one.note else ""
        room = width - swatch - 3 * size - text_width(note, size)
        text = shorten(one.label, room, size) + note
        needed = swatch + size * 0.5 + text_width(text, size)
        if x > size and x + needed > width - size:
            x, y = size, y + row
        entry = child(group, "g", class_=f"s{index % len(PALETTE_LIGHT)}")
        _line(entry, f"M{x:.0f} {y:.1f}h{swatch:.0f}", index)
        child(entry, "path", d=_marker(index, x + swatch / 2, y), class_="mark")
        child(group, "text", text, x=x + swatch + size * 0.5, y=y + size * 0.35)
        x += needed + gap
    return y + row * 0.5


def _draw_axes(root: ET.Element, plot: _Plot, x_axis: Axis, y_axis: Axis, size: float) -> None:
    axes = child(root, "g", class_="axes")
    grid = "".join(f"M{plot.left:.1f} {plot.down(tick):.1f}H{plot.right:.1f}" for tick in plot.y.ticks)
    child(axes, "path", d=grid, class_="grid")
    marks = "".join(f"M{plot.across(tick):.1f} {plot.bottom:.1f}v5" for tick in plot.x.ticks)
    child(axes, "path", d=f"M{plot.left:.1f} {plot.bottom:.1f}H{plot.right:.1f}{marks}", class_="frame")
    for tick, label in zip(plot.y.ticks, plot.y.labels, strict=True):
        y = plot.down(tick) + size * 0.35
        child(axes, "text", label, x=plot.left - size * 0.5, y=y, text_anchor="end", class_="tick")
    for tick, label in zip(plot.x.ticks, plot.x.labels, strict=True):
        y = plot.bottom + size * 1.5
        child(axes, "text", label, x=plot.across(tick), y=y, text_anchor="middle", class_="tick")
    middle = (plot.left + plot.right) / 2
    title = shorten(x_axis.title, plot.right - plot.left, size)
    child(axes, "text", title, x=middle, y=plot.bottom + size * 3.1, text_anchor="middle", class_="axis-title")
    height = plot.bottom - plot.top
    child(
        axes,
        "text",
        shorten(y_axis.title, height, size),
        transform=f"translate({size * 1.2:.1f} {plot.top + height / 2:.1f}) rotate(-90)",
        text_anchor="middle",
        class_="axis-title",
    )


def _draw_rule(root: ET.Element, plot: _Plot, rule: Rule) -> None:
    if plot.y.shows(rule.value):
        child(root, "path", d=f"M{plot.left:.1f} {plot.down(rule.value):.1f}H{plot.right:.1f}", class_="rule")


def _draw_rule_label(root: ET.Element, plot: _Plot, rule: Rule, series: Sequence[Series], size: float) -> None:
    if not plot.y.shows(rule.value):
        return
    text = shorten(rule.label, plot.right - plot.left - size, size)
    y = plot.down(rule.value) - size * 0.5
    reach = text_width(text, size) + size
    near = [
        [abs(down - y) for across, down in _points(series, plot) if begin <= across <= end]
        for begin, end in ((plot.left, plot.left + reach), (plot.right - reach, plot.right))
    ]
    left, right = (min(distances, default=math.inf) for distances in near)
    if right > left:  # where fewer lines are in the way
        child(root, "text", text, x=plot.right - size * 0.5, y=y, text_anchor="end", class_="rule-label")
    else:
        child(root, "text", text, x=plot.left + size * 0.5, y=y, class_="rule-label")


def _points(series: Sequence[Series], plot: _Plot) -> list[tuple[float, float]]:
    return [point for one in series for piece in _pieces(one, plot) for point in piece]


def _draw_series(root: ET.Element, plot: _Plot, series: Series, index: int) -> None:
    group = child(root, "g", class_=f"series s{index % len(PALETTE_LIGHT)}")
    pieces = _pieces(series, plot)
    data = "".join(polyline(_stairs(piece) if series.step else _thin(piece)) for piece in pieces)
    if data:
        _line(group, data, index)
    points = [point for piece in pieces for point in piece]
    stride = max(1, math.ceil(len(points) / MAX_MARKERS))
    chosen = points[::-1][::stride]  # from the end: the last value always has its marker
    if chosen:
        child(group, "path", d="".join(_marker(index, x, y) for x, y in chosen[::-1]), class_="mark")


def _pieces(series: Series, plot: _Plot) -> list[list[tuple[float, float]]]:
    """Return the stretches between gaps, in view-box coordinates."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        if plot.x.shows(x) and plot.y.shows(y):
            pieces[-1].append((plot.across(x), plot.down(y)))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _stairs(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    corners: list[tuple[float, float]] = []
    for x, y in _thin(points):
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep at most about `MAX_POINTS`: in each group the lowest and the highest, so that no peak is lost."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / (MAX_POINTS - 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        group = range(start, min(start + size, len(points)))
        kept |= {min(group, key=lambda i: points[i][1]), max(group, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _line(parent: ET.Element, data: str, index: int) -> None:
    line = child(parent, "path", d=data, class_="line")
    if dash := DASHES[index % len(DASHES)]:
        line.set("stroke-dasharray", dash)


def _marker(index: int, x: float, y: float) -> str:
    """Return path data of the marker of series `index`, about 7 units wide, around (x, y)."""
    at = f"M{x:.1f} {y:.1f}"
    shapes = (
        "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0z",  # circle
        "m-3 -3h6v6h-6z",  # square
        "m0 -4l3.7 6.6h-7.4z",  # triangle
        "m0 -4.2l4.2 4.2l-4.2 4.2l-4.2 -4.2z",  # diamond
        "m-3 -3l6 6m0 -6l-6 6",  # cross
        "m-4 0h8m-4 -4v8",  # plus
    )
    return at + shapes[index % len(shapes)]
