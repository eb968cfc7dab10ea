"""Transcripts of a shell, to be read as documentation and run as tests.

A line that begins with `$` is a command; below it `>` is a line of standard output, `!` one of standard error and `?`
the exit status. `[..]` stands for any text in a line, `>[...]` and `![...]` for any number of lines. All else is prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ANY_LINES = "[...]"


@dataclass
class Step:
    """One command with what it should say."""

    command: str
    line: int
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    status: int = 0


def read(path: Path) -> Iterator[Step]:
    """Yield the steps of a transcript."""
    step: Step | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("$ "):
            if step is not None:
                yield step
            step = Step(line[2:], number)
        elif step is not None and line.startswith((">", "!")):
            expected = step.stdout if line[0] == ">" else step.stderr
            expected.append(line[1:].removeprefix(" "))
        elif step is not None and line.startswith("? "):
            step.status = int(line[2:])
    if step is not None:
        yield step


def matches(expected: list[str], actual: str) -> bool:
    """Whether an output is as expected, wildcards filled in."""
    pattern = "".join(
        "(?:.*\n)*" if line == ANY_LINES else re.escape(line).replace(r"\[\.\.\]", ".*") + "\n" for line in expected
    )
    return re.fullmatch(pattern, actual) is not None
