"""What an audit found, as tables for people, and how far it is while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from privfed.audit.findings import Finding
from privfed.cli.shell import one_line

__all__ = ["print_findings", "print_privacy", "print_verdict", "telling"]

_STYLES = {"passed": "green", "failed": "bold red", "not examined": "yellow", "error": "bold red"}


def print_privacy(audit: Mapping[str, Any], findings: Iterable[Finding]) -> None:
    """Print claim and measurement side by side, then each check."""
    bound, shown = audit["lower_bound"], audit["canary_clients"]
    low, estimate, high = (
        "infinite" if shown[name] is None else f"{shown[name]:.3g}" for name in ("low", "estimate", "high")
    )
    table = Table(title="Epsilon: claimed and measured", title_justify="left")
    for column in ("unit", "claimed", "measured", "how"):
        table.add_column(column, justify="right" if column in ("claimed", "measured") else "left")
    counts = f"{bound['correct']} of {bound['guesses']} guesses right, {bound['canaries']} canaries"
    table.add_row(
        "record",
        f"{audit['claimed']['epsilon']:.4g}",
        f"> {bound['epsilon']:.3g}",
        f"lower bound at {bound['confidence']:.1%} confidence; {counts}",
    )
    table.add_row(
        "client",
        f"{shown['claimed_epsilon']:.4g}",
        f"~ {estimate}",
        f"estimate, {low} to {high} within two standard errors; {shown['clients']} canary clients",
    )
    console = Console()
    console.print(table)
    print_findings(f"Checks at delta {audit['claimed']['delta']:g}, {audit['protection']}", findings)
    console.print(Text(audit["caveat"]))


def print_findings(title: str, findings: Iterable[Finding]) -> None:
    """Print one line per check."""
    table = Table(title=title, title_justify="left")
    for column in ("check", "status", "p", "what was seen"):
        table.add_column(column, no_wrap=column in ("check", "status"), justify="right" if column == "p" else "left")
    for finding in findings:
        p_value = "" if finding.p_value is None else f"{finding.p_value:.1e}"
        # Text, not markup: what a stranger's code says in square brackets is no style.
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(Text(finding.check), status, p_value, Text(one_line(finding.what)))
    Console().print(table)


def print_verdict(failed: tuple[str, ...], not_examined: tuple[str, ...], false_alarm: float) -> None:
    """Print what was found in one line."""
    verdict = f"found: {', '.join(failed)}" if failed else "nothing found"
    skipped = f"; not examined: {', '.join(not_examined)}" if not_examined else ""
    chance = f"Sound code is reported with a chance of at most {false_alarm:g}."
    Console().print(Text(f"{verdict}{skipped}. {chance}"))


@contextmanager
def telling(wanted: bool) -> Iterator[Callable[[str], None] | None]:
    """Show what is being done on standard error, where somebody watches."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield None
        return
    with console.status("starting") as status:
        yield lambda what: status.update(Text(what))
