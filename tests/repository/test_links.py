"""Links between the pages lead somewhere: to a file that exists, and to a heading that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    folders = ("docs", "protocols", "accounting", "examples", "benchmarks")
    return sorted([*ROOT.glob("*.md")] + [path for folder in folders for path in (ROOT / folder).rglob("*.md")])


def links(page: Path) -> list[str]:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in LINK.findall(prose) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"[`*_]|\{.*\}|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading)) for heading in plain}


def broken(page: Path) -> list[str]:
    return [target for target in links(page) if not leads_somewhere(page, target)]


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists() or not file.is_relative_to(ROOT):
        return False
    from_docstrings = file.suffix == ".md" and "::: " in file.read_text(encoding="utf-8")
    if not anchor or file.suffix != ".md" or from_docstrings:
        return True
    return re.sub("-+", "-", anchor) in {re.sub("-+", "-", name) for name in anchors(file)}


def test_there_are_pages_and_links() -> None:
    assert len(pages()) > 8
    assert sum(len(links(page)) for page in pages()) > 20


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](#one) [b](#two) [c](gone.md) [d](https://example.org/x) [e](page.md#one)\n")
    assert broken(page) == ["#two", "gone.md"]
