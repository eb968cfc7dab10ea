"""The command line: `privfed demo | report | verify`. Results go to standard output, all else to standard error.

Exit status: 0 done, 1 a ledger does not verify, 2 something cannot be used (the line says what, the hint what to do),
130 interrupted, 141 nobody reads on. Only this module knows about the shell; commands load what they need when run.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from privfed._version import __version__

__all__ = ["main"]

DONE, NOT_OK, UNUSABLE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141

# typer brings its own click or uses the installed one, depending on its version; both derive from this class.
_ShellError: type[BaseException] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# Our messages end in the remedy, in the imperative: what follows a stop and one of these words is the hint.
_VERBS = (
    "add ask bring call check choose close create drop encode find free give impute install leave lower make merge"
    " move multiply name open pass pip put raise reconnect replace restore rename run set sort start stop take"
    " tolerate use wait write"
)
_REMEDY = re.compile(rf"(?P<found>.+?)[:;.] (?P<remedy>(?:{_VERBS.replace(' ', '|')})\b.*)", re.IGNORECASE)

app = typer.Typer(
    name="privfed",
    help="Privacy-preserving federated learning: watch it work, read what was spent, check it.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables: data and keys
    rich_markup_mode=None,  # plain help: at once, and the same in every terminal
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

LedgerArgument = Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger's file.", show_default=False)]


class _Interrupted(Exception):  # noqa: N818 - the user did it
    """Ctrl-C, with what there is to say about what is left."""


class _ReaderGone(Exception):  # noqa: N818 - no error of ours
    """Whoever read our output has seen enough; the status is what a shell reports of SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Args:
        arguments: what stands after the program's name; `sys.argv[1:]` by default.
    """
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="privfed", standalone_mode=False)
    except _Interrupted as interrupted:
        _complain("interrupted", hint=str(interrupted))
        return INTERRUPTED
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except _ReaderGone:
        return READER_GONE
    except Exception as error:
        told = _tell(error)
        if told is None:
            raise
        _complain(*told)
        return UNUSABLE
    if status == INTERRUPTED:  # some versions of typer turn a Ctrl-C into this status, others into an exception
        _complain("interrupted")
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


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows from an .npz or .csv file.", show_default="digits")
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Budget for adding or removing one record.")] = 4.0,
    delta: Annotated[float, typer.Option(help="Delta of the budget.")] = 1e-5,
    clients: Annotated[int, typer.Option(help="Number of silos.")] = 20,
    components: Annotated[int, typer.Option(help="Components of the mixture.")] = 10,
    dropout: Annotated[float, typer.Option(help="Fraction of silos that may be lost.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of split, silos and learner; never of the noise.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for ledger and reports.")] = Path("privfed-demo"),
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show the live table.")] = True,
) -> None:
    """Train over silos that show nothing.

    Twenty silos fit one Gaussian mixture by secure aggregation, under a privacy budget; some are lost on the way.
    """
    from rich.console import Console

    from privfed.demo import DemoOptions, run_demo

    options = DemoOptions(
        data=data,
        epsilon=epsilon,
        delta=delta,
        clients=clients,
        components=components,
        dropout=dropout,
        seed=seed,
        out=out,
        progress=progress,
    )
    started = time.time()
    try:
        summary = run_demo(options, console=Console(stderr=True))
    except KeyboardInterrupt:
        raise _Interrupted(_left_behind(out, since=started)) from None
    if json:
        _print_json(summary)
    elif not progress:
        for path in summary.get("files", {}).values():
            _print(f"{path}\n")


@app.command()
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

    _expect_file(ledger)
    targets = [output] if json is None else [output, json]
    _refuse_to_overwrite(ledger, targets)
    data = report_data(ledger)
    texts = [render_report(data, title=title)]
    if json is not None:
        texts.append(json_text(data))
    for target, text in zip(targets, texts, strict=True):
        if str(target) == "-":
            _print(text)
        else:
            _print(os.fsencode(write_text(target, text)) + b"\n")
    if not data["verification"]["ok"]:
        _complain("the ledger does not verify, and its report says so", hint=f"privfed verify {ledger}")
        return NOT_OK
    return DONE


@app.command()
def verify(
    ledger: LedgerArgument,
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> int:
    """Check a ledger.

    Walks the chain of entries and recomputes every epsilon by a second route. Exit status 1 if something does not hold.
    """
    from privfed.report.transcript import verification_data, verification_text
    from privfed_accounting import verify as verify_ledger

    _expect_file(ledger)
    verification = verify_ledger(ledger)
    if json:
        _print_json(verification_data(verification))
    else:
        _print(verification_text(verification))
    return DONE if verification.ok else NOT_OK


def _print_json(data: Mapping[str, Any]) -> None:
    from privfed.report.files import json_text

    _print(json_text(data))


def _print(text: str | bytes) -> None:
    from privfed.errors import UsageError

    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        # Without this the interpreter would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _ReaderGone from None
    except OSError as error:
        raise UsageError(f"cannot write to standard output: {error.strerror}: free some space there") from error


def _expect_file(ledger: Path) -> None:
    from privfed.errors import UsageError

    if ledger.is_dir():
        raise UsageError(f"{ledger} is a directory, expected a ledger: name the file in it")
    if not ledger.exists():
        raise UsageError(f"there is no file {ledger}: check the path")


def _refuse_to_overwrite(ledger: Path, targets: Sequence[Path]) -> None:
    """A report must never replace the ledger it is made from, nor one output the other."""
    from privfed.errors import UsageError

    resolved = [str(target) if str(target) == "-" else str(target.resolve()) for target in targets]
    if str(ledger.resolve()) in resolved:
        raise UsageError(f"{ledger} is the ledger itself, expected another file: name the report differently")
    if len(set(resolved)) < len(resolved):
        raise UsageError(f"{targets[0]} is named for both outputs, expected two files: name them differently")


def _tell(error: Exception) -> tuple[str, str] | None:
    """Return what to say of an error that a user can act on, and the hint; None for a fault of our own."""
    if isinstance(error, _ShellError):
        return cast(typer.BadParameter, error).format_message(), "privfed --help lists the commands and their options"
    from privfed.errors import PrivfedError
    from privfed_accounting.errors import AccountingError
    from privfed_protocols.errors import ProtocolError

    if isinstance(error, PrivfedError | ProtocolError | AccountingError):
        return _split_remedy(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}", "name a place that exists and is accessible"
    return None


def _split_remedy(text: str) -> tuple[str, str]:
    """Part a message of the form "what was found, what was expected: the remedy"."""
    parted = _REMEDY.fullmatch(" ".join(text.split()))
    return (parted["found"], parted["remedy"]) if parted else (text, "")


def _complain(message: str, hint: str = "") -> None:
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            typer.echo(f"privfed: {kind}: {_lower_first(_one_line(text).rstrip('.'))}", err=True)


def _one_line(text: str) -> str:
    """Return `text` without what a terminal would obey: names of files and clients are somebody's input."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _lower_first(line: str) -> str:
    first = line.split(" ", 1)[0]
    return line if first[1:] != first[1:].lower() else first[:1].lower() + line[1:]


def _left_behind(folder: Path, *, since: float) -> str:
    """Say where the ledger of the run that was interrupted lies, if one was begun."""
    files = {path: path.stat() for path in folder.rglob("ledger.db")}
    begun = {path: stat.st_mtime for path, stat in files.items() if stat.st_size and stat.st_mtime >= since - 1}
    if not begun:
        return "no ledger was begun, nothing was spent"
    return (
        f"what was charged stays charged, and is on record: privfed verify {max(begun, key=lambda path: begun[path])}"
    )


if __name__ == "__main__":
    sys.exit(main())
