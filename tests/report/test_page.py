from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from privfed.errors import UsageError
from privfed.report import (
    Axis,
    Column,
    Command,
    Facts,
    ImageGrid,
    LineChart,
    Notice,
    Points,
    Section,
    Series,
    Table,
    render_report,
    write_report,
)
from privfed.report.page import KINDS
from privfed_accounting import Budget, Ledger, Sampling, report_data
from tests.report.ledgers import BUDGET, HOSTILE, break_guarantee, clock, data, make, plan

SCHEMA = Path(__file__).resolve().parents[2] / "accounting" / "report.schema.json"
VOID = {"meta", "link", "img", "br", "hr"}


class Outline(HTMLParser):
    """Reads a page back: headings, tables, text, ids, and whether every element is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.text.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings.append((int(self.open[-1][1]), data))

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def everything() -> tuple[Section, ...]:
    """One section with one block of every kind."""
    chart = LineChart("Likelihood", Axis("round"), Axis("nats"), (Series("private", [1, 2], [-30, -25]),))
    images = ImageGrid.of("Components", np.zeros((2, 8, 8)), captions=("first", "second"), low=0, high=16)
    table = Table("Held-out", ("model", Column("nats", "number"), Column("digest", "code")), [["ours", -25.5, "ab"]])
    blocks = (
        "Prose.",
        Points(("one",)),
        Facts((("a", "b"),)),
        Command("ls"),
        Notice("good", "Fine"),
        table,
        chart,
        images,
    )
    return (Section("What was learned", blocks),)


def test_every_kind_of_block_is_shown_and_covered_here() -> None:
    section = everything()[0]
    assert {type(block) for block in section.content} == set(KINDS.values())
    page = Outline(render_report(data(), sections=(section,)))
    for words in ("Prose.", "one", "ls", "Fine", "Held-out", "−25.5", "Likelihood", "second"):
        assert words in page.words


def test_the_data_used_here_are_real() -> None:
    jsonschema.validate(data(), json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_the_page_stands_alone() -> None:
    html = render_report(data(), sections=everything())
    page = Outline(html)
    assert {"script", "iframe", "object", "embed", "form", "base", "audio", "video"}.isdisjoint(t for t, _ in page.tags)
    sources = [
        a.get("src") or a.get("href") or "" for tag, a in page.tags if tag in ("img", "link", "a", "image", "use")
    ]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_headings_are_in_order_and_the_contents_lead_to_them() -> None:
    page = Outline(render_report(data(), sections=everything()))
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    identifiers = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))
    targets = [str(attributes["href"])[1:] for attributes in page.all("a")]
    assert targets
    assert set(targets) <= set(identifiers)
    for _, attributes in page.tags:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in identifiers


def test_tables_have_captions_and_scopes_and_figures_have_alternatives() -> None:
    page = Outline(render_report(data(), sections=everything()))
    assert len(page.all("caption")) == len(page.all("table")) >= 6
    assert {attributes.get("scope") for attributes in page.all("th")} == {"col", "row"}
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(svg.get("role") == "img" and svg.get("aria-labelledby") for svg in page.all("svg"))
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in page.all("div") if a.get("class") == "scroll")


def test_the_verdict_comes_first() -> None:
    page = Outline(render_report(data()))
    assert page.headings[1] == (2, "Within the budget, and the ledger verifies")
    for fact in ("Epsilon 4.000 of 4", "delta 1e-05", "add/remove of one record", "view “server”"):
        assert fact in page.words
    titles = [title for _, title in page.headings]
    for title in (
        "Setting",
        "Who sees what",
        "Epsilon per round and view",
        "Every release",
        "Numerical error terms",
        "What is not protected",
        "How to verify",
    ):
        assert title in titles


def test_the_numbers_are_those_of_the_data() -> None:
    given = data()
    words = Outline(render_report(given)).words
    assert given["verification"]["head"] in words
    assert given["command"] in words
    for view in given["views"]:
        up = math.ceil(view["guaranteed"]["epsilon"] * 1000) / 1000 if view["guaranteed"]["epsilon"] < 10 else None
        if up is not None:
            assert f"{up:.3f}" in words
    for text in (*given["meaning"], *given["verification"]["cannot_show"], given["error_terms"]["explanation"]):
        assert text.rstrip(".").casefold() in words.casefold()
    for one in given["not_protected"]:
        assert one["why"] in words


def tables(html: str) -> dict[str, list[dict[str, str]]]:
    """Read the tables of a page back: caption -> rows, each as head -> cell."""
    found = {}
    for table in re.findall(r"<table>(.*?)</table>", html, re.DOTALL):
        (caption,) = re.findall(r"<caption><span>(.*?)</span>", table)
        head, body = table.split("</thead>")
        heads = re.findall(r"<th[^>]*>(.*?)</th>", head)
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("<tr>")[1:]]
        found[caption] = [dict(zip(heads, row, strict=True)) for row in rows]
    return found


def shown(epsilon: dict[str, Any]) -> str:
    """An epsilon as the page should have it: four digits, rounded up; by another route than the page's."""
    digits = 3 - math.floor(math.log10(epsilon["epsilon"]))
    return f"{math.ceil(epsilon['epsilon'] * 10**digits) / 10**digits:.{digits}f}"


def test_every_number_stands_in_its_own_column() -> None:
    given = data()
    read = tables(render_report(given))
    views = read["Epsilon of everything so far, in each view at delta 1e-05"]
    assert [row["view"].removesuffix(", guarded") for row in views] == [view["view"] for view in given["views"]]
    assert [row["view"].endswith(", guarded") for row in views] == [view["guarded"] for view in given["views"]]
    for row, view in zip(views, given["views"], strict=True):
        assert row["guaranteed"] == shown(view["guaranteed"])
        assert row["realised"] == shown(view["realised"])
        assert row["tight"] == shown(view["tight"]["upper"])
    deltas = read["Guaranteed epsilon at several deltas"]
    wanted = [(view, one) for view in given["views"] for one in view["at_deltas"]]
    for row, (view, one) in zip(deltas, wanted, strict=True):
        assert float(row["delta"]) == pytest.approx(one["delta"], rel=0.05)
        assert row["guaranteed"] == shown(one["guaranteed"])
        assert row["GDP"] == shown(one["gdp"])
        assert float(row["mu"]) == pytest.approx(view["mu_guaranteed"], rel=1e-3)
    rounds = read["Guaranteed epsilon after each round, by view"]
    assert len(rounds) == 12
    for row, release in zip(rounds, given["releases"], strict=True):
        by_view = {one["view"]: one for one in release["epsilons"]}
        assert row["round"] == str(release["round"])
        assert row["server (guarded)"] == shown(by_view["server"]["cumulative_guaranteed"])
        assert row["server, realised"] == shown(by_view["server"]["cumulative_realised"])
        for view in ("released", "client", "colluders(3)", "unmasked"):
            assert row[view] == shown(by_view[view]["cumulative_guaranteed"])


def test_every_release_is_told_in_full() -> None:
    given = data()
    rows = tables(render_report(given))["Every release, in order"]
    assert len(rows) == len(given["releases"])
    for row, release in zip(rows, given["releases"], strict=True):
        assert row["purpose"] == release["purpose"]
        assert "status" not in row
        assert (row["planned"], row["guaranteed"], row["survived"]) == ("20", "16", "19")
        assert row["dimension"] == str(release["dimension"])
        assert float(row["noise multiplier"]) == pytest.approx(release["noise_multiplier"], rel=1e-3)
        assert float(row["mu²"]) == pytest.approx(release["charge"]["mu2"], rel=1e-3)
        cumulative = next(one for one in release["epsilons"] if one["view"] == "server")["cumulative_guaranteed"]
        assert row["epsilon so far"] == shown(cumulative)
        assert row["bytes up"] == "121 KiB"
    assert "All releases were settled." in render_report(given)
    for other, status in ((unfinished(), "charged, outcome unknown"), (voided(), "void: too few clients answered")):
        (row,) = tables(render_report(other))["Every release, in order"]
        assert row["status"] == status
        assert row["survived"] == "—"
    row = tables(render_report(with_ledger(protection="trusted")))["Every release, in order"][0]
    assert row["status"] == "settled, trusted"
    routes = tables(render_report(given))["Epsilon by two routes"]
    assert routes[0]["view"] == "readers of the releases"


def with_ledger(**changes: Any) -> dict[str, Any]:
    return data(rounds=3, **changes)


def unbudgeted() -> dict[str, Any]:
    with Ledger.open(None, budget=None, clock=clock()) as ledger:
        entry = ledger.reserve(plan(1, mechanism="none", share_sigma=0.0))
        ledger.settle(entry, participants=19, survivors=19, bytes_up=1)
        return report_data(ledger)


def unfinished() -> dict[str, Any]:
    with Ledger.open(None, budget=BUDGET, clock=clock()) as ledger:
        ledger.reserve(plan(2))
        return report_data(ledger)


def voided() -> dict[str, Any]:
    with Ledger.open(None, budget=BUDGET, clock=clock()) as ledger:
        ledger.void(ledger.reserve(plan(2)), reason="too few clients answered")
        return report_data(ledger)


def weakened() -> dict[str, Any]:
    with Ledger.open(None, budget=BUDGET, clock=clock()) as ledger:
        break_guarantee(ledger, of=10, survivors=12)
        return report_data(ledger)


def really_overspent() -> dict[str, Any]:
    with Ledger.open(None, budget=BUDGET, clock=clock()) as ledger:
        break_guarantee(ledger, of=1, survivors=4)
        return report_data(ledger)


def overspent() -> dict[str, Any]:
    spoiled = copy.deepcopy(data(rounds=3))
    spoiled["spending"]["guaranteed"]["epsilon"] = 4.25
    spoiled["verification"] |= {"ok": False, "problems": ["the budget is overspent"]}
    return spoiled


def corrupted() -> dict[str, Any]:
    spoiled = copy.deepcopy(data(rounds=3))
    spoiled["verification"] |= {"ok": False, "problems": ["entry 4 was edited"]}
    return spoiled


@pytest.mark.parametrize(
    ("make_data", "kind", "headline", "words"),
    [
        (lambda: with_ledger(), "good", "Within the budget, and the ledger verifies", "chain of 7 entries holds"),
        (
            lambda: with_ledger(protection="trusted"),
            "danger",
            "Within the budget, but sums were formed in the clear",
            "Trusted mode: sums were formed in the clear",
        ),
        (
            lambda: with_ledger(noise_source="seeded"),
            "danger",
            "Within the budget, but the noise can be computed again from its seed",
            "The noise came from a seed",
        ),
        (
            lambda: with_ledger(noise_source="seeded", protection="trusted"),
            "danger",
            "Within the budget, but sums were formed in the clear and the noise can be computed again from its seed",
            "3 of 3 releases",
        ),
        (unbudgeted, "danger", "Not differentially private", "Sums were released without noise"),
        (unfinished, "caution", "Within the budget, with something to look at", "the outcome is unknown"),
        (voided, "good", "Within the budget, and the ledger verifies", "Charges were given back"),
        (weakened, "danger", "Within the budget, but not as planned", "opened with too little noise"),
        (really_overspent, "danger", "The budget is overspent", "Does not verify"),
        (overspent, "danger", "The budget is overspent", "Epsilon 4.25 of 4 is spent"),
        (corrupted, "danger", "This ledger does not verify: do not rely on its numbers", "Entry 4 was edited."),
    ],
)
def test_what_must_not_be_overlooked_is_not(make_data: Any, kind: str, headline: str, words: str) -> None:
    html = render_report(make_data())
    page = Outline(html)
    assert page.headings[1] == (2, headline)
    assert f'class="verdict {kind}"' in html
    assert words in page.words


def test_a_fault_free_ledger_raises_no_alarm() -> None:
    html = render_report(data())
    assert 'class="notice' not in html


def test_a_colluding_view_names_its_clients() -> None:
    words = Outline(render_report(data())).words
    assert "the coordinator together with 3 clients: only the honest" in words
    assert "the server with 3 clients" in words


def test_views_that_cannot_be_told_apart_share_a_line() -> None:
    html = render_report(data())
    legend = re.findall(r'<g class="legend">.*?</g></svg>|<g class="legend">.*?(?=<g class="axes">)', html, re.DOTALL)[
        0
    ]
    assert "the server, readers of the releases: 4.000" in legend


def test_hostile_names_stay_names() -> None:
    hostile = copy.deepcopy(data(rounds=3))
    spoil(hostile)
    sections = (
        Section(HOSTILE, (HOSTILE, Points((HOSTILE,)), Facts(((HOSTILE, HOSTILE),)), Command(HOSTILE))),
        Section(HOSTILE, (Notice("danger", HOSTILE, HOSTILE), Table(HOSTILE, (HOSTILE,), [[HOSTILE]], note=HOSTILE))),
        Section(
            HOSTILE,
            (
                LineChart(HOSTILE, Axis(HOSTILE), Axis(HOSTILE), (Series(HOSTILE, [1], [1]),), caption=HOSTILE),
                ImageGrid.of(HOSTILE, np.zeros((1, 1, 1)), captions=(HOSTILE,), low=0, high=1, caption=HOSTILE),
            ),
        ),
    )
    html = render_report(hostile, title=HOSTILE, sections=sections)
    assert "<script" not in html
    assert html.count("alert(") > 20
    assert not set("\u202e\x07\ud800").intersection(html)
    page = Outline(html)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def spoil(value: Any) -> None:
    """Put hostile text into every string of the data that is free text."""
    fixed = {"view", "guarded_view", "status", "severity", "format", "code", "mechanism", "unit", "kind", "drop_outs"}
    fixed |= {"counts_in"}
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and key not in fixed:
                value[key] = HOSTILE + item
            spoil(item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                value[index] = HOSTILE + item
            spoil(item)


def test_the_same_data_give_the_same_bytes() -> None:
    assert render_report(data(), sections=everything()) == render_report(copy.deepcopy(data()), sections=everything())


def test_five_hundred_rounds_stay_under_a_megabyte() -> None:
    html = render_report(data(rounds=500), sections=everything())
    assert len(html.encode()) < 1_000_000
    assert "500" in Outline(html).words
    assert "are left out here" not in html


def test_a_very_long_table_says_what_it_leaves_out() -> None:
    table = Table("long", ("n", "x"), [[str(i), f"row {i}"] for i in range(5000)])
    html = render_report(data(), sections=(Section("Long", (table,)),))
    assert "4400 rows are left out here; all of them stand in the JSON report" in html
    for kept in (0, 299, 4700, 4999):
        assert f"<td>row {kept}</td>" in html
    for dropped in (300, 4699):
        assert f"<td>row {dropped}</td>" not in html
    assert len(html) < 1_000_000


def test_the_report_is_written_in_one_step(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", data(), title="Mine")
    assert path.read_text(encoding="utf-8") == render_report(data(), title="Mine")


@pytest.mark.parametrize(
    ("spoiler", "words"),
    [
        (lambda d: d.pop("views"), "missing required field `views`"),
        (lambda d: d.update(views=[]), "have no view"),
        (lambda d: d["spending"].update(rounds="many"), r"Expected `int`, got `str` - at `\$.spending.rounds`"),
        (lambda d: d.update(version=2), "Invalid enum value 2"),
        (lambda d: d["releases"][0].update(epsilons=[]), "round 1 of the report data has no epsilon in view 'server'"),
    ],
)
def test_data_that_do_not_fit_are_refused(spoiler: Any, words: str) -> None:
    spoiled = copy.deepcopy(data(rounds=3))
    spoiler(spoiled)
    with pytest.raises(UsageError, match=words):
        render_report(spoiled)


def test_a_block_of_no_known_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="holds a dict, expected one of paragraph, points"):
        render_report(data(), sections=(Section("Mine", ({"html": "<b>"},)),))  # type: ignore[arg-type]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="row 1 of table 'T' has 1 cells, expected 2"):
        Table("T", ("a", "b"), [[1, 2], [3]])


def test_a_ledger_without_any_release_has_a_report() -> None:
    with Ledger.open(None, budget=BUDGET, clock=clock()) as ledger:
        words = Outline(render_report(report_data(ledger))).words
    assert "Nothing was released." in words
    assert "Epsilon 0 of 4" in words


def test_notes_of_a_run_are_shown() -> None:
    with make(None, 2) as ledger:
        ledger.note("data set", {"name": "digits", "rows": 1437.0})
        words = Outline(render_report(report_data(ledger))).words
    assert "data set name: digits, rows: 1,437" in words


def test_cells_read_well() -> None:
    number, epsilon = Column("n", "number"), Column("e", "epsilon")
    assert [number.show(cell) for cell in (None, True, False, "as is", 0.123456)] == [
        "—",
        "yes",
        "no",
        "as is",
        "0.1235",
    ]
    fixed = Column("f", "number", decimals=3)
    assert [fixed.show(cell) for cell in (0.5, -27.5691, 1234, math.inf, None)] == [
        "0.500",
        "−27.569",
        "1,234.000",
        "infinite",
        "—",
    ]
    assert [epsilon.show(cell) for cell in (math.inf, 3.99991, 4)] == ["infinite", "4.000", "4"]


def test_blocks_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        everything()[0].title = "other"  # type: ignore[misc]


AUDIT = {
    "audit": "one run with canaries",
    "claimed": {"epsilon": 4.0, "delta": 1e-5, "view": "released", "unit": "record"},
    "lower_bound": {"epsilon": 0.31, "confidence": 0.95, "method": "Steinke et al. 2023, 400 canaries"},
    "caveat": "A smoke test that the noise is there, never proof.",
}


def test_an_audit_stands_beside_the_claim() -> None:
    with make() as ledger:
        page = render_report(report_data(ledger, empirical=AUDIT))
    assert "What an audit found" in page
    assert "epsilon at least 0.31, confidence 95 %" in page
    assert AUDIT["caveat"] in page
    assert "What an audit found" not in render_report(data())


@pytest.mark.parametrize(
    ("sampling", "cell"),
    [
        (Sampling.poisson(0.02, unit="record"), "0.02 of the records"),
        (Sampling.fixed_size(10, 50, unit="client"), "10 of 50 clients"),
    ],
)
def test_a_sampled_release_says_how(sampling: Sampling, cell: str) -> None:
    with Ledger.open(None, budget=Budget(epsilon=4.0, delta=1e-5, view="released", accounting="renyi")) as ledger:
        entry = ledger.reserve(plan(40, sampling=sampling))
        ledger.settle(entry, participants=19, survivors=19, bytes_up=1000)
        page = render_report(report_data(ledger))
    (row,) = tables(page)["Every release, in order"]
    assert row["sample"] == cell


@pytest.mark.parametrize(
    ("protection", "headline"),
    [("local", "with something to look at"), ("central", "the operator saw every client")],
)
def test_comparison_modes_are_told_at_the_top(protection: str, headline: str) -> None:
    with Ledger.open(None, budget=Budget(epsilon=4.0, delta=1e-5, view="released")) as ledger:
        entry = ledger.reserve(plan(40, protection=protection))
        ledger.settle(entry, participants=19, survivors=19, bytes_up=1000)
        page = render_report(report_data(ledger))
    assert headline in page
