"""The one door, from the coordinator's side: plan - charge - run - decode - settle.

Engines say how bytes reach the clients (`_run`); nothing else differs between them.
"""

from __future__ import annotations

import logging
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from privfed._version import __version__
from privfed.errors import FederationError, UsageError
from privfed.federation.client import Task
from privfed.federation.release import Release
from privfed.mechanism.discrete_gaussian import DISTANCE_BITS
from privfed.mechanism.encode import decode, from_ring
from privfed.plan import Plan, Terms, make_plan, tolerated_losses
from privfed.query import RELATION, Query, Unit, encode_query, query_digest
from privfed_accounting import Budget, Ledger, RoundPlan, View

__all__ = ["FederationBase", "RoundOutcome", "RoundTask"]

logger = logging.getLogger(__name__)

MAX_EPSILON = 35.0  # e^35 times the sampler's 2^-112 a draw: a billion draws fit into a delta of 1e-5

# What every release shows; "colluders" is added where the budget guards it.
DISPLAYED_VIEWS = ("released", "server", "client", "unmasked")


@dataclass(frozen=True)
class RoundTask:
    """One release, as an engine gets it.

    Attributes:
        task: what goes to every client.
        plan: what every party derives from it.
        query_digest: 32 bytes that bind the round to the query.
        expected_rounds: releases of this layout that the caller expects, this one included.
        about_to_reveal: the engine calls it before anything is sent or done from which the sum could be learned.
    """

    task: Task
    plan: Plan
    query_digest: bytes
    expected_rounds: int
    about_to_reveal: Callable[[], None]


@dataclass(frozen=True)
class RoundOutcome:
    """What an engine returns: the sum in the ring, who took part and who was in it, and the bytes that clients sent."""

    total: npt.NDArray[np.uint64]
    participants: int
    survivors: int
    lost: tuple[str, ...]
    bytes_up: int


def check_budget(budget: Budget | None) -> None:
    """Refuse what is no budget, or one so large that its error terms cannot be counted.

    Raises:
        UsageError: with the remedy.
    """
    if budget is None:
        return
    if not isinstance(budget, Budget):
        raise UsageError(f"budget is {budget!r}, expected privfed.Budget(epsilon=..., delta=...) or None")
    if budget.epsilon > MAX_EPSILON:
        raise UsageError(
            f"epsilon is {budget.epsilon:g}, expected at most {MAX_EPSILON:g}: beyond, the sampler's distance times"
            " exp(epsilon) does not fit into delta. Use budget=None for sums without noise"
        )


class FederationBase(ABC):
    """Plans, charges and settles every release; subclasses carry the bytes.

    Args:
        budget: what may be spent; None for sums without noise.
        ledger: an open ledger of that budget.
        planned: clients in the federation, >= 2.
        dropout: fraction of them that may be lost in a round, in [0, 1).
        max_records: most rows that a client may hold.
        records_per_client: unit "client" only, see `Federation`.
        trusted: form the sums in the clear.
        noise_source: "os", or "seeded" in tests.
    """

    def __init__(
        self,
        *,
        budget: Budget | None,
        ledger: Ledger,
        planned: int,
        dropout: float,
        max_records: int,
        records_per_client: float,
        trusted: bool,
        noise_source: Literal["os", "seeded"],
    ) -> None:
        if planned < 2:
            raise UsageError(
                f"{planned} client(s): a sum over fewer than 2 hides nothing."
                " Fit on the array itself, or bring at least one more client (three, to hide from each other)"
            )
        if not (isinstance(dropout, int | float) and 0.0 <= dropout < 1.0):
            raise UsageError(f"dropout is {dropout!r}, expected a fraction in [0, 1)")
        guaranteed = planned - tolerated_losses(planned, dropout)
        if not (math.isfinite(records_per_client) and records_per_client > 0):
            raise UsageError(f"records_per_client is {records_per_client!r}, expected a finite number above 0")
        if guaranteed < 2:
            raise UsageError(
                f"dropout={dropout} of {planned} clients may leave {guaranteed}: tolerate fewer, or bring more"
            )
        if ledger.budget != budget:
            raise UsageError(
                f"the ledger was opened for budget {ledger.budget}, the federation has {budget}: pass the same budget="
            )
        self._budget = budget
        self._ledger = ledger
        self._noise_source = noise_source
        self._terms = Terms(
            unit="record" if budget is None else budget.unit,
            view="server" if budget is None else str(budget.view),
            mu2=0.0,
            planned=planned,
            guaranteed=guaranteed,
            max_records=max_records,
            records_per_client=float(records_per_client),
            trusted=trusted,
        )
        self._rounds_done = 0
        self._run_name = f"run-{secrets.token_hex(6)}"  # public: tells the runs of one ledger apart

    @property
    def n_clients(self) -> int:
        """Clients in the federation."""
        return self._terms.planned

    @property
    def guaranteed_survivors(self) -> int:
        """Fewest clients with which a release completes; their noise alone suffices."""
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
    def trusted(self) -> bool:
        """Whether sums are formed in the clear, without secure aggregation."""
        return self._terms.trusted

    @property
    def total_mu(self) -> float:
        """Square root of the mu^2 that the whole budget allows in the guarded view; infinity without a budget."""
        return math.inf if self._budget is None else math.sqrt(self._ledger.total_mu2())

    @property
    def remaining_share(self) -> float:
        """Part of the budget's mu^2 that is not spent; 1.0 without a budget."""
        if self._budget is None:
            return 1.0
        return max(0.0, self._ledger.remaining_mu2() / self._ledger.total_mu2())

    def noise_std(self, query: Query, share: float) -> Mapping[str, float]:
        """Return block name -> standard deviation per coordinate, in natural units, that a release of `share` would
        carry with the fewest survivors the plan allows. Costs nothing.
        """  # fmt: skip
        _, plan, _ = self._prepare(query, share)
        return query.layout.noise_std(plan.noise_std(plan.terms.guaranteed))

    def release(self, query: Query, *, share: float | None = None, purpose: str = "", rounds: int = 1) -> Release:
        """Return the noised sum of `query` over the clients that survive the round.

        Args:
            query: what to sum.
            share: fraction of the WHOLE budget's mu^2 that this release may cost, in (0, 1]; shares add up, noise falls
                as 1 / sqrt(share). Must be given under a budget, is ignored without one.
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
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise UsageError(f"rounds is {rounds!r}, expected an integer of at least 1")
        task, plan, digest = self._prepare(query, share)
        entry = self._ledger.reserve(self._entry(query, plan, digest, purpose))
        revealed = False

        def about_to_reveal() -> None:
            nonlocal revealed
            revealed = True

        try:
            outcome = self._run(RoundTask(task, plan, digest, rounds, about_to_reveal))
        except BaseException as error:
            if not revealed:
                self._ledger.void(entry, reason=f"{type(error).__name__} before anything was revealed")
            elif isinstance(error, FederationError):
                error.charged = True
            logger.warning("release %r failed, charged: %s", query.kind, revealed)
            raise
        return self._settle(query, plan, entry, outcome)

    @abstractmethod
    def _run(self, task: RoundTask) -> RoundOutcome:
        """Run one round; raise `FederationError` if it cannot be completed."""

    def _prepare(self, query: Query, share: float | None) -> tuple[Task, Plan, bytes]:
        mu2 = 0.0
        if self._budget is not None:
            if share is None:
                raise UsageError(
                    "under a budget every release needs its share of it: pass share=0.1 for a tenth"
                    " (remaining_share tells what is left)"
                )
            if not (isinstance(share, int | float) and math.isfinite(share) and 0.0 < share <= 1.0):
                raise UsageError(f"share is {share!r}, expected a fraction in (0, 1]")
            mu2 = share * self._ledger.total_mu2()
        encoded = encode_query(query)
        digest = query_digest(encoded)
        terms = msgspec.structs.replace(self._terms, mu2=mu2)
        return Task(encoded, terms.encode()), make_plan(query, digest, terms), digest

    def _entry(self, query: Query, plan: Plan, digest: bytes, purpose: str) -> RoundPlan:
        return RoundPlan(
            run=self._run_name,
            purpose=purpose or query.kind,
            query=query.kind,
            mechanism=plan.mechanism,
            protection="trusted" if plan.terms.trusted else "secure_aggregation",
            unit=plan.terms.unit,
            relation=RELATION,
            l2_sensitivity=plan.l2_sensitivity,
            dimension=plan.dimension,
            scale=plan.scale,
            bits=plan.bits,
            share_sigma=plan.share_sigma,
            planned_shares=plan.terms.planned,
            guaranteed_shares=plan.terms.guaranteed,
            noise_source=self._noise_source,
            plan_digest=plan.digest.hex(),
            query_digest=digest.hex(),
            software=f"privfed {__version__}",
            sampler_distance=2.0**-DISTANCE_BITS,
        )

    def _settle(self, query: Query, plan: Plan, entry: int, outcome: RoundOutcome) -> Release:
        self._ledger.settle(
            entry, participants=outcome.participants, survivors=outcome.survivors, bytes_up=outcome.bytes_up
        )
        values = query.layout.unflatten(decode(from_ring(outcome.total), scale=plan.scale))
        self._rounds_done += 1
        return Release(
            query=query.kind,
            round=self._rounds_done,
            values=values,
            noise_std=query.layout.noise_std(plan.noise_std(outcome.survivors)),
            participants=outcome.participants,
            survivors=outcome.survivors,
            lost=outcome.lost,
            private=plan.mechanism != "none",
            protection="trusted" if plan.terms.trusted else "secure_aggregation",
            entry=entry,
            epsilon=self._epsilons(),
            bytes_up=outcome.bytes_up,
        )

    def _epsilons(self) -> dict[str, float]:
        """Return view -> epsilon charged so far: for the fewest survivors that the plans allow."""
        if self._budget is None:
            return {}
        views = list(dict.fromkeys((*DISPLAYED_VIEWS, str(self._budget.view))))
        return {view: self._ledger.epsilon(View.parse(view)) for view in views}
