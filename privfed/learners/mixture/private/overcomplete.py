"""The over-complete start: up to 3 K components over the released Gaussian, and what may be refitted of them.

Full components have a common covariance at first: it is cheap, and components as wide as the clusters do not straddle
two of them. Where the budget carries it, the last rounds give each its own shape. On clusters of one shape that buys
nothing but noise, on others a nat or two; which of the two models to trust, and how much of it, is left to the
judgement (`judgement`).

Empty components are the danger: the count of one is noise, in one of ten components of two standard deviations and
more, and what a refit draws from it lies where no row is. A true cluster then loses its component to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.learners.mixture.private.frames import expressed
from privfed.learners.mixture.private.planning import (
    LIKELIHOOD_SHARE,
    TAIL,
    Choice,
    excess,
    rounds_within,
    start_components,
    start_type,
)
from privfed.learners.mixture.private.rounds import Run, Stage, run_stage
from privfed.learners.mixture.private.update import Prior
from privfed.learners.mixture.starts import spread_components
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["LEAST_ROUNDS", "Found", "find_components"]

BoolArray = npt.NDArray[np.bool_]

START_ROUNDS, LEAST_ROUNDS = 8, 4
START_TAIL: Final = 0.25
LEAST_START_WEIGHT: Final = 0.3  # of an average starting component; lighter ones are left out of every refit
HEARD: Final = 3.0  # standard deviations of its count's noise that a component holds if it is no phantom
LARGEST_PHANTOM: Final = 0.5  # of an average component, which may itself be little louder than the noise
OWN_SHAPES: Final = 0.7  # nats of expected excess up to which the start ends with a covariance for each component
OWN_PART, OWN_ROUNDS = 0.4, 4  # of what the start spends, and in how many rounds


@dataclass(frozen=True, eq=False)
class Found:
    """What the start ends with, in working coordinates.

    Attributes:
        sources: mixtures that may be refitted, the likeliest first.
        likelihood, error: the released mean log-likelihood of the last one, nats per row, and its noise.
    """

    sources: tuple[MixtureModel, ...]
    likelihood: float
    error: float


def find_components(
    run: Run, coordinates: Coordinates, prior: Prior, choice: Choice, *, share: float, mu2: float
) -> Found:
    """Spend `share`, which is `mu2`, on the start for `choice`."""
    d, n, wanted = len(coordinates.centre), run.count.value, choice.n_components
    own, kind = choice.covariance_type, start_type(choice.covariance_type)
    rounds = rounds_within(
        n, d, wanted, kind, mu2=mu2, most=START_ROUNDS, least=LEAST_ROUNDS, likelihood_share=LIKELIHOOD_SHARE
    )
    K = start_components(n, d, wanted, kind, mu2=mu2, rounds=rounds, likelihood_share=LIKELIHOOD_SHARE)
    shaped = OWN_PART if own != kind and excess(n, d, K, own, mu2=mu2 * OWN_PART) <= OWN_SHAPES else 0.0
    model = spread_components(coordinates, prior.covariance, K, kind, run.random)
    part = share * (1 - shaped)
    common = run_stage(run, "start", model, coordinates, prior, rounds=rounds, share=part, tail=START_TAIL)
    if not shaped:
        return Found(_sources(common, wanted), common.likelihoods[-1], common.error)
    part, model = share * shaped, expressed(common.model, own)
    shapes = run_stage(run, "shapes", model, coordinates, prior, rounds=OWN_ROUNDS, share=part, tail=TAIL)
    (safe, *more), (heard, *most) = _sources(shapes, wanted), _sources(common, wanted)
    return Found((safe, _together(safe, heard), heard, *more, *most), shapes.likelihoods[-1], shapes.error)


def _sources(stage: Stage, wanted: int) -> tuple[MixtureModel, ...]:
    """Return a start's components without phantoms, and where it differs, with those that may be some.

    The heaviest `wanted` are no phantoms: without them there is nothing to refit.
    """
    model, counts = stage.model, stage.used.counts
    heaviest = np.argsort(np.argsort(-counts, kind="stable")) < wanted
    heavy = model.weights >= LEAST_START_WEIGHT / model.n_components
    quiet = min(HEARD * stage.used.noise.counts, LARGEST_PHANTOM * counts.mean())
    heard = heavy & (heaviest | (counts >= quiet))
    return tuple(_part(model, kept) for kept in ([heard] if (heard == heavy).all() else [heard, heavy]))


def _part(model: MixtureModel, kept: BoolArray) -> MixtureModel:
    covariances = model.covariances if model.covariance_type == "tied" else model.covariances[kept]
    weights = model.weights[kept] / model.weights[kept].sum()
    return MixtureModel.from_covariances(weights, model.means[kept], covariances, model.covariance_type)


def _together(a: MixtureModel, b: MixtureModel) -> MixtureModel:
    """Return the even mixture of two mixtures."""
    weights = np.concatenate([a.weights, b.weights]) / 2
    matrices = np.concatenate([a.full_covariances(), b.full_covariances()])
    return MixtureModel.from_matrices(weights, np.concatenate([a.means, b.means]), matrices, "full")
