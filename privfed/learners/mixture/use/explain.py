"""Why a row scores as it does: exact contributions of features and components, and what was to be expected instead.

For component k with precision L_k and d = x - mean_k, the squared distance is the sum over features of d_j [L_k d]_j,
and given its other features, feature j is normal with mean x_j - [L_k d]_j / L_k,jj and variance 1 / L_k,jj. With
responsibilities r_k the log-likelihood is

    log p(x) = sum_k r_k (log w_k + log N_k(x) - log r_k),

since every bracket is log p(x). Weighted so, what the features contribute adds up to the score exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from privfed.errors import UsageError
from privfed.learners.mixture.fitted import FittedMixture
from privfed.query import FloatArray
from privfed.statistics.mixture_model import LOG_2PI, MixtureModel, log_sum_exp

__all__ = ["Explanation", "explain_scores"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Scores of n rows taken apart. It describes the rows it was asked about: keep it where they are.

    Attributes:
        score: log-likelihood, nats, shape (n,): `baseline + contributions.sum(axis=1)`.
        baseline: what the rows would score in the middle of the components that they belong to, shape (n,).
        responsibilities: posterior probabilities of the components, shape (n, K).
        by_component: contribution of each feature under each component, weighted by its responsibility, nats, shape
            (n, K, d). A feature may contribute more than 0: it then makes another one less surprising.
        contributions: the same summed over components, shape (n, d).
        expected: what each feature was to be, given the row's other features, shape (n, d).
        expected_std: standard deviation of that, shape (n, d).
        rows: the rows themselves, shape (n, d).
        names: names of the features.
    """

    score: FloatArray
    baseline: FloatArray
    responsibilities: FloatArray
    by_component: FloatArray = field(repr=False)
    contributions: FloatArray = field(repr=False)
    expected: FloatArray = field(repr=False)
    expected_std: FloatArray = field(repr=False)
    rows: FloatArray = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    def table(self, row: int = 0) -> str:
        """Return one row's explanation as text: the features that lower its score most come first."""
        row = self._index(row)
        width = max(8, *(len(name) for name in self.names))
        lines = [
            f"score {self.score[row]:.3f} nats = baseline {self.baseline[row]:.3f} + features "
            f"{self.contributions[row].sum():.3f}",
            "components: " + ", ".join(f"{k}: {r:.1%}" for k, r in self._components(row)),
            f"{'feature':<{width}} {'value':>11} {'expected':>11} {'+-':>9} {'nats':>9}",
        ]
        lines += [
            f"{self.names[j]:<{width}} {self.rows[row, j]:11.4g} {self.expected[row, j]:11.4g} "
            f"{self.expected_std[row, j]:9.3g} {self.contributions[row, j]:9.3f}"
            for j in np.argsort(self.contributions[row], kind="stable")
        ]
        return "\n".join(lines)

    def _components(self, row: int) -> list[tuple[int, float]]:
        """Return the components that matter to a row, most responsible first."""
        order = np.argsort(-self.responsibilities[row], kind="stable")
        shown = [(int(k), float(self.responsibilities[row, k])) for k in order]
        return [entry for entry in shown if entry[1] >= 0.001]

    def _index(self, row: int) -> int:
        if not -len(self.score) <= row < len(self.score):
            raise UsageError(f"row is {row!r}, but {len(self.score)} row(s) are explained")
        return int(row) % len(self.score)


def explain_scores(mixture: FittedMixture, X: Any, *, names: Sequence[str] | None = None) -> Explanation:
    """Return why the rows of `X` score as they do under `mixture`.

    Args:
        mixture: fitted.
        X: rows, shape (n, d). Takes memory for n K d numbers: hand in the rows that matter, not all of them.
        names: of the features; None takes those that the mixture was fitted with, or x0, x1, ...

    Raises:
        UsageError: not fitted, or the rows do not fit the mixture.

    >>> import numpy as np
    >>> from privfed.learners.mixture import GaussianMixture
    >>> rows = np.random.default_rng(0).normal(size=(500, 2))
    >>> found = explain_scores(GaussianMixture(1).fit(rows), [[0.0, 5.0]])
    >>> bool(np.isclose(found.baseline + found.contributions.sum(axis=1), found.score)[0])
    True
    """
    rows, model = mixture._rows(X), mixture._model()
    n, d, K = len(rows), model.n_features, model.n_components
    weighted = np.empty((n, K, d))  # [L (x - mean)]_j
    differences = rows[:, None, :] - model.means
    for k in range(K):
        factor = model.factor(k)
        weighted[:, k] = (
            differences[:, k] @ factor @ factor.T if factor.ndim == 2 else differences[:, k] * factor * factor
        )
    products = differences * weighted
    heights = model.log_determinants + model.log_weights - 0.5 * d * LOG_2PI
    logits = heights - 0.5 * products.sum(axis=2)
    score = log_sum_exp(logits)
    responsibilities = np.exp(logits - score[:, None])
    # Where a component has no part in a row, its terms are 0 even if its logarithm is infinite.
    safe = np.where(responsibilities > 0, responsibilities, 1.0)
    settled = np.where(responsibilities > 0, heights - np.log(safe), 0.0)
    by_component = -0.5 * responsibilities[:, :, None] * products
    expected, spread = _expected(model, rows, logits, weighted)
    if names is None:
        names = list(getattr(mixture, "feature_names_in_", [f"x{j}" for j in range(d)]))
    if len(names) != d:
        raise UsageError(f"{len(names)} names are given for {d} features")
    return Explanation(
        score=score,
        baseline=(responsibilities * settled).sum(axis=1),
        responsibilities=responsibilities,
        by_component=by_component,
        contributions=by_component.sum(axis=1),
        expected=expected,
        expected_std=spread,
        rows=rows,
        names=tuple(str(name) for name in names),
    )


def _expected(
    model: MixtureModel, rows: FloatArray, logits: FloatArray, weighted: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each feature given the others, under the whole mixture.

    Component k's weight given the other features is its joint density divided by its conditional density of feature j.
    """
    diagonal = _precision_diagonals(model)
    residuals = weighted / diagonal  # x_j minus its conditional mean
    means = rows[:, None, :] - residuals
    conditional = 0.5 * np.log(diagonal) - 0.5 * LOG_2PI - 0.5 * residuals**2 * diagonal
    without = logits[:, :, None] - conditional
    without -= without.max(axis=1, keepdims=True)
    shares = np.exp(without)
    shares /= shares.sum(axis=1, keepdims=True)
    mean = (shares * means).sum(axis=1)
    variance = (shares * (1.0 / diagonal + (means - mean[:, None, :]) ** 2)).sum(axis=1)
    return mean, np.asarray(np.sqrt(variance))


def _precision_diagonals(model: MixtureModel) -> FloatArray:
    """Return the diagonal of each component's precision, shape (K, d)."""
    precisions, shape = model.precisions, model.means.shape
    if model.covariance_type in ("full", "tied"):
        return np.broadcast_to(np.diagonal(precisions, axis1=-2, axis2=-1), shape)
    return np.broadcast_to(precisions if precisions.ndim == 2 else precisions[:, None], shape)
