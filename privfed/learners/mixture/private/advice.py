"""What a fit under a budget says aloud: each finding from released quantities only, each with its remedy."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import numpy.typing as npt

from privfed.learners.mixture.private.estimates import Estimate
from privfed.learners.mixture.private.planning import ACCEPTABLE, Choice
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, MixtureModel

__all__ = ["advise", "warn_bounds", "warn_lost", "warn_noisy", "warn_outdone", "warn_simpler"]

OUTDONE = 0.1  # nats per row that the over-complete start may be ahead before it is said
EDGE = 0.95  # of half the box: a mean beyond it lies where rows are cut
EDGE_WEIGHT = 0.02  # of the rows, as released
NARROW = 1e-3  # of half the box: data so narrow are seen through the noise of a box far too wide


def advise(message: str) -> None:
    """Warn at the line, outside this package, that called the fit."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "privfed":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level + 1)


def warn_simpler(choice: Choice, K: int, kind: CovarianceType, *, rows: float, d: int, asked: float) -> None:
    """Say that `choice` is fitted instead of what was asked for, which was expected to lose `asked` nats per row.

    Where that was little, clusters could not be told from noise while they were looked for.
    """
    fitted = (
        "a single Gaussian"
        if choice.n_components == 1
        else f"{choice.n_components} {choice.covariance_type} components"
    )
    trouble = (
        f"would lose an expected {asked:.2g} nats per row to noise with"
        if asked > ACCEPTABLE
        else "are too few to tell from noise"
    )
    advise(
        f"about {rows:.0f} rows under this budget {trouble} {K} "
        f"{kind} components of {d} features: fitting {fitted} instead (expected {choice.excess:.2g}). To have what you "
        "asked for, raise epsilon, bring more rows, lower n_components, or choose a simpler covariance_type"
    )


def warn_noisy(choice: Choice, *, rows: float) -> None:
    """Say that a fit from a given start goes on although noise is expected to dominate it."""
    if choice.excess > ACCEPTABLE:
        advise(
            f"about {rows:.0f} rows under this budget are expected to lose {choice.excess:.2g} nats per row to noise "
            f"with {choice.n_components} {choice.covariance_type} components: the given start is all that will be left "
            "of them. Raise epsilon, bring more rows, lower n_components, or choose a simpler covariance_type"
        )


def warn_lost(estimate: Estimate) -> None:
    """Say how many components hold no more rows than noise, in what the last step used."""
    lost = int((estimate.counts < estimate.noise.counts).sum())
    if lost:
        advise(
            f"{lost} of {len(estimate.counts)} components hold no more rows than the noise of their count "
            f"({estimate.noise.counts:.3g}) and kept their starting place: lower n_components, or raise epsilon"
        )


def warn_outdone(*, start: float, components: int, final: float, wanted: int, error: float) -> None:
    """Say that the start, with more components, explained the rows better than the fit does: a cluster may be lost.

    Args:
        start, final: released mean log-likelihoods, nats per row.
        components, wanted: of the start and of the fit.
        error: standard deviation of the noise on their difference.
    """
    ahead = start - final
    if components > wanted and ahead > OUTDONE + 4 * error:
        advise(
            f"on the way to {wanted} components, a start of {components} explained the rows better by {ahead:.2g} nats "
            "each: the data may hold more clusters than n_components, or the fit lost one. Raise n_components, or fit "
            "again with another random_state (which costs its own budget)"
        )


def warn_bounds(model: MixtureModel, low: FloatArray, high: FloatArray) -> None:
    """Say where the released model of all rows, or a mixture, shows that bounds do not suit the data."""
    half = (high - low) / 2
    place = np.abs(model.means - (low + high) / 2) / half
    at_edge = model.weights @ (place > EDGE) > EDGE_WEIGHT
    if at_edge.any():
        advise(
            f"rows pile up at the edge of bounds in {_features(at_edge)}: values beyond bounds are cut to them, so the "
            "fit describes the cut. Widen bounds there, or check the units of the data"
        )
    spread = np.sqrt(np.einsum("k,kjj->j", model.weights, model.full_covariances()))
    spread = np.sqrt(spread**2 + model.weights @ (model.means - model.weights @ model.means) ** 2) / half
    narrow = spread < NARROW
    if narrow.any():
        advise(
            f"bounds are over {1 / NARROW:.0f} times wider than the data in {_features(narrow)}: much of the budget "
            "goes into finding them. Tighten bounds to what is publicly known"
        )


def _features(which: npt.NDArray[np.bool_]) -> str:
    found = [str(j) for j in np.flatnonzero(which)]
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return f"feature{'s' if len(found) > 1 else ''} {shown}"
