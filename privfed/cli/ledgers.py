"""`privfed report`, `verify`, `diff` and `migrate`: read what a ledger says, check it, compare it, renew it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from privfed.cli.shell import DONE, NOT_OK, complain, expect_file, print_json, print_text, refuse_to_overwrite

__all__ = ["diff", "migrate", "report", "verify"]

MAX_SMALL_FILE = 2**20  # of a key, an audit or a deployment's description

LedgerArgument = Annotated[str, typer.Argument(metavar="LEDGER", help="File or database URL.", show_default=False)]
WithOption = Annotated[
    Literal["dp-accounting"] | None,
    typer.Option("--with", help="Ask another accountant, too.", show_default=False),
]


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
    audit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What privfed audit privacy --json found.", show_default=False),
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Describe the deployment in the public registry's form.", show_default=False),
    ] = None,
    deployment: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What only you know of the deployment, as YAML.", show_default=False),
    ] = None,
    deployment_form: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a form to fill in for --deployment.", show_default=False),
    ] = None,
    peer: WithOption = None,
) -> int:
    """Write what a ledger spent as a page.

    The HTML page stands alone: verdict, who sees what, epsilon per round and view, every release, how to check it.
    Exit status 1 if the ledger does not verify; the page then says why. Of a broken chain there is no page.
    """
    from privfed.report import render_report
    from privfed.report.files import json_text, write_text
    from privfed_accounting import report_data

    expect_file(ledger)
    targets = [target for target in (output, json, registry, deployment_form) if target is not None]
    refuse_to_overwrite([Path(ledger), *(file for file in (audit, deployment) if file is not None)], targets)
    data = report_data(ledger, empirical=None if audit is None else _read_json(audit), peer=peer is not None)
    texts = [render_report(data, title=title)]
    if json is not None:
        texts.append(json_text(data))
    if registry is not None:
        from privfed_accounting import registry_yaml

        texts.append(registry_yaml(ledger, {} if deployment is None else _read_yaml(deployment)))
    if deployment_form is not None:
        from privfed_accounting import registry_form

        texts.append(registry_form())
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
    ledger: Annotated[
        str, typer.Argument(metavar="LEDGER", help="File or URL of a ledger, or a report.json.", show_default=False)
    ],
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="HEAD", help="A head noted elsewhere, which must be in the chain.", show_default=False),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Ed25519 public key that should have signed: 64 hexadecimal digits or a PEM file.",
            show_default=False,
        ),
    ] = None,
    peer: WithOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> int:
    """Check a ledger.

    Walks the chain of entries and recomputes every epsilon by a second route. A report.json is checked by its numbers
    alone. Exit status 1 if something does not hold.
    """
    from privfed.report.transcript import verification_text
    from privfed_accounting import verify as verify_ledger

    expect_file(ledger)
    keys = None if key is None else {_shown(one): _public_key(one) for one in key}
    verification = verify_ledger(ledger, anchors=anchor or (), keys=keys, peer=peer is not None)
    if json:
        print_json(verification.as_dict())
    else:
        print_text(verification_text(verification))
    return DONE if verification.ok else NOT_OK


def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A ledger or a report.json.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another one.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> int:
    """Compare two ledgers or reports.

    Rounds that were added, are missing or were changed, and what that does to the budget in every view. Exit status 1
    if the second does not go on from the first.
    """
    from privfed.report.transcript import difference_text
    from privfed_accounting import difference

    for place in (before, after):
        expect_file(place)
    found = difference(before, after)
    if json:
        print_json(found.as_dict())
    else:
        print_text(difference_text(found))
    return DONE if found.continues else NOT_OK


def migrate(
    ledger: LedgerArgument,
    backup: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the ledger is copied to first.", show_default="beside it"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Bring a ledger of an earlier version up to date.

    Entries stay as they are, so that every head noted elsewhere stays valid.
    """
    from privfed_accounting import migrate as migrate_ledger

    expect_file(ledger)
    done = migrate_ledger(ledger, backup=backup)
    if json:
        kept = None if done.backup is None else str(done.backup)
        print_json({"ledger": done.location, "found": done.found, "made": done.made, "backup": kept})
    elif done.backup is None:
        print_text(f"{done.location} is of version {done.made} already\n")
    else:
        print_text(f"{done.location} is of version {done.made} now, as it was in {done.backup}\n")


def _shown(key: str) -> str:
    """Return how a key is called in the verdict."""
    return Path(key).name if Path(key).exists() else key


def _public_key(text: str) -> Any:
    """Read a public key: hexadecimal digits, or a PEM file."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from privfed.errors import UsageError

    if not Path(text).is_file():
        if len(text) != 64:
            raise UsageError(f"there is no file {text}: give 64 hexadecimal digits, or the path of a PEM file")
        return text
    try:
        return load_pem_public_key(_read_small(Path(text)))
    except ValueError:
        raise UsageError(f"{text} holds no public key in PEM form: name a file with one Ed25519 public key") from None


def _read_json(path: Path) -> Mapping[str, Any]:
    import json

    from privfed.errors import UsageError

    try:
        data = json.loads(_read_small(path))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error}): write it with privfed audit privacy --json") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no JSON object: write it with privfed audit privacy --json")
    return data


def _read_yaml(path: Path) -> Mapping[str, Any]:
    from privfed.errors import UsageError, needs_extra

    with needs_extra("verify", "reading YAML needs PyYAML"):
        import yaml
    try:
        data = yaml.safe_load(_read_small(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML ({type(error).__name__}): write one `name: value` a line") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no fields: write one `name: value` a line")
    return data


def _read_small(path: Path) -> bytes:
    from privfed.errors import UsageError

    if path.stat().st_size > MAX_SMALL_FILE:
        raise UsageError(f"{path} has {path.stat().st_size} bytes, at most {MAX_SMALL_FILE} are read")
    return path.read_bytes()
