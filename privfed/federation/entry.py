"""What a release costs: its ledger entry, and the noise that a share of a budget pays for."""

from __future__ import annotations

import math
from collections.abc import Callable

from privfed._version import __version__
from privfed.errors import UsageError
from privfed.mechanism import discrete_gaussian, skellam
from privfed.plan import Plan, Terms
from privfed.plan.made import honest_shares
from privfed.query import RELATION
from privfed_accounting import Budget, RoundPlan, Total
from privfed_accounting.round_plan import NoiseSource

__all__ = ["Maker", "affordable_noise", "round_plan"]

Maker = Callable[[float], tuple[Plan, RoundPlan]]

TOLERANCE = 1e-4  # of the noise multiplier, on the safe side
LARGEST_MULTIPLIER = 1e9


def round_plan(
    plan: Plan, *, run: str, purpose: str, query: str, query_digest: bytes, noise_source: NoiseSource
) -> RoundPlan:
    """Return what a ledger is charged for `plan`: by the coordinator, and by each client for itself."""
    terms = plan.terms
    distance = skellam.DISTANCE_BITS if plan.mechanism == "skellam" else discrete_gaussian.DISTANCE_BITS
    return RoundPlan(
        run=run,
        purpose=purpose,
        query=query,
        mechanism=plan.mechanism,
        protection=terms.protection,
        unit=terms.unit,
        relation=RELATION,
        l2_sensitivity=plan.l2_sensitivity,
        l1_sensitivity=plan.l1_sensitivity,
        dimension=plan.length,
        scale=plan.scale,
        bits=plan.bits,
        share_sigma=plan.share_sigma,
        planned_shares=terms.planned,
        guaranteed_shares=terms.guaranteed,
        drop_outs=terms.drop_outs,
        sampling=terms.sampling.sampling(),
        noise_source=noise_source,
        plan_digest=plan.digest.hex(),
        query_digest=query_digest.hex(),
        software=f"privfed {__version__}",
        sampler_distance=2.0**-distance,
    )


def affordable_noise(share: float, budget: Budget, total_mu2: float, terms: Terms, make: Maker) -> float:
    """Return the noise multiplier with which `1 / share` releases like this one spend the budget.

    Args:
        share: part of the budget, in (0, 1].
        budget: what may be spent.
        total_mu2: mu^2 that the budget affords.
        terms: of the release, noise left open.
        make: from a noise multiplier to the plan and its ledger entry.

    A plain Gaussian release takes exactly `share` of the budget's mu^2. Any other is priced as the accountant charges
    it: ceil(1 / share) of them together stay within the budget; searched, on the safe side by at most 0.01 %.

    Raises:
        UsageError: no noise would do; the message names the remedy.
    """
    honest = max(1, honest_shares(terms))  # where there are none, no plan is made
    plan, entry = make(math.sqrt(terms.guaranteed / (honest * share * total_mu2)))
    if plan.mechanism == "discrete_gaussian" and entry.sampling.kind == "none":
        return plan.terms.noise_multiplier
    count = math.ceil(1.0 / share - 1e-9)

    def affords(multiplier: float) -> bool:
        try:
            charge = make(multiplier)[1].charge(budget.view)
        except UsageError:
            return False
        return Total.of([charge] * count).epsilon(budget.delta) <= budget.epsilon * (1.0 - 1e-9)

    low, high = plan.terms.noise_multiplier, plan.terms.noise_multiplier
    while not affords(high):
        low, high = high, 2.0 * high
        if high > LARGEST_MULTIPLIER:
            raise UsageError(
                f"no noise makes {count} releases like this one fit the budget of {budget}:"
                " use more bits, a larger budget or a larger share"
            )
    while low == high and high > 1e-3:  # sampled rounds may need less than the Gaussian's
        low = high / 2.0
        if affords(low):
            high = low
    while high / low > 1.0 + TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if affords(middle) else (middle, high)
    return high
