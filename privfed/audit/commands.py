"""`privfed audit masks | privacy`: the audits from a shell, mounted by the command line.

The result goes to standard output, as a table or as JSON; progress goes to standard error. Exit status: 0 nothing was
found, 1 something was, 2 the audit cannot run.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from privfed.audit.findings import Finding

__all__ = ["app"]

FOUND = 1
_STYLES = {"passed": "green", "failed": "bold red", "not examined": "yellow", "error": "bold red"}

app = typer.Typer(
    name="audit",
    help="Audit masks and noise: what an outsider can measure of a claim.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]
ProgressOption = Annotated[bool, typer.Option("--progress/--no-progress", help="Say what is being done.")]
FalseAlarmOption = Annotated[
    float, typer.Option(help="Chance that sound code is reported, over all tests.", show_default="1e-6")
]


@app.command()
def masks(
    adapter: Annotated[
        str, typer.Argument(help="What to audit, package.module:Class or path/to/file.py:Class. Its code is run.")
    ] = "privfed.audit.masks:Sa1",
    check: Annotated[list[str] | None, typer.Option(help="Only this check; can be given several times.")] = None,
    clients: Annotated[int, typer.Option(help="Clients in the rounds that are run.")] = 5,
    seeds: Annotated[int, typer.Option(help="Random seeds to expand in search of a collision.")] = 300_000,
    false_alarm: FalseAlarmOption = 1e-6,
    seed: Annotated[int, typer.Option(help="Of the made-up inputs.")] = 0,
    require_all: Annotated[bool, typer.Option("--require-all", help="Count checks not examined as failed.")] = False,
    json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Lint the masks of an implementation of secure aggregation.

    Any implementation behind a small adapter: weak seeds and generators, masks that are reused or too small, keys that
    are shared or shown, values sent beside. Exit status 1 if something was found.
    """
    from privfed.audit.masks import lint_masks
    from privfed.audit.masks.loading import load_adapter

    found = load_adapter(adapter)
    with _telling(progress and not json) as tell:
        report = lint_masks(
            found,
            checks=check or None,
            clients=clients,
            seeds=seeds,
            false_alarm=false_alarm,
            random_state=seed,
            progress=tell,
        )
    if json:
        _print_json(report.as_dict())
    else:
        _print_findings(f"Masks of {report.name}", report.findings)
        Console().print(Text(_verdict(report.failed, report.not_examined, report.false_alarm)))
    if not report.ok or (require_all and report.not_examined):
        raise typer.Exit(FOUND)


@app.command()
def privacy(
    epsilon: Annotated[float, typer.Option(help="Budget to audit.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Delta of the budget.", show_default="1e-5")] = 1e-5,
    canaries: Annotated[int, typer.Option(help="Canary records, each in or out by a coin.")] = 1000,
    guesses: Annotated[
        int | None, typer.Option(help="How many the attacker ventures.", show_default="a fifth of the canaries")
    ] = None,
    clients: Annotated[int, typer.Option(help="Canary clients.")] = 40,
    dimension: Annotated[int, typer.Option(help="Coordinates of a canary client's vector.")] = 4096,
    confidence: Annotated[float, typer.Option(help="Of the lower bound.")] = 0.95,
    false_alarm: FalseAlarmOption = 1e-6,
    seed: Annotated[int, typer.Option(help="Of canaries and coins, never of the noise.")] = 0,
    json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Audit the noise of a release with canaries.

    Invented data go through the real clip, encode, noise and mask. Shows a lower bound on epsilon next to the claim: a
    smoke test that the noise is there, never a proof. Exit status 1 if something was found.
    """
    from privfed.audit.privacy import audit_privacy

    with _telling(progress and not json) as tell:
        audit = audit_privacy(
            epsilon=epsilon,
            delta=delta,
            canaries=canaries,
            guesses=guesses,
            clients=clients,
            dimension=dimension,
            confidence=confidence,
            false_alarm=false_alarm,
            random_state=seed,
            progress=tell,
        )
    if json:
        _print_json(audit.as_dict())
    else:
        _print_privacy(audit.as_dict(), audit.findings)
        Console().print(Text(_verdict(audit.failed, (), audit.false_alarm)))
    if not audit.ok:
        raise typer.Exit(FOUND)


def _print_privacy(audit: Mapping[str, Any], findings: Iterable[Finding]) -> None:
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
    _print_findings(f"Checks at delta {audit['claimed']['delta']:g}, {audit['protection']}", findings)
    console.print(Text(audit["caveat"]))


def _print_findings(title: str, findings: Iterable[Finding]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("check", "status", "p", "what was seen"):
        table.add_column(column, no_wrap=column in ("check", "status"), justify="right" if column == "p" else "left")
    for finding in findings:
        p_value = "" if finding.p_value is None else f"{finding.p_value:.1e}"
        # Text, not markup: what a stranger's code says in square brackets is no style.
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(Text(finding.check), status, p_value, Text(_printable(finding.what)))
    Console().print(table)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _verdict(failed: tuple[str, ...], not_examined: tuple[str, ...], false_alarm: float) -> str:
    verdict = f"found: {', '.join(failed)}" if failed else "nothing found"
    skipped = f"; not examined: {', '.join(not_examined)}" if not_examined else ""
    return f"{verdict}{skipped}. Sound code is reported with a chance of at most {false_alarm:g}."


def _print_json(data: Mapping[str, Any]) -> None:
    typer.echo(json_module.dumps(data, indent=2, allow_nan=False))


@contextmanager
def _telling(wanted: bool) -> Iterator[Callable[[str], None] | None]:
    """Show what is being done on standard error, where somebody watches."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield None
        return
    with console.status("starting") as status:
        yield lambda what: status.update(Text(what))
