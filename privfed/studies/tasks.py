"""What a sweep trains: a learner, and the score that its utility is read from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from privfed.demo.compare import pooled_score, score_of
from privfed.engines import LocalFederation
from privfed.learners.mixture import GaussianMixture
from privfed.learners.projection import protected_projection
from privfed.query import FloatArray
from privfed.statistics.histograms import Magnitudes, radius_of
from privfed.statistics.mixture_model import CovarianceType
from privfed.statistics.moments import Moments
from privfed.statistics.transform import TransformedFederation

__all__ = ["LEARNERS", "Learner", "Setting", "Task"]

Learner = Literal["mixture", "mean"]
RANGE_SHARE = 0.1  # of the mean's budget, where no bounds are public


@dataclass(frozen=True)
class Setting:
    """What a learner is run with.

    Attributes:
        components: of the mixture.
        covariance_type: of the mixture.
        project: principal axes to keep before the mixture; 0 keeps the columns as they are.
        bounds: public `(low, high)` of every value, or None.
        seed: of every choice that protects nobody.
    """

    components: int
    covariance_type: CovarianceType
    project: int
    bounds: tuple[float, float] | None
    seed: int


@dataclass(frozen=True)
class Task:
    """A learner with its score.

    Attributes:
        metric: what the score is; larger is better.
        unit: of the score.
        run: trains over a federation; returns the score, and that of pooled training without privacy.
    """

    metric: str
    unit: str
    run: Callable[[LocalFederation, Sequence[FloatArray], FloatArray, Setting], tuple[float, float]]


def _mixture(
    federation: LocalFederation, silos: Sequence[FloatArray], test: FloatArray, setting: Setting
) -> tuple[float, float]:
    """Held-out log-likelihood of the federated mixture and of scikit-learn's on all rows, in the same projection."""
    train, below, bounds = np.concatenate(silos), federation, setting.bounds
    given: tuple[FloatArray, FloatArray] | None = None
    if bounds is not None:
        given = (np.full(train.shape[1], bounds[0]), np.full(train.shape[1], bounds[1]))
    where: LocalFederation | TransformedFederation = below
    if setting.project:
        linear_map, variances = protected_projection(federation, setting.project, bounds=bounds)
        # One width for all axes: bounds by each axis's own spread would hide clusters that lie in a row.
        reach = np.full(len(variances), 4.0 * math.sqrt(max(float(variances.max()), 1e-300)))
        where, given = TransformedFederation(federation, linear_map), (-reach, reach)
        train, test = linear_map(train), linear_map(test)
    mixture = GaussianMixture(
        setting.components, covariance_type=setting.covariance_type, bounds=given, random_state=setting.seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that noise dominates at small budgets is what the sweep shows
        mixture.fit(where)
    pooled = pooled_score(
        train,
        test,
        None,
        components=setting.components,
        seed=setting.seed,
        covariance_type=setting.covariance_type,
    )
    return score_of(mixture, test, None).log_likelihood, pooled.log_likelihood


def _mean(
    federation: LocalFederation, silos: Sequence[FloatArray], test: FloatArray, setting: Setting
) -> tuple[float, float]:
    """Root of the mean squared distance of held-out rows from the protected mean, and from the pooled one; negated."""
    d = test.shape[1]
    share = 1.0
    if setting.bounds is None:
        radius = radius_of(federation.release(Magnitudes(), share=RANGE_SHARE, purpose="range of the rows"))
        query, share = Moments(center=np.zeros(d), radius=radius, second="none"), 1.0 - RANGE_SHARE
    else:
        query = Moments.in_box(np.full(d, setting.bounds[0]), np.full(d, setting.bounds[1]))
        query = Moments(center=query.center, radius=query.radius, second="none")
    release = federation.release(query, share=share, purpose="mean")
    mean = query.center + release["sum"] / max(float(release["count"]), 1.0)
    return _distance(mean, test), _distance(np.concatenate(silos).mean(axis=0), test)


def _distance(center: FloatArray, rows: FloatArray) -> float:
    return -float(np.sqrt(((rows - center) ** 2).sum(axis=1).mean()))


LEARNERS: Mapping[Learner, Task] = {
    "mixture": Task("held-out log-likelihood", "nats per row", _mixture),
    "mean": Task("minus the root mean squared distance of held-out rows from the mean", "units of the data", _mean),
}
