"""How good the federated mixture is: beside pooled training without privacy, and beside each silo alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privfed.errors import needs_extra
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType

__all__ = ["Score", "pooled_score", "score_of", "silo_scores"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """Held-out quality of one mixture.

    Attributes:
        log_likelihood: mean log-density of held-out rows, nats.
        adjusted_rand: adjusted Rand index of its clusters against the labels, or None without labels.
    """

    log_likelihood: float
    adjusted_rand: float | None


def score_of(model: Any, rows: FloatArray, labels: IntArray | None) -> Score:
    """Score any mixture with scikit-learn's `score` and `predict` on held-out `rows`."""
    from sklearn.metrics import adjusted_rand_score

    index = None if labels is None else float(adjusted_rand_score(labels, model.predict(rows)))
    return Score(float(model.score(rows)), index)


def pooled_score(
    train: FloatArray,
    test: FloatArray,
    labels: IntArray | None,
    *,
    components: int,
    seed: int,
    covariance_type: CovarianceType = "tied",
) -> Score:
    """Score scikit-learn's mixture of all rows in one place, without privacy: the best of five starts."""
    return score_of(_fit(train, components, n_init=5, seed=seed, covariance_type=covariance_type), test, labels)


def silo_scores(
    silos: Sequence[FloatArray], test: FloatArray, labels: IntArray | None, *, components: int, seed: int
) -> list[Score]:
    """Score scikit-learn's mixture of each silo's own rows, one component per ten: what a silo would have alone."""
    scores = []
    for rows in silos:
        own = max(1, min(components, len(rows) // 10))
        scores.append(score_of(_fit(rows, own, n_init=2, seed=seed), test, labels))
    return scores


def _fit(rows: FloatArray, components: int, *, n_init: int, seed: int, covariance_type: CovarianceType = "tied") -> Any:
    with needs_extra("sklearn", "the comparison needs scikit-learn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    # A floor of 1 % of the variance: a silo of five rows in eight dimensions has no covariance of its own.
    floor = 1e-2 * float(rows.var(axis=0).mean()) + 1e-9
    mixture = GaussianMixture(
        components, covariance_type=covariance_type, n_init=n_init, reg_covar=floor, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(rows)
