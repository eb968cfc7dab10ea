"""Starts that cost no privacy: components spread over a released Gaussian.

Centres are those of a k-means quantiser of the Gaussian, in standardised features, and every component starts as
wide as its cell. Both matter. A common covariance shrinks by EM only where components already stand apart, and slowly:
about centres drawn at random, as wide as one of K equal parts of the whole, clusters in a row were still one smear
after 8 rounds, noise or no noise, and the fit lost one of them in most runs. Standardised features keep the
correlations that whitening hides: along a row of clusters the Gaussian is long, so that is where the cells divide it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from privfed.learners.mixture.initialise import kmeans
from privfed.query import FloatArray
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["spread_components"]

DRAWS: Final = 100  # of the Gaussian, for each cell
LLOYD_STEPS: Final = 30


def spread_components(
    coordinates: Coordinates, covariance: FloatArray, K: int, kind: CovarianceType, random: Generator
) -> MixtureModel:
    """Return K components over the Gaussian N(0, covariance), in working coordinates.

    Args:
        coordinates: the working coordinates, whose transform tells how features of the data relate to them.
        covariance: released or public, shape (d, d).
        K: number of components.
        kind: covariance type of the result.
        random: for the draws that stand for the Gaussian.
    """
    d = len(coordinates.centre)
    draws = random.multivariate_normal(np.zeros(d), covariance, max(DRAWS * K, 3000))
    features = draws @ np.linalg.inv(coordinates.transform)
    labels = kmeans(features / features.std(axis=0), K, random, max_iter=LLOYD_STEPS)
    sizes = np.maximum(np.bincount(labels, minlength=K), 1)
    means = np.stack([np.bincount(labels, weights=column, minlength=K) for column in draws.T], axis=1) / sizes[:, None]
    inside = draws - means[labels]
    return MixtureModel.from_matrices(sizes / sizes.sum(), means, inside.T @ inside / len(draws), kind)
