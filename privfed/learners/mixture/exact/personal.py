"""One mixture for all, in which each client has weights of its own.

Silos often hold the same kinds of rows in different proportions. Then the components are worth sharing and the weights
are not. There are two ways, and in both the weights never leave the client:

    after any fit        `mixture.personalise(rows)` at the client re-estimates its weights. It costs nothing: nothing
                         is sent. It goes with every budget.
    during the fit       `personal_weights=True`: each client takes its E-step with its own weights, re-estimated within
                         each round. For federations without a budget, and for budgets of unit "client".

Why not for unit "record": the weights depend on all rows of the client, so one row moves the responsibilities of all
others. With pi and pi' the weights with and without it, the others' contributions differ by a sum over n - 1 rows of
terms of the order |pi - pi'| ~ 1/n each, which is of the order of the row's own contribution, but depends on the
curvature of the likelihood in the weights and has no bound below n. Under unit "client" nothing changes: a client's
whole vector is cut to `records_per_client`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Self, Unpack

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release, ReleaseOptions
from privfed.federation.view import FederationView
from privfed.learners.mixture.fitted import FittedMixture
from privfed.query import Query
from privfed.statistics.mixture import WhitenedMixtureStatistics
from privfed.statistics.mixture_personal import PRIOR_ROWS, PersonalWhitenedStatistics, personal_weights

__all__ = ["Personal", "PersonalFederation"]


class Personal(FittedMixture):
    """What a fitted mixture gains at a client."""

    def personalise(self, X: Any, *, prior_rows: float = PRIOR_ROWS) -> Self:
        """Return the same mixture with the weights that suit this client's rows: call it at the client.

        Args:
            X: the client's rows, shape (n, d).
            prior_rows: for how many rows the shared weights count, >= 0: a client of few rows stays near them.

        Returns:
            A new fitted mixture; this one stays as it is. Its `weights_` tell about the rows: they are this client's
            own, no release of any budget, and nothing to send on.

        Raises:
            UsageError: the rows do not fit the mixture, or prior_rows is below 0.
        """
        rows = self._rows(X)
        if not (np.isfinite(prior_rows) and prior_rows >= 0):
            raise UsageError(f"prior_rows is {prior_rows!r}, expected a finite number of at least 0")
        mine = type(self)(**self.get_params(deep=False))
        for name, value in vars(self).items():
            if name.endswith("_") and name not in ("releases_", "epsilon_", "choice_"):
                setattr(mine, name, value)
        mine.weights_ = personal_weights(self._model(), rows, prior_rows=prior_rows)
        return mine


class PersonalFederation(FederationView):
    """A federation whose clients take each E-step with weights of their own; budget and ledger are those below.

    Raises:
        UsageError: the budget's unit is "record".
    """

    def __init__(self, federation: Federation) -> None:
        if federation.budget is not None and federation.unit == "record":
            raise UsageError(
                "personal_weights during a fit cannot protect single records: a client's weights depend on all its"
                " rows, so one row moves what the others contribute. Fit with personal_weights=False and call"
                " mixture.personalise(rows) at each client afterwards (it costs nothing), or use a budget of"
                " unit='client'"
            )
        super().__init__(federation)

    def asked(self, query: Query) -> Query:
        """Return the same E-step under personal weights; other queries, and mixtures of one component, stay."""
        if type(query) is not WhitenedMixtureStatistics or query.weights.size == 1:
            return query
        return PersonalWhitenedStatistics(*(getattr(query, field.name) for field in fields(query)))

    def release(self, query: Query, **options: Unpack[ReleaseOptions]) -> Release:
        """Return the release of `query` under personal weights; see `FederationBase.release`."""
        options["purpose"] = f"{options.get('purpose', '')}, personal weights"
        return super().release(query, **options)
