"""What anomaly thresholds and federated inference share: who may send which model, and knots that suit its scores."""

from __future__ import annotations

from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation
from privfed.learners.mixture.fitted import FittedMixture
from privfed.learners.mixture.parameters import check_share, refuse_targets
from privfed.query import FloatArray
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.mixture_scores import MAX_SQUARED_DISTANCE

__all__ = ["Z_95", "checked_share", "knots_at", "model_to_send", "scores_of_draws"]

Z_95: Final = 1.959964  # two-sided 95 % of a normal law
DRAWS: Final = 20_000


def model_to_send(federation: Federation, mixture: FittedMixture, *, public: bool) -> MixtureModel:
    """Return the fitted model that clients are asked to score with.

    Raises:
        UsageError: no federation, no mixture, not fitted, targets beside the features, another number of features, or
            a model of unprotected rows for a federation under a budget, unless the caller says that it is public.
    """
    if not isinstance(federation, Federation) or not isinstance(mixture, FittedMixture):
        found = f"{type(federation).__name__} and {type(mixture).__name__}"
        raise UsageError(f"expected a federation and a fitted GaussianMixture, in this order, found {found}")
    model = mixture._model()
    refuse_targets(federation)
    if model.n_features != federation.n_features:
        raise UsageError(f"the mixture has {model.n_features} features, the federation's rows {federation.n_features}")
    releases = getattr(mixture, "releases_", ())
    protected = bool(releases) and all(release.private for release in releases)
    if federation.budget is not None and not (protected or public):
        raise UsageError(
            "this would send a model of unprotected rows to the clients of a federation under a budget: fit the mixture"
            " under the budget, or pass public=True if it was made of public data"
        )
    return model


def checked_share(federation: Federation, share: float | None) -> float | None:
    """Return the share to ask a release for: None without a budget, else `share` or what remains.

    Raises:
        UsageError: out of range, or more than is left.
    """
    if federation.budget is None:
        return None
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"share is {share!r}, expected a part of the budget above 0, at most 1")
    return check_share(share, federation.remaining_share)


def scores_of_draws(model: MixtureModel) -> FloatArray:
    """Return the sorted scores of draws from `model`: a function of the model alone, so it costs no budget."""
    rows, _ = model.sample(DRAWS, np.random.RandomState(0))
    return np.sort(model.log_likelihoods(rows))


def knots_at(levels: FloatArray, scores: FloatArray, *, below: int) -> FloatArray:
    """Return increasing knots: `scores`' quantiles at `levels`, and `below` more, ever farther apart, beneath them."""
    inner = np.quantile(scores, levels)
    width = max(float(np.diff(inner).max()), 1e-6 * float(np.abs(inner).max()), 1e-9)
    kept = [float(inner[0])]
    for value in inner[1:]:
        if value - kept[-1] > 1e-3 * width:  # knots that coincide could not be told apart
            kept.append(float(value))
    reach = np.geomspace(width, MAX_SQUARED_DISTANCE, below)[::-1]
    return np.asarray(np.concatenate([kept[0] - reach, kept]))
