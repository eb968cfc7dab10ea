"""Figures of an evaluation: reliability, confusion, silos."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from privfed.errors import UsageError, needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from privfed.learners.neural.evaluation.evaluation import Evaluation

__all__ = ["drawn"]

INK, BAR, GAP, FAINT = "#1b2a41", "#3f72af", "#d1495b", "#c9d3df"
MOST_LABELS = 12  # classes beyond which their numbers would overlap
MOST_TEXT = 6  # classes beyond which counts are told by colour alone


def drawn(evaluation: Evaluation) -> Figure:
    """Return a figure with a panel for each thing that was asked for.

    Raises:
        UsageError: matplotlib is missing, or there is nothing to draw.
    """
    panels: list[Callable[[Evaluation, Axes], None]] = []
    if evaluation.calibration is not None:
        panels.append(_reliability)
    if evaluation.confusion is not None:
        panels.append(_confusion)
    if evaluation.silos is not None:
        panels.append(_silos)
    if not panels:
        raise UsageError("there is nothing to draw: ask for metrics 'calibration', 'confusion' or 'silos'")
    with needs_extra("plot", "figures need matplotlib"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(4.4 * len(panels), 4.4), layout="constrained")
    for index, panel in enumerate(panels):
        panel(evaluation, figure.add_subplot(1, len(panels), index + 1))
    return figure


def _reliability(evaluation: Evaluation, axes: Axes) -> None:
    found = evaluation.calibration
    if found is None:
        return
    bins = len(found.records)
    middles = (np.arange(bins) + 0.5) / bins
    seen = np.isfinite(found.accuracy)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.5, zorder=1)
    axes.bar(middles[seen], found.accuracy[seen], width=0.9 / bins, color=BAR, label="right", zorder=2)
    errors = 2.0 * found.accuracy_error[seen]
    if (errors > 0).any():
        ends = np.minimum(errors, [found.accuracy[seen], 1.0 - found.accuracy[seen]])
        axes.errorbar(middles[seen], found.accuracy[seen], ends, fmt="none", ecolor=INK, elinewidth=1.2, zorder=3)
    axes.scatter(middles[seen], found.confidence[seen], color=GAP, s=22, label="said to be right", zorder=4)
    axes.set(xlim=(0, 1), ylim=(0, 1.16), xlabel="confidence of the model", ylabel="part of the rows")
    axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_title(f"Reliability: calibration error {found.error}", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    _plain(axes)


def _confusion(evaluation: Evaluation, axes: Axes) -> None:
    if evaluation.confusion is None:
        return
    counts = np.maximum(evaluation.confusion, 0.0)
    classes = len(counts)
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    axes.imshow(parts, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = np.arange(classes) if classes <= MOST_LABELS else np.arange(0, classes, -(-classes // MOST_LABELS))
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    if classes <= MOST_TEXT:
        for (row, column), part in np.ndenumerate(parts):
            axes.text(column, row, f"{part:.2f}", ha="center", va="center", color="white" if part > 0.5 else INK)
    axes.set(xlabel="class found", ylabel="true class")
    noise = f"; noise {evaluation.confusion_noise_std:.3g} rows" if evaluation.confusion_noise_std else ""
    axes.set_title(f"Part of each class{noise}", fontsize=10)


def _silos(evaluation: Evaluation, axes: Axes) -> None:
    found = evaluation.silos
    if found is None:
        return
    bins = len(found.silos)
    axes.bar((np.arange(bins) + 0.5) / bins, found.silos, width=0.9 / bins, color=BAR, zorder=2)
    if found.noise_std:
        axes.axhspan(-2.0 * found.noise_std, 2.0 * found.noise_std, color=FAINT, alpha=0.6, zorder=1)
    known = np.isfinite(found.value)
    if known:
        axes.axvline(found.value, color=GAP, linewidth=1.5, zorder=3)
    axes.axvspan(found.low, found.high, color=GAP, alpha=0.15, zorder=1)
    axes.set(xlim=(0, 1), xlabel="accuracy of a silo", ylabel="silos")
    worst = f"the worst {found.quantile:.0%} of silos"
    axes.set_title(f"All but {worst} reach {found.value:.2f}" if known else f"Noise drowns {worst}", fontsize=10)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
