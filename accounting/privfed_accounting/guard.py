"""A client's own guard: what it lets itself be asked, and its own ledger of what that has cost it so far.

The coordinator's ledger protects the coordinator's promise. A client need not trust it: it keeps its own policy and its
own ledger, admits a round before it computes anything, and refuses what goes beyond, whatever the server says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from privfed_accounting.budget import Budget
from privfed_accounting.checks import check_count, check_positive
from privfed_accounting.errors import BudgetExhausted, GuardRefused, ParameterError
from privfed_accounting.filters import share_of
from privfed_accounting.ledger import Ledger
from privfed_accounting.round_plan import DropOuts, Mechanism, NoiseSource, Protection, RoundPlan
from privfed_accounting.sampling import Sampling

_MECHANISMS: Final[tuple[Mechanism, ...]] = ("discrete_gaussian", "skellam")


@dataclass(frozen=True, kw_only=True)
class GuardPolicy:
    """What a client lets itself be asked.

    Attributes:
        budget: epsilon, delta, unit and view that all rounds together may cost this client's units.
        largest_share: most that one round may take of the budget, 0 < share <= 1.
        queries: for each kind of query that is allowed, the largest L2 norm that one unit may add to its vector, in
            natural units (l2_sensitivity / scale of the plan); a kind that is not named is refused.
        least_survivors: fewest survivors a plan may guarantee: with fewer, the sum tells too much of each.
        most_dimensions: longest vector.
        mechanisms, protections, drop_outs, noise_sources: what a plan may say there. By default noise always, masks
            always, from the operating system's generator.
        runs: names of the runs to take part in; empty for any.
    """

    budget: Budget
    queries: Mapping[str, float]
    largest_share: float = 1.0
    least_survivors: int = 2
    most_dimensions: int = 2**24
    mechanisms: frozenset[Mechanism] = frozenset(_MECHANISMS)
    protections: frozenset[Protection] = frozenset(("secure_aggregation",))
    drop_outs: frozenset[DropOuts] = frozenset(("provision", "exact"))
    noise_sources: frozenset[NoiseSource] = frozenset(("os",))
    runs: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        share = self.largest_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            raise ParameterError(f"largest_share is {share!r}, expected 0 < share <= 1")
        for name, bound in self.queries.items():
            check_positive(f"the bound of query {name!r}", bound)
        for name in ("least_survivors", "most_dimensions"):
            check_count(name, getattr(self, name))
        if "none" in self.mechanisms:
            raise ParameterError(
                "a policy cannot allow rounds without noise: they cost infinity, no budget covers them"
            )
        object.__setattr__(self, "queries", dict(self.queries))
        for name in ("mechanisms", "protections", "drop_outs", "noise_sources", "runs"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))


class ClientGuard:
    """One client's policy over its own ledger.

    Args:
        policy: what to allow.
        ledger: the client's own, opened with the policy's budget; nobody else writes it.

    Guarantees:
        `admit` charges this client's ledger before it returns, and refuses without charging; what was charged stays
        charged until `void`, which is for rounds in which nothing left this client. The epsilon of everything admitted
        is within the policy's budget in its view, whatever the coordinator says, forgets or repeats, if the vectors
        sent keep the plans' sensitivity and carry the plans' noise, and if the client itself draws its records where a
        plan samples records.

        How clients were drawn is the coordinator's word, and nothing is saved by it: a client that is asked is in the
        round, however seldom it was said to be asked. `check`, `admit` and the ledger take every plan that draws
        clients, or has them take turns, as one in which everybody takes part.
    """

    def __init__(self, policy: GuardPolicy, ledger: Ledger) -> None:
        if ledger.budget != policy.budget:
            raise ParameterError(
                f"the client's ledger has {ledger.budget or 'no budget'}, its policy {policy.budget}: "
                "open the ledger with the policy's budget"
            )
        self.policy = policy
        self.ledger = ledger

    def check(self, plan: RoundPlan) -> None:
        """Refuse a plan that the policy forbids, the budget's remainder aside.

        Raises:
            GuardRefused: says which rule, what was found and what is allowed.
        """
        if not isinstance(plan, RoundPlan):
            raise GuardRefused(
                f"this client was asked for a {type(plan).__name__}, expected a round's plan", rule="round"
            )
        policy, budget = self.policy, self.policy.budget
        for rule, found, allowed in (
            ("mechanisms", plan.mechanism, policy.mechanisms),
            ("protections", plan.protection, policy.protections),
            ("drop_outs", plan.drop_outs, policy.drop_outs),
            ("noise_sources", plan.noise_source, policy.noise_sources),
            ("runs", plan.run, policy.runs or {plan.run}),
            ("queries", plan.query, policy.queries.keys()),
            ("budget", plan.unit, {budget.unit}),
            ("budget", plan.relation, {budget.relation}),
        ):
            if found not in allowed:
                names = ", ".join(sorted(allowed)) or "nothing"
                raise GuardRefused(f"this client does not allow {found!r} under {rule}, expected {names}", rule=rule)
        norm, bound = plan.l2_sensitivity / plan.scale, policy.queries[plan.query]
        # The grid adds its own rounding to the sensitivity of an encoded vector: at most one step a coordinate.
        if not norm <= bound * (1.0 + 1e-9) + math.sqrt(plan.dimension) / plan.scale:
            raise GuardRefused(
                f"one unit may add {norm:.6g} to query {plan.query!r}, this client allows at most {bound:.6g}",
                rule="queries",
            )
        if plan.guaranteed_shares < policy.least_survivors:
            raise GuardRefused(
                f"the plan opens a sum of {plan.guaranteed_shares} clients, this client wants at least "
                f"{policy.least_survivors}",
                rule="least_survivors",
            )
        if plan.dimension > policy.most_dimensions:
            raise GuardRefused(
                f"the vector has {plan.dimension} coordinates, this client allows {policy.most_dimensions}",
                rule="most_dimensions",
            )
        share = share_of(_as_asked(plan).charge(budget.view), budget)
        if not share <= policy.largest_share * (1.0 + 1e-9):
            raise GuardRefused(
                f"the round takes {share:.4g} of this client's budget of {budget}, it allows at most "
                f"{policy.largest_share:.4g} a round",
                rule="largest_share",
            )

    def admit(self, plan: RoundPlan) -> int:
        """Charge this client's ledger for a round that its policy allows; to be called before anything is computed.

        The entry names no sampling of clients: it says what the round cost a client that was in it.

        Returns:
            Number of the entry, for `settle` or `void`.

        Raises:
            GuardRefused: the policy forbids the round, or what is left of the budget does not cover it; nothing was
                charged.
            LedgerError: the client's ledger cannot be written; nothing was charged, nothing may be computed.
        """
        self.check(plan)
        try:
            return self.ledger.reserve(_as_asked(plan))
        except BudgetExhausted as error:
            raise GuardRefused(f"this client's own budget does not cover the round: {error}", rule="budget") from error

    def settle(self, entry: int, *, participants: int, survivors: int, bytes_up: int = 0) -> None:
        """Record what this client was told of a round's end; at fewer survivors than planned the true cost counts."""
        self.ledger.settle(entry, participants=participants, survivors=survivors, bytes_up=bytes_up)

    def void(self, entry: int, *, reason: str) -> None:
        """Give a charge back: only when nothing that depends on the round left this client."""
        self.ledger.void(entry, reason=reason)

    def __repr__(self) -> str:
        return f"<ClientGuard over {self.ledger!r}>"


def _as_asked(plan: RoundPlan) -> RoundPlan:
    """The round as it is to a client that was asked: in it, whatever is said of how clients were drawn."""
    return replace(plan, sampling=Sampling.none()) if plan.sampling.unit == "client" else plan
