"""What a release costs: its ledger entry, and the noise that a share of a budget pays for."""

from __future__ import annotations

import math
from collections.abc import Callable

from privfed._version import __version__
from privfed.errors import UsageError
from privfed.mechanism import discrete_gaussian, skellam
from privfed.plan.made import Plan, honest_shares
from privfed.plan.terms import Terms
from privfed.query import RELATION
from privfed_accounting import Budget, ParameterError, RoundPlan, Total
from privfed_accounting.filters import exceeded
from privfed_accounting.round_plan import NoiseSource

__all__ = ["Maker", "affordable_noise", "round_plan"]

Maker = Callable[[float], tuple[Plan, RoundPlan]]

TOLERANCE = 1e-3  # of the noise multiplier, on the safe side
LEAST_MULTIPLIER, LARGEST_MULTIPLIER = 1e-3, 1e9


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
    """Return the noise multiplier of a release that costs `share` of a budget.

    Args:
        share: part of the budget, in (0, 1].
        budget: what may be spent.
        total_mu2: mu^2 that the budget affords.
        terms: of the release, noise left open.
        make: from a noise multiplier to the plan and its ledger entry.

    A plain Gaussian release takes exactly `share` of the budget's mu^2. Under Renyi accounting, ceil(1 / share)
    releases like this one fit the budget; searched, on the safe side by at most 0.1 %. Of cohorts that take turns each
    counts its own rounds.

    Raises:
        UsageError: no noise would do, or the budget's accounting cannot count the release; names the remedy.
    """
    count = terms.sampling.sampling().participations(math.ceil(1.0 / share - 1e-9))
    part = share if terms.sampling.kind != "round_robin" else 1.0 / count
    honest = max(1, honest_shares(terms))  # where there are none, no plan is made
    first = math.sqrt(terms.guaranteed / (honest * part * total_mu2))
    if budget.accounting == "gaussian":
        if make(first)[1].charge(budget.view).rdp:
            raise UsageError(
                "the release has Skellam noise or a hidden sample, which exact Gaussian accounting cannot count:"
                " use Budget(..., accounting='renyi')"
            )
        return first

    def affords(multiplier: float) -> bool:
        try:
            charge = make(multiplier)[1].charge(budget.view)
        except (UsageError, ParameterError):  # no grid holds it, or the noise is too little to mean anything
            return False
        return not exceeded(Total.of([charge]).times(count), budget)

    low = high = first
    while not affords(high):
        low, high = high, 2.0 * high
        if high > LARGEST_MULTIPLIER:
            make(first)  # says why, if it can
            raise UsageError(
                f"no noise makes this release cost {share:.3g} of the budget of {budget}:"
                " use more bits, a larger budget or a larger share"
            )
    while low == high and high > LEAST_MULTIPLIER:  # hidden samples need less than the plain Gaussian
        low = high / 2.0
        if affords(low):
            high = low
    while high / low > 1.0 + TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if affords(middle) else (middle, high)
    return high
