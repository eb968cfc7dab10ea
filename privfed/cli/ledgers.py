"""`privfed report` and `privfed verify`: read what a ledger says, and check it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from privfed.cli.shell import (
    DONE,
    NOT_OK,
    LedgerArgument,
    complain,
    expect_file,
    print_json,
    print_text,
    refuse_to_overwrite,
)

__all__ = ["report", "verify"]


def report(
    ledger: LedgerArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML page; - for standard output.")
    ] = Path("report.html"),
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="The same as JSON; - for standard output.", show_default=False),
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Privacy report",
) -> int:
    """Write what a ledger spent as a page.

    The HTML page stands alone: verdict, who sees what, epsilon per round and view, every release, how to check it.
    Exit status 1 if the ledger does not verify; the page then says why.
    """
    from privfed.report import render_report
    from privfed.report.files import json_text, write_text
    from privfed_accounting import report_data

    expect_file(ledger)
    targets = [output] if json is None else [output, json]
    refuse_to_overwrite(ledger, targets)
    data = report_data(ledger)
    texts = [render_report(data, title=title)]
    if json is not None:
        texts.append(json_text(data))
    for target, text in zip(targets, texts, strict=True):
        if str(target) == "-":
            print_text(text)
        else:
            print_text(os.fsencode(write_text(target, text)) + b"\n")
    if not data["verification"]["ok"]:
        complain("the ledger does not verify, and its report says so", hint=f"privfed verify {ledger}")
        return NOT_OK
    return DONE


def verify(
    ledger: LedgerArgument,
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> int:
    """Check a ledger.

    Walks the chain of entries and recomputes every epsilon by a second route. Exit status 1 if something does not hold.
    """
    from privfed.report.transcript import verification_data, verification_text
    from privfed_accounting import verify as verify_ledger

    expect_file(ledger)
    verification = verify_ledger(ledger)
    if json:
        print_json(verification_data(verification))
    else:
        print_text(verification_text(verification))
    return DONE if verification.ok else NOT_OK
