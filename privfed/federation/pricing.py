"""From a share of a budget, or a noise multiplier, to terms, plan and ledger entry."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from privfed.errors import UsageError, checked_number
from privfed.federation.client import Task
from privfed.plan import Plan, SamplingTerms, Terms, make_plan, tolerated_losses
from privfed.plan.entry import Maker, affordable_noise, round_plan
from privfed.query import Query, encode_query, query_digest
from privfed_accounting import Budget, Ledger, RoundPlan, Sampling
from privfed_accounting.round_plan import NoiseSource

__all__ = ["Prepared", "Pricing"]


@dataclass(frozen=True)
class Prepared:
    """One release, ready to be charged and run."""

    task: Task
    plan: Plan
    digest: bytes
    query: str
    run: str
    noise_source: NoiseSource

    def entry(self, purpose: str) -> RoundPlan:
        """Return what the ledger is charged."""
        return round_plan(
            self.plan,
            run=self.run,
            purpose=purpose or self.query,
            query=self.query,
            query_digest=self.digest,
            noise_source=self.noise_source,
        )


@dataclass(frozen=True)
class Pricing:
    """What a budget pays for.

    Attributes:
        budget: what may be spent, or None.
        ledger: where it is written down.
        run, noise_source: of the ledger's entries.
    """

    budget: Budget | None
    ledger: Ledger
    run: str
    noise_source: NoiseSource
    _prices: dict[tuple[object, ...], float] = field(default_factory=dict, init=False, repr=False)

    def remaining_share(self) -> float:
        """Return the part of the budget that is not spent, as its filter counts."""
        if self.budget is None:
            return 1.0
        return self.ledger.remaining_share()

    def terms_of(self, agreed: Terms, sampling: Sampling, clients: int, seed: bytes) -> Terms:
        """Return the terms of one release of `clients` out of all that were agreed on, noise left open."""
        sizes = {}
        if sampling.unit == "client" and sampling.kind != "none":
            sizes = {"planned": clients, "guaranteed": clients - tolerated_losses(clients, agreed.dropout)}
        return msgspec.structs.replace(agreed, sampling=SamplingTerms.of(sampling), rotation_seed=seed, **sizes)

    def prepare(self, query: Query, terms: Terms, share: float | None, noise_multiplier: float | None) -> Prepared:
        """Return the release that `share` of the budget or `noise_multiplier` buys.

        Raises:
            UsageError: not exactly one of the two under a budget, a multiplier without one, out of range, or no plan.
        """
        encoded = encode_query(query)
        digest = query_digest(encoded)

        def make(multiplier: float) -> tuple[Plan, RoundPlan]:
            plan = make_plan(query, digest, msgspec.structs.replace(terms, noise_multiplier=multiplier))
            return plan, self._prepared(b"", plan, digest, query).entry("")

        multiplier = self._multiplier(query, terms, share, noise_multiplier, make)
        plan = make_plan(query, digest, msgspec.structs.replace(terms, noise_multiplier=multiplier))
        return self._prepared(encoded, plan, digest, query)

    def _prepared(self, encoded: bytes, plan: Plan, digest: bytes, query: Query) -> Prepared:
        return Prepared(Task(encoded, plan.terms.encode()), plan, digest, query.kind, self.run, self.noise_source)

    def _multiplier(
        self,
        query: Query,
        terms: Terms,
        share: float | None,
        noise_multiplier: float | None,
        make: Maker,
    ) -> float:
        budget = self.budget
        if budget is None:
            if noise_multiplier is not None:
                raise UsageError(
                    f"noise_multiplier is {noise_multiplier!r}, but there is no budget, and without one sums carry no"
                    " noise: give the federation budget=privfed.Budget(...), or leave noise_multiplier out"
                )
            return 0.0
        if share is not None and noise_multiplier is not None:
            raise UsageError("share and noise_multiplier are two ways to say one thing: give one of them")
        if noise_multiplier is not None:
            return checked_number("noise_multiplier", noise_multiplier)
        if share is None:
            raise UsageError(
                "under a budget every release needs its share of it: pass share=0.1 for a tenth"
                " (remaining_share tells what is left), or noise_multiplier="
            )
        if not (isinstance(share, int | float) and math.isfinite(share) and 0.0 < share <= 1.0):
            raise UsageError(f"share is {share!r}, expected a fraction in (0, 1]")
        common = msgspec.structs.replace(terms, rotation_seed=bytes(32), noise_multiplier=0.0)
        bound = query.sensitivity(terms.unit, records_per_client=terms.records_per_client).l2
        key = (float(share), common, query.layout.size, query.row_error, bound)
        if key not in self._prices:
            self._prices[key] = affordable_noise(share, budget, self.ledger.total_mu2(), terms, make)
        return self._prices[key]
