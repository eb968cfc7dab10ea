"""Noise from a target: the least that keeps a schedule within (epsilon, delta) in a view, always on the safe side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from privfed_accounting.budget import Budget, Unit, calibrate_mu2
from privfed_accounting.charge import Total
from privfed_accounting.checks import check_count
from privfed_accounting.errors import ParameterError
from privfed_accounting.filters import exceeded
from privfed_accounting.fixed_schedule import schedule_bounds
from privfed_accounting.round_plan import DropOuts, Mechanism, Protection, RoundPlan
from privfed_accounting.sampling import Sampling
from privfed_accounting.views import View

_PRECISION, _COARSER = 1e-9, 1e-5
_LEAST, _LARGEST = 1e-4, 1e8
_FINE_GRID = 2.0**40


def calibrate(
    epsilon: float,
    delta: float,
    rounds: int,
    view: str | View = "released",
    *,
    shares: int,
    slack_reserve: float | None = None,
    planned: int | None = None,
    unit: Unit = "record",
    sampling: Sampling | None = None,
    mechanism: Mechanism = "discrete_gaussian",
    protection: Protection = "secure_aggregation",
    drop_outs: DropOuts = "provision",
    l2_sensitivity: float | None = None,
    l1_sensitivity: float = 0.0,
    dimension: int = 1,
    schedule: Literal["adaptive", "fixed"] = "adaptive",
) -> float:
    """Noise multiplier of each round's sum that keeps `rounds` equal rounds within (epsilon, delta) in a view.

    Args:
        epsilon: > 0.
        delta: 0 < delta < 1.
        rounds: >= 1.
        view: whose eyes the budget guards against.
        shares: noise shares in each sum, as few as the plan lets survive.
        slack_reserve: as in `calibrate_mu2`.
        planned: clients that start; `shares` unless said. Needed for exact drop-outs.
        unit, sampling, mechanism, protection, drop_outs: as in `RoundPlan`.
        l2_sensitivity, l1_sensitivity, dimension: of the integer vector, in grid steps; needed for skellam. The
            Gaussian is calibrated on a grid so fine that it does not matter, unless l2_sensitivity is given.
        schedule: "adaptive" gives noise that a ledger's filter accepts ("renyi" accounting unless all rounds are plain
            Gaussians); "fixed" is for a schedule fixed before the first answer, takes the tight estimate where there is
            one, and needs less.

    Returns:
        Standard deviation of the noise of the whole sum of `shares` shares, over the L2 sensitivity; each share
        carries this over sqrt(shares) (the operator's one share carries all of it if central). Rounded up.

    Raises:
        ParameterError: the target cannot be met, or an argument is out of range.
    """
    for name, value in (("rounds", rounds), ("shares", shares)):
        check_count(name, value)
    view = View.parse(view)
    sampling = Sampling.none() if sampling is None else sampling
    l2 = _FINE_GRID if l2_sensitivity is None else l2_sensitivity
    if mechanism == "skellam" and l2_sensitivity is None:
        raise ParameterError("Skellam noise is calibrated on its grid, expected l2_sensitivity and l1_sensitivity")
    shares_in_sum = 1 if protection == "central" else shares

    def plan_at(multiplier: float) -> RoundPlan:
        return RoundPlan(
            run="",
            purpose="",
            query="",
            mechanism=mechanism,
            protection=protection,
            unit=unit,
            l2_sensitivity=l2,
            l1_sensitivity=l1_sensitivity,
            dimension=dimension,
            scale=1.0,
            bits=64,
            share_sigma=multiplier * l2 / math.sqrt(shares_in_sum),
            planned_shares=shares if planned is None else planned,
            guaranteed_shares=shares,
            drop_outs=drop_outs,
            sampling=sampling,
        )

    probe = plan_at(1e6)
    charge = probe.charge(view)
    if not charge.private:
        raise ParameterError(
            f"in view {view} none of {shares} noise shares is unknown: raise the number of survivors, or guard another "
            "view"
        )
    turns = sampling.participations(rounds) if charge.cohort else rounds
    if not charge.rdp:
        mu2 = calibrate_mu2(epsilon, delta, slack_reserve=slack_reserve) / turns
        return 1e6 * math.sqrt(charge.mu2 / mu2) * (1.0 + 1e-15)
    if schedule == "adaptive":
        budget = Budget(epsilon, delta, unit, view, slack_reserve=slack_reserve, accounting="renyi")
        caps = budget.allowance()
        return least_multiplier(lambda z: not exceeded(Total.of([plan_at(z).charge(view)]).times(turns), budget, caps))
    if slack_reserve is not None:
        raise ParameterError("a fixed schedule keeps no slack_reserve: leave it out, or use schedule='adaptive'")
    return least_multiplier(lambda z: _fixed_epsilon(plan_at(z), view, turns, delta) <= epsilon, precision=_COARSER)


def least_multiplier(accepted: Callable[[float], bool], *, precision: float = _PRECISION) -> float:
    """Least multiplier accepted, on the accepted side; what is refused as meaningless is too little.

    Args:
        accepted: whether a multiplier is enough; true from some value on.
        precision: relative; nine digits unless said.
    """

    def enough(multiplier: float) -> bool:
        try:
            return accepted(multiplier)
        except ParameterError:
            return False

    high = 1.0
    while not enough(high):
        high *= 2.0
        if high > _LARGEST:
            accepted(high)  # says why, if it can
            raise ParameterError(
                f"no noise multiplier up to {_LARGEST:g} meets the target: fewer rounds, or a larger epsilon or delta"
            )
    low = 0.5 * high
    while low > _LEAST and enough(low):
        low, high = 0.5 * low, low
    while high - low > precision * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _fixed_epsilon(plan: RoundPlan, view: View, rounds: int, delta: float) -> float:
    """Epsilon of equal rounds, each taken for a round that the unit is in."""
    total = Total.of([plan.charge(view)]).times(rounds).epsilon(delta)
    tight = schedule_bounds([(plan, None, rounds)], view, delta, two_sided=False)
    return total if tight is None else min(total, tight.upper)
