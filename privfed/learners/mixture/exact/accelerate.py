"""Fewer rounds: EM with squared extrapolation (SQUAREM), safeguarded.

Two EM steps show where EM is going and how fast it slows down; the third goes there at once (Varadhan and Roland 2008,
Scandinavian Journal of Statistics 35(2), scheme S3). Models are extrapolated as vectors of log-weights, means and
logarithmic Cholesky factors of the covariances, so that any step leaves weights positive and covariances definite.
Lengths are measured in units of each feature's spread: other units of the data give the same steps.

An extrapolated model is kept only if its likelihood, which its own E-step tells anyway, is not below that of the step
before. EM's change of likelihood decides when to stop, as without acceleration: no extrapolation enters it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.learners.mixture.em import EMResult, EStep, server_update
from privfed.query import FloatArray
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["Chart", "squarem_maximization"]

LEAST_WEIGHT: Final = 1e-100  # log-weights stay finite
GROWTH: Final = 4.0  # of the longest step, each time it is taken and kept


@dataclass(frozen=True, eq=False)
class Chart:
    """Models of one type and shape as vectors: log-weights, means and log-Cholesky factors, in units of `scale`.

    Attributes:
        like: any model of the type and shape.
        scale: spread of each feature, shape (d,), > 0.
    """

    like: MixtureModel
    scale: FloatArray

    @classmethod
    def of(cls, model: MixtureModel) -> Chart:
        """Return the chart in units of the model's own spread."""
        apart = model.means - model.weights @ model.means
        variances = np.einsum("k,kjj->j", model.weights, model.full_covariances()) + model.weights @ apart**2
        return cls(model, np.sqrt(variances))

    def vector(self, model: MixtureModel) -> FloatArray:
        """Return the model as a vector."""
        log_weights = np.log(np.maximum(model.weights, LEAST_WEIGHT))
        factors, scale = model.precisions_cholesky, self.scale
        if model.covariance_type in ("full", "tied"):
            lower = np.swapaxes(np.linalg.inv(factors), -1, -2) / scale[:, None]
            rows, columns = np.tril_indices(len(scale), k=-1)
            diagonal = np.log(np.diagonal(lower, axis1=-2, axis2=-1))
            shape = np.concatenate([diagonal.ravel(), lower[..., rows, columns].ravel()])
        else:
            shape = -np.log(factors).ravel()
        return np.concatenate([log_weights, (model.means / scale).ravel(), shape])

    def model(self, vector: FloatArray) -> MixtureModel:
        """Return the model of a vector; weights are scaled to sum to 1.

        Raises:
            UsageError: the vector is so long that a covariance is not a positive definite matrix of floats.
        """
        K, d = self.like.means.shape
        log_weights, means, shape = np.split(vector, [K, K + K * d])
        weights = np.exp(log_weights - log_weights.max())
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            covariances = self._covariances(shape)
        return MixtureModel.from_covariances(
            weights / weights.sum(), means.reshape(K, d) * self.scale, covariances, self.like.covariance_type
        )

    def _covariances(self, shape: FloatArray) -> FloatArray:
        target, d = self.like.covariances, len(self.scale)
        if self.like.covariance_type not in ("full", "tied"):
            return np.asarray(np.exp(2 * shape).reshape(target.shape))
        lower = np.zeros(target.shape)
        size = target[..., 0].size
        rows, columns = np.tril_indices(d, k=-1)
        lower[..., np.arange(d), np.arange(d)] = np.exp(shape[:size]).reshape(target.shape[:-1])
        lower[..., rows, columns] = shape[size:].reshape(*target.shape[:-2], len(rows))
        lower *= self.scale[:, None]
        return np.asarray(lower @ np.swapaxes(lower, -1, -2))


class _OutOfRoundsError(Exception):
    """All E-steps that were allowed are taken."""


@dataclass
class _Steps:
    """EM steps, counted: one E-step each, which is one round over a federation."""

    e_step: EStep
    reg_covar: float | FloatArray
    max_iter: int
    after: Callable[[int, float, float], None] | None
    previous: float
    bounds: list[float] = field(default_factory=list)

    def take(self, model: MixtureModel) -> tuple[float, MixtureModel]:
        """Return the mean log-likelihood of `model` and the model after one EM step."""
        if len(self.bounds) >= self.max_iter:
            raise _OutOfRoundsError
        sums = self.e_step(model)
        bound = sums.log_likelihood / sums.n_rows
        self.bounds.append(bound)
        if self.after is not None:
            self.after(len(self.bounds), bound, bound - self.previous)
        self.previous = bound
        return bound, server_update(sums, reg_covar=self.reg_covar)


def squarem_maximization(
    model: MixtureModel,
    e_step: EStep,
    *,
    tol: float,
    max_iter: int,
    reg_covar: float | FloatArray = 1e-6,
    lower_bound: float = -np.inf,
    after: Callable[[int, float, float], None] | None = None,
) -> EMResult:
    """Maximise as `expectation_maximization` does, in fewer E-steps.

    Args:
        model, e_step, tol, max_iter, reg_covar, lower_bound, after: as there; `max_iter` counts E-steps, those of
            extrapolated models that were then rejected included.

    Returns:
        The result; `lower_bounds` has one entry for each E-step, so it may fall where a model was rejected.
    """
    steps = _Steps(e_step, reg_covar, max_iter, after, lower_bound)
    longest, last = 1.0, lower_bound
    current = model
    try:
        while True:
            start = current
            at_start, current = steps.take(start)
            if abs(at_start - last) < tol:
                return EMResult(current, tuple(steps.bounds), True)
            middle = current
            at_middle, current = steps.take(middle)
            if abs(at_middle - at_start) < tol:
                return EMResult(current, tuple(steps.bounds), True)
            last, chart = at_middle, Chart.of(start)
            a, b, c = (chart.vector(each) for each in (start, middle, current))
            length = _length(a, b, c, longest)
            if length > 1:
                landed = _tried(steps, chart, a + 2 * length * (b - a) + length**2 * (c - 2 * b + a), at_middle)
                if landed is None:
                    longest = max(1.0, length / GROWTH)
                    continue
                last, current = landed
            if length >= longest:
                longest *= GROWTH
    except _OutOfRoundsError:
        return EMResult(current, tuple(steps.bounds), False)


def _length(first: FloatArray, second: FloatArray, third: FloatArray, longest: float) -> float:
    """Return how far to go, from 1 to `longest`: a leap of 1 ends at `third`."""
    bend = float(np.linalg.norm(third - 2 * second + first))
    step = float(np.linalg.norm(second - first))
    return min(max(step / bend, 1.0), longest) if bend > 0 and math.isfinite(step / bend) else 1.0


def _tried(steps: _Steps, chart: Chart, vector: FloatArray, least: float) -> tuple[float, MixtureModel] | None:
    """Return likelihood and EM step of an extrapolated model; None where it is no better than EM's own step."""
    try:
        bound, moved = steps.take(chart.model(vector))
    except UsageError:  # a covariance collapses: EM's own step stands
        return None
    return (bound, moved) if math.isfinite(bound) and bound >= least else None
