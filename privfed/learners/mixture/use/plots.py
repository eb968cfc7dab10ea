"""Figures of mixtures: each draws into `ax`, or into the current axes, and returns them.

They need matplotlib: pip install 'privfed[plot]'. Points that are handed in are drawn as they are: show them only to
those who may see them. Ellipses, weights, likelihoods and thresholds of a fit under a budget may be shown to anybody.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from privfed.errors import UsageError, needs_extra
from privfed.learners.mixture.fitted import FittedMixture
from privfed.learners.mixture.use.anomaly import AnomalyThreshold
from privfed.learners.mixture.use.explain import Explanation
from privfed.learners.mixture.use.inference import FederatedInference
from privfed.learners.mixture.use.scoring import Z_95

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_contributions",
    "plot_ellipses",
    "plot_likelihood",
    "plot_scores",
    "plot_sizes",
    "plot_threshold",
    "plot_weights",
]


def _axes(ax: Axes | None) -> Axes:
    """Return `ax`, or the current axes, or new ones whose figure makes room for long names.

    Raises:
        UsageError: matplotlib is missing.
    """
    with needs_extra("plot", "figures need matplotlib"):
        import matplotlib.pyplot as plt
    if ax is None and not plt.get_fignums():
        plt.figure(layout="constrained")
    return plt.gca() if ax is None else ax


def plot_ellipses(
    mixture: FittedMixture,
    X: Any = None,
    *,
    features: tuple[int, int] = (0, 1),
    standard_deviations: tuple[float, ...] = (1.0, 2.0),
    ax: Axes | None = None,
) -> Axes:
    """Draw each component as ellipses in the plane of two features, and the rows of `X`, if given, as points.

    Args:
        mixture: fitted, of two features at least.
        X: rows of shape (n, d) to draw below, coloured by their most probable component; or None.
        features: which two features to draw, by number.
        standard_deviations: radii of the ellipses. In the plane 39 % and 86 % of a component lie within 1 and 2.
        ax: where to draw.
    """
    model = mixture._model()
    i, j = features
    if i == j or min(i, j) < 0 or max(i, j) >= model.n_features:
        raise UsageError(f"features is {features!r}, expected two different numbers from 0 to {model.n_features - 1}")
    ax = _axes(ax)
    from matplotlib.patches import Ellipse

    colours = [f"C{k % 10}" for k in range(model.n_components)]
    if X is not None:
        rows = np.asarray(X, dtype=np.float64)
        ax.scatter(rows[:, i], rows[:, j], s=4, alpha=0.4, linewidths=0, c=[colours[k] for k in mixture.predict(X)])
    for k, (mean, covariance) in enumerate(zip(model.means, model.full_covariances(), strict=True)):
        values, vectors = np.linalg.eigh(covariance[np.ix_([i, j], [i, j])])
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        for radius in standard_deviations:
            height, width = 2 * radius * np.sqrt(np.maximum(values, 0.0))
            ellipse = Ellipse(
                (mean[i], mean[j]), width, height, angle=angle, fill=False, color=colours[k], linewidth=1.5
            )
            ax.add_patch(ellipse)
        ax.plot(mean[i], mean[j], "+", color=colours[k], markersize=8)
    ax.autoscale_view()
    names = getattr(mixture, "feature_names_in_", None)
    ax.set(xlabel=names[i] if names is not None else f"x{i}", ylabel=names[j] if names is not None else f"x{j}")
    return ax


def plot_likelihood(mixture: FittedMixture, *, ax: Axes | None = None) -> Axes:
    """Draw the mean log-likelihood per row at each step or round of the fit; under a budget, the noised ones."""
    mixture._model()
    ax = _axes(ax)
    bounds = np.asarray(getattr(mixture, "lower_bounds_", []), dtype=np.float64)
    ax.plot(np.arange(1, len(bounds) + 1), bounds, marker="o", markersize=3)
    noisy = any(release.private for release in getattr(mixture, "releases_", ()))
    ax.set(xlabel="round", ylabel="nats per row" + (", with noise" if noisy else ""))
    ax.grid(alpha=0.3)
    return ax


def plot_weights(mixture: FittedMixture, *, ax: Axes | None = None) -> Axes:
    """Draw the components' weights as bars."""
    weights = mixture._model().weights
    ax = _axes(ax)
    ax.bar(np.arange(len(weights)), weights, color=[f"C{k % 10}" for k in range(len(weights))])
    ax.set(xlabel="component", ylabel="weight", xticks=np.arange(len(weights)))
    return ax


def plot_contributions(explanation: Explanation, row: int = 0, *, most: int = 12, ax: Axes | None = None) -> Axes:
    """Draw what each feature contributes to one row's score, nats; the features that lower it most at the top.

    Args:
        explanation: of `mixture.explain`.
        row: which of its rows.
        most: features to draw; the rest is added up in one bar.
        ax: where to draw.
    """
    row = explanation._index(row)
    ax = _axes(ax)
    values = explanation.contributions[row]
    order = np.argsort(-np.abs(values), kind="stable")
    shown = sorted(order[:most], key=lambda j: values[j])
    names, bars = [explanation.names[j] for j in shown], [float(values[j]) for j in shown]
    if len(order) > most:
        names.append(f"{len(order) - most} others")
        bars.append(float(values[order[most:]].sum()))
    at = np.arange(len(bars))
    ax.barh(at, bars, color=["C3" if value < 0 else "C0" for value in bars])
    ax.axvline(0.0, color="0.4", linewidth=0.8)
    ax.set_yticks(at, names)
    ax.invert_yaxis()
    score, baseline = explanation.score[row], explanation.baseline[row]
    ax.set(xlabel="nats", title=f"score {score:.2f} =\nbaseline {baseline:.2f} + features {values.sum():.2f}")
    return ax


def plot_sizes(inference: FederatedInference, *, ax: Axes | None = None) -> Axes:
    """Draw the parts of a federation's rows in each component, with 95 % intervals of the noise."""
    ax = _axes(ax)
    at = np.arange(len(inference.sizes))
    ax.bar(at, inference.sizes, yerr=Z_95 * inference.sizes_std, capsize=3, color=[f"C{k % 10}" for k in at])
    ax.set(xlabel="component", ylabel="part of the rows", xticks=at)
    return ax


def plot_scores(inference: FederatedInference, *, ax: Axes | None = None) -> Axes:
    """Draw the part of a federation's rows below each score, beside what it would be if the mixture were true.

    The band is the 95 % interval of the noise, which sums up along the curve.
    """
    ax = _axes(ax)
    shown = inference.knots >= inference.score_range[0]
    middle = np.cumsum(inference.scores) - inference.scores / 2
    expected = np.cumsum(inference.expected_scores) - inference.expected_scores / 2
    spread = Z_95 * inference.scores_std * np.sqrt(np.arange(1, len(middle) + 1))
    knots = inference.knots[shown]
    ax.plot(knots, middle[shown], marker="o", markersize=3, label="federation")
    ax.fill_between(knots, (middle - spread)[shown], (middle + spread)[shown], alpha=0.25, linewidth=0)
    ax.plot(knots, expected[shown], color="0.4", linestyle="--", label="if the mixture were true")
    ax.axvline(inference.mean_log_likelihood, color="C3", linewidth=1, label="mean score")
    ax.set(xlabel="log-likelihood (nats)", ylabel="part of the rows below")
    ax.legend()
    return ax


def plot_threshold(threshold: AnomalyThreshold, *, ax: Axes | None = None) -> Axes:
    """Draw the part of rows below each score, the threshold, and the interval of its false-positive rate."""
    ax = _axes(ax)
    shown = threshold.rates > 0
    ax.plot(threshold.knots[shown], threshold.rates[shown], marker="o", markersize=3, label="part of rows below")
    low, high = threshold.interval
    rate = threshold.false_positive_rate
    ax.errorbar(
        [threshold.threshold],
        [rate],
        yerr=[[max(rate - low, 0.0)], [max(high - rate, 0.0)]],
        marker="s",
        color="C3",
        capsize=4,
        label=f"threshold: {low:.2%} to {high:.2%}",
    )
    ax.axhline(
        threshold.requested, color="0.4", linestyle="--", linewidth=1, label=f"asked for: {threshold.requested:.2%}"
    )
    ax.set(
        yscale="log",
        xlabel="log-likelihood (nats)",
        ylabel="part of the rows",
        ylim=(threshold.requested / 20, 1.3),
    )
    highest = threshold.knots[-1]
    reach = highest - threshold.threshold
    ax.set_xlim(threshold.threshold - 0.8 * reach, highest + 0.05 * reach)
    ax.legend()
    return ax
