"""The refit that costs no privacy: a mixture of the wanted size and type, fitted to draws from an over-complete one.

Between the two private stages stands only a released model. Draws from it are free, so ordinary EM may look at them as
often as it likes: many short runs on part of the draws, the best of them to the end on all.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.learners.mixture.em import fit_rows, model_from_responsibilities
from privfed.learners.mixture.initialise import kmeans, kmeans_plusplus
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["refit"]

DRAWS: Final = 12_000
DRAWS_SHORT: Final = 3_000
RESTARTS: Final = 24  # with 8, a cluster is lost in one or two fits of five; with 20, in none of eight
KEPT: Final = 3
REG_COVAR: Final = 1e-4


def refit(model: MixtureModel, K: int, covariance_type: CovarianceType, random: Generator) -> MixtureModel:
    """Return the mixture of K components of `covariance_type` that fits draws from `model` best.

    Args:
        model: the over-complete mixture, in working coordinates of scale one.
        K: number of components.
        covariance_type: of the result.
        random: for the draws and the starts.
    """
    rows, _ = model.sample(DRAWS, random)
    rows = rows[random.permutation(len(rows))]
    part = rows[:DRAWS_SHORT]
    runs: list[tuple[float, int, MixtureModel]] = []
    for restart in range(RESTARTS):
        try:
            start = _start(part, K, covariance_type, random, lloyd=restart % 2 == 0)
            result = fit_rows(start, part, tol=1e-3, max_iter=24, reg_covar=REG_COVAR)
        except UsageError:  # a start whose components collapse is one start less
            continue
        runs.append((result.lower_bounds[-1], -restart, result.model))
    if not runs:
        return _fallback(rows, K, covariance_type, random)
    runs.sort(key=lambda run: run[:2], reverse=True)
    finished = [fit_rows(run[2], rows, tol=1e-4, max_iter=100, reg_covar=REG_COVAR) for run in runs[:KEPT]]
    return max(finished, key=lambda result: result.lower_bounds[-1]).model


def _start(
    part: FloatArray, K: int, covariance_type: CovarianceType, random: Generator, *, lloyd: bool
) -> MixtureModel:
    if lloyd:
        labels = kmeans(part, K, random, max_iter=20)
    else:
        centres = part[kmeans_plusplus(part, K, random)]
        labels = ((part[:, None, :] - centres) ** 2).sum(axis=2).argmin(axis=1)
    return model_from_responsibilities(part, np.eye(K)[labels], covariance_type, reg_covar=REG_COVAR)


def _fallback(rows: FloatArray, K: int, covariance_type: CovarianceType, random: Generator) -> MixtureModel:
    """Equal components spread over the draws: always defined."""
    centres = rows[random.choice(len(rows), size=K, replace=False)]
    variance = float(rows.var(axis=0).mean()) * K ** (-2.0 / rows.shape[1]) + REG_COVAR
    d = rows.shape[1]
    covariances = {
        "full": np.repeat(variance * np.eye(d)[None], K, axis=0),
        "tied": variance * np.eye(d),
        "diag": np.full((K, d), variance),
        "spherical": np.full(K, variance),
    }[covariance_type]
    return MixtureModel.from_covariances(np.full(K, 1 / K), centres, covariances, covariance_type)
