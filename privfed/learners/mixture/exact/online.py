"""EM over some of the clients at a time, who take turns: incremental and stepwise.

The clients form fixed cohorts. In the first turn of each, the start stands still, so that the first update has seen
everybody: silos may differ, and a cohort alone may hold none of a component's rows. From then on each turn ends with an
update.

    incremental  the statistics of every cohort are kept, and a turn replaces those of its own (Neal and Hinton 1998,
                 A view of the EM algorithm). Never downhill, and still where EM is.
    stepwise     one running average per row, to which a turn's statistics come with weight (turns + 2)^-0.7 (Cappé and
                 Moulines 2009, JRSS B 71(3)). Keeps nothing of a cohort, so cohorts may be many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from privfed.learners.mixture.em import EMResult, server_update
from privfed.query import FloatArray
from privfed.statistics.mixture_estep import MixtureSums
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.moments import svec, unsvec

__all__ = ["Online", "online_maximization", "recentred"]

Online = Literal["incremental", "stepwise"]
POWER: Final = 0.7  # of the step sizes: between 1/2, which forgets fastest, and 1, which averages most


def online_maximization(
    model: MixtureModel,
    e_step: Callable[[MixtureModel], MixtureSums],
    *,
    period: int,
    scheme: Online,
    tol: float,
    max_iter: int,
    reg_covar: float | FloatArray = 1e-6,
    lower_bound: float = -np.inf,
) -> EMResult:
    """Maximise the likelihood of all clients' rows with one cohort's E-step a round.

    Args:
        model: the start.
        e_step: returns the sums over the cohort whose turn it is; cohorts take turns in a fixed order.
        period: number of cohorts, >= 2.
        scheme: "incremental" or "stepwise".
        tol: least change of the mean log-likelihood from one pass over all cohorts to the next that goes on, nats.
        max_iter: most rounds, one cohort each.
        reg_covar: see `server_update`.
        lower_bound: mean log-likelihood at the end of an earlier run that this one continues.

    Returns:
        The result; `lower_bounds` has one entry for each round: the mean over the rows of the last `period` turns, each
        under the model of its turn. Before the first pass is through, over those seen so far.
    """
    kept: list[MixtureSums] = []
    average: MixtureSums | None = None
    bounds: list[float] = []
    last = lower_bound
    for turn in range(max_iter):
        sums = recentred(e_step(model))
        kept = [*kept, sums] if turn < period else [*kept[1:], sums]  # the oldest is this cohort's own
        total = _total(kept)
        bounds.append(total.log_likelihood / max(total.n_rows, 1.0))
        if turn < period - 1:
            continue
        if average is None or scheme == "incremental":
            average = _scaled(total, 1.0 / max(total.n_rows, 1.0))
        elif sums.n_rows > 0.5:
            step = (turn + 2.0) ** -POWER
            average = _scaled(average, 1.0 - step) + _scaled(sums, step / sums.n_rows)
        model = server_update(_scaled(average, total.n_rows), reg_covar=reg_covar)
        if (turn + 1) % period == 0:
            if abs(bounds[-1] - last) < tol:
                return EMResult(model, tuple(bounds), True)
            last = bounds[-1]
    return EMResult(model, tuple(bounds), False)


def recentred(sums: MixtureSums) -> MixtureSums:
    """Return the same statistics about the origin of the working coordinates: what different rounds have in common."""
    counts, r = sums.counts, np.broadcast_to(sums.reference, sums.first.shape)
    if not r.any():
        return replace(sums, reference=np.zeros(sums.first.shape[1]))
    moved = sums.first + counts[:, None] * r
    if sums.covariance_type in ("full", "tied"):
        cross = sums.first[:, :, None] * r[:, None, :]
        extra = cross + np.swapaxes(cross, 1, 2) + counts[:, None, None] * r[:, :, None] * r[:, None, :]
        extra = extra.sum(axis=0) if sums.covariance_type == "tied" else extra
        second = svec(unsvec(sums.second, r.shape[1]) + extra)
    else:
        extra = 2 * sums.first * r + counts[:, None] * r**2
        second = sums.second + (extra if sums.covariance_type == "diag" else extra.sum(axis=1))
    return replace(sums, first=moved, second=np.asarray(second), reference=np.zeros(r.shape[1]))


def _total(parts: list[MixtureSums]) -> MixtureSums:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _scaled(sums: MixtureSums, factor: float) -> MixtureSums:
    """Return the statistics of `factor` as many of the same rows."""
    return replace(
        sums,
        counts=factor * sums.counts,
        first=factor * sums.first,
        second=factor * sums.second,
        log_likelihood=factor * sums.log_likelihood,
        n_rows=factor * sums.n_rows,
    )
