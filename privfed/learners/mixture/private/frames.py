"""The frames of a fit under a budget: the public box, the working coordinates, and models carried between them.

Coordinates themselves are those of `privfed.learners.mixture.frames`. Everything here is a function of released models
and public constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privfed.errors import UsageError
from privfed.learners.mixture.frames import frame_of
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.private.update import Prior
from privfed.query import FloatArray
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["Box", "expressed", "given_start", "inside", "likelihood_range", "working_frame"]


@dataclass(frozen=True, eq=False)
class Box:
    """The public bounds, each of shape (d,), and whether the moments in them are diagonal."""

    low: FloatArray
    high: FloatArray
    diagonal: bool

    @property
    def coordinates(self) -> Coordinates:
        """Coordinates in which the bounds are -1 and 1."""
        low, high = self.low, self.high
        return Coordinates(low, high, (low + high) / 2, np.diag(2.0 / (high - low)))

    @property
    def kind(self) -> CovarianceType:
        """The covariance type of the moments."""
        return "diag" if self.diagonal else "full"


def working_frame(gaussian: MixtureModel, box: Box, kind: CovarianceType) -> tuple[Coordinates, Prior]:
    """Return coordinates in which the Gaussian is about standard and which keep the covariance type, and the prior."""
    released = box.coordinates.to_data(gaussian)
    coordinates = frame_of(released, kind, low=box.low, high=box.high)
    transform = coordinates.transform
    return coordinates, Prior(transform.T @ released.full_covariances()[0] @ transform)


def given_start(
    start: Start, warm: MixtureModel | None, coordinates: Coordinates, prior: Prior, K: int, kind: CovarianceType
) -> MixtureModel:
    """Return the start that the caller gave, in working coordinates; what is missing comes from the prior."""
    if warm is not None:
        return coordinates.to_working(warm)
    if start.means is None:
        raise UsageError("a given start needs means_init")
    means = (start.means - coordinates.centre) @ coordinates.transform
    weights = np.full(K, 1.0 / K) if start.weights is None else start.weights
    if start.precisions is not None:
        return coordinates.to_working(MixtureModel.from_precisions(weights, start.means, start.precisions, kind))
    return MixtureModel.from_matrices(weights, means, prior.component(K), kind)


def expressed(model: MixtureModel, kind: CovarianceType) -> MixtureModel:
    """Return a simpler model as one of the type asked for."""
    if model.covariance_type == kind:
        return model
    return MixtureModel.from_matrices(model.weights, model.means, model.full_covariances(), kind)


def inside(model: MixtureModel, box: Box) -> MixtureModel:
    """Return the model with means inside the bounds, where those of any rows lie: noise may have put one outside."""
    means = np.clip(model.means, box.low, box.high)
    return MixtureModel(model.weights, means, model.covariances, model.precisions_cholesky, model.covariance_type)


def likelihood_range(model: MixtureModel, random: Generator) -> tuple[float, float]:
    """Return centre and reach, in nats, of the log-likelihoods that rows of `model` itself would have."""
    draws, _ = model.sample(1000, random)
    likelihoods = model.log_likelihoods(draws)
    return float(likelihoods.mean()), 4.0 * float(likelihoods.std()) + 1.0
