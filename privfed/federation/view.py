"""Federations seen another way: the same clients, budget and ledger, other rows or another reading of the query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

from privfed.errors import UsageError
from privfed.federation.release import Federation, NoiseOptions, Release, ReleaseOptions
from privfed.query import Query, Unit
from privfed_accounting import Budget, Ledger

__all__ = ["FederationView"]


class FederationView(ABC):
    """Base of federations that put another query to the one below; everything else is that of the one below.

    Subclasses say in `asked` what is put to it.

    Attributes:
        below: the federation that is seen.
    """

    def __init__(self, below: Federation) -> None:
        self.below = below

    @abstractmethod
    def asked(self, query: Query) -> Query:
        """Return what is put to the federation below when this one is asked `query`: of the same blocks."""

    @property
    def n_clients(self) -> int:
        """Clients in the federation."""
        return self.below.n_clients

    @property
    def n_features(self) -> int:
        """Columns of the clients' rows."""
        return self.below.n_features

    @property
    def budget(self) -> Budget | None:
        """The budget of the federation below."""
        return self.below.budget

    @property
    def ledger(self) -> Ledger:
        """The ledger of the federation below."""
        return self.below.ledger

    @property
    def unit(self) -> Unit:
        """What the budget protects."""
        return self.below.unit

    @property
    def records_per_client(self) -> float:
        """Weight, in records, that one client may carry at most."""
        return self.below.records_per_client

    @property
    def total_mu(self) -> float:
        """GDP parameter of the whole budget."""
        return self.below.total_mu

    @property
    def remaining_share(self) -> float:
        """Part of the budget that is left."""
        return self.below.remaining_share

    def noise_std(
        self, query: Query, share: float | None = None, **options: Unpack[NoiseOptions]
    ) -> Mapping[str, float]:
        """Return what a release would carry; see `FederationBase.noise_std`."""
        return self.below.noise_std(self.asked(query), share, **options)

    def release(self, query: Query, **options: Unpack[ReleaseOptions]) -> Release:
        """Return the answer to `query`, under its own name; see `FederationBase.release`."""
        if not isinstance(query, Query):
            raise UsageError(f"query is {query!r}, expected a query such as privfed.Count()")
        options["purpose"] = options.get("purpose") or query.kind
        return replace(self.below.release(self.asked(query), **options), query=query.kind)
