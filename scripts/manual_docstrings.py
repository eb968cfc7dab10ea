"""Make docstrings that read well in a terminal read well in the manual, too. A Griffe extension, see mkdocs.yml.

In Markdown a line that begins with ">" is a quotation: examples without a heading, and ranges such as "> 0", would
become one. And an entry for two parameters, "epsilon, delta: ...", belongs to both of them.
"""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

EXAMPLE: Final = re.compile(r"^>>> .*\n?(?:^(?!\s*$).*\n?)*", re.MULTILINE)  # up to the next empty line
RANGE: Final = re.compile(r"^(\s+[\w*, ]+: )(?=>)", re.MULTILINE)
PAIR: Final = re.compile(r"^(?P<indent> +)(?P<a>\w+), (?P<b>\w+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)


def as_markdown(text: str) -> str:
    """Fence the examples that stand at the margin, and escape ranges that begin a description."""
    fenced = EXAMPLE.sub(lambda match: "```pycon\n" + match.group().rstrip("\n") + "\n```\n", text)
    single = PAIR.sub(r"\g<indent>\g<a>: \g<text>\n\g<indent>\g<b>: see `\g<a>`.", fenced)
    return RANGE.sub(r"\1\\", single)


class ManualDocstrings(griffe.Extension):
    """Rewrites each docstring as it is collected; the sources stay as they are."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
