"""Exact EM from sums: one M-step for rows at hand and for rows spread over a federation.

`server_update` knows only `MixtureSums`; where they come from, one array or a protected sum over clients, is the
caller's `e_step`. Formulas, regularisation and the stopping rule are scikit-learn's, so the same start gives the
same fit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np

from privfed.mechanism.mapped import is_mapped, parts
from privfed.query import FloatArray
from privfed.statistics.mixture_estep import MixtureSums, choose_reference, e_step
from privfed.statistics.mixture_model import CovarianceType, MixtureModel
from privfed.statistics.moments import svec, unsvec

__all__ = [
    "EMResult",
    "EStep",
    "expectation_maximization",
    "fit_rows",
    "model_from_responsibilities",
    "server_update",
]

MOST_TURNED: Final = 2**24  # numbers, 128 MiB: larger rows are not copied
EStep = Callable[[MixtureModel], MixtureSums]


@dataclass(frozen=True, eq=False)
class EMResult:
    """What a run of EM ended with.

    Attributes:
        model: the last model.
        lower_bounds: mean log-likelihood per row at each E-step, nats: of the model *before* that step's update.
        converged: whether the last change of the lower bound was below the tolerance.
    """

    model: MixtureModel
    lower_bounds: tuple[float, ...]
    converged: bool


def server_update(sums: MixtureSums, *, reg_covar: float | FloatArray = 1e-6) -> MixtureModel:
    """Return the M-step's model for sufficient statistics.

    Args:
        sums: totals over all rows, of one E-step.
        reg_covar: added to the diagonal of every covariance, >= 0, in squared units of the data; one number, or one for
            each feature, shape (d,) (spherical: their mean).

    Raises:
        UsageError: a covariance is not positive definite; the message names the remedies.
    """
    counts = sums.counts + 10 * np.finfo(np.float64).eps
    shift = sums.first / counts[:, None]
    covariances = _covariances(sums, counts, shift, reg_covar)
    return MixtureModel.from_covariances(
        counts / counts.sum(), sums.reference + shift, covariances, sums.covariance_type
    )


def _covariances(sums: MixtureSums, counts: FloatArray, shift: FloatArray, reg_covar: float | FloatArray) -> FloatArray:
    d = shift.shape[1]
    if sums.covariance_type == "full":
        second = unsvec(sums.second, d) / counts[:, None, None]
        return np.asarray(second - shift[:, :, None] * shift[:, None, :] + np.diag(np.broadcast_to(reg_covar, d)))
    if sums.covariance_type == "tied":
        scatter = unsvec(sums.second, d) - (counts * shift.T) @ shift
        return np.asarray(scatter / counts.sum() + np.diag(np.broadcast_to(reg_covar, d)))
    if sums.covariance_type == "diag":
        return np.asarray(sums.second / counts[:, None] - shift**2 + reg_covar)
    return np.asarray((sums.second / counts - (shift**2).sum(axis=1)) / d + np.mean(reg_covar))


def expectation_maximization(
    model: MixtureModel,
    e_step: EStep,
    *,
    tol: float,
    max_iter: int,
    reg_covar: float | FloatArray = 1e-6,
    lower_bound: float = -np.inf,
    after: Callable[[int, float, float], None] | None = None,
) -> EMResult:
    """Alternate `e_step` and `server_update` until the mean log-likelihood changes by less than `tol`.

    Args:
        model: the start.
        e_step: returns the sums over all rows under a model.
        tol: least change of the mean log-likelihood per row that goes on, nats, >= 0.
        max_iter: most steps, >= 1.
        reg_covar: see `server_update`.
        lower_bound: mean log-likelihood at the end of an earlier run that this one continues.
        after: called after each step with its number from 1, the lower bound and the change.
    """
    bounds: list[float] = []
    for step in range(1, max_iter + 1):
        sums = e_step(model)
        model = server_update(sums, reg_covar=reg_covar)
        previous, lower_bound = lower_bound, sums.log_likelihood / sums.n_rows
        bounds.append(lower_bound)
        if after is not None:
            after(step, lower_bound, lower_bound - previous)
        if abs(lower_bound - previous) < tol:
            return EMResult(model, tuple(bounds), True)
    return EMResult(model, tuple(bounds), False)


def fit_rows(
    model: MixtureModel,
    X: FloatArray,
    *,
    tol: float,
    max_iter: int,
    reg_covar: float = 1e-6,
    lower_bound: float = -np.inf,
    after: Callable[[int, float, float], None] | None = None,
    maximise: Callable[..., EMResult] | None = None,
) -> EMResult:
    """Run EM on the rows of `X`, shape (n, d), held in one place; `maximise` is `expectation_maximization` or alike.

    Rows of a memory-mapped file are read part by part in each step; of rows in memory, up to 128 MiB are held a second
    time.
    """
    if not is_mapped(X) and X.size <= MOST_TURNED:
        X = np.asfortranarray(X)  # features along rows, as every step wants them: turned once
    centre = np.sum([part.sum(axis=0) for part in parts(X)], axis=0) / len(X)

    def e_step_of_rows(current: MixtureModel) -> MixtureSums:
        statistics = e_step(current, reference=choose_reference(current, centre))
        return reduce(operator.add, map(statistics, parts(X)))

    run = expectation_maximization if maximise is None else maximise
    return run(
        model, e_step_of_rows, tol=tol, max_iter=max_iter, reg_covar=reg_covar, lower_bound=lower_bound, after=after
    )


def model_from_responsibilities(
    X: FloatArray, responsibilities: FloatArray, covariance_type: CovarianceType, *, reg_covar: float = 1e-6
) -> MixtureModel:
    """Return the M-step for given responsibilities, shape (n, K): how a start is made from a clustering of rows."""
    # Rows that belong to no component enter scikit-learn's tied scatter, about the origin: match it there.
    whole = covariance_type != "tied" or np.allclose(responsibilities.sum(axis=1), 1.0)
    centre = X.mean(axis=0) if whole else np.zeros(X.shape[1])
    x = X - centre
    counts, first = responsibilities.sum(axis=0), responsibilities.T @ x
    if covariance_type == "full":
        second = svec(np.stack([(g[:, None] * x).T @ x for g in responsibilities.T]))
    elif covariance_type == "tied":
        second = svec(x.T @ x)
    elif covariance_type == "diag":
        second = responsibilities.T @ (x * x)
    else:
        second = responsibilities.T @ np.einsum("ij,ij->i", x, x)
    sums = MixtureSums(counts, first, second, 0.0, float(len(X)), centre, covariance_type)
    return server_update(sums, reg_covar=reg_covar)
