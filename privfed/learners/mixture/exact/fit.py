"""Fit to a federation without a budget: exact sums, so the fit is that of EM on all rows in one place.

Four kinds of sums: the size of each feature (where no bounds are given), moments, a start, and EM itself. The start is
the budgeted recipe's, without noise (`privfed.learners.mixture.exact.starts`); where one is given, EM is all that
happens. `Algorithm` says which EM: plain, accelerated, some clients at a time, with personal weights, or the averaging
of parameters that it is compared with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.learners.mixture.em import EMResult, expectation_maximization
from privfed.learners.mixture.exact.accelerate import squarem_maximization
from privfed.learners.mixture.exact.online import Online, online_maximization
from privfed.learners.mixture.exact.parameter_average import Aggregation, LocalParameters, parameter_averaging
from privfed.learners.mixture.exact.starts import searched_start, standard_component
from privfed.learners.mixture.initialise import FederatedInit
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.reports import RoundReport
from privfed.query import FloatArray, Query
from privfed.statistics.mixture import MixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_estep import MixtureSums
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel
from privfed.statistics.mixture_personal import PersonalMixtureStatistics
from privfed.statistics.mixture_query import located_fields
from privfed.statistics.mixture_range import FeatureMagnitudes, scales_of
from privfed_accounting import Sampling

__all__ = ["Acceleration", "Algorithm", "ExactFit", "fit_exact"]

Acceleration = Literal["squarem", "incremental", "stepwise"]
MOST_ROWS: Final = 2.0**18  # of a client, as the averaging of parameters counts them


@dataclass(frozen=True)
class Algorithm:
    """Which EM a federation without a budget runs; see `GaussianMixture` for what each of them is.

    Raises:
        UsageError: two of them do not go together.
    """

    acceleration: Acceleration | None = None
    clients_per_round: int | None = None
    aggregation: Aggregation = "statistics"
    personal_weights: bool = False

    def __post_init__(self) -> None:
        online = self.acceleration in ("incremental", "stepwise")
        if online and self.clients_per_round is None:
            raise UsageError(f"acceleration={self.acceleration!r} needs clients_per_round: how many take part in one")
        if self.clients_per_round is not None and not online:
            raise UsageError(
                "clients_per_round is for acceleration='incremental' or 'stepwise': plain EM needs everybody each round"
            )
        if self.aggregation != "statistics" and (self.acceleration is not None or self.personal_weights):
            raise UsageError(
                f"aggregation={self.aggregation!r} is a baseline of its own: leave acceleration and personal_weights"
                " out, or use aggregation='statistics'"
            )

    def check_budgeted(self) -> None:
        """Refuse what no budget goes with.

        Raises:
            UsageError: with the remedy.
        """
        if self.acceleration is not None:
            raise UsageError(
                f"acceleration={self.acceleration!r} extrapolates from the last bits of its sums, or from few clients'"
                " sums: noise would lead it astray. Under a budget the recipe averages its last rounds instead: set"
                " acceleration=None, and rounds= for fewer of them"
            )
        if self.aggregation != "statistics":
            raise UsageError(
                f"aggregation={self.aggregation!r} is a baseline to compare with, without a budget. Under one use"
                " aggregation='statistics': it sends less, and loses less"
            )


@dataclass(frozen=True, eq=False)
class ExactFit:
    """What a fit without a budget ends with: EM's result, in the units of the data, and every release."""

    result: EMResult
    releases: tuple[Release, ...]


@dataclass
class _Run:
    federation: Federation
    report: Callable[[RoundReport], object]
    algorithm: Algorithm
    releases: list[Release] = field(default_factory=list)

    def ask(self, query: Query, stage: str, round: int, rounds: int, *, sampling: Sampling | None = None) -> Release:
        """Release any query, keep the release and report it."""
        release = self._release(query, stage, rounds - round + 1, sampling)
        self.report(RoundReport(stage, round, rounds, release, None))
        return release

    def sums(
        self, model: MixtureModel, coordinates: Coordinates, radius: float, stage: str, round: int, rounds: int
    ) -> MixtureSums:
        """Return the exact sums of one E-step, likelihoods per unit of the data."""
        main = stage == "mixture"
        personal = main and self.algorithm.personal_weights
        made = PersonalMixtureStatistics if personal else MixtureStatistics
        query = made.of(model, coordinates, radius=radius)
        release = self._release(query, stage, rounds - round + 1, self.cohort if main else None)
        sums = query.sums_of(release.values)
        sums = replace(sums, log_likelihood=sums.log_likelihood + coordinates.log_volume * sums.n_rows)
        self.report(RoundReport(stage, round, rounds, release, sums.log_likelihood / max(sums.n_rows, 1.0)))
        return sums

    @property
    def cohort(self) -> Sampling | None:
        """Whose turn it is: the federation moves on by itself from one cohort to the next."""
        size = self.algorithm.clients_per_round
        if size is None:
            return None
        return Sampling.round_robin(size, self.federation.n_clients, unit="client", turn=0)

    def _release(self, query: Query, stage: str, left: int, sampling: Sampling | None) -> Release:
        release = self.federation.release(query, purpose=f"mixture: {stage}", rounds=left, sampling=sampling)
        self.releases.append(release)
        return release


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
    init: FederatedInit = "cells",
    algorithm: Algorithm | None = None,
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
        init: how a start is found where none is given.
        algorithm: which EM; plain by default.
    """
    run = _Run(federation, report, Algorithm() if algorithm is None else algorithm)
    coordinates = _coordinates(run, bounds, federation.n_features, uniform=covariance_type == "spherical")
    radius = math.sqrt(federation.n_features) * (1 + 1e-9)
    reg = reg_covar * np.diag(coordinates.transform) ** 2
    results = []
    for _ in range(1 if warm is not None or start.complete else n_init):
        if warm is not None:
            model = coordinates.to_working(warm)
        else:
            model = _start(run, coordinates, radius, start, n_components, covariance_type, init, random)
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
    if max_iter == 0:
        return EMResult(model, (), False)
    algorithm, rounds = run.algorithm, itertools.count(1)
    if algorithm.aggregation != "statistics":
        return _average_parameters(
            run, model, coordinates, tol=tol, max_iter=max_iter, reg=reg, lower_bound=lower_bound
        )

    def e_step(current: MixtureModel) -> MixtureSums:
        return run.sums(current, coordinates, radius, "mixture", next(rounds), max_iter)

    if run.cohort is not None:
        return online_maximization(
            model,
            e_step,
            period=run.cohort.period,
            scheme=cast(Online, algorithm.acceleration),
            tol=tol,
            max_iter=max_iter,
            reg_covar=reg,
            lower_bound=lower_bound,
        )
    maximise = squarem_maximization if algorithm.acceleration == "squarem" else expectation_maximization
    return maximise(model, e_step, tol=tol, max_iter=max_iter, reg_covar=reg, lower_bound=lower_bound)


def _average_parameters(
    run: _Run,
    model: MixtureModel,
    coordinates: Coordinates,
    *,
    tol: float,
    max_iter: int,
    reg: FloatArray,
    lower_bound: float,
) -> EMResult:
    """Run the baseline; rows of a client count up to 2^18, the public bound that scales the clients' sizes."""
    rounds = itertools.count(1)

    def ask(current: MixtureModel) -> Release:
        by_size = run.algorithm.aggregation == "parameters_by_size"
        query = LocalParameters(*located_fields(current, coordinates), reg, by_size, MOST_ROWS)
        return run.ask(query, "mixture", next(rounds), max_iter)

    volume = coordinates.log_volume
    result = parameter_averaging(model, ask, tol=tol, max_iter=max_iter, lower_bound=lower_bound - volume)
    return replace(result, lower_bounds=tuple(bound + volume for bound in result.lower_bounds))


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
        sums = run.sums(standard_component(d), about_origin, math.sqrt(d), "moments", 1, 1)
        centre = scales * sums.first[0] / max(sums.n_rows, 1.0)
        scales = _ranges(run, centre)
    if uniform:
        scales = np.full(d, scales.max())
    return Coordinates(low, high, centre, np.diag(1.0 / scales))


def _ranges(run: _Run, centre: FloatArray) -> FloatArray:
    return scales_of(run.ask(FeatureMagnitudes(centre), "range", 1, 1))


def _start(
    run: _Run,
    coordinates: Coordinates,
    radius: float,
    start: Start,
    K: int,
    kind: CovarianceType,
    init: FederatedInit,
    random: Generator,
) -> MixtureModel:
    """Return the start of EM in working coordinates: the given one, or a searched one with the given parts put in."""
    if start.weights is not None and start.means is not None and start.precisions is not None:
        return coordinates.to_working(MixtureModel.from_precisions(start.weights, start.means, start.precisions, kind))
    natural = coordinates.to_data(searched_start(run, coordinates, radius, K, kind, init, random))
    weights = natural.weights if start.weights is None else start.weights
    means = natural.means if start.means is None else start.means
    if start.precisions is not None:
        return coordinates.to_working(MixtureModel.from_precisions(weights, means, start.precisions, kind))
    return coordinates.to_working(MixtureModel.from_covariances(weights, means, natural.covariances, kind))
