"""Coordinates of scale one about a released or public model: where EM's regularisation and starts expect to work."""

from __future__ import annotations

import math

import numpy as np

from privfed.learners.mixture.refit import refit
from privfed.query import FloatArray
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["frame_of", "moments_of_model", "refitted"]


def moments_of_model(model: MixtureModel) -> tuple[FloatArray, FloatArray]:
    """Return mean (d,) and covariance (d, d) of the mixture's own distribution."""
    weights = model.weights / model.weights.sum()
    mean = weights @ model.means
    apart = model.means - mean
    return mean, np.tensordot(weights, model.full_covariances(), axes=1) + (weights[:, None] * apart).T @ apart


def frame_of(model: MixtureModel, kind: CovarianceType, *, low: FloatArray, high: FloatArray) -> Coordinates:
    """Return coordinates in which the mixture as a whole has about unit scale, and which keep covariances of `kind`.

    Args:
        model: in units of the data.
        kind: full and tied are whitened, diag scaled by feature, spherical scaled alike.
        low, high: bounds that rows are cut to, shape (d,); only rows are.
    """
    mean, covariance = moments_of_model(model)
    d = len(mean)
    if kind in ("full", "tied"):
        transform = np.linalg.inv(np.linalg.cholesky(covariance)).T
    elif kind == "diag":
        transform = np.diag(1.0 / np.sqrt(np.diag(covariance)))
    else:
        transform = np.eye(d) / math.sqrt(float(np.trace(covariance)) / d)
    return Coordinates(low, high, mean, np.asarray(transform))


def refitted(model: MixtureModel, K: int, kind: CovarianceType, random: Generator) -> MixtureModel:
    """Return the mixture of K components of `kind` that fits draws from `model` best; both in units of the data.

    Costs no privacy: nothing but the model is looked at.
    """
    d = model.n_features
    frame = frame_of(model, kind, low=np.full(d, -np.inf), high=np.full(d, np.inf))
    full = MixtureModel.from_covariances(model.weights, model.means, model.full_covariances(), "full")
    return frame.to_data(refit(frame.to_working(full), K, kind, random))
