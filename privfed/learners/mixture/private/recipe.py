"""The recipe of a fit under a budget, stage by stage. Each round is one protected sum.

1. Moments (5 % of mu^2, up to 12 % where rows are few; 3 rounds): one Gaussian, from the public bounds. It gives
   the working coordinates, in which the data are about standard, and the number of rows.
2. Choice (free): type and size that the budget carries (`planning.choose`), said aloud when they are not those
   asked for. A single Gaussian gets all that is left, where a start could not tell clusters from noise.
3. Start (25 %; up to 8 rounds, and 4): up to 3 K components spread over that Gaussian (`starts`). Full ones have a
   common covariance at first: it is cheap, and components as wide as the clusters do not straddle two of them. Where
   the budget carries it, the last rounds give each its own.
4. Refit (free): the mixture wanted, fitted to draws from the over-complete one, best of 24 starts.
5. Mixture (the rest; up to 16 rounds): noise-aware EM. A step uses an average of the last rounds' statistics, as many
   of them as quieten the noise, at most the last 60 % of the rounds so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.private.advice import warn_bounds, warn_lost, warn_noisy, warn_outdone, warn_simpler
from privfed.learners.mixture.private.estimates import Estimate, RowCount, average, whitened_query
from privfed.learners.mixture.private.frames import Box, expressed, given_start, inside, likelihood_range, working_frame
from privfed.learners.mixture.private.planning import (
    LIKELIHOOD_SHARE,
    TAIL,
    Choice,
    choose,
    excess,
    quantile_within,
    rounds_within,
    start_components,
    start_type,
)
from privfed.learners.mixture.private.single import MOMENT_ROUNDS, box_gaussian, single_update
from privfed.learners.mixture.private.update import Prior, private_update
from privfed.learners.mixture.refit import refit
from privfed.learners.mixture.reports import RoundReport
from privfed.learners.mixture.starts import spread_components
from privfed.query import FloatArray
from privfed.statistics.mixture_clipping import QUANTILE
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["PrivateFit", "fit_private"]

MOMENTS_SHARE, MOMENTS_SHARE_MOST, MOMENTS_EXCESS = 0.05, 0.12, 0.1
START_SHARE: Final = 0.25
START_ROUNDS, MAIN_ROUNDS, LEAST_ROUNDS = 8, 16, 4
START_TAIL: Final = 0.25
LEAST_START_WEIGHT: Final = 0.3  # of an average starting component; lighter ones are left out of the refit
OWN_SHAPES: Final = 0.7  # nats of expected excess up to which the start ends with a covariance for each component
OWN_PART, OWN_ROUNDS = 0.4, 4  # of what the start spends, and in how many rounds
FRAME: Final = 3.0  # nats that the moments may lose; beyond, a mixture in their coordinates is worse than they are
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
    count: RowCount = field(default_factory=RowCount)
    releases: list[Release] = field(default_factory=list)

    def ask(
        self,
        model: MixtureModel,
        coordinates: Coordinates,
        *,
        stage: str,
        round: int,
        rounds: int,
        share: float,
        quantile: float = QUANTILE,
    ) -> tuple[Estimate, float]:
        """Spend `share` on one round; return the estimate and the released log-likelihood, nats per row of the data."""
        typical, reach = likelihood_range(model, self.random)
        query = whitened_query(
            model,
            coordinates,
            quantile=quantile,
            likelihood_share=LIKELIHOOD_SHARE,
            typical=typical,
            likelihood_clip=reach,
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
    given = start.means is not None or warm is not None
    if not given and (start.weights is not None or start.precisions is not None):
        raise UsageError(
            "weights_init and precisions_init need means_init when fitting a federation: a start that is found by"
            " protected sums numbers its components as it likes"
        )
    single = n_components == 1 and not given
    box = Box(low, high, diagonal=covariance_type in ("diag", "spherical"))
    gaussian, spent = _moments(run, box, share=share, mu2=mu2)
    if excess(run.count.value, len(low), 1, box.kind, mu2=mu2 * spent) <= QUIET:
        warn_bounds(box.coordinates.to_data(gaussian), low, high)
    rest = share * (1 - spent)
    if single:
        gaussian, _ = _moments(run, box, share=rest, mu2=mu2, frame=gaussian)
        return _as_single(run, gaussian, box, Choice(covariance_type, 1, 0.0), covariance_type)
    left = mu2 * (1 - spent - (0.0 if given else START_SHARE))
    looking = None if given else mu2 * START_SHARE
    choice = _choice(run, box, n_components, covariance_type, start_mu2=looking, mu2=left, moments=mu2 * spent)
    if choice.n_components == 1 and not given:
        gaussian, _ = _moments(run, box, share=rest, mu2=mu2, frame=gaussian)
        return _as_single(run, gaussian, box, choice, covariance_type)
    coordinates, prior = working_frame(gaussian, box, covariance_type)
    found: _Found | None = None
    if given:
        model = given_start(start, warm, coordinates, prior, n_components, covariance_type)
    else:
        found = _start(run, coordinates, prior, choice, share=share * START_SHARE, mu2=mu2 * START_SHARE)
        model = refit(found.model, choice.n_components, choice.covariance_type, random)
        spent += START_SHARE
    if rounds is None:
        rounds = _rounds(run, len(low), choice, mu2=mu2 * (1 - spent), most=MAIN_ROUNDS)
    quantile = quantile_within(
        run.count.value, len(low), choice.n_components, choice.covariance_type, mu2=mu2 * (1 - spent)
    )
    stage = _stage(
        run,
        "mixture",
        model,
        coordinates,
        prior,
        rounds=rounds,
        share=share * (1 - spent),
        tail=TAIL,
        quantile=quantile,
    )
    warn_lost(stage.used)
    if found is not None:
        _compare(found, stage, choice)
    released = coordinates.to_data(expressed(stage.model, covariance_type))
    if choice.excess <= QUIET:  # louder noise puts means anywhere
        warn_bounds(released, low, high)
    return PrivateFit(inside(released, box), choice, stage.likelihoods, tuple(run.releases))


def _choice(
    run: _Run, box: Box, K: int, kind: CovarianceType, *, start_mu2: float | None, mu2: float, moments: float
) -> Choice:
    """Return what is fitted with `mu2`, the frame having cost `moments`; say so where it is not what was asked for.

    `start_mu2` is what may be spent on finding the clusters, or None where a start is given.
    """
    d, n = len(box.low), run.count.value
    asked = excess(n, d, K, kind, mu2=mu2)
    if start_mu2 is None:
        choice = Choice(kind, K, asked)
        warn_noisy(choice, rows=n)
        return choice
    choice = choose(n, d, K, kind, mu2=mu2, start_mu2=start_mu2)
    frame = excess(n, d, 1, box.kind, mu2=moments) * TAIL
    if frame > FRAME:
        choice, asked = Choice(kind, 1, excess(n, d, 1, box.kind, mu2=mu2)), max(asked, frame)
    if (choice.covariance_type, choice.n_components) != (kind, K):
        warn_simpler(choice, K, kind, rows=n, d=d, asked=asked)
    return choice


def _compare(found: _Found, stage: _Stage, choice: Choice) -> None:
    """Warn where the over-complete start explained the rows better than the mixture that came of it."""
    last = stage.likelihoods[len(stage.likelihoods) // 2 :]
    warn_outdone(
        start=found.likelihood,
        components=found.model.n_components,
        final=sum(last) / len(last),
        wanted=choice.n_components,
        error=math.hypot(found.error, stage.error / math.sqrt(len(last))),
    )


# --- stages ---------------------------------------------------------------------------------------------------------


def _moments(
    run: _Run, box: Box, *, share: float, mu2: float, frame: MixtureModel | None = None
) -> tuple[MixtureModel, float]:
    """Return one Gaussian in the box's coordinates, and the part of `share` that was spent.

    Given a `frame`, an earlier such Gaussian, all of the share is spent. A round divides variances by twelve at most,
    and by less under noise: three do not reach data in a box far too wide.
    """
    d, all_of_it = len(box.low), frame is not None
    model = box_gaussian(d, diagonal=box.diagonal) if frame is None else frame
    part, spent = 1.0 if all_of_it else MOMENTS_SHARE, 0.0
    for index, fraction in enumerate(MOMENT_ROUNDS):
        cost = part * fraction
        if index == 1 and not all_of_it:  # the first release tells how many rows there are
            needed = excess(run.count.value, d, 1, box.kind, mu2=mu2) * TAIL / MOMENTS_EXCESS
            part = min(max(needed, MOMENTS_SHARE), MOMENTS_SHARE_MOST)
            cost = part * fraction
        # The box is no frame to be clipped in; what the first round made of it is.
        last = QUANTILE if index == 0 else quantile_within(run.count.value, d, 1, box.kind, mu2=mu2 * cost)
        estimate, _ = run.ask(
            model,
            box.coordinates,
            stage="moments",
            round=index + 1,
            rounds=len(MOMENT_ROUNDS),
            share=share * cost,
            quantile=last,
        )
        model = single_update(estimate)
        spent += cost
    return model, spent


@dataclass(frozen=True, eq=False)
class _Found:
    """The over-complete mixture, in working coordinates, and its released mean log-likelihood with that one's noise."""

    model: MixtureModel
    likelihood: float
    error: float


def _rounds(run: _Run, d: int, choice: Choice, *, mu2: float, most: int) -> int:
    return rounds_within(
        run.count.value,
        d,
        choice.n_components,
        choice.covariance_type,
        mu2=mu2,
        most=most,
        least=LEAST_ROUNDS,
        likelihood_share=LIKELIHOOD_SHARE,
    )


def _start(run: _Run, coordinates: Coordinates, prior: Prior, choice: Choice, *, share: float, mu2: float) -> _Found:
    """Return an over-complete mixture in working coordinates."""
    d, n, wanted = len(coordinates.centre), run.count.value, choice.n_components
    kind = start_type(choice.covariance_type)
    rounds = _rounds(run, d, Choice(kind, wanted, 0.0), mu2=mu2, most=START_ROUNDS)
    K = start_components(n, d, wanted, kind, mu2=mu2, rounds=rounds, likelihood_share=LIKELIHOOD_SHARE)
    own = choice.covariance_type
    shaped = OWN_PART if own != kind and excess(n, d, K, own, mu2=mu2 * OWN_PART) <= OWN_SHAPES else 0.0
    model = spread_components(coordinates, prior.covariance, K, kind, run.random)
    part = share * (1 - shaped)
    stage = _stage(run, "start", model, coordinates, prior, rounds=rounds, share=part, tail=START_TAIL)
    if shaped:
        kind, model = own, expressed(stage.model, own)
        part = share * shaped
        stage = _stage(run, "shapes", model, coordinates, prior, rounds=OWN_ROUNDS, share=part, tail=TAIL)
    model, kept = stage.model, stage.model.weights >= LEAST_START_WEIGHT / K
    covariances = model.covariances if kind == "tied" else model.covariances[kept]
    weights = model.weights[kept]
    found = MixtureModel.from_covariances(weights / weights.sum(), model.means[kept], covariances, kind)
    return _Found(found, stage.likelihoods[-1], stage.error)


@dataclass(frozen=True, eq=False)
class _Stage:
    """What some rounds end with: the model, what the last step used, and what each round released of the likelihood.

    `error` is the standard deviation of the noise on one of `likelihoods`.
    """

    model: MixtureModel
    used: Estimate
    likelihoods: tuple[float, ...]
    error: float


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
    quantile: float = QUANTILE,
) -> _Stage:
    """Run noise-aware EM for `rounds` rounds of equal cost, each step from an average of the last ones."""
    estimates: list[Estimate] = []
    likelihoods: list[float] = []
    for round in range(1, rounds + 1):
        estimate, likelihood = run.ask(
            model, coordinates, stage=name, round=round, rounds=rounds, share=share / rounds, quantile=quantile
        )
        likelihoods.append(likelihood)
        estimates.append(estimate)
        combined = average(estimates[-_window(estimate, round, tail, last=round == rounds) :], model)
        model = private_update(combined, prior)
    error = float(run.releases[-1].noise_std["log_likelihood"]) / run.count.value
    return _Stage(model, combined, tuple(likelihoods), error)


def _window(estimate: Estimate, round: int, tail: float, *, last: bool) -> int:
    """Return how many of the last rounds to average: as many as make the noise small, at most `tail` of those so far.

    Averages lag behind EM where it still moves, so quiet rounds are averaged less; the last step wants less noise, for
    nothing comes after it.
    """
    wanted = QUIET_AT_LAST if last else QUIET
    return max(1, min(math.floor(tail * round + 0.5), math.ceil((estimate.relative_noise / wanted) ** 2)))


def _as_single(run: _Run, gaussian: MixtureModel, box: Box, choice: Choice, kind: CovarianceType) -> PrivateFit:
    released = inside(expressed(box.coordinates.to_data(gaussian), kind), box)
    return PrivateFit(released, choice, (), tuple(run.releases))
