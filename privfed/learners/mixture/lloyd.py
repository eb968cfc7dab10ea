"""k-means by protected sums: Lloyd's algorithm with one sum a round, with noise under a budget and without it.

Rows are counted for their nearest centre and tell how far they lie from it, cut to a public radius; so the noise of a
centre's step is in units of a cell, not of the whole box (the idea of Su et al. 2016, arXiv:1504.05998, who centre a
grid of counts). A step is shrunk by the part of it that noise explains, and a centre whose count does not rise above
its noise stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfed.federation.release import Release
from privfed.query import FloatArray
from privfed.statistics.clusters import ClusterSums
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["Clusters", "lloyd"]

REACH: Final = 2.0  # radius within which rows count in full, in root mean square distances of rows from their centres
STEP: Final = 0.5  # how far a centre is expected to move in a round, in those distances
LEAST_WIDTH: Final = 1e-3  # of the first guess: the radius does not shrink below


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centres, shape (K, d) in units of the data, their weights (K,), and the mean square distance of a row per feature
    in units of `scale` (d,).
    """  # fmt: skip

    centres: FloatArray
    weights: FloatArray
    variance: float
    scale: FloatArray

    def mixture(self, *, least_weight: float = 0.0) -> MixtureModel:
        """Return the clusters as tied components, in units of the data; those lighter than `least_weight` left out."""
        kept = self.weights >= least_weight
        weights = self.weights[kept]
        return MixtureModel.from_covariances(
            weights / weights.sum(), self.centres[kept], np.diag(self.variance * self.scale**2), "tied"
        )


def lloyd(
    ask: Callable[[ClusterSums, int], Release],
    start: MixtureModel,
    coordinates: Coordinates,
    scale: FloatArray,
    *,
    rounds: int,
    clipped: bool,
) -> Clusters:
    """Run Lloyd's algorithm from the means of a public model.

    Args:
        ask: releases a query in the round of that number, from 1.
        start: first centres and, by its covariances, a first guess of how wide clusters are; in units of the data.
        coordinates: give the box that rows are cut to, and the origin.
        scale: units of the features, shape (d,): distances are measured in these.
        rounds: >= 1.
        clipped: whether rows count within a radius only, as noise sized for them makes worthwhile.
    """
    d, origin = len(scale), coordinates.centre
    centres = (start.means - origin) / scale
    within = np.einsum("k,kjj->j", start.weights, start.full_covariances()) / scale**2
    width = first = math.sqrt(float(within.sum()))
    counts, mass = np.ones(len(centres)), 0.0
    for round in range(1, rounds + 1):
        radius = REACH * width if clipped else 1e3 * first
        query = ClusterSums(centres, coordinates.low, coordinates.high, origin, scale, radius)
        release = ask(query, round)
        noise = release.noise_std
        counts, mass = release["counts"], max(float(release["counts"].sum()), 1.0)
        held = np.maximum(counts, max(noise["counts"], 1e-9))
        error = noise["shifts"] / held / (STEP * width)
        steps = release["shifts"] / held[:, None] / (1 + error**2)[:, None]
        centres = centres + np.where((counts > noise["counts"])[:, None], steps, 0.0)
        square = max(float(release["squares"]) / mass, 0.0)
        width = max(math.sqrt(square), LEAST_WIDTH * first)
    weights = np.maximum(counts, 0.0)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(counts), 1.0 / len(counts))
    return Clusters(centres * scale + origin, weights, max(width**2 / d, 1e-12), scale)
