"""Starts under a budget other than the recipe's own, and the recipe from there.

    moments      5 % for one Gaussian, divided into K cells: the cheapest start, for clusters that lie apart
    dp-kmeans    20 % more for Lloyd steps of up to 3 K centres from such cells, and the refit of draws from clusters

Both then run the recipe from the start they found, with what is left. The recipe's own start, "cells", takes its
over-complete stage as EM, which knows widths and shapes where k-means knows distances only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from privfed.federation.release import Release
from privfed.learners.mixture.frames import frame_of, refitted
from privfed.learners.mixture.initialise import FederatedInit
from privfed.learners.mixture.lloyd import lloyd
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.private.frames import Box
from privfed.learners.mixture.private.planning import LIKELIHOOD_SHARE, choose, start_components
from privfed.learners.mixture.private.recipe import fit_private
from privfed.learners.mixture.private.rounds import Run
from privfed.learners.mixture.private.single import MOMENT_ROUNDS, box_gaussian, single_update
from privfed.learners.mixture.private.task import PrivateFit, Task
from privfed.learners.mixture.starts import spread_components
from privfed.query import Query
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["fit_under_budget"]

MOMENTS_SHARE: Final = 0.05
CLUSTERS_SHARE: Final = 0.2
LLOYD_ROUNDS: Final = 6
LEAST_START_WEIGHT: Final = 0.3  # of an average centre's


def fit_under_budget(task: Task, init: FederatedInit) -> PrivateFit:
    """Fit a mixture under the federation's budget from the start that `init` names; see `fit_private`.

    Guarantees:
        Data enter only through the federation's releases; the sum of their shares is at most `task.share`.
    """
    run = Run(task.federation, task.random, task.report)
    given = task.given or task.start.weights is not None or task.start.precisions is not None
    if init == "cells" or given or task.n_components == 1:
        return fit_private(task)
    start = _found(run, task, dp_kmeans=init == "dp-kmeans")
    fit = fit_private(replace(task, start=start, share=task.share - run.spent))
    return replace(fit, releases=(*run.releases, *fit.releases))


def _found(run: Run, task: Task, *, dp_kmeans: bool) -> Start:
    """Return the start; none where the budget carries only a simpler model, which the recipe then says and fits."""
    K, kind, low, high, share = task.n_components, task.covariance_type, task.low, task.high, task.share
    box = Box(low, high, diagonal=kind in ("diag", "spherical"))
    gaussian = _moments(run, box, share=share * MOMENTS_SHARE)
    d, n, mu2 = task.d, run.count.value, share * run.federation.total_mu**2
    looking = mu2 * CLUSTERS_SHARE if dp_kmeans else None
    choice = choose(n, d, K, kind, mu2=mu2 * (1 - MOMENTS_SHARE - CLUSTERS_SHARE), start_mu2=looking)
    if (choice.covariance_type, choice.n_components) != (kind, K):
        return Start(None, None, None)
    frame = frame_of(gaussian, "full", low=low, high=high)
    if not dp_kmeans:
        model = frame.to_data(spread_components(frame, np.eye(d), K, "full", run.random))
        model = MixtureModel.from_matrices(model.weights, model.means, model.covariances, kind)
        return Start(model.weights, np.clip(model.means, low, high), model.precisions)
    many = start_components(
        n, d, K, "spherical", mu2=mu2 * CLUSTERS_SHARE, rounds=LLOYD_ROUNDS, likelihood_share=LIKELIHOOD_SHARE
    )
    cells = frame.to_data(spread_components(frame, np.eye(d), many, "full", run.random))
    each = share * CLUSTERS_SHARE / LLOYD_ROUNDS
    clusters = lloyd(
        lambda query, round: _counted(run, query, round, each),
        cells,
        box.coordinates,
        (high - low) / 2,
        rounds=LLOYD_ROUNDS,
        clipped=True,
    )
    model = refitted(clusters.mixture(least_weight=LEAST_START_WEIGHT / many), K, kind, run.random)
    return Start(model.weights / model.weights.sum(), np.clip(model.means, low, high), model.precisions)


def _moments(run: Run, box: Box, *, share: float) -> MixtureModel:
    """Return one released Gaussian in units of the data."""
    model, rounds = box_gaussian(len(box.low), diagonal=box.diagonal), len(MOMENT_ROUNDS)
    for index, part in enumerate(MOMENT_ROUNDS):
        estimate, _ = run.ask(model, box.coordinates, ("moments", index + 1, rounds), share=share * part)
        model = single_update(estimate)
    return box.coordinates.to_data(model)


def _counted(run: Run, query: Query, round: int, share: float) -> Release:
    place = ("start", round, LLOYD_ROUNDS)
    release = run.release(query, place, share)
    run.tell(place)
    return release
