"""What every command needs around its work: output, complaints, interrupts.

Results go to standard output, all else to standard error. Names and texts from elsewhere cannot drive the terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer

__all__ = [
    "DONE",
    "INTERRUPTED",
    "NOT_OK",
    "READER_GONE",
    "UNUSABLE",
    "Interrupted",
    "ReaderGone",
    "complain",
    "expect_file",
    "one_line",
    "print_json",
    "print_text",
    "refuse_to_overwrite",
    "status_of",
    "tell",
]

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


class Interrupted(Exception):  # noqa: N818 - the user did it
    """Ctrl-C, with what there is to say about what is left."""


class ReaderGone(Exception):  # noqa: N818 - no error of ours
    """Whoever read our output has seen enough; the status is what a shell reports of SIGPIPE."""


def print_json(data: Mapping[str, Any]) -> None:
    """Print strict JSON on standard output."""
    from privfed.report.files import json_text

    print_text(json_text(data))


def print_text(text: str | bytes) -> None:
    """Print a result on standard output, as it is."""
    from privfed.errors import UsageError

    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        # Without this the interpreter would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGone from None
    except OSError as error:
        raise UsageError(f"cannot write to standard output: {error.strerror}: free some space there") from error


def expect_file(place: str) -> None:
    """Refuse what is no file; the URL of a database is left to whoever opens it."""
    from privfed.errors import UsageError

    if "://" in place:
        return
    path = Path(place)
    if path.is_dir():
        raise UsageError(f"{path} is a directory, expected a ledger: name the file in it")
    if not path.exists():
        raise UsageError(f"there is no file {path}: check the path")


def refuse_to_overwrite(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """A report must never replace what it is made from, nor one output the other."""
    from privfed.errors import UsageError

    resolved = [str(target) if str(target) == "-" else str(target.resolve()) for target in targets]
    for source in sources:
        if str(source.resolve()) in resolved:
            what = "the ledger itself" if source == sources[0] else "read for the report"
            raise UsageError(f"{source} is {what}, expected another file: name the report differently")
    twice = [target for index, target in enumerate(targets) if resolved[index] in resolved[:index]]
    if twice:
        raise UsageError(f"{twice[0]} is named for both outputs, expected two files: name them differently")


def tell(error: Exception) -> tuple[str, str] | None:
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


def status_of(error: Exception) -> int:
    """Return the exit status of an error: a ledger whose chain is broken does not verify, all else is unusable."""
    from privfed_accounting.errors import CorruptLedger

    return NOT_OK if isinstance(error, CorruptLedger) else UNUSABLE


def _split_remedy(text: str) -> tuple[str, str]:
    """Part a message of the form "what was found, what was expected: the remedy"."""
    parted = _REMEDY.fullmatch(" ".join(text.split()))
    return (parted["found"], parted["remedy"]) if parted else (text, "")


def complain(message: str, hint: str = "") -> None:
    """Say on standard error what is wrong, and what to do."""
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            typer.echo(f"privfed: {kind}: {_lower_first(one_line(text).rstrip('.'))}", err=True)


def one_line(text: str) -> str:
    """Return `text` without what a terminal would obey: names of files and clients are somebody's input."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _lower_first(line: str) -> str:
    first = line.split(" ", 1)[0]
    return line if first[1:] != first[1:].lower() else first[:1].lower() + line[1:]
