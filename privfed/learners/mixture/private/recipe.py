"""The recipe of a fit under a budget, stage by stage. Each round is one protected sum.

1. Moments (5 % of mu^2, up to 12 % where rows are few; 3 rounds): one Gaussian, from the public bounds. It gives
   the working coordinates, in which the data are about standard, and the number of rows.
2. Choice (free): type and size that the budget carries (`planning.choose`), said aloud when they are not those
   asked for. A single Gaussian gets all that is left, where a start could not tell clusters from noise.
3. Start (25 %; up to 8 rounds, and 4): up to 3 K components spread over that Gaussian (`overcomplete`).
4. Refit (free): the mixture wanted, fitted to draws from the over-complete one, best of 24 starts, with and without
   shapes of the components' own, with and without components that may be empty.
5. Judgement (3 %; 1 round): which refit explains the rows best (`judgement`).
6. Mixture (the rest; up to 16 rounds): noise-aware EM (`rounds`).
"""

from __future__ import annotations

import math
from typing import Final

from privfed.errors import UsageError
from privfed.learners.mixture.private.advice import warn_bounds, warn_lost, warn_noisy, warn_outdone, warn_simpler
from privfed.learners.mixture.private.frames import Box, expressed, given_start, inside, working_frame
from privfed.learners.mixture.private.judgement import JUDGE_SHARE, best_of
from privfed.learners.mixture.private.overcomplete import LEAST_ROUNDS, Found, find_components
from privfed.learners.mixture.private.planning import (
    LIKELIHOOD_SHARE,
    TAIL,
    Choice,
    choose,
    excess,
    quantile_within,
    rounds_within,
)
from privfed.learners.mixture.private.rounds import Run, Stage, run_stage
from privfed.learners.mixture.private.single import MOMENT_ROUNDS, box_gaussian, single_update
from privfed.learners.mixture.private.task import PrivateFit, Task
from privfed.learners.mixture.private.update import Prior
from privfed.learners.mixture.refit import refit, refits
from privfed.statistics.mixture_clipping import QUANTILE
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["fit_private"]

MOMENTS_SHARE, MOMENTS_SHARE_MOST, MOMENTS_EXCESS = 0.05, 0.12, 0.1
START_SHARE: Final = 0.25
MAIN_ROUNDS: Final = 16
FRAME: Final = 3.0  # nats that the moments may lose; beyond, a mixture in their coordinates is worse than they are
QUIET: Final = 0.1  # nats of expected excess up to which means say where rows are
UNSPENT: Final = 1e-6  # kept back, so that rounding never makes the last round one too many


def fit_private(task: Task) -> PrivateFit:
    """Fit a mixture under the federation's budget.

    Guarantees:
        Data enter only through the federation's releases; the sum of their shares is at most `task.share`.
    """
    run = Run(task.federation, task.random, task.report)
    share = task.share * (1 - UNSPENT)
    mu2 = share * task.federation.total_mu**2
    if not task.given and (task.start.weights is not None or task.start.precisions is not None):
        raise UsageError(
            "weights_init and precisions_init need means_init when fitting a federation: a start that is found by"
            " protected sums numbers its components as it likes"
        )
    box = Box(task.low, task.high, diagonal=task.covariance_type in ("diag", "spherical"))
    gaussian, spent = _moments(run, box, share=share, mu2=mu2)
    if excess(run.count.value, task.d, 1, box.kind, mu2=mu2 * spent) <= QUIET:
        warn_bounds(box.coordinates.to_data(gaussian), task.low, task.high)
    looking = 0.0 if task.given else START_SHARE
    if task.n_components == 1 and not task.given:
        choice = Choice(task.covariance_type, 1, 0.0)
    else:
        choice = _choice(run, task, box, looking=looking * mu2, mu2=mu2 * (1 - spent - looking), moments=mu2 * spent)
    if choice.n_components == 1 and not task.given:
        gaussian, _ = _moments(run, box, share=share * (1 - spent), mu2=mu2, frame=gaussian)
        released = inside(expressed(box.coordinates.to_data(gaussian), task.covariance_type), box)
        return PrivateFit(released, choice, (), tuple(run.releases))
    coordinates, prior = working_frame(gaussian, box, task.covariance_type)
    found: Found | None = None
    if task.given:
        model = given_start(task.start, task.warm, coordinates, prior, task.n_components, task.covariance_type)
    else:
        found = find_components(run, coordinates, prior, choice, share=share * looking, mu2=mu2 * looking)
        model = _refitted(run, task, found, choice, coordinates, box, share=share * JUDGE_SHARE, mu2=mu2 * JUDGE_SHARE)
    stage = _main(run, task, choice, model, coordinates, prior, share=share - run.spent)
    warn_lost(stage.used)
    if found is not None:
        _compare(found, stage, choice)
    released = coordinates.to_data(expressed(stage.model, task.covariance_type))
    if choice.excess <= QUIET:  # louder noise puts means anywhere
        warn_bounds(released, task.low, task.high)
    return PrivateFit(inside(released, box), choice, stage.likelihoods, tuple(run.releases))


def _moments(
    run: Run, box: Box, *, share: float, mu2: float, frame: MixtureModel | None = None
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
        place = ("moments", index + 1, len(MOMENT_ROUNDS))
        estimate, _ = run.ask(model, box.coordinates, place, share=share * cost, quantile=last)
        model = single_update(estimate)
        spent += cost
    return model, spent


def _choice(run: Run, task: Task, box: Box, *, looking: float, mu2: float, moments: float) -> Choice:
    """Return what is fitted with `mu2`, the frame having cost `moments`; say so where it is not what was asked for.

    `looking` is what may be spent on finding the clusters, 0 where a start is given.
    """
    d, n, K, kind = task.d, run.count.value, task.n_components, task.covariance_type
    asked = excess(n, d, K, kind, mu2=mu2)
    if task.given:
        choice = Choice(kind, K, asked)
        warn_noisy(choice, rows=n)
        return choice
    choice = choose(n, d, K, kind, mu2=mu2, start_mu2=looking)
    frame = excess(n, d, 1, box.kind, mu2=moments) * TAIL
    if frame > FRAME:
        choice, asked = Choice(kind, 1, excess(n, d, 1, box.kind, mu2=mu2)), max(asked, frame)
    if (choice.covariance_type, choice.n_components) != (kind, K):
        warn_simpler(choice, K, kind, rows=n, d=d, asked=asked)
    return choice


def _refitted(
    run: Run, task: Task, found: Found, choice: Choice, coordinates: Coordinates, box: Box, *, share: float, mu2: float
) -> MixtureModel:
    """Return the refit that the rows prefer, in working coordinates."""
    K, kind = choice.n_components, choice.covariance_type
    likeliest, *others = found.sources
    models = [*refits(likeliest, K, kind, run.random), *(refit(source, K, kind, run.random) for source in others)]
    candidates = [coordinates.to_data(expressed(model, task.covariance_type)) for model in models]
    return models[best_of(run, candidates, box, share=share, mu2=mu2)]


def _main(
    run: Run,
    task: Task,
    choice: Choice,
    model: MixtureModel,
    coordinates: Coordinates,
    prior: Prior,
    *,
    share: float,
) -> Stage:
    """Spend `share` on EM from `model`."""
    n, mu2 = run.count.value, share * task.federation.total_mu**2
    kind, K, rounds = choice.covariance_type, choice.n_components, task.rounds
    if rounds is None:
        rounds = rounds_within(
            n, task.d, K, kind, mu2=mu2, most=MAIN_ROUNDS, least=LEAST_ROUNDS, likelihood_share=LIKELIHOOD_SHARE
        )
    quantile = quantile_within(n, task.d, K, kind, mu2=mu2)
    return run_stage(
        run, "mixture", model, coordinates, prior, rounds=rounds, share=share, tail=TAIL, quantile=quantile
    )


def _compare(found: Found, stage: Stage, choice: Choice) -> None:
    """Warn where the over-complete start explained the rows better than the mixture that came of it."""
    last = stage.likelihoods[len(stage.likelihoods) // 2 :]
    warn_outdone(
        start=found.likelihood,
        components=max(source.n_components for source in found.sources),
        final=sum(last) / len(last),
        wanted=choice.n_components,
        error=math.hypot(found.error, stage.error / math.sqrt(len(last))),
    )
