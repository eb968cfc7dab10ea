"""One Gaussian under a budget: the moments that a mixture starts from, and the fallback when it cannot be afforded.

Three rounds of whitened statistics of one component. The first frame is the public box; each next one is the last
estimate, so that clip bounds and noise shrink with the data's true spread (the idea of Biswas et al. 2020,
arXiv:2006.06618). Updates are James-Stein estimates: an isotropic part, whose noise is small, and the rest as far
as it rises above its noise.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from privfed.learners.mixture.private.estimates import Estimate
from privfed.query import FloatArray
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["MOMENT_ROUNDS", "box_gaussian", "single_update"]

MOMENT_ROUNDS: Final = (0.2, 0.3, 0.5)  # parts of the stage's budget: early frames are rough
SIZE_STEP: Final = 0.5
LEAST_EIGENVALUE, NOISE_EIGENVALUE, GREATEST_EIGENVALUE = 0.08, 0.5, 4.0
LARGEST_MEAN_STEP: Final = 3.0


def box_gaussian(d: int, *, diagonal: bool) -> MixtureModel:
    """Return the Gaussian with the moments of the uniform distribution on the box [-1, 1]^d: a public start."""
    covariances = np.full((1, d), 1 / 3) if diagonal else np.eye(d)[None] / 3
    return MixtureModel.from_covariances([1.0], np.zeros((1, d)), covariances, "diag" if diagonal else "full")


def single_update(estimate: Estimate) -> MixtureModel:
    """Return the next single Gaussian, of type "full" or "diag"; never singular, whatever the noise."""
    model, n = estimate.model, max(float(estimate.counts[0]), 1.0)
    d = model.n_features
    shift = estimate.shifts[0] / n
    noise = float(np.max(estimate.noise.shifts)) / n
    shift = shift * max(0.0, 1.0 - d * noise**2 / max(float(shift @ shift), 1e-300))
    shift = shift * min(1.0, LARGEST_MEAN_STEP * math.sqrt(d) / max(float(np.linalg.norm(shift)), 1e-300))
    error = float(np.max(estimate.noise.squares)) / n
    least = max(LEAST_EIGENVALUE, min(NOISE_EIGENVALUE, error))
    if model.covariance_type == "diag":
        variances = _shrunk(np.diag(estimate.squares[0] / n), error, d - 1) - np.diag(shift**2)
        step = np.clip(np.diag(variances), least, GREATEST_EIGENVALUE)
        means = model.means + shift / model.precisions_cholesky
        return MixtureModel.from_covariances([1.0], means, model.covariances * step, "diag")
    matrix = _shrunk(estimate.squares[0] / n, error, d * (d + 1) // 2 - 1) - np.outer(shift, shift)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    inner = (vectors * np.clip(values, least, GREATEST_EIGENVALUE)) @ vectors.T
    root = np.linalg.inv(model.precisions_cholesky[0]).T
    covariance = root @ inner @ root.T
    return MixtureModel.from_covariances(
        [1.0], model.means + root @ shift, (covariance + covariance.T)[None] / 2, "full"
    )


def _shrunk(matrix: FloatArray, noise: float, free: int) -> FloatArray:
    """Shrink the size towards the old one, and what is not isotropic by James and Stein's factor."""
    d = len(matrix)
    size = float(np.trace(matrix)) / d
    rest = matrix - size * np.eye(d)
    kept = max(0.0, 1.0 - noise**2 * free / max(float((rest**2).sum()), 1e-300))
    size = 1 + (size - 1) / (1 + (noise / SIZE_STEP) ** 2 / d)
    return np.asarray(size * np.eye(d) + kept * rest)
