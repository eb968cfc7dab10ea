"""The commands in one program, and its exit status.

Exit status: 0 done, 1 a ledger does not verify or an audit failed, 2 something cannot be used (the line says what, the
hint what to do), 130 interrupted, 141 nobody reads on. Commands load what they need when they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from privfed._version import __version__
from privfed.cli import audits, demo, ledgers, planning, studies
from privfed.cli.shell import (
    DONE,
    INTERRUPTED,
    READER_GONE,
    UNUSABLE,
    Interrupted,
    ReaderGone,
    complain,
    status_of,
    tell,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="privfed",
    help="Privacy-preserving federated learning: watch it work, read what was spent, check it.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables: data and keys
    rich_markup_mode=None,  # plain help: at once, and the same in every terminal
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Args:
        arguments: what stands after the program's name; `sys.argv[1:]` by default.
    """
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="privfed", standalone_mode=False)
    except Interrupted as interrupted:
        complain("interrupted", hint=str(interrupted))
        return INTERRUPTED
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except ReaderGone:
        return READER_GONE
    except Exception as error:
        told = tell(error)
        if told is None:
            raise
        complain(*told)
        return status_of(error)
    if status == INTERRUPTED:  # some versions of typer turn a Ctrl-C into this status, others into an exception
        complain("interrupted")
    return status if isinstance(status, int) else DONE


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"privfed {__version__}")
        raise typer.Exit


@app.callback()
def _privfed(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(UNUSABLE)


app.command()(demo.demo)
app.command()(planning.plan)
app.command()(studies.sweep)
app.command()(ledgers.report)
app.command()(ledgers.verify)
app.command()(ledgers.diff)
app.command()(ledgers.migrate)
app.add_typer(audits.app)
