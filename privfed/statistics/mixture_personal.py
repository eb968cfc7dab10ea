"""Personal weights: one mixture for all clients, in which each client has weights of its own that it tells nobody.

A client re-estimates its weights inside the query, from its own rows under the shared components, and takes its E-step
with them. What it sends is statistics of the components. The weights are a function of the model and of all its rows,
worked out anew each time: nothing has to be kept between rounds, and nothing can go stale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from privfed.errors import UsageError
from privfed.mechanism.clip import clip_rows
from privfed.query import FloatArray
from privfed.statistics.mixture import MixtureStatistics, WhitenedMixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_estep import client_statistics
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.mixture_query import located_fields

__all__ = [
    "PRIOR_ROWS",
    "PersonalMixtureStatistics",
    "PersonalWhitenedStatistics",
    "personal_weights",
    "with_weights",
]

PRIOR_ROWS: Final = 10.0
STEPS: Final = 100
SETTLED: Final = 1e-8
FLOOR: Final = 2.0**-1000  # of a density, relative to the row's greatest: keeps sums above zero


def personal_weights(model: MixtureModel, rows: FloatArray, *, prior_rows: float = PRIOR_ROWS) -> FloatArray:
    """Return the weights, shape (K,), of the mixture of `model`'s components that suits `rows` best.

    EM over the weights alone, a concave problem. The prior counts as `prior_rows` rows that fall on the components as
    `model.weights` says: a client of few rows stays near the weights of all.

    Args:
        model: its components are kept.
        rows: shape (n, d), finite; n may be 0.
        prior_rows: >= 0.
    """
    prior: FloatArray = np.asarray(model.weights / model.weights.sum())
    if len(rows) == 0:
        return prior
    with np.errstate(over="ignore", invalid="ignore"):
        logits = model.log_densities(rows)
    logits = np.where(np.isfinite(logits), logits, -1e300)
    with np.errstate(under="ignore"):
        densities = np.maximum(np.exp(logits - logits.max(axis=1, keepdims=True)), FLOOR)
    weights, mass = prior, len(rows) + prior_rows
    for _ in range(STEPS):
        total = densities @ weights  # above zero but where a weight of zero meets rows that are nobody else's
        moved = (weights * ((1.0 / np.maximum(total, FLOOR)) @ densities) + prior_rows * prior) / mass
        settled = float(np.abs(moved - weights).max()) < SETTLED
        weights = moved
        if settled:
            break
    return np.asarray(weights / weights.sum())


def with_weights(model: MixtureModel, weights: FloatArray) -> MixtureModel:
    """Return `model` with other weights, shape (K,)."""
    return MixtureModel(weights, model.means, model.covariances, model.precisions_cholesky, model.covariance_type)


@dataclass(frozen=True, eq=False)
class PersonalMixtureStatistics(MixtureStatistics):
    """`MixtureStatistics` under the client's own weights. For federations without a budget.

    Args:
        prior_rows: rows for which the weights of all count, >= 0; see `personal_weights`.

    Guarantees:
        A client's weights depend on all its rows, so that one row moves what others contribute: the sum is one over
        clients, not over rows. `row_error` is infinite, which no budget of unit "record" admits.
    """

    kind: ClassVar[str] = "personal_mixture_statistics"
    prior_rows: float = PRIOR_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prior(self.prior_rows)

    @classmethod
    def of(
        cls, model: MixtureModel, coordinates: Coordinates, *, radius: float, prior_rows: float = PRIOR_ROWS
    ) -> PersonalMixtureStatistics:
        """Return the query for `model`, whose weights are those of all."""
        return cls(*located_fields(model, coordinates), float(radius), float(prior_rows))

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d), under this client's own weights."""
        z = clip_rows(self.coordinates.apply(data), self.radius)
        model = with_weights(self.model, personal_weights(self.model, z, prior_rows=self.prior_rows))
        sums = client_statistics(model, z, reference=self.reference)
        bound = self._log_likelihood_bound * max(len(z), 1)
        return {
            "counts": sums.counts,
            "first": sums.first,
            "second": sums.second,
            "log_likelihood": np.array(min(max(sums.log_likelihood, -bound), bound)),
        }


@dataclass(frozen=True, eq=False)
class PersonalWhitenedStatistics(WhitenedMixtureStatistics):
    """`WhitenedMixtureStatistics` under the client's own weights. For budgets of unit "client".

    Args:
        prior_rows: rows for which the weights of all count, >= 0; see `personal_weights`.

    Guarantees:
        Whatever its weights are, a client's n rows contribute at most n times the bound of one row, which the client's
        side scales and cuts to `records_per_client`: the sensitivity for unit "client" is that of the query without
        personal weights. For unit "record" nothing of the kind holds: one row moves the weights, they move the
        responsibilities of all other rows of the client. `row_error` is infinite, which no such budget admits.
    """

    kind: ClassVar[str] = "personal_whitened_statistics"
    prior_rows: float = PRIOR_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prior(self.prior_rows)

    @property
    def row_error(self) -> float:
        """Infinite: a row's contribution depends on the other rows."""
        return math.inf

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d), under this client's own weights."""
        z = self.coordinates.apply(data)
        model = with_weights(self.model, personal_weights(self.model, z, prior_rows=self.prior_rows))
        return self._sums(model, data)


def _check_prior(prior_rows: float) -> None:
    if not (math.isfinite(prior_rows) and prior_rows >= 0):
        raise UsageError(f"prior_rows is {prior_rows!r}, expected a finite number of at least 0")
