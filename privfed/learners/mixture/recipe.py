"""The recipe of a fit under a budget, stage by stage. Each round is one protected sum.

1. Moments (5 % of mu^2, up to 12 % where rows are few; 3 rounds): one Gaussian, from the public bounds. It gives
   the working coordinates, in which the data are about standard, and the number of rows.
2. Choice (free): type and size that the budget carries (`planning.choose`), said aloud when they are not those
   asked for.
3. Start (25 %; up to 8 rounds): up to 3 K components about starts drawn from that Gaussian. Tied covariances where the
   wanted ones are full or tied: the common shape costs little and keeps close clusters apart, where spherical ones
       lost one
   in every third fit of ours.
4. Refit (free): the mixture wanted, fitted to draws from the over-complete one, best of 24 starts.
5. Mixture (the rest; up to 16 rounds): noise-aware EM. A step uses an average of the last rounds' statistics, as many
   of them as quieten the noise, at most the last 60 % of the rounds so far.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.planning import TAIL, Choice, choose, excess, rounds_within, start_components
from privfed.learners.mixture.private import Count, Estimate, average
from privfed.learners.mixture.private_update import Prior, private_update
from privfed.learners.mixture.refit import refit
from privfed.learners.mixture.reports import RoundReport
from privfed.learners.mixture.single import MOMENT_ROUNDS, box_gaussian, single_update
from privfed.query import FloatArray
from privfed.statistics.mixture import WhitenedMixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["PrivateFit", "fit_private"]

MOMENTS_SHARE, MOMENTS_SHARE_MOST, MOMENTS_EXCESS = 0.05, 0.12, 0.1
START_SHARE: Final = 0.25
START_ROUNDS, MAIN_ROUNDS, LEAST_ROUNDS = 8, 16, 4
START_TAIL: Final = 0.25
LIKELIHOOD_SHARE: Final = 0.02
START_WIDTH: Final = 2.0  # of starting components, times the width of one of K equal parts
QUIET, QUIET_AT_LAST = 0.1, 0.004  # relative noise of what a step uses: a tenth of a standard deviation, or far less
UNSPENT: Final = 1e-6  # kept back, so that rounding never makes the last round one too many


@dataclass(frozen=True, eq=False)
class PrivateFit:
    """What a fit under a budget ends with.

    Attributes:
        model: in the units of the data, of the type asked for; with fewer components where the choice says so.
        choice: what was fitted, and the expected excess loss.
        log_likelihoods: the released mean log-likelihood of each round of the last stage, nats per row.
        releases: every release, in order.
    """

    model: MixtureModel
    choice: Choice
    log_likelihoods: tuple[float, ...]
    releases: tuple[Release, ...]


@dataclass
class _Run:
    """One fit in progress: the federation, what has been learnt of the number of rows, and what was released."""

    federation: Federation
    random: Generator
    report: Callable[[RoundReport], object]
    count: Count = field(default_factory=Count)
    releases: list[Release] = field(default_factory=list)

    def ask(
        self, model: MixtureModel, coordinates: Coordinates, *, stage: str, round: int, rounds: int, share: float
    ) -> tuple[Estimate, float]:
        """Spend `share` on one round; return the estimate and the released log-likelihood, nats per row of the data."""
        typical, reach = _likelihood_range(model, self.random)
        query = WhitenedMixtureStatistics.of(
            model, coordinates, likelihood_share=LIKELIHOOD_SHARE, typical=typical, likelihood_clip=reach
        )
        release = self.federation.release(query, share=share, purpose=f"mixture: {stage}", rounds=rounds - round + 1)
        self.releases.append(release)
        self.count = self.count.add(release)
        likelihood = typical + coordinates.log_volume + float(release["log_likelihood"]) / self.count.value
        self.report(RoundReport(stage, round, rounds, release, likelihood))
        return Estimate.of(query, release, rows=self.count), likelihood


def fit_private(
    federation: Federation,
    *,
    n_components: int,
    covariance_type: CovarianceType,
    low: FloatArray,
    high: FloatArray,
    share: float,
    rounds: int | None,
    start: Start,
    warm: MixtureModel | None,
    random: Generator,
    report: Callable[[RoundReport], object],
) -> PrivateFit:
    """Fit a mixture under the federation's budget.

    Args:
        federation: with a budget.
        n_components, covariance_type: what is wanted.
        low, high: public bounds of the rows, shape (d,): rows are cut to them.
        share: part of the whole budget's mu^2 to spend.
        rounds: rounds of the last stage; None chooses.
        start: given starting values, public, in units of the data.
        warm: a released model to go on from, or None.
        random: every choice but the noise.
        report: called after each round.

    Guarantees:
        Data enter only through the federation's releases; the sum of their shares is at most `share`.
    """
    run = _Run(federation, random, report)
    share *= 1 - UNSPENT
    mu2 = share * federation.total_mu**2
    diagonal = covariance_type in ("diag", "spherical")
    given = start.means is not None or warm is not None
    single = n_components == 1 and not given
    gaussian, box, spent = _moments(run, low, high, diagonal=diagonal, share=share, mu2=mu2, all_of_it=single)
    if single:
        return _as_single(run, gaussian, box, covariance_type, Choice(covariance_type, 1, 0.0))
    coordinates, prior = _working(gaussian, box, low, high, covariance_type)
    d, n = len(low), run.count.value
    choice = choose(n, d, n_components, covariance_type, mu2=mu2 * (1 - spent - (0.0 if given else START_SHARE)))
    if given:
        choice = Choice(covariance_type, n_components, choice.excess)
    elif (choice.covariance_type, choice.n_components) != (covariance_type, n_components):
        _warn_simpler(choice, n_components, covariance_type, n, d, mu2)
    if choice.n_components == 1 and not given:
        gaussian, box, _ = _moments(
            run, low, high, diagonal=diagonal, share=share * (1 - spent), mu2=mu2, all_of_it=True, model=gaussian
        )
        return _as_single(run, gaussian, box, covariance_type, choice)
    if given:
        model = _given_start(start, warm, coordinates, prior, n_components, covariance_type)
    else:
        over = _start(run, coordinates, prior, choice, share=share * START_SHARE, mu2=mu2 * START_SHARE)
        model = _overridden(
            refit(over, choice.n_components, choice.covariance_type, random), start, coordinates, choice
        )
        spent += START_SHARE
    if rounds is None:
        rounds = rounds_within(
            run.count.value,
            d,
            choice.n_components,
            choice.covariance_type,
            mu2=mu2 * (1 - spent),
            most=MAIN_ROUNDS,
            least=LEAST_ROUNDS,
            likelihood_share=LIKELIHOOD_SHARE,
        )
    model, likelihoods = _stage(
        run, "mixture", model, coordinates, prior, rounds=rounds, share=share * (1 - spent), tail=TAIL
    )
    return PrivateFit(
        coordinates.to_data(_expressed(model, covariance_type)), choice, tuple(likelihoods), tuple(run.releases)
    )


# --- stages ---------------------------------------------------------------------------------------------------------


def _moments(
    run: _Run,
    low: FloatArray,
    high: FloatArray,
    *,
    diagonal: bool,
    share: float,
    mu2: float,
    all_of_it: bool,
    model: MixtureModel | None = None,
) -> tuple[MixtureModel, Coordinates, float]:
    """Return one Gaussian in box coordinates, those coordinates, and the part of `share` that was spent."""
    d = len(low)
    box = Coordinates(low, high, (low + high) / 2, np.diag(2.0 / (high - low)))
    model = box_gaussian(d, diagonal=diagonal) if model is None else model
    part, spent = 1.0 if all_of_it else MOMENTS_SHARE, 0.0
    for index, fraction in enumerate(MOMENT_ROUNDS):
        cost = part * fraction
        if index == 1 and not all_of_it:  # the first release tells how many rows there are
            kind: CovarianceType = "diag" if diagonal else "full"
            needed = excess(run.count.value, d, 1, kind, mu2=mu2) * TAIL / MOMENTS_EXCESS
            part = min(max(needed, MOMENTS_SHARE), MOMENTS_SHARE_MOST)
            cost = part * fraction
        estimate, _ = run.ask(
            model, box, stage="moments", round=index + 1, rounds=len(MOMENT_ROUNDS), share=share * cost
        )
        model = single_update(estimate)
        spent += cost
    return model, box, spent


def _start(
    run: _Run, coordinates: Coordinates, prior: Prior, choice: Choice, *, share: float, mu2: float
) -> MixtureModel:
    """Return an over-complete mixture in working coordinates."""
    d, n, wanted = len(coordinates.centre), run.count.value, choice.n_components
    kind: CovarianceType = "tied" if choice.covariance_type in ("full", "tied") else choice.covariance_type
    rounds = rounds_within(
        n, d, wanted, kind, mu2=mu2, most=START_ROUNDS, least=LEAST_ROUNDS, likelihood_share=LIKELIHOOD_SHARE
    )
    K = start_components(n, d, wanted, kind, mu2=mu2, rounds=rounds, likelihood_share=LIKELIHOOD_SHARE)
    width = min(START_WIDTH * K ** (-2.0 / d), 0.9)
    centres = run.random.multivariate_normal(np.zeros(d), (1 - width) * prior.covariance, K)
    model = _isotropic(centres, prior.covariance * width, kind)
    model, _ = _stage(run, "start", model, coordinates, prior, rounds=rounds, share=share, tail=START_TAIL)
    kept = model.weights >= 0.3 / K
    covariances = model.covariances if kind == "tied" else model.covariances[kept]
    weights = model.weights[kept]
    return MixtureModel.from_covariances(weights / weights.sum(), model.means[kept], covariances, kind)


def _stage(
    run: _Run,
    name: str,
    model: MixtureModel,
    coordinates: Coordinates,
    prior: Prior,
    *,
    rounds: int,
    share: float,
    tail: float,
) -> tuple[MixtureModel, list[float]]:
    """Run noise-aware EM for `rounds` rounds of equal cost, each step from an average of the last ones."""
    estimates: list[Estimate] = []
    likelihoods: list[float] = []
    for round in range(1, rounds + 1):
        estimate, likelihood = run.ask(model, coordinates, stage=name, round=round, rounds=rounds, share=share / rounds)
        likelihoods.append(likelihood)
        estimates.append(estimate)
        combined = average(estimates[-_window(estimate, round, tail, last=round == rounds) :], model)
        model = private_update(combined, prior)
    lost = int((combined.counts < combined.noise.counts).sum())
    if lost and name == "mixture":
        warnings.warn(
            f"{lost} of {model.n_components} components hold no more rows than the noise of their count "
            f"({combined.noise.counts:.3g}) and kept their starting place: lower n_components, or raise epsilon",
            UserWarning,
            stacklevel=2,
        )
    return model, likelihoods


def _window(estimate: Estimate, round: int, tail: float, *, last: bool) -> int:
    """Return how many of the last rounds to average: as many as make the noise small, at most `tail` of those so far.

    Averages lag behind EM where it still moves, so quiet rounds are averaged less; the last step wants less noise, for
    nothing comes after it.
    """
    wanted = QUIET_AT_LAST if last else QUIET
    return max(1, min(math.floor(tail * round + 0.5), math.ceil((estimate.relative_noise / wanted) ** 2)))


# --- coordinates, starts and types ----------------------------------------------------------------------------------


def _working(
    gaussian: MixtureModel, box: Coordinates, low: FloatArray, high: FloatArray, kind: CovarianceType
) -> tuple[Coordinates, Prior]:
    """Return coordinates in which the Gaussian is about standard and which keep the covariance type, and the prior."""
    released = box.to_data(gaussian)
    d = released.n_features
    if kind in ("full", "tied"):
        transform, covariance = released.precisions_cholesky[0], np.eye(d)
    elif kind == "diag":
        transform, covariance = np.diag(1.0 / np.sqrt(released.covariances[0])), np.eye(d)
    else:
        mean = float(released.covariances[0].mean())
        transform, covariance = np.eye(d) / math.sqrt(mean), np.diag(released.covariances[0] / mean)
    return Coordinates(low, high, released.means[0], transform), Prior(covariance)


def _isotropic(centres: FloatArray, covariance: FloatArray, kind: CovarianceType) -> MixtureModel:
    """Return equal components of one covariance (d, d) about `centres` (K, d), as `kind` expresses it."""
    K, d = centres.shape
    covariances = {
        "full": np.repeat(covariance[None], K, axis=0),
        "tied": covariance,
        "diag": np.repeat(np.diag(covariance)[None], K, axis=0),
        "spherical": np.full(K, np.trace(covariance) / d),
    }[kind]
    return MixtureModel.from_covariances(np.full(K, 1.0 / K), centres, covariances, kind)


def _given_start(
    start: Start, warm: MixtureModel | None, coordinates: Coordinates, prior: Prior, K: int, kind: CovarianceType
) -> MixtureModel:
    """Return the start that the caller gave, in working coordinates; what is missing comes from the prior."""
    if warm is not None:
        return coordinates.to_working(warm)
    if start.means is None:
        raise UsageError("a given start needs means_init")
    model = _isotropic((start.means - coordinates.centre) @ coordinates.transform, prior.component(K), kind)
    return _overridden(model, start, coordinates, Choice(kind, K, 0.0))


def _overridden(model: MixtureModel, start: Start, coordinates: Coordinates, choice: Choice) -> MixtureModel:
    """Return `model`, in working coordinates, with the starting values that the caller gave instead of its own."""
    if start.weights is not None and len(start.weights) == model.n_components:
        model = MixtureModel(
            start.weights, model.means, model.covariances, model.precisions_cholesky, model.covariance_type
        )
    if start.precisions is not None and choice.covariance_type == model.covariance_type:
        means = coordinates.to_data(model).means
        if start.precisions.shape == model.precisions_cholesky.shape:
            model = coordinates.to_working(
                MixtureModel.from_precisions(model.weights, means, start.precisions, model.covariance_type)
            )
    return model


def _expressed(model: MixtureModel, kind: CovarianceType) -> MixtureModel:
    """Return a simpler model as one of the type asked for."""
    if model.covariance_type == kind:
        return model
    matrices = model.full_covariances()
    covariances = matrices if kind == "full" else np.diagonal(matrices, axis1=1, axis2=2)
    return MixtureModel.from_covariances(model.weights, model.means, covariances, kind)


def _as_single(run: _Run, gaussian: MixtureModel, box: Coordinates, kind: CovarianceType, choice: Choice) -> PrivateFit:
    released = box.to_data(gaussian)
    covariances = released.covariances
    if kind == "tied":
        covariances = covariances[0]
    elif kind == "spherical":
        covariances = covariances.mean(axis=1)
    model = MixtureModel.from_covariances(released.weights, released.means, covariances, kind)
    return PrivateFit(model, choice, (), tuple(run.releases))


def _likelihood_range(model: MixtureModel, random: Generator) -> tuple[float, float]:
    """Return centre and reach, in nats, of the log-likelihoods that rows of `model` itself would have."""
    draws, _ = model.sample(1000, random)
    likelihoods = model.log_likelihoods(draws)
    return float(likelihoods.mean()), 4.0 * float(likelihoods.std()) + 1.0


def _warn_simpler(choice: Choice, K: int, kind: CovarianceType, n: float, d: int, mu2: float) -> None:
    asked = excess(n, d, K, kind, mu2=mu2 * (1 - MOMENTS_SHARE - START_SHARE))
    fitted = (
        "a single Gaussian"
        if choice.n_components == 1
        else f"{choice.n_components} {choice.covariance_type} components"
    )
    warnings.warn(
        f"about {n:.0f} rows under this budget would lose an expected {asked:.2g} nats per row to noise with {K} "
        f"{kind} components of {d} features: fitting {fitted} instead (expected {choice.excess:.2g}). To have what you "
        "asked for, raise epsilon, bring more rows, lower n_components, or choose a simpler covariance_type",
        UserWarning,
        stacklevel=2,
    )
