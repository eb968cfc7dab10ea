"""Starts that cost no privacy: components spread over a released Gaussian.

Centres are those of a k-means quantiser of the Gaussian, and every component starts as wide as its cell. Both matter.
A common covariance shrinks by EM only where components already stand apart, and slowly: about centres drawn at random,
as wide as one of K equal parts of the whole, clusters in a row were still one smear after 8 rounds, noise or no noise,
and the fit lost one of them in most runs.

Cells are round in units of the public bounds. In whitened coordinates every direction of the Gaussian is as long as
any other, and nothing tells where to divide it; in those of the bounds it is long where clusters lie in a row. Bounds
of one width for all features say that these have one unit, bounds of their own that each has its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from privfed.learners.mixture.initialise import kmeans
from privfed.query import FloatArray
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["spread_components"]

DRAWS, LEAST_DRAWS = 100, 3000  # of the Gaussian: for each cell, and in all
LLOYD_STEPS: Final = 30


def spread_components(
    coordinates: Coordinates, covariance: FloatArray, K: int, kind: CovarianceType, random: Generator
) -> MixtureModel:
    """Return K components over the Gaussian N(0, covariance), in working coordinates.

    Args:
        coordinates: the working coordinates; cells are round in units of its bounds, or where a side is open, in those
            of the Gaussian's own standard deviations.
        covariance: released or public, shape (d, d).
        K: number of components.
        kind: covariance type of the result.
        random: for the draws that stand for the Gaussian.
    """
    d = len(coordinates.centre)
    draws = random.multivariate_normal(np.zeros(d), covariance, max(DRAWS * K, LEAST_DRAWS))
    features = draws @ np.linalg.inv(coordinates.transform)
    width = coordinates.high - coordinates.low
    labels = kmeans(
        features / (width if np.isfinite(width).all() else features.std(axis=0)), K, random, max_iter=LLOYD_STEPS
    )
    sizes = np.maximum(np.bincount(labels, minlength=K), 1)
    means = np.stack([np.bincount(labels, weights=column, minlength=K) for column in draws.T], axis=1) / sizes[:, None]
    inside = draws - means[labels]
    return MixtureModel.from_matrices(sizes / sizes.sum(), means, inside.T @ inside / len(draws), kind)
