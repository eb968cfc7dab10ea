"""The main job, end to end: silos, protected preprocessing, a private mixture, comparison, verification, report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from privfed.datasets import Dataset
from privfed.datasets.dataset import split_rows
from privfed.demo.compare import pooled_score, score_of, silo_scores
from privfed.demo.data import IntArray, dirichlet_silos, load_data
from privfed.demo.options import DemoOptions
from privfed.demo.pages import DemoResult, write_pages
from privfed.demo.progress import RoundTable
from privfed.engines import LocalFederation, Loss
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture, RoundReport
from privfed.learners.projection import protected_projection
from privfed.plan import tolerated_losses
from privfed.statistics.transform import LinearMap, TransformedFederation
from privfed_accounting import Budget, verify

__all__ = ["run_demo"]

HELD_OUT = 0.2
ALPHA = 0.5  # of the Dirichlet: a silo holds mostly two or three of ten labels
PROJECTED = 8  # principal components that the mixture sees
MAX_RECORDS = 100_000  # rows that a silo may hold; public
VIEWS = ("server", "client", "unmasked")
PROJECTION = 0.28  # of the budget; the mixture has the rest


def run_demo(options: DemoOptions, console: Console | None = None) -> dict[str, Any]:
    """Run the demo and write ledger, `report.html` and `report.json` into a folder; return a summary for JSON.

    Args:
        options: see `DemoOptions`.
        console: where progress is drawn; standard error by default.

    Raises:
        PrivfedError, AccountingError: a choice or a file cannot be used; nothing is lost, a started ledger verifies.
    """
    started = time.monotonic()
    console = console or Console(stderr=True)
    data = load_data(options.data)
    rng = np.random.default_rng(options.seed)
    train, test = split_rows(len(data), held_out=HELD_OUT, random_state=rng)
    if options.components > len(train) // 4:
        raise UsageError(f"{options.components} components for {len(train)} training rows: fewer --components")
    silos = dirichlet_silos(data.y, train, options.clients, alpha=ALPHA, rng=rng)
    folder = _fresh_folder(options.out)
    budget = Budget(epsilon=options.epsilon, delta=options.delta, unit="record")
    clients = {f"silo-{index:02d}": data.X[rows] for index, rows in enumerate(silos)}
    if options.progress:
        _introduce(console, options, data, silos)
    with LocalFederation(
        clients,
        budget=budget,
        ledger=folder / "ledger.db",
        dropout=options.dropout if tolerated_losses(options.clients, options.dropout) else 0.0,  # said on screen
        losses=list(_losses(options)),
        max_records=MAX_RECORDS,
    ) as federation:
        table = RoundTable(console, VIEWS, show=options.progress)
        with table:
            rounds: list[dict[str, Any]] = []
            linear_map, mixture = _train(federation, data, options, table, rounds)
    verification = verify(folder / "ledger.db")
    projected = [linear_map(rows) for rows in clients.values()]
    held_out, labels = linear_map(data.X[test]), None if data.y is None else data.y[test]
    settings: dict[str, Any] = {"components": options.components, "seed": options.seed}
    result = DemoResult(
        options=options,
        data=data,
        sizes=tuple(len(rows) for rows in silos),
        rounds=tuple(rounds),
        private=score_of(mixture, held_out, labels),
        pooled=pooled_score(np.concatenate(projected), held_out, labels, **settings),
        silos=tuple(silo_scores(projected, held_out, labels, **settings)),
        weights=mixture.weights_,
        images=linear_map.inverse(mixture.means_),
        ledger=folder / "ledger.db",
        verification=verification,
        seconds=time.monotonic() - started,
    )
    return write_pages(result, console)


def _train(
    federation: LocalFederation,
    data: Dataset,
    options: DemoOptions,
    table: RoundTable,
    rounds: list[dict[str, Any]],
) -> tuple[LinearMap, GaussianMixture]:
    """Project on private principal components, then fit the private mixture: every number through one door."""

    def report(stage: RoundReport) -> None:
        if stage.release is not None:
            _record(stage.release, stage.stage, stage.log_likelihood)

    def _record(release: Any, purpose: str, log_likelihood: float | None = None) -> None:
        table.add(release, purpose, log_likelihood)
        rounds.append(
            {
                "round": release.round,
                "purpose": purpose,
                "survivors": release.survivors,
                "lost": list(release.lost),
                "log_likelihood": log_likelihood,
                "epsilon": dict(release.epsilon),
                "bytes_up": release.bytes_up,
            }
        )

    linear_map, variances = protected_projection(
        federation,
        min(PROJECTED, federation.n_features),
        bounds=data.bounds,
        share=PROJECTION,
        callback=lambda purpose, release: _record(release, purpose),
    )
    # One width for all axes: they share the unit of the rows, and a row of clusters is longer than what stands across.
    reach = np.full(len(variances), 4.0 * math.sqrt(float(variances.max())))
    mixture = GaussianMixture(
        options.components,
        covariance_type="tied",
        bounds=(-reach, reach),
        random_state=options.seed,
        callback=report,
    )
    mixture.fit(TransformedFederation(federation, linear_map))
    return linear_map, mixture


def _losses(options: DemoOptions) -> Iterator[Loss]:
    """Lose one silo in set-up and two in mid-round, as far as the plan tolerates."""
    losses = (
        Loss("silo-01", "shares"),
        Loss("silo-02", "masked", rounds=range(6, 1000)),
        Loss(f"silo-{options.clients - 1:02d}", "masked", rounds=range(14, 1000)),
    )
    yield from losses[: tolerated_losses(options.clients, options.dropout)]


def _fresh_folder(out: Path) -> Path:
    """Return `out`, or the first `out/run-N` if `out` holds a ledger already: a ledger is never overwritten."""
    folder, number = out, 1
    while (folder / "ledger.db").exists():
        number += 1
        folder = out / f"run-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _introduce(console: Console, options: DemoOptions, data: Dataset, silos: list[IntArray]) -> None:
    sizes = sorted(len(rows) for rows in silos)
    console.print(
        f"[bold]{data.name}[/bold]: {sum(sizes)} training rows at {len(sizes)} silos of {sizes[0]} to {sizes[-1]} rows,"
        f" no two alike.\nbudget: epsilon {options.epsilon:g} at delta {options.delta:g} for adding or removing one"
        " record, guarded against the server; secure aggregation sa1; up to"
        f" {tolerated_losses(options.clients, options.dropout)} silos may be lost"
    )
