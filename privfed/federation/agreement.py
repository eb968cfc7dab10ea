"""What a client agreed to before it takes part, and the check of every task against it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import msgspec

from privfed.errors import FederationError, UsageError
from privfed.federation.sampling import check_sampling, own_turn
from privfed.plan import Terms, tolerated_losses
from privfed_accounting import Budget, Charge, RoundPlan, Total
from privfed_accounting.round_plan import NoiseSource

__all__ = ["Agreement"]

ROUNDING = 1e-9  # of epsilon: two parties' floats


@dataclass(frozen=True)
class Agreement:
    """The terms of a federation, as each client knows them.

    Attributes:
        terms: what every release has in common; noise, sampling and rotation seed are each release's own.
        budget: what all releases together may cost; None allows sums without noise, and only those.
        run: name of the run, for the client's own ledger.
        noise_source: where this client's noise comes from, likewise.
        clients: names of everybody in the federation; without them no cohorts take turns, for a client that was told
            another turn each time would count a fraction of its rounds.
    """

    terms: Terms
    budget: Budget | None
    run: str = ""
    noise_source: NoiseSource = "os"
    clients: tuple[str, ...] = ()

    def check(self, terms: Terms, client: str) -> None:
        """Refuse terms that are not those agreed on.

        Raises:
            FederationError: naming the client.
        """
        try:
            sizes = self._sizes(terms, client)
        except UsageError as error:
            raise FederationError(f"client {client!r} refuses the sampling {terms.sampling}: {error}") from error
        agreed = msgspec.structs.replace(
            self.terms,
            noise_multiplier=terms.noise_multiplier,
            sampling=terms.sampling,
            rotation_seed=terms.rotation_seed,
            **sizes,
        )
        if terms != agreed:
            raise FederationError(
                f"client {client!r} refuses the terms {terms}, it agreed to {agreed} but for noise, sampling and seed"
            )
        if (self.budget is not None) != terms.private:
            asked = "a sum without noise" if self.budget is not None else "noise without a budget"
            raise FederationError(f"client {client!r} refuses {asked}: it agreed to {self.budget or 'no budget'}")

    def check_cost(self, entry: RoundPlan, client: str) -> None:
        """Refuse a release that alone would cost more than the whole budget in the view that it guards.

        Raises:
            FederationError: naming the client.
        """
        if self.budget is None:
            return
        epsilon = _epsilon(entry.charge(self.budget.view), self.budget.delta)
        if not epsilon <= self.budget.epsilon * (1.0 + ROUNDING):
            raise FederationError(
                f"client {client!r} refuses noise so small that epsilon is {epsilon:.6g}, it allows at most"
                f" {self.budget.epsilon:.6g} in all"
            )

    def _sizes(self, terms: Terms, client: str) -> dict[str, int]:
        """Return how many clients the terms may plan with: all, or a cohort if clients are sampled.

        Raises:
            UsageError: the sampling is none for the clients that were agreed on, or it is not this client's turn.
        """
        sampling, everybody = terms.sampling.sampling(), self.terms.planned
        check_sampling(sampling, self.terms, self.budget)
        if sampling.unit != "client" or sampling.kind == "none":
            return {}
        if sampling.kind == "poisson":
            planned = min(max(terms.planned, 2), everybody)
        elif sampling.kind == "fixed_size":
            planned = sampling.size
        else:
            turn, planned = own_turn(self.clients, client, sampling)
            if turn != sampling.turn:
                raise UsageError(f"it is in the cohort of turn {turn}, not {sampling.turn}")
        return {"planned": planned, "guaranteed": planned - tolerated_losses(planned, self.terms.dropout)}


@lru_cache(maxsize=64)
def _epsilon(charge: Charge, delta: float) -> float:
    return Total.of([charge]).epsilon(delta)
