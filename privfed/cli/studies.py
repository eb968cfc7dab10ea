"""`privfed sweep`: what a budget costs in utility."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privfed.cli.shell import DONE, UNUSABLE, print_json, print_text

__all__ = ["sweep"]


def sweep(
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows from an .npz or .csv file.", show_default="digits")
    ] = None,
    learner: Annotated[str, typer.Option(help="What to train: mixture or mean.")] = "mixture",
    epsilon: Annotated[str, typer.Option(metavar="LIST", help="Budgets, separated by commas.")] = "0.5,1,2,4,8",
    mode: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Where the noise is added: trusted (as distributed), secure, local, central."
        ),
    ] = "trusted",
    seeds: Annotated[int, typer.Option(help="Runs of each budget and mode.")] = 3,
    delta: Annotated[float, typer.Option(help="Delta of every budget.")] = 1e-5,
    clients: Annotated[int, typer.Option(help="Number of silos.")] = 20,
    components: Annotated[int, typer.Option(help="Components of the mixture.")] = 10,
    covariance: Annotated[str, typer.Option(help="full, tied, diag or spherical.")] = "tied",
    project: Annotated[
        int | None,
        typer.Option(help="Principal axes to keep; 0 keeps the columns.", show_default="8 where there are more"),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Public bounds of every value.", show_default="a private range query"),
    ] = None,
    seed: Annotated[int, typer.Option(help="First seed, of splits, silos and learners; never of the noise.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for sweep.svg and sweep.json.")] = Path(
        "privfed-sweep"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show how far it is.")] = True,
) -> int:
    """Measure what privacy costs.

    Trains one learner at every budget and mode, and sets its score against training on all rows without privacy. The
    scores are computed from the rows as they are: on private data, the table is for those who may see them. Exit status
    2 if every training with some budget was refused.
    """
    from typing import cast

    from rich.console import Console
    from rich.progress import Progress

    from privfed.report.files import write_json, write_text
    from privfed.statistics.mixture_model import CovarianceType
    from privfed.studies import SweepOptions, run_sweep
    from privfed.studies.pages import figure, table
    from privfed.studies.sweep import Mode
    from privfed.studies.tasks import Learner

    options = SweepOptions(
        data=data,
        learner=cast(Learner, learner),
        epsilons=_numbers("--epsilon", epsilon),
        modes=cast("tuple[Mode, ...]", tuple(word.strip() for word in mode.split(","))),
        seeds=seeds,
        delta=delta,
        clients=clients,
        components=components,
        covariance_type=cast(CovarianceType, covariance),
        project=project,
        bounds=None if bounds is None else _pair("--bounds", bounds),
        seed=seed,
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
        task = bar.add_task("sweep", total=options.runs)
        result = run_sweep(
            options, progress=lambda number, _, what: bar.update(task, completed=number, description=what)
        )
    out.mkdir(parents=True, exist_ok=True)
    files = [
        write_text(out / "sweep.svg", figure(result).standalone()),
        write_json(out / "sweep.json", result.as_dict()),
    ]
    if json:
        print_json(result.as_dict() | {"files": [str(path) for path in files]})
    else:
        print_text(table(result) + "".join(f"{path}\n" for path in files))
    return UNUSABLE if any(one.failed == one.runs for one in result.summaries()) else DONE


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from privfed.errors import UsageError

    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"{option} is {text!r}, expected numbers separated by commas") from None


def _pair(option: str, text: str) -> tuple[float, float]:
    from privfed.errors import UsageError

    numbers = _numbers(option, text)
    if len(numbers) != 2:
        raise UsageError(f"{option} is {text!r}, expected two numbers, LOW,HIGH")
    return numbers[0], numbers[1]
