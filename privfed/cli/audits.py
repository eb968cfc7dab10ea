"""`privfed audit masks | privacy`: the audits from a shell.

The result goes to standard output, as a table or as JSON; progress goes to standard error. Exit status: 0 nothing was
found, 1 something was, 2 the audit cannot run.
"""

from __future__ import annotations

from typing import Annotated

import typer

from privfed.cli.shell import DONE, NOT_OK, print_json

__all__ = ["app"]


app = typer.Typer(
    name="audit",
    help="Audit masks and noise.",
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
) -> int:
    """Lint the masks of an implementation of secure aggregation.

    Any implementation behind a small adapter: weak seeds and generators, masks that are reused or too small, keys that
    are shared or shown, values sent beside. Exit status 1 if something was found.
    """
    from privfed.audit.masks import lint_masks
    from privfed.audit.masks.loading import load_adapter
    from privfed.cli.findings import print_findings, print_verdict, telling

    found = load_adapter(adapter)
    with telling(progress and not json) as tell:
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
        print_json(report.as_dict())
    else:
        print_findings(f"Masks of {report.name}", report.findings)
        print_verdict(report.failed, report.not_examined, report.false_alarm)
    return NOT_OK if not report.ok or (require_all and report.not_examined) else DONE


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
) -> int:
    """Audit the noise of a release with canaries.

    Invented data go through the real clip, encode, noise and mask. Shows a lower bound on epsilon next to the claim: a
    smoke test that the noise is there, never a proof. Exit status 1 if something was found.
    """
    from privfed.audit.privacy import audit_privacy
    from privfed.cli.findings import print_privacy, print_verdict, telling

    with telling(progress and not json) as tell:
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
        print_json(audit.as_dict())
    else:
        print_privacy(audit.as_dict(), audit.findings)
        print_verdict(audit.failed, (), audit.false_alarm)
    return DONE if audit.ok else NOT_OK
