"""What a ranking of source models says: scores, how far noise may have moved them, and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from privfed.errors import UsageError, needs_extra
from privfed.query import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SourceRanking", "SourceScore"]

TITLES: Mapping[str, str] = {
    "logme": "LogME (nats per record)",
    "h_score": "H-score",
    "h_score_shrunk": "H-score, shrunk",
    "leep": "LEEP (nats per record)",
    "nce": "NCE (nats per record)",
}


@dataclass(frozen=True)
class SourceScore:
    """One source model's scores; larger is better for every method.

    Attributes:
        name: of the candidate.
        width, n_labels: its features and source labels.
        program: name under which clients have it installed; ends in a digest of its weights.
        feature_bound: L2 norm to which its features were clipped.
        scores: method -> score; NaN where the source has no head that the method needs.
        errors: method -> standard error from the noise of the releases, 0.0 without noise. What the scores would vary
            by with other records is not in it.
    """

    name: str
    width: int
    n_labels: int
    program: str
    feature_bound: float
    scores: Mapping[str, float]
    errors: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class SourceRanking:
    """Source models by how well their features suit the clients' labels.

    Attributes:
        scores: one entry per candidate, in the order they were given.
        methods: what they were scored by; the first ranks.
        n_classes: of the target task.
        share: part of the budget that was paid for all of it; None without a budget.
        entries: numbers of the ledger entries.
        epsilon: view -> epsilon charged so far, this ranking included; empty without a budget.
        draws: scores under fresh noise of the known law on top of the released sums, float64 of shape
            `(draws, candidates, methods)`; no draws where there was no noise. They carry the noise twice, so that the
            ranking is at least as stable as they say.
        left_out: methods that were asked for and could score no candidate, and why; nothing was paid for them.
    """

    scores: tuple[SourceScore, ...]
    methods: tuple[str, ...]
    n_classes: int
    share: float | None
    entries: tuple[int, ...]
    epsilon: Mapping[str, float]
    draws: FloatArray = field(repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def order(self, method: str | None = None) -> tuple[str, ...]:
        """Return the candidates' names, the best first; those without a score last."""
        values = self._values(method)
        order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
        return tuple(self.scores[k].name for k in order)

    @property
    def best(self) -> str:
        """Name of the best candidate by the first method."""
        return self.order()[0]

    def confidence(self, method: str | None = None) -> dict[str, float]:
        """Return name -> how often the candidate comes first when the known noise is added once more; sums to 1."""
        column = self._column(method)
        if not len(self.draws):
            best = self.order(method)[0]
            return {score.name: float(score.name == best) for score in self.scores}
        values = np.where(np.isnan(self.draws[:, :, column]), -np.inf, self.draws[:, :, column])
        wins = np.bincount(values.argmax(axis=1), minlength=len(self.scores))
        return {score.name: float(count / len(values)) for score, count in zip(self.scores, wins, strict=True)}

    def as_dict(self) -> dict[str, Any]:
        """Return the ranking as numbers, texts, lists and dicts; NaN is None."""
        return {
            "methods": list(self.methods),
            "left_out": dict(self.left_out),
            "n_classes": self.n_classes,
            "best": self.best,
            "order": {method: list(self.order(method)) for method in self.methods},
            "confidence": {method: self.confidence(method) for method in self.methods},
            "candidates": [
                {
                    "name": score.name,
                    "features": score.width,
                    "source_labels": score.n_labels,
                    "program": score.program,
                    "feature_bound": score.feature_bound,
                    "scores": {method: _plain(value) for method, value in score.scores.items()},
                    "standard_errors": {method: _plain(value) for method, value in score.errors.items()},
                }
                for score in self.scores
            ],
            "share": self.share,
            "ledger_entries": list(self.entries),
            "epsilon": {view: _plain(value) for view, value in self.epsilon.items()},
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `as_dict` as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def table(self) -> str:
        """Return the ranking as text: the best first, scores with their standard errors."""
        width = max(9, *(len(score.name) for score in self.scores))
        confidence = self.confidence()
        lines = [f"{'candidate':{width}}  {'first':>5}  " + "  ".join(f"{method:>20}" for method in self.methods)]
        by_name = {score.name: score for score in self.scores}
        for name in self.order():
            score = by_name[name]
            cells = [_cell(score.scores[m], score.errors[m]) for m in self.methods]
            lines.append(f"{name:{width}}  {confidence[name]:5.0%}  " + "  ".join(f"{cell:>20}" for cell in cells))
        lines += [f"without {method}: {why}" for method, why in self.left_out.items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(self) -> Figure:
        """Return a figure: a panel per method with scores, candidates in the order of the first, bars of two errors.

        Raises:
            UsageError: matplotlib is missing.
        """
        with needs_extra("plot", "figures need matplotlib"):
            from matplotlib.figure import Figure
        by_name = {score.name: score for score in self.scores}
        names = self.order()[::-1]
        rows = np.arange(len(names))
        shown = [method for method in self.methods if np.isfinite(self._values(method)).any()] or list(self.methods)
        figure = Figure(figsize=(3.2 * len(shown) + 1.2, 0.42 * len(names) + 1.2), layout="constrained")
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axis, method in zip(axes, shown, strict=True):
            values = np.array([by_name[name].scores[method] for name in names])
            spreads = np.array([by_name[name].errors[method] for name in names])
            best = self.order(method)[0]
            colours = ["C0" if name == best else "0.55" for name in names]
            for row, value, spread, colour in zip(rows, values, spreads, colours, strict=True):
                if math.isfinite(value):
                    axis.errorbar(value, row, xerr=2 * spread, fmt="o", color=colour, capsize=3)
            axis.set_title(TITLES[method], fontsize="medium")
            axis.set_yticks(rows, names)
            axis.set_ylim(-0.6, len(names) - 0.4)
            axis.locator_params(axis="x", nbins=4)  # narrow panels: five labels of two decimals run into each other
            axis.grid(axis="x", alpha=0.3)
        noise = "bars: two standard errors of the noise" if len(self.draws) else "no noise"
        figure.supxlabel(f"larger is better; the best in blue; {noise}", fontsize="small")
        return figure

    def _column(self, method: str | None) -> int:
        method = self.methods[0] if method is None else method
        if method not in self.methods:
            raise UsageError(f"the candidates were not scored by {method!r}, only by {self.methods}")
        return self.methods.index(method)

    def _values(self, method: str | None) -> FloatArray:
        name = self.methods[self._column(method)]
        return np.array([score.scores[name] for score in self.scores])


def _cell(score: float, error: float) -> str:
    return f"{score:12.4f} ±{error:6.4f}" if math.isfinite(score) else "no source head"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
