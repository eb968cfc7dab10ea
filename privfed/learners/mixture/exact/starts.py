"""Starts for a federation without a budget, found by exact sums: no row is ever shown.

cells        over-complete EM about the cells of a k-means quantiser of the released Gaussian, and the refit of its
             draws: the recipe of a budget, without noise
moments      K such cells, and nothing more: one sum
dp-kmeans    over-complete Lloyd steps from the cells, and the refit of draws from the clusters
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from privfed.federation.release import Release
from privfed.learners.mixture.em import server_update
from privfed.learners.mixture.initialise import FederatedInit
from privfed.learners.mixture.lloyd import lloyd
from privfed.learners.mixture.refit import refit
from privfed.learners.mixture.starts import spread_components
from privfed.query import Query
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_estep import MixtureSums
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["ExactSums", "searched_start", "standard_component"]

START_ROUNDS: Final = 8
START_REG: Final = 1e-6
OVER_COMPLETE: Final = 3
LEAST_START_WEIGHT: Final = 0.3  # of an average starting component


class ExactSums(Protocol):
    """What a start may ask."""

    def sums(
        self, model: MixtureModel, coordinates: Coordinates, radius: float, stage: str, round: int, rounds: int
    ) -> MixtureSums:
        """Return the exact sums of one E-step."""
        ...

    def ask(self, query: Query, stage: str, round: int, rounds: int) -> Release:
        """Release any query."""
        ...


def standard_component(d: int) -> MixtureModel:
    """Return one component, whose statistics are plain moments."""
    return MixtureModel.from_covariances([1.0], np.zeros((1, d)), np.eye(d)[None], "full")


def searched_start(
    run: ExactSums,
    coordinates: Coordinates,
    radius: float,
    K: int,
    kind: CovarianceType,
    init: FederatedInit,
    random: Generator,
) -> MixtureModel:
    """Return a start of K components in working coordinates."""
    d = len(coordinates.centre)
    moments = run.sums(standard_component(d), coordinates, radius, "moments", 1, 1)
    gaussian = server_update(moments, reg_covar=START_REG)
    if K == 1:
        return MixtureModel.from_matrices([1.0], gaussian.means, gaussian.covariances, kind)
    whitener = gaussian.precisions_cholesky[0]
    centre = coordinates.to_data(gaussian).means[0]
    whitened = Coordinates(coordinates.low, coordinates.high, centre, coordinates.transform @ whitener)
    if init == "moments":
        return _expressed(spread_components(whitened, np.eye(d), K, "tied", random), whitened, coordinates, kind)
    cells = spread_components(whitened, np.eye(d), OVER_COMPLETE * K, "tied", random)
    if init == "dp-kmeans":
        found = whitened.to_working(_clusters(run, coordinates, whitened, gaussian, cells))
    else:
        found = _over_complete(run, whitened, cells, 2.0 * math.sqrt(d) * float(np.linalg.norm(whitener, ord=2)))
    if kind in ("full", "tied"):
        return coordinates.to_working(whitened.to_data(refit(found, K, kind, random)))
    # Whitened draws have no diagonal or spherical covariances to find: refit in the working coordinates, at scale one.
    scale = math.sqrt(float(np.trace(gaussian.covariances[0])) / d)
    plain = Coordinates(coordinates.low, coordinates.high, coordinates.centre, coordinates.transform / scale)
    return coordinates.to_working(plain.to_data(refit(plain.to_working(whitened.to_data(found)), K, kind, random)))


def _over_complete(run: ExactSums, whitened: Coordinates, model: MixtureModel, reach: float) -> MixtureModel:
    """Return what EM with one common covariance makes of many components; the lightest left out."""
    for round in range(1, START_ROUNDS + 1):
        model = server_update(run.sums(model, whitened, reach, "start", round, START_ROUNDS), reg_covar=START_REG)
    kept = model.weights >= LEAST_START_WEIGHT / model.n_components
    weights = model.weights[kept] / model.weights[kept].sum()
    return MixtureModel.from_covariances(weights, model.means[kept], model.covariances, "tied")


def _clusters(
    run: ExactSums, coordinates: Coordinates, whitened: Coordinates, gaussian: MixtureModel, cells: MixtureModel
) -> MixtureModel:
    """Return clusters as tied components in units of the data; distances are in units of the public box, or of the
    features' spread where it is open.
    """  # fmt: skip
    open_box = not np.isfinite(coordinates.high - coordinates.low).all()
    spread = np.sqrt(np.diagonal(coordinates.to_data(gaussian).covariances[0]))
    scale = spread if open_box else np.asarray((coordinates.high - coordinates.low) / 2)
    ask: Callable[[Query, int], Release] = lambda query, round: run.ask(query, "start", round, START_ROUNDS)  # noqa: E731
    clusters = lloyd(ask, whitened.to_data(cells), coordinates, scale, rounds=START_ROUNDS, clipped=False)
    return clusters.mixture(least_weight=LEAST_START_WEIGHT / cells.n_components)


def _expressed(
    model: MixtureModel, whitened: Coordinates, coordinates: Coordinates, kind: CovarianceType
) -> MixtureModel:
    """Return whitened components as ones of `kind` in working coordinates."""
    natural = whitened.to_data(model)
    moved = coordinates.to_working(natural)
    return MixtureModel.from_matrices(moved.weights, moved.means, moved.full_covariances(), kind)
