"""Draw the manual's tables from the code they describe, so that the two cannot part. A hook of mkdocs.yml.

A page says `<!-- table: NAME -->`; NAME is one of those in `TABLES`.
"""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PLACE: Final = re.compile(r"^<!-- table: (?P<name>[a-z ]+) -->$", re.MULTILINE)
SOURCES: Final = tuple(str(ROOT / part) for part in (".", "protocols", "accounting"))


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def transitions(machine: Mapping[Any, Mapping[Any, enum.Enum]]) -> str:
    """Return one row for each transition of a state machine; a terminal state has a row of its own."""
    rows: list[tuple[str, ...]] = []
    for state, following in machine.items():
        rows += [(f"`{state.name}`", trigger.value, f"`{after.name}`") for trigger, after in following.items()]
        if not following:
            rows.append((f"`{state.name}`", "*terminal: nothing leads out*", ""))
    return table(("state", "what happens", "next state"), rows)


def client_transitions() -> str:
    """Return the client's table."""
    from privfed_protocols.states import CLIENT_TRANSITIONS

    return transitions(CLIENT_TRANSITIONS)


def server_transitions() -> str:
    """Return the server's table."""
    from privfed_protocols.states import SERVER_TRANSITIONS

    return transitions(SERVER_TRANSITIONS)


def refusals() -> str:
    """Return number, name and reason of every refusal that has a number."""
    from privfed_protocols import errors, suites

    known = {kind for kind in (*vars(errors).values(), *vars(suites).values()) if isinstance(kind, type)}
    numbered: dict[tuple[int, str], str] = {
        (number, kind.__name__): kind.__doc__ or "" for kind in known if (number := getattr(kind, "refusal", 0))
    }
    rows: list[tuple[str, ...]] = [
        (str(number), f"`{name}`", re.sub(r"^Refusal \d+: ", "", text.strip()))
        for (number, name), text in sorted(numbered.items())
    ]
    return table(("no.", "exception", "refused"), rows)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "client transitions": client_transitions,
    "server transitions": server_transitions,
    "refusals": refusals,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the places by their tables; an unknown name stops the build."""
    sys.path[:0] = [source for source in SOURCES if source not in sys.path]
    return PLACE.sub(lambda match: TABLES[match["name"]](), markdown)
