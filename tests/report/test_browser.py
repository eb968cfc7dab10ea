"""The page in a real browser: loads nothing, complains of nothing, fits a telephone and a desk, shows its figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privfed.report import write_report
from tests.report import chromium
from tests.report.ledgers import HOSTILE, data
from tests.report.test_page import everything

pytestmark = pytest.mark.browser

WIDTHS = (360, 1440)
CONTRAST = """
(() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map(c => (c /= 255, c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const background = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const worst = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest('title, desc') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(background(element))].sort((x, y) => y - x);
    worst.push([(a + 0.05) / (b + 0.05), node.data.trim().slice(0, 40)]);
  }
  worst.sort((x, y) => x[0] - y[0]);
  return [worst.length, worst[0]];
})()
"""
OVERFLOW = """
(() => {
  const wide = document.documentElement.clientWidth;
  return [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll') && !e.closest('svg') && e.getBoundingClientRect().right > wide + 0.5)
    .map(e => e.tagName + '.' + e.className);
})()
"""
FIGURES = """
[...document.querySelectorAll('figure')].map(figure => {
  const seen = [...figure.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect()).filter(r => r.width > 0);
  return [seen.length, seen.length ? Math.min(...seen.map(r => Math.min(r.width, r.height))) : 0];
})
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    binary = chromium.find()
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium on this machine: apt-get install chromium")
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with chromium.Browser(binary, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: many rounds, all notices, one block of every kind."""
    folder = tmp_path_factory.mktemp("report")
    given = data(rounds=40, noise_source="seeded", protection="trusted")
    return write_report(folder / "report.html", given, title="A report of everything", sections=everything())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_as_a_reader_has_it(browser: chromium.Browser, report: Path, width: int, dark: bool) -> None:
    with browser.page(report, width=width, dark=dark) as page:
        assert page.requests() == []
        assert page.complaints() == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(OVERFLOW) == []
        figures = page.evaluate(FIGURES)
        assert len(figures) == 4
        assert [seen for seen, _ in figures] == [1, 1, 1, 2], "one of the two layouts of a chart, both images"
        assert all(smallest >= 90 for _, smallest in figures)
        texts, (contrast, where) = page.evaluate(CONTRAST)
        assert texts > 300
        assert contrast >= 4.5, where


def test_the_two_schemes_differ(browser: chromium.Browser, report: Path) -> None:
    colours = []
    for dark in (False, True):
        with browser.page(report, width=800, dark=dark) as page:
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(18, 22, 27)"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_lines_are_really_painted(browser: chromium.Browser, report: Path, tmp_path: Path, dark: bool) -> None:
    """Look at the picture: within the first chart there are pixels of the first two series' colours."""
    expected = [(86, 180, 233), (230, 159, 0)] if dark else [(0, 114, 178), (213, 94, 0)]
    with browser.page(report, width=1440, dark=dark) as page:
        box = page.evaluate(
            "(() => { const r = document.querySelector('.chart.wide').getBoundingClientRect();"
            " return [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY]; })()"
        )
        shot = Image.open(page.screenshot(tmp_path / "page.png")).convert("RGB")
    left, top, right, bottom = (int(edge) for edge in box)
    pixels = np.asarray(shot.crop((left, top, right, bottom)), dtype=np.int64)
    for colour in expected:
        close = np.abs(pixels - np.array(colour)).max(axis=2) <= 8
        assert close.sum() > 100, colour


def test_the_page_can_be_printed(browser: chromium.Browser, report: Path) -> None:
    with browser.page(report, width=1000, dark=True) as page:
        document = page.pdf()
    assert document.startswith(b"%PDF")
    assert len(document) > 20_000


def test_hostile_names_do_nothing_in_a_browser(browser: chromium.Browser, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", data(), title=HOSTILE + "<img src=x onerror=alert(1)>")
    with browser.page(path, width=800) as page:
        assert page.requests() == []
        assert page.complaints() == []
        assert page.evaluate("document.querySelectorAll('script, img').length") == 0


def test_these_tests_can_fail(browser: chromium.Browser, tmp_path: Path) -> None:
    """A page with every fault looked for here, to see that each is found."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><body style='background:#fff'><div style='width:2000px;color:#aaa'>pale and wide</div>"
        "<figure><svg style='display:none'></svg></figure>"
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('hello'); throw new Error('thrown')</script>",
        encoding="utf-8",
    )
    with browser.page(path, width=360) as page:
        assert page.requests() == ["http://127.0.0.1:9/x.png"]
        assert len(page.complaints()) >= 2
        assert page.evaluate("document.documentElement.scrollWidth") > 360
        assert page.evaluate(OVERFLOW) != []
        assert page.evaluate(FIGURES) == [[0, 0]]
        _, (contrast, where) = page.evaluate(CONTRAST)
        assert contrast < 4.5
        assert where == "pale and wide"
