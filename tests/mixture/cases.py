"""Models and rows that the mixture tests share."""

from __future__ import annotations

import numpy as np

from privfed.statistics.mixture_model import COVARIANCE_TYPES, CovarianceType, MixtureModel

TYPES: tuple[CovarianceType, ...] = COVARIANCE_TYPES


def random_model(kind: CovarianceType, K: int, d: int, seed: int, *, spread: float = 3.0) -> MixtureModel:
    """A mixture with unequal weights, means and covariances."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((K, d, d)) / np.sqrt(d)
    matrices = A @ np.swapaxes(A, 1, 2) + 0.3 * np.eye(d)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": np.trace(matrices, axis1=1, axis2=2) / d,
    }[kind]
    weights = rng.dirichlet(np.full(K, 4.0))
    return MixtureModel.from_covariances(weights, spread * rng.standard_normal((K, d)), covariances, kind)


def rows_of(model: MixtureModel, n: int, seed: int) -> np.ndarray:
    """Rows drawn from a model, shuffled."""
    rows, _ = model.sample(n, np.random.RandomState(seed))
    return rows[np.random.RandomState(seed + 1).permutation(n)]


def clusters(n: int = 600, d: int = 3, K: int = 4, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Rows of a well separated mixture."""
    return rows_of(random_model("full", K, d, seed, spread=5.0), n, seed) + offset
