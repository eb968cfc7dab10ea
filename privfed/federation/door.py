"""The one door, from the coordinator's side: plan - charge - run - decode - settle.

Engines say how bytes reach the clients (`_run`); nothing else differs between them.
"""

from __future__ import annotations

import logging
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from privfed.errors import FederationError, UsageError, checked_integer, warn_caller
from privfed.federation.pricing import Pricing
from privfed.federation.release import Release
from privfed.federation.rounds import RoundOutcome, RoundTask
from privfed.federation.sampling import check_remembered, check_sampling, draw_cohort, remember_cohorts
from privfed.federation.vector import opened_vector
from privfed.mechanism.randomness import Keystream
from privfed.plan import Plan, Terms, tolerated_losses
from privfed.plan.terms import DropOuts, Noise, Protection, check_terms, require_choice
from privfed.query import Query, Unit
from privfed_accounting import Budget, Ledger, LedgerError, Sampling, View
from privfed_accounting.round_plan import NoiseSource

__all__ = ["FederationBase"]

logger = logging.getLogger(__name__)

# What every release shows; "colluders" is added where the budget guards it.
DISPLAYED_VIEWS = ("released", "server", "client", "unmasked")


class FederationBase(ABC):
    """Plans, charges and settles every release; subclasses carry the bytes.

    Args:
        clients: names of the clients in the federation, >= 2, in an order that stays.
        budget: what may be spent; None for sums without noise.
        ledger: an open ledger of that budget.
        dropout: fraction of a release's clients that may be lost, in [0, 1).
        max_records: most rows that a client may hold.
        records_per_client: unit "client" only, see `Federation`.
        protection: "secure_aggregation", or one of the comparison modes "trusted", "local" and "central".
        noise: law of the noise, "auto" for the plan's choice.
        bits: width of the ring, None for the plan's choice.
        drop_outs: "provision" or "exact".
        sampling: who takes part in every release that does not say otherwise; None for everybody.
        noise_source: "os", or "seeded" in tests.

    Attributes:
        run: name of this run in the ledger.
    """

    def __init__(
        self,
        *,
        clients: Sequence[str],
        budget: Budget | None,
        ledger: Ledger,
        dropout: float,
        max_records: int,
        records_per_client: float,
        protection: Protection,
        noise: Noise = "auto",
        bits: int | None = None,
        drop_outs: DropOuts = "provision",
        sampling: Sampling | None = None,
        noise_source: NoiseSource,
    ) -> None:
        planned, guaranteed = len(clients), _guaranteed(len(clients), dropout)
        if not (math.isfinite(records_per_client) and records_per_client > 0):
            raise UsageError(f"records_per_client is {records_per_client!r}, expected a finite number above 0")
        if dropout > 0.0 and guaranteed == planned:
            remedy = f"use dropout={_least_dropout(planned)} to tolerate one" if planned > 2 else "bring more clients"
            warn_caller(f"dropout={dropout} of {planned} clients tolerates no loss at all: {remedy}, or leave it out")
        require_choice("noise", noise, Noise)
        require_choice("drop_outs", drop_outs, DropOuts)
        if ledger.budget != budget:
            raise UsageError(
                f"the ledger was opened for budget {ledger.budget}, the federation has {budget}: pass the same budget="
            )
        self._names = tuple(clients)
        self._budget = budget
        self._ledger = ledger
        self._terms = Terms(
            unit="record" if budget is None else budget.unit,
            view="server" if budget is None else str(budget.view),
            noise_multiplier=0.0,
            noise=noise,
            bits=0 if bits is None else checked_integer("bits", bits, least=8, most=64),
            planned=planned,
            guaranteed=guaranteed,
            drop_outs=drop_outs,
            population=planned,
            dropout=float(dropout),
            max_records=checked_integer("max_records", max_records, least=1),
            records_per_client=float(records_per_client),
            protection=protection,
        )
        check_terms(self._terms)
        self._sampling = Sampling.none() if sampling is None else sampling
        check_sampling(self._sampling, self._terms, budget)
        self._turns = 0
        self._rounds_done = 0
        self.run = f"run-{secrets.token_hex(6)}"  # public: tells the runs of one ledger apart
        self._noise_source = noise_source
        self._pricing = Pricing(budget=budget, ledger=ledger, run=self.run, noise_source=noise_source)

    @property
    def n_clients(self) -> int:
        """Clients in the federation."""
        return self._terms.planned

    @property
    def guaranteed_survivors(self) -> int:
        """Fewest clients with which a release of everybody completes; their noise alone suffices."""
        return self._terms.guaranteed

    @property
    def budget(self) -> Budget | None:
        """What may be spent; None releases without noise."""
        return self._budget

    @property
    def ledger(self) -> Ledger:
        """Where every release is written down before it happens."""
        return self._ledger

    @property
    def unit(self) -> Unit:
        """What the budget protects."""
        return self._terms.unit

    @property
    def records_per_client(self) -> float:
        """Unit "client": weight, in records, that one client may carry at most."""
        return self._terms.records_per_client

    @property
    def protection(self) -> Protection:
        """How vectors come together: "secure_aggregation", or a comparison mode."""
        return self._terms.protection

    @property
    def trusted(self) -> bool:
        """Whether sums are formed in the clear, without secure aggregation."""
        return self._terms.protection != "secure_aggregation"

    @property
    def total_mu(self) -> float:
        """Square root of the mu^2 that the whole budget allows in the guarded view; infinity without a budget."""
        return math.inf if self._budget is None else math.sqrt(self._ledger.total_mu2())

    @property
    def remaining_share(self) -> float:
        """Part of the budget that is not spent, by whomever: read anew from the ledger; 1.0 without a budget."""
        if self._budget is None:
            return 1.0
        try:
            self._ledger.refresh()
        except LedgerError:  # closed, or the file is gone: what was read last still stands
            logger.debug("the ledger cannot be read again")
        return self._pricing.remaining_share()

    def noise_std(
        self,
        query: Query,
        share: float | None = None,
        *,
        noise_multiplier: float | None = None,
        sampling: Sampling | None = None,
    ) -> Mapping[str, float]:
        """Return block name -> standard deviation per coordinate, in natural units, that a release would carry with the
        fewest survivors the plan allows. Costs nothing.
        """  # fmt: skip
        plan = self.plan(query, share=share, noise_multiplier=noise_multiplier, sampling=sampling)
        return query.layout.noise_std(plan.noise_std(plan.terms.guaranteed))

    def plan(
        self,
        query: Query,
        *,
        share: float | None = None,
        noise_multiplier: float | None = None,
        sampling: Sampling | None = None,
    ) -> Plan:
        """Return the plan that a release of these arguments would have, with the expected number of clients.

        Costs nothing; `Plan.explain()` says in words what was chosen and why.
        """
        sampling = self._sampling if sampling is None else sampling
        check_sampling(sampling, self._terms, self._budget)
        check_remembered(query, sampling, self._terms, private=self._budget is not None)
        expected = self._names
        if sampling.unit == "client" and sampling.kind != "none":
            expected = self._names[: max(2, math.floor(sampling.rate * len(self._names)))]
        terms = self._pricing.terms_of(self._terms, sampling, len(expected), bytes(32))
        return self._pricing.prepare(query, terms, share, noise_multiplier).plan

    def release(
        self,
        query: Query,
        *,
        share: float | None = None,
        noise_multiplier: float | None = None,
        sampling: Sampling | None = None,
        purpose: str = "",
        rounds: int = 1,
    ) -> Release:
        """Return the noised sum of `query` over the clients that survive the round.

        Args:
            query: what to sum.
            share: fraction of the WHOLE budget that this release may cost, in (0, 1]; shares add up, noise falls as
                1 / sqrt(share). Skellam noise and hidden samples need a budget with `accounting="renyi"`.
            noise_multiplier: instead of `share`, the standard deviation of the sum's noise at the fewest survivors
                over the sensitivity, > 0. Under a budget exactly one of the two is given; without one there is no
                noise: a share is ignored, a multiplier refused.
            sampling: who takes part; None for what the federation was made with. Charged as what it is: only views
                that cannot see the sample gain by it.
            purpose: words for the ledger and the report.
            rounds: releases of this same layout that will follow, this one included; sizes the set-up of the protocol.

        Guarantees:
            The release is charged before any client is asked, and refused if it would pass the budget in the guarded
            view; a refusal changes nothing. A release that fails before its sum could be known gives its charge back;
            one that fails afterwards stays charged.

        Raises:
            UsageError: the arguments do not make a plan.
            BudgetExhausted: the budget does not allow the release. Nothing was sent or charged.
            FederationError: too few clients survived, or one refused; `charged` says whether it stays charged.
            DataError: a client's rows cannot be used; the charge was given back.
        """
        if not isinstance(query, Query):
            raise UsageError(f"query is {query!r}, expected a query such as privfed.Count()")
        rounds = checked_integer("rounds", rounds, least=1)
        sampling = self._sampling if sampling is None else sampling
        check_sampling(sampling, self._terms, self._budget)
        check_remembered(query, sampling, self._terms, private=self._budget is not None)
        if sampling.kind == "round_robin":
            remember_cohorts(self._ledger, self._names)
        sampling = self._whose_turn(sampling)
        cohort = draw_cohort(self._names, sampling, self._keystream("cohort"))
        if len(cohort) < 2:
            raise FederationError(f"the sample holds {len(cohort)} clients, expected at least 2: raise its rate")
        seed = self._keystream("rotation").uint64(4).tobytes()
        terms = self._pricing.terms_of(self._terms, sampling, len(cohort), seed)
        prepared = self._pricing.prepare(query, terms, share, noise_multiplier)
        priced = prepared.entry(purpose)
        entry = self._ledger.reserve(priced)
        revealed = False

        def about_to_reveal() -> None:
            nonlocal revealed
            revealed = True

        try:
            outcome = self._run(
                RoundTask(prepared.task, prepared.plan, prepared.digest, cohort, rounds, about_to_reveal)
            )
        except BaseException as error:
            if not revealed:
                self._ledger.void(entry, reason=f"{type(error).__name__} before anything was revealed")
            elif isinstance(error, FederationError):
                error.charged = True
            logger.warning("release %r failed, charged: %s", query.kind, revealed)
            raise
        self._turns += sampling.kind == "round_robin"
        return self._settle(query, prepared.plan, entry, outcome, hidden=priced.amplified("released"))

    def _terms_of(self, clients: tuple[str, ...]) -> Terms:
        """Return the terms of a federation of these clients instead.

        Raises:
            UsageError: too few of them, or not those that the federation's sampling was made for.
        """
        planned, guaranteed = len(clients), _guaranteed(len(clients), self._terms.dropout)
        terms = msgspec.structs.replace(self._terms, planned=planned, guaranteed=guaranteed, population=planned)
        check_sampling(self._sampling, terms, self._budget)
        return terms

    def _take_clients(self, clients: tuple[str, ...], terms: Terms) -> None:
        """Go on with these clients from the next release on; `terms` are those of `_terms_of`."""
        self._names, self._terms = clients, terms

    @abstractmethod
    def _run(self, task: RoundTask) -> RoundOutcome:
        """Run one round; raise `FederationError` if it cannot be completed."""

    def _keystream(self, purpose: str) -> Keystream:
        """Return fresh randomness of the coordinator; of the operating system unless an engine is for tests."""
        return Keystream()

    def _whose_turn(self, sampling: Sampling) -> Sampling:
        """Return the sampling with the turn that comes next, where cohorts take turns."""
        if sampling.kind != "round_robin":
            return sampling
        turn = sampling.turn + self._turns
        return Sampling.round_robin(sampling.size, sampling.population, unit=sampling.unit, turn=turn)

    def _settle(self, query: Query, plan: Plan, entry: int, outcome: RoundOutcome, *, hidden: bool) -> Release:
        self._ledger.settle(
            entry,
            participants=outcome.participants,
            survivors=outcome.survivors,
            bytes_up=outcome.bytes_up,
            facts={"wrap_probability": plan.wrap_probability},
        )
        exact = plan.terms.private and plan.terms.drop_outs == "exact" and outcome.survivors > plan.terms.guaranteed
        kept = outcome.survivors - len(outcome.surplus) if exact else 0
        secret = hidden and plan.terms.sampling.unit == "client"
        if kept and secret:
            # Surplus of a drawn client makes the sum's noise larger, which a long vector shows, and so that it was
            # drawn; what the sample hides was counted on.
            raise FederationError(
                "drawn clients were lost before they gave back surplus noise, and a sum that carries it would"
                " tell that they were drawn: nothing is released, the charge stays. Ask again, or draw nobody in secret"
                " (Sampling.none() or Sampling.round_robin)",
                charged=True,
            )
        vector = opened_vector(
            outcome.total,
            plan,
            survivors=outcome.survivors,
            surplus=outcome.surplus,
            keystream=self._keystream("central"),
        )
        self._rounds_done += 1
        return Release(
            query=query.kind,
            round=self._rounds_done,
            values=query.layout.unflatten(vector),
            noise_std=query.layout.noise_std(plan.noise_std(outcome.survivors, kept_surplus=kept)),
            participants=outcome.participants,
            survivors=outcome.survivors,
            lost=outcome.lost,
            private=plan.mechanism != "none",
            protection=plan.terms.protection,
            entry=entry,
            epsilon=self._epsilons(),
            bytes_up=outcome.bytes_up,
            plan=plan,
            kept_surplus=kept,
            expected_clients=plan.terms.expected if secret else None,
        )

    def _epsilons(self) -> dict[str, float]:
        """Return view -> epsilon charged so far: for the fewest survivors that the plans allow."""
        if self._budget is None:
            return {}
        views = list(dict.fromkeys((*DISPLAYED_VIEWS, str(self._budget.view))))
        return {view: self._ledger.epsilon(View.parse(view)) for view in views}


def _guaranteed(planned: int, dropout: float) -> int:
    """Return the fewest of `planned` clients that may be left.

    Raises:
        UsageError: too few to hide anything among.
    """
    if planned < 2:
        raise UsageError(
            f"{planned} client(s): a sum over fewer than 2 hides nothing."
            " Fit on the array itself, or bring at least one more client (three, to hide from each other)"
        )
    if not (isinstance(dropout, int | float) and 0.0 <= dropout < 1.0):
        raise UsageError(f"dropout is {dropout!r}, expected a fraction in [0, 1)")
    guaranteed = planned - tolerated_losses(planned, dropout)
    if guaranteed < 2:
        raise UsageError(
            f"dropout={dropout} of {planned} clients may leave {guaranteed}: tolerate fewer, or bring more"
        )
    return guaranteed


def _least_dropout(clients: int) -> float:
    """Return the least fraction of four digits that tolerates the loss of one client."""
    digits = 3 + math.ceil(math.log10(clients))
    return math.ceil(10.0**digits / clients) / 10.0**digits
