"""Rounds of a fit under a budget: each one protected sum, and stages of several that make one step after another.

A step uses an average of the last rounds' statistics, as many of them as quieten the noise, at most a part of the
rounds so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from privfed.federation.release import Federation, Release
from privfed.learners.mixture.private.estimates import Estimate, RowCount, average, whitened_query
from privfed.learners.mixture.private.frames import likelihood_range
from privfed.learners.mixture.private.planning import LIKELIHOOD_SHARE
from privfed.learners.mixture.private.update import Prior, private_update
from privfed.learners.mixture.reports import RoundReport
from privfed.query import Query
from privfed.statistics.mixture_clipping import QUANTILE
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import Generator, MixtureModel

__all__ = ["Run", "Stage", "run_stage"]

QUIET, QUIET_AT_LAST = 0.1, 0.004  # relative noise of what a step uses: a tenth of a standard deviation, or far less
Place = tuple[str, int, int]  # stage, round from 1, rounds


@dataclass
class Run:
    """One fit in progress: the federation, what has been learnt of the number of rows, what was released and spent."""

    federation: Federation
    random: Generator
    report: Callable[[RoundReport], object]
    count: RowCount = field(default_factory=RowCount)
    releases: list[Release] = field(default_factory=list)
    spent: float = 0.0

    def release(self, query: Query, place: Place, share: float) -> Release:
        """Spend `share` of the whole budget on the answer to `query`."""
        stage, round, rounds = place
        release = self.federation.release(query, share=share, purpose=f"mixture: {stage}", rounds=rounds - round + 1)
        self.spent += share
        self.releases.append(release)
        return release

    def tell(self, place: Place, log_likelihood: float | None = None) -> None:
        """Report the last release."""
        self.report(RoundReport(*place, self.releases[-1], log_likelihood))

    def ask(
        self, model: MixtureModel, coordinates: Coordinates, place: Place, *, share: float, quantile: float = QUANTILE
    ) -> tuple[Estimate, float]:
        """Spend `share` on one E-step; return the estimate and the released log-likelihood, nats per row."""
        typical, reach = likelihood_range(model, self.random)
        query = whitened_query(
            model,
            coordinates,
            quantile=quantile,
            likelihood_share=LIKELIHOOD_SHARE,
            typical=typical,
            likelihood_clip=reach,
        )
        release = self.release(query, place, share)
        self.count = self.count.add(release)
        likelihood = typical + coordinates.log_volume + float(release["log_likelihood"]) / self.count.value
        self.tell(place, likelihood)
        return Estimate.of(query, release, rows=self.count), likelihood


@dataclass(frozen=True, eq=False)
class Stage:
    """What some rounds end with: the model, what the last step used, and what each round released of the likelihood.

    `error` is the standard deviation of the noise on one of `likelihoods`.
    """

    model: MixtureModel
    used: Estimate
    likelihoods: tuple[float, ...]
    error: float


def run_stage(
    run: Run,
    name: str,
    model: MixtureModel,
    coordinates: Coordinates,
    prior: Prior,
    *,
    rounds: int,
    share: float,
    tail: float,
    quantile: float = QUANTILE,
) -> Stage:
    """Run noise-aware EM for `rounds` rounds of equal cost, each step from an average of the last ones."""
    estimates: list[Estimate] = []
    likelihoods: list[float] = []
    for round in range(1, rounds + 1):
        estimate, likelihood = run.ask(
            model, coordinates, (name, round, rounds), share=share / rounds, quantile=quantile
        )
        likelihoods.append(likelihood)
        estimates.append(estimate)
        combined = average(estimates[-_window(estimate, round, tail, last=round == rounds) :], model)
        model = private_update(combined, prior)
    error = float(run.releases[-1].noise_std["log_likelihood"]) / run.count.value
    return Stage(model, combined, tuple(likelihoods), error)


def _window(estimate: Estimate, round: int, tail: float, *, last: bool) -> int:
    """Return how many of the last rounds to average: as many as make the noise small, at most `tail` of those so far.

    Averages lag behind EM where it still moves, so quiet rounds are averaged less; the last step wants less noise, for
    nothing comes after it.
    """
    wanted = QUIET_AT_LAST if last else QUIET
    return max(1, min(math.floor(tail * round + 0.5), math.ceil((estimate.relative_noise / wanted) ** 2)))
