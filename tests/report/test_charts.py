from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.report.charts import CSS, DASHES, MAX_POINTS, PALETTE_DARK, PALETTE_LIGHT, LineChart, Rule, Series
from privfed.report.scales import Axis
from privfed.report.svg import clean, polyline

NAMESPACE = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("1")</script>&\'\x00\ud800]]>'


def parse(text: str | bytes) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own output


def chart(*series: Series, rules: tuple[Rule, ...] = (), y: Axis | None = None) -> LineChart:
    return LineChart("Title", Axis("round", integer=True), y or Axis("epsilon", include=(0.0,)), series, rules)


def elements(svg: str, css: str) -> list[ET.Element]:
    return [element for element in parse(svg).iter() if css in element.get("class", "").split()]


def corners(path: str) -> list[tuple[float, float]]:
    """Follow path data made of M, h, v and l; an independent reading of what `polyline` writes."""
    points: list[tuple[float, float]] = []
    x = y = 0.0
    for command, numbers in re.findall(r"([Mhvl])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        if command == "M":
            x, y = values
        elif command == "h":
            x += values[0]
        elif command == "v":
            y += values[0]
        else:
            x, y = x + values[0], y + values[1]
        points.append((x, y))
    return points


def series_line(svg: str, index: int = 0) -> str:
    group = elements(svg, "series")[index]
    line = next(element for element in group if element.get("class") == "line")
    return line.get("d", "")


def test_values_land_where_they_should() -> None:
    svg = chart(Series("a", [1, 2, 3], [0, 5, 10])).svg(width=800, height=400)
    frame = elements(svg, "frame")[0].get("d", "")
    left, bottom, right = (float(n) for n in re.match(r"M([\d.]+) ([\d.]+)H([\d.]+)", frame).groups())  # type: ignore[union-attr]
    top = float(re.findall(r"M[\d.]+ ([\d.]+)H", elements(svg, "grid")[0].get("d", ""))[-1])
    (x1, y1), (x2, y2), (x3, y3) = corners(series_line(svg))
    assert (x1, y1) == pytest.approx((left, bottom), abs=0.2)
    assert (x2, y2) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.2)
    assert (x3, y3) == pytest.approx((right, top), abs=0.2)


def test_steps_hold_a_value_until_the_next_round() -> None:
    plain = corners(series_line(chart(Series("a", [1, 2, 3], [0, 5, 10])).svg()))
    steps = corners(series_line(chart(Series("a", [1, 2, 3], [0, 5, 10], step=True)).svg()))
    (x1, y1), (x2, y2), (x3, y3) = plain
    expected = [(x1, y1), (x2, y1), (x2, y2), (x3, y2), (x3, y3)]
    assert [pytest.approx(point, abs=0.15) for point in expected] == steps


def test_a_rule_lies_at_its_value() -> None:
    svg = chart(Series("a", [1, 2], [2, 2]), rules=(Rule("budget 4", 4.0), Rule("half", 2.0))).svg()
    rules = [float(re.findall(r" ([\d.]+)H", rule.get("d", ""))[0]) for rule in elements(svg, "rule")]
    line = corners(series_line(svg))
    assert rules[1] == pytest.approx(line[0][1], abs=0.2)
    assert rules[0] < rules[1]
    assert [label.text for label in elements(svg, "rule-label")] == ["budget 4", "half"]


def test_a_rule_is_named_where_no_line_is_in_the_way() -> None:
    busy_left = chart(Series("a", range(20), [4.2] * 5 + [9.0] * 15), rules=(Rule("budget", 4.0),)).svg()
    busy_right = chart(Series("a", range(20), [9.0] * 15 + [4.2] * 5), rules=(Rule("budget", 4.0),)).svg()
    assert elements(busy_left, "rule-label")[0].get("text-anchor") == "end"
    assert elements(busy_right, "rule-label")[0].get("text-anchor") is None


def test_a_gap_parts_the_line() -> None:
    svg = chart(Series("a", [1, 2, 3, 4, 5], [1, 2, math.inf, 3, 4])).svg()
    assert series_line(svg).count("M") == 2


def test_series_differ_without_colour() -> None:
    svg = chart(*(Series(f"s{i}", [1, 2], [i, i + 1]) for i in range(6))).svg()
    groups = elements(svg, "series")
    dashes = [next(e for e in group if e.get("class") == "line").get("stroke-dasharray", "") for group in groups]
    marks = [re.sub(r"M[\d.]+ [\d.]+", "", group[-1].get("d", "")) for group in groups]
    assert len(set(dashes)) == len(DASHES) == 6
    assert len(set(marks)) == 6


def test_the_last_value_of_a_long_series_has_a_marker() -> None:
    n = 5000
    svg = chart(Series("a", range(1, n + 1), [math.sqrt(i) for i in range(1, n + 1)], step=True)).svg()
    group = elements(svg, "series")[0]
    marks = re.findall(r"M([\d.]+) ([\d.]+)", group[-1].get("d", ""))
    assert len(marks) <= 25
    assert tuple(map(float, marks[-1])) == pytest.approx(corners(series_line(svg))[-1], abs=0.2)


def test_a_long_series_keeps_its_extremes_and_stays_small() -> None:
    values = [1.0] * 20_000
    values[12_345] = 9.0
    svg = chart(Series("a", range(20_000), values)).svg()
    points = corners(series_line(svg))
    assert len(points) <= MAX_POINTS
    assert len({y for _, y in points}) == 2
    assert len(svg) < 60_000


def test_hostile_text_stays_text() -> None:
    hostile = LineChart(
        HOSTILE,
        Axis(HOSTILE),
        Axis(HOSTILE),
        (Series(HOSTILE, [1, 2], [1, 2], note=HOSTILE),),
        (Rule(HOSTILE, 1.5),),
    )
    for svg in (hostile.svg(), hostile.standalone(), hostile.svg(width=320, height=320)):
        root = parse(svg)
        assert {element.tag.removeprefix(NAMESPACE) for element in root.iter()} <= {
            "svg", "title", "desc", "g", "path", "text", "style",
        }  # fmt: skip
        assert "<script" not in svg
        svg.encode("utf-8")


def test_the_picture_names_and_describes_itself() -> None:
    root = parse(chart(Series("server", [1, 26], [0.5, 4.0]), rules=(Rule("budget", 4.0),)).svg("f7"))
    assert root.get("role") == "img"
    by_id = {element.get("id"): element.text for element in root}
    label, description = (by_id[name] for name in root.get("aria-labelledby", "").split())
    assert label == "Title"
    assert description is not None
    assert "server: 0.5 at the start, 4 at the end." in description
    assert "budget: 4." in description


def test_a_chart_of_nothing_finite_says_so() -> None:
    empty = chart(Series("none", [1, 2], [math.inf, math.nan]))
    assert "none: no finite value." in empty.describe()
    parse(empty.svg())
    parse(chart(Series("empty", [], [])).svg())


def test_a_standalone_chart_has_its_style_inside() -> None:
    text = chart(Series("a", [1], [1])).standalone()
    assert CSS.splitlines()[0] in text
    assert text.startswith("<?xml")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Series("a", [1, 2], [1]), "2 x and 1 y"),
        (lambda: Series("a", [2, 1], [1, 1]), "ascending"),
        (lambda: LineChart("t", Axis("x"), Axis("y"), ()), "no series"),
    ],
)
def test_misuse_is_refused(make: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()  # type: ignore[operator]


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=30),
    st.booleans(),
    st.booleans(),
    st.integers(320, 900),
)
@settings(max_examples=60, deadline=None)
def test_any_values_give_a_well_formed_picture(values: list[float], step: bool, logarithmic: bool, width: int) -> None:
    made = chart(Series("a", range(len(values)), values, step=step), y=Axis("y", logarithmic=logarithmic))
    svg = made.svg(width=width, height=300)
    parse(svg)
    assert "nan" not in svg.split("</desc>")[1]
    for x, y in corners(series_line(svg)) if 'class="line" d="M' in svg else []:
        assert -1 <= x <= width + 1
        assert -1 <= y <= 301


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000)), min_size=1, max_size=50))
def test_relative_coordinates_do_not_drift(points: list[tuple[float, float]]) -> None:
    read = corners(polyline(points))
    assert len(read) == len(points)
    for (x, y), (x0, y0) in zip(read, points, strict=True):
        assert abs(x - x0) <= 0.051
        assert abs(y - y0) <= 0.051


@given(st.text())
def test_cleaned_text_can_stand_in_xml(text: str) -> None:
    element = ET.Element("a")
    element.text = clean(text)
    parse(ET.tostring(element))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("palette", "page"), [(PALETTE_LIGHT, "#ffffff"), (PALETTE_DARK, "#12161b")])
def test_lines_stand_out_from_the_page(palette: tuple[str, ...], page: str) -> None:
    assert min(contrast(colour, page) for colour in palette) >= 3.0
    assert contrast("#e69f00", "#ffffff") < 3.0, "the check can fail"
