"""`privfed demo`: the main job on real data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from privfed.cli.shell import Interrupted, print_json, print_text

__all__ = ["demo"]


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rows from an .npz (arrays X, y) or .csv file (a header; labels in label or y).",
            show_default="digits",
        ),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Budget for adding or removing one record.")] = 4.0,
    delta: Annotated[float, typer.Option(help="Delta of the budget.")] = 1e-5,
    clients: Annotated[int, typer.Option(help="Number of silos.")] = 20,
    components: Annotated[int, typer.Option(help="Components of the mixture.")] = 10,
    dropout: Annotated[float, typer.Option(help="Fraction of silos that may be lost, 0 to 0.5.")] = 0.2,
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
        raise Interrupted(_left_behind(out, since=started)) from None
    if json:
        print_json(summary)
    elif not progress:
        for path in summary.get("files", {}).values():
            print_text(f"{path}\n")


def _left_behind(folder: Path, *, since: float) -> str:
    """Say where the ledger of the run that was interrupted lies, if one was begun."""
    files = {path: path.stat() for path in folder.rglob("ledger.db")}
    begun = {path: stat.st_mtime for path, stat in files.items() if stat.st_size and stat.st_mtime >= since - 1}
    if not begun:
        return "no ledger was begun, nothing was spent"
    return (
        f"what was charged stays charged, and is on record: privfed verify {max(begun, key=lambda path: begun[path])}"
    )
