"""What the demo leaves behind: the summary on screen, `report.html`, `report.json`, `summary.json`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from privfed.datasets import Dataset
from privfed.demo.compare import Score
from privfed.demo.options import DemoOptions
from privfed.query import FloatArray
from privfed.report import (
    Axis,
    Column,
    Facts,
    ImageGrid,
    LineChart,
    Notice,
    Rule,
    Section,
    Series,
    Table,
    write_json,
    write_report,
)
from privfed_accounting import Verification, report_data

__all__ = ["DemoResult", "write_pages"]


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        options, data: what it was run on.
        sizes: training rows per silo; known to the demo, never to the server.
        rounds: number, purpose, survivors, lost, log_likelihood, epsilon per view and bytes_up of every release.
        private, pooled, silos: held-out scores of the federated mixture, of pooled training, and of each silo alone.
        weights, images: the mixture's weights, shape `(K,)`, and its means in the space of the rows, shape `(K, d)`.
        ledger: its path. verification: the verdict on it.
        seconds: wall time.
    """

    options: DemoOptions
    data: Dataset
    sizes: tuple[int, ...]
    rounds: tuple[dict[str, Any], ...]
    private: Score
    pooled: Score
    silos: tuple[Score, ...]
    weights: FloatArray
    images: FloatArray
    ledger: Path
    verification: Verification
    seconds: float


def write_pages(result: DemoResult, console: Console) -> dict[str, Any]:
    """Write report and summary beside the ledger, print the summary, and return it for JSON."""
    folder = result.ledger.parent
    accounts = report_data(result.ledger)
    summary = _summary(result)
    write_json(folder / "report.json", accounts)
    write_json(folder / "summary.json", summary)
    title = f"{len(result.sizes)} silos, one mixture"
    write_report(folder / "report.html", accounts, title=title, sections=_sections(result))
    if result.options.progress:
        _print(result, console, folder)
    return summary


def _summary(result: DemoResult) -> dict[str, Any]:
    folder = result.ledger.parent
    last = result.rounds[-1]
    return {
        "data": result.data.name,
        "silos": len(result.sizes),
        "rounds": list(result.rounds),
        "epsilon": last["epsilon"],
        "budget": {
            "epsilon": result.options.epsilon,
            "delta": result.options.delta,
            "unit": "record",
            "view": "server",
        },
        "held_out": {
            "federated": asdict(result.private),
            "pooled_not_private": asdict(result.pooled),
            "silos_alone_median": asdict(_median(result.silos)),
        },
        "verified": result.verification.ok,
        "ledger_head": result.verification.head,
        "files": {name: str(folder / name) for name in ("ledger.db", "report.html", "report.json", "summary.json")},
        "seconds": round(result.seconds, 2),
    }


def _median(scores: tuple[Score, ...]) -> Score:
    indices = [score.adjusted_rand for score in scores if score.adjusted_rand is not None]
    return Score(median(score.log_likelihood for score in scores), median(indices) if indices else None)


def _rows(result: DemoResult) -> list[tuple[str, float, float | None]]:
    """Return name, log-likelihood and adjusted Rand index of everything compared."""
    best = max(result.silos, key=lambda score: score.log_likelihood)
    models = {
        f"federated, epsilon {result.options.epsilon:g}": result.private,
        "pooled scikit-learn, not private": result.pooled,
        "a silo alone: median": _median(result.silos),
        "a silo alone: best": best,
    }
    return [(name, score.log_likelihood, score.adjusted_rand) for name, score in models.items()]


def _sections(result: DemoResult) -> tuple[Section, ...]:
    sizes = result.sizes
    blocks: list[Any] = [
        Notice(
            "caution",
            "Not covered by epsilon: this section",
            "The demo holds all rows and compares in the clear. Sizes of silos, the scores of pooled training and of"
            " single silos, and held-out scores come from raw rows; a real federation could not print them.",
        ),
        Facts(
            (
                ("data", result.data.name),
                ("silos", f"{len(sizes)}, of {min(sizes)} to {max(sizes)} training rows"),
                ("split", "Dirichlet(0.5) over the labels: no two silos hold the same mixture"),
                ("held out", f"{len(result.data.X) - sum(sizes)} rows that no silo trained on"),
            )
        ),
        Table(
            "Held-out quality",
            ("model", Column("log-likelihood (nats per row)", "number"), Column("adjusted Rand index", "number")),
            _rows(result),
            note="All models see the same private projection, so that their densities compare."
            " Labels made the silos differ and score the clusters; no model saw one.",
        ),
    ]
    chart = _likelihood_chart(result)
    if chart is not None:
        blocks.append(chart)
    return (Section("What was learned from whom", tuple(blocks)), Section("The components", (_components(result),)))


def _likelihood_chart(result: DemoResult) -> LineChart | None:
    known = [(row["round"], row["log_likelihood"]) for row in result.rounds if row["log_likelihood"] is not None]
    if len(known) < 2:
        return None
    rounds, values = zip(*known, strict=True)
    return LineChart(
        "Log-likelihood per round",
        Axis("release", integer=True),
        Axis("nats per training row, as released"),
        (Series("federated mixture", rounds, values),),
        rules=(Rule("pooled, not private (held out)", result.pooled.log_likelihood),),
        caption="Each point is itself a protected sum, noise included. Stages with other numbers of components differ.",
    )


def _components(result: DemoResult) -> Any:
    order = np.argsort(result.weights)[::-1]
    if result.data.image_shape is None or result.data.bounds is None:
        rows: list[tuple[str | float, ...]] = [
            (f"{k + 1}", float(result.weights[i]), *map(float, result.images[i][:6])) for k, i in enumerate(order)
        ]
        heads = [Column(f"feature {j + 1}", "number") for j in range(min(6, result.images.shape[1]))]
        return Table("Weights and means", ("component", Column("weight", "number"), *heads), rows)
    low, high = result.data.bounds
    return ImageGrid.of(
        "The mixture's means, mapped back to pixels",
        np.clip(result.images[order], low, high).reshape(-1, *result.data.image_shape),
        captions=tuple(f"weight {result.weights[i]:.3f}" for i in order),
        low=low,
        high=high,
    )


def _print(result: DemoResult, console: Console, folder: Path) -> None:
    from rich.table import Table as ScreenTable

    table = ScreenTable(title="held-out quality", title_justify="left")
    for head in ("model", "log-likelihood", "adjusted Rand"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for name, likelihood, index in _rows(result):
        table.add_row(name, f"{likelihood:.3f}", "-" if index is None or math.isnan(index) else f"{index:.3f}")
    console.print(table)
    if result.verification.ok:
        told = "[green]verified[/green]: chain whole, every charge and epsilon recomputed by a second route"
    else:
        told = "[red]NOT verified[/red]"
    console.print(f"privfed verify: {told}")
    for problem in result.verification.problems:
        console.print(f"  {problem}", markup=False)
    for what, name in (
        ("report", "report.html"),
        ("", "report.json"),
        ("summary", "summary.json"),
        ("ledger", "ledger.db"),
    ):
        console.print(f"{what:8}{folder / name}", markup=False, highlight=False)
    console.print(f"{result.seconds:.1f} s", markup=False)
