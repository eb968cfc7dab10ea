"""The Python on the pages runs, from top to bottom, and prints what the pages say it prints."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "accounting/README.md",
    "protocols/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: str) -> list[tuple[str, str]]:
    return [(match["language"], match["text"]) for match in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]


def program(page: str) -> str:
    return "\n".join(text for language, text in blocks(page) if language == "python")


def expected(page: str) -> str | None:
    """What the page prints: its text blocks that directly follow Python; None where a Python block shows no output."""
    found, complete, previous, last = "", True, "", ""
    for language, text in [*blocks(page), ("end", "")]:
        if previous == "python" and language == "text":
            found += text
        elif previous == "python" and prints(last):
            complete = False
        previous, last = language, text
    return found if complete else None


def prints(code: str) -> bool:
    return "print(" in code


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "page.py"
    script.write_text(code, encoding="utf-8")
    path = os.pathsep.join(str(ROOT / part) for part in (".", "protocols", "accounting"))
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("page", [page for page in PAGES if program(page)])
def test_page_runs(page: str, tmp_path: Path) -> None:
    result = run(program(page), tmp_path)
    assert result.returncode == 0, result.stderr
    promised = expected(page)
    if promised is not None:
        assert doctest.OutputChecker().check_output(promised, result.stdout, FLAGS), result.stdout


def test_first_steps_shows_all_its_output() -> None:
    assert expected("docs/first-steps.md")


def test_a_page_that_lies_would_be_found(tmp_path: Path) -> None:
    result = run("print(1 + 1)", tmp_path)
    assert not doctest.OutputChecker().check_output("3\n", result.stdout, FLAGS)
    assert run("raise SystemExit(3)", tmp_path).returncode == 3
