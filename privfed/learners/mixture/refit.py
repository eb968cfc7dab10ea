"""The refit that costs no privacy: a mixture of the wanted size and type, fitted to draws from an over-complete one.

Between the two private stages stands only a released model. Draws from it are free, so ordinary EM may look at them as
often as it likes: many short runs on part of the draws, the best of them to the end on all. One start merges the
components two by two down to the wanted number; the others cluster the draws, by turns in working coordinates and in
the metric of the components' own width. In working coordinates clusters that lie in a row are thin discs side by side,
and k-means cuts across them.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.learners.mixture.em import fit_rows, model_from_responsibilities
from privfed.learners.mixture.initialise import kmeans, kmeans_plusplus
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["divided", "merged", "refit", "refits"]

Index: TypeAlias = int | npt.NDArray[np.int64]

DRAWS: Final = 20_000
DRAWS_SHORT, DRAWS_EACH = 3_000, 8  # at least; and for each parameter that full covariances have
RESTARTS: Final = 24  # with 8, a cluster is lost in one or two fits of five; with 20, in none of eight
KEPT: Final = 5
APART: Final = 2e-3  # nats per draw: short runs that end closer than that have found the same
CLOSE: Final = 0.05  # nats per draw: fits further behind the best are no rivals of it
HALVES: Final = 0.8  # of a standard deviation: how far from the middle halves are put, that of half a normal
REG_COVAR: Final = 1e-4


def refit(model: MixtureModel, K: int, covariance_type: CovarianceType, random: Generator) -> MixtureModel:
    """Return the mixture of K components of `covariance_type` that fits draws from `model` best.

    Args:
        model: the over-complete mixture, in working coordinates of scale one.
        K: number of components.
        covariance_type: of the result.
        random: for the draws and the starts.
    """
    return refits(model, K, covariance_type, random)[0]


def refits(model: MixtureModel, K: int, covariance_type: CovarianceType, random: Generator) -> tuple[MixtureModel, ...]:
    """Return the refit, and after it other optima about as good, up to five in all; see `refit`.

    Draws from a noisy model do not tell these apart: rows may prefer another.
    """
    if model.n_components < K:
        return (divided(model, K, covariance_type),)
    short = min(max(DRAWS_SHORT, DRAWS_EACH * K * (model.n_features + 1) * (model.n_features + 2) // 2), DRAWS)
    rows, _ = model.sample(DRAWS, random)
    rows = rows[random.permutation(len(rows))]
    part = rows[:short]
    within = np.tensordot(model.weights, model.full_covariances(), axes=1)
    whitened = part @ np.linalg.inv(np.linalg.cholesky(within)).T
    runs: list[tuple[float, int, MixtureModel]] = []
    for restart in range(RESTARTS):
        try:
            if restart == 0:
                start = merged(model, K, covariance_type)
            else:
                seen = whitened if restart % 4 < 2 else part
                start = _clustered(part, seen, K, covariance_type, random, lloyd=restart % 2 == 0)
            result = fit_rows(start, part, tol=1e-3, max_iter=24, reg_covar=REG_COVAR)
        except UsageError:  # a start whose components collapse is one start less
            continue
        runs.append((result.lower_bounds[-1], -restart, result.model))
    if not runs:
        return (_fallback(rows, K, covariance_type, random),)
    finished = [fit_rows(start, rows, tol=1e-4, max_iter=100, reg_covar=REG_COVAR) for start in _distinct(runs)]
    finished.sort(key=lambda result: result.lower_bounds[-1], reverse=True)
    best = finished[0].lower_bounds[-1]
    return tuple(result.model for result in finished if result.lower_bounds[-1] >= best - CLOSE)


def _distinct(runs: list[tuple[float, int, MixtureModel]]) -> list[MixtureModel]:
    """Return the best of the runs, no two of which ended alike."""
    kept: list[tuple[float, MixtureModel]] = []
    for bound, _, model in sorted(runs, key=lambda run: run[:2], reverse=True):
        if len(kept) < KEPT and (not kept or kept[-1][0] - bound > APART):
            kept.append((bound, model))
    return [model for _, model in kept]


def divided(model: MixtureModel, K: int, covariance_type: CovarianceType) -> MixtureModel:
    """Return `model` with its widest components divided in two along their longest axis, until there are K.

    Weights count: what is divided is the part of the whole with the greatest sum of squares along one axis. Moments
    are kept, so the density hardly changes; rows that lie in two clusters then draw the halves apart.
    """
    weights, means, matrices = list(model.weights), list(model.means), list(model.full_covariances())
    while len(weights) < K:
        axes = [np.linalg.eigh(matrix) for matrix in matrices]
        k = int(np.argmax([weight * values[-1] for weight, (values, _) in zip(weights, axes, strict=True)]))
        values, vectors = axes[k]
        step = HALVES * np.sqrt(values[-1]) * vectors[:, -1]
        matrices[k] = matrices[k] - np.outer(step, step)
        weights[k] /= 2
        weights.append(weights[k])
        matrices.append(matrices[k])
        means.append(means[k] - step)
        means[k] = means[k] + step
    return MixtureModel.from_matrices(np.array(weights), np.stack(means), np.stack(matrices), covariance_type)


def merged(model: MixtureModel, K: int, covariance_type: CovarianceType) -> MixtureModel:
    """Return `model` with components merged, moments kept, until K are left.

    The pair goes whose merger costs least by Runnalls' bound on the Kullback-Leibler divergence (2007, IEEE
    Transactions on Aerospace and Electronic Systems 43(3), pages 989-999).
    """
    weights, means = np.array(model.weights), np.array(model.means)
    matrices = np.array(model.full_covariances())
    while len(weights) > K:
        i, j = _cheapest_pair(weights, means, matrices)
        weights[i], means[i], matrices[i] = _merged_pair(weights, means, matrices, i, j)
        weights, means, matrices = (np.delete(array, j, axis=0) for array in (weights, means, matrices))
    return MixtureModel.from_matrices(weights / weights.sum(), means, matrices, covariance_type)


def _cheapest_pair(weights: FloatArray, means: FloatArray, matrices: FloatArray) -> tuple[int, int]:
    volumes = weights * np.linalg.slogdet(matrices)[1]
    rows, columns = np.triu_indices(len(weights), k=1)
    masses, _, pooled = _merged_pair(weights, means, matrices, rows, columns)
    costs = masses * np.linalg.slogdet(pooled)[1] - volumes[rows] - volumes[columns]
    best = int(np.argmin(costs))
    return int(rows[best]), int(columns[best])


def _merged_pair(
    weights: FloatArray, means: FloatArray, matrices: FloatArray, i: Index, j: Index
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return weight, mean and covariance of components i and j together; with arrays of indices, of each pair."""
    mass = np.asarray(weights[i] + weights[j])
    a, b = (np.asarray(weights[k] / mass)[..., None] for k in (i, j))
    apart = means[i] - means[j]
    scatter = (a * b * apart)[..., :, None] * apart[..., None, :]
    return mass, a * means[i] + b * means[j], a[..., None] * matrices[i] + b[..., None] * matrices[j] + scatter


def _clustered(
    part: FloatArray, seen: FloatArray, K: int, covariance_type: CovarianceType, random: Generator, *, lloyd: bool
) -> MixtureModel:
    """Return the start from clusters of `seen`, which are the rows of `part` in some metric."""
    if lloyd:
        labels = kmeans(seen, K, random, max_iter=20)
    else:
        centres = seen[kmeans_plusplus(seen, K, random)]
        labels = ((seen[:, None, :] - centres) ** 2).sum(axis=2).argmin(axis=1)
    return model_from_responsibilities(part, np.eye(K)[labels], covariance_type, reg_covar=REG_COVAR)


def _fallback(rows: FloatArray, K: int, covariance_type: CovarianceType, random: Generator) -> MixtureModel:
    """Equal components spread over the draws: always defined."""
    d = rows.shape[1]
    centres = rows[random.choice(len(rows), size=K, replace=False)]
    variance = float(rows.var(axis=0).mean()) * K ** (-2.0 / d) + REG_COVAR
    return MixtureModel.from_matrices(np.full(K, 1 / K), centres, variance * np.eye(d), covariance_type)
