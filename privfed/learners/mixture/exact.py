"""Fit to a federation without a budget: exact sums, so the fit is that of EM on all rows in one place.

Four kinds of sums: the size of each feature (where no bounds are given), moments, an over-complete start, and EM
itself. The start is the budgeted recipe's, without noise; where a start is given, EM is all that happens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from privfed.federation.release import Federation, Release
from privfed.learners.mixture.em import EMResult, expectation_maximization, server_update
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.refit import refit
from privfed.learners.mixture.reports import RoundReport
from privfed.learners.mixture.starts import spread_components
from privfed.query import FloatArray
from privfed.statistics.mixture import MixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_estep import MixtureSums
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel
from privfed.statistics.mixture_range import FeatureMagnitudes, scales_of

__all__ = ["ExactFit", "fit_exact"]

START_ROUNDS: Final = 8
START_REG: Final = 1e-6


@dataclass(frozen=True, eq=False)
class ExactFit:
    """What a fit without a budget ends with: EM's result, in the units of the data, and every release."""

    result: EMResult
    releases: tuple[Release, ...]


@dataclass
class _Run:
    federation: Federation
    report: Callable[[RoundReport], object]
    releases: list[Release] = field(default_factory=list)

    def sums(
        self, model: MixtureModel, coordinates: Coordinates, radius: float, stage: str, round: int, rounds: int
    ) -> MixtureSums:
        """Return the exact sums of one E-step, likelihoods per unit of the data."""
        query = MixtureStatistics.of(model, coordinates, radius=radius)
        release = self.federation.release(query, purpose=f"mixture: {stage}", rounds=rounds - round + 1)
        self.releases.append(release)
        sums = query.sums_of(release.values)
        sums = replace(sums, log_likelihood=sums.log_likelihood + coordinates.log_volume * sums.n_rows)
        self.report(RoundReport(stage, round, rounds, release, sums.log_likelihood / max(sums.n_rows, 1.0)))
        return sums


def fit_exact(
    federation: Federation,
    *,
    n_components: int,
    covariance_type: CovarianceType,
    bounds: tuple[FloatArray, FloatArray] | None,
    tol: float,
    reg_covar: float,
    max_iter: int,
    n_init: int,
    start: Start,
    warm: MixtureModel | None,
    lower_bound: float,
    random: Generator,
    report: Callable[[RoundReport], object],
) -> ExactFit:
    """Fit a mixture by EM whose every step is one protected sum without noise.

    Args:
        federation: without a budget.
        n_components, covariance_type, tol, reg_covar, max_iter, n_init: as in `GaussianMixture`.
        bounds: public bounds of the rows, each of shape (d,), that rows are cut to; None finds the range by sums.
        start: given starting values.
        warm: a model to go on from, or None.
        lower_bound: of the fit that `warm` comes from.
        random: for starts.
        report: called after each round.
    """
    run = _Run(federation, report)
    coordinates = _coordinates(run, bounds, federation.n_features, uniform=covariance_type == "spherical")
    radius = math.sqrt(federation.n_features) * (1 + 1e-9)
    reg = reg_covar * np.diag(coordinates.transform) ** 2
    results = []
    for _ in range(1 if warm is not None or start.complete else n_init):
        if warm is not None:
            model = coordinates.to_working(warm)
        else:
            model = _start(run, coordinates, radius, start, n_components, covariance_type, random)
        results.append(
            _maximise(run, model, coordinates, radius, tol=tol, max_iter=max_iter, reg=reg, lower_bound=lower_bound)
        )
    best = max(results, key=lambda result: result.lower_bounds[-1] if result.lower_bounds else -math.inf)
    return ExactFit(replace(best, model=coordinates.to_data(best.model)), tuple(run.releases))


def _maximise(
    run: _Run,
    model: MixtureModel,
    coordinates: Coordinates,
    radius: float,
    *,
    tol: float,
    max_iter: int,
    reg: FloatArray,
    lower_bound: float,
) -> EMResult:
    rounds = itertools.count(1)
    if max_iter == 0:
        return EMResult(model, (), False)
    return expectation_maximization(
        model,
        lambda current: run.sums(current, coordinates, radius, "mixture", next(rounds), max_iter),
        tol=tol,
        max_iter=max_iter,
        reg_covar=reg,
        lower_bound=lower_bound,
    )


def _coordinates(run: _Run, bounds: tuple[FloatArray, FloatArray] | None, d: int, *, uniform: bool) -> Coordinates:
    """Return coordinates in which every row lies within [-1, 1]^d; all scales alike where `uniform`."""
    if bounds is not None:
        low, high = bounds
        centre, scales = (low + high) / 2, (high - low) / 2
    else:
        low, high, centre = np.full(d, -np.inf), np.full(d, np.inf), np.zeros(d)
        scales = _ranges(run, centre)
        # Sums about the origin would lose the digits that the mean takes up: find the mean first, then the range
        # about it.
        about_origin = Coordinates(low, high, centre, np.diag(1.0 / scales))
        sums = run.sums(_standard(d), about_origin, math.sqrt(d), "moments", 1, 1)
        centre = scales * sums.first[0] / max(sums.n_rows, 1.0)
        scales = _ranges(run, centre)
    if uniform:
        scales = np.full(d, scales.max())
    return Coordinates(low, high, centre, np.diag(1.0 / scales))


def _ranges(run: _Run, centre: FloatArray) -> FloatArray:
    release = run.federation.release(FeatureMagnitudes(centre), purpose="mixture: range")
    run.releases.append(release)
    run.report(RoundReport("range", 1, 1, release, None))
    return scales_of(release)


def _standard(d: int) -> MixtureModel:
    """One component, whose statistics are plain moments."""
    return MixtureModel.from_covariances([1.0], np.zeros((1, d)), np.eye(d)[None], "full")


def _start(
    run: _Run,
    coordinates: Coordinates,
    radius: float,
    start: Start,
    K: int,
    kind: CovarianceType,
    random: Generator,
) -> MixtureModel:
    """Return the start of EM in working coordinates: the given one, or the recipe's with the given parts put in."""
    if start.weights is not None and start.means is not None and start.precisions is not None:
        return coordinates.to_working(MixtureModel.from_precisions(start.weights, start.means, start.precisions, kind))
    d = len(coordinates.centre)
    gaussian = server_update(run.sums(_standard(d), coordinates, radius, "moments", 1, 1), reg_covar=START_REG)
    if K == 1:
        model = MixtureModel.from_matrices([1.0], gaussian.means, gaussian.covariances, kind)
    else:
        model = _searched(run, coordinates, gaussian, K, kind, random)
    natural = coordinates.to_data(model)
    weights = natural.weights if start.weights is None else start.weights
    means = natural.means if start.means is None else start.means
    if start.precisions is not None:
        return coordinates.to_working(MixtureModel.from_precisions(weights, means, start.precisions, kind))
    return coordinates.to_working(MixtureModel.from_covariances(weights, means, natural.covariances, kind))


def _searched(
    run: _Run,
    coordinates: Coordinates,
    gaussian: MixtureModel,
    K: int,
    kind: CovarianceType,
    random: Generator,
) -> MixtureModel:
    """Over-complete EM with one common covariance in whitened coordinates, and the refit of its draws."""
    d, many = gaussian.n_features, 3 * K
    whitener = gaussian.precisions_cholesky[0]
    whitened = Coordinates(
        coordinates.low,
        coordinates.high,
        coordinates.to_data(gaussian).means[0],
        coordinates.transform @ whitener,
    )
    model = spread_components(whitened, np.eye(d), many, "tied", random)
    reach = 2.0 * math.sqrt(d) * float(np.linalg.norm(whitener, ord=2))
    for round in range(1, START_ROUNDS + 1):
        sums = run.sums(model, whitened, reach, "start", round, START_ROUNDS)
        model = server_update(sums, reg_covar=START_REG)
    kept = model.weights >= 0.3 / many
    weights = model.weights[kept] / model.weights[kept].sum()
    found = MixtureModel.from_covariances(weights, model.means[kept], model.covariances, "tied")
    if kind in ("full", "tied"):
        fitted = refit(found, K, kind, random)
        return coordinates.to_working(whitened.to_data(fitted))
    # Whitened draws have no diagonal or spherical covariances to find: refit in the working coordinates, at scale one.
    scale = math.sqrt(float(np.trace(gaussian.covariances[0])) / d)
    plain = Coordinates(coordinates.low, coordinates.high, coordinates.centre, coordinates.transform / scale)
    return coordinates.to_working(plain.to_data(refit(plain.to_working(whitened.to_data(found)), K, kind, random)))
