"""Two-sided tight bounds on a whole schedule in a view, error terms included: for schedules fixed in advance only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from privfed_accounting.charge import Total, leaked, within
from privfed_accounting.pld import SIZE, STEP, Bracket, LossLedger
from privfed_accounting.round_charge import hides_sample, round_charge, unknown_noise
from privfed_accounting.views import View

if TYPE_CHECKING:
    from privfed_accounting.round_plan import RoundPlan

# Losses are told apart to this many times the epsilon that the Renyi divergences give, and a little more.
_REACH_FACTOR: Final = 1.5
_REACH_MORE: Final = 6.0
_LARGEST_EPSILON: Final = 200.0
_LARGEST_SIZE: Final = 4 * SIZE


def schedule_bounds(
    rounds: Iterable[tuple[RoundPlan, int | None, int]], view: str | View, delta: float, *, two_sided: bool = True
) -> Bracket | None:
    """Lower and upper bound on epsilon at delta of a schedule that was fixed before its first round.

    Args:
        rounds: for each kind of round its plan, its survivors (None: the worst the plan allows) and how often it ran.
        view: whose eyes.
        delta: 0 < delta < 1.
        two_sided: False leaves the lower bound at 0, in half the time.

    Returns:
        None where there is no tight method: Skellam noise, cohorts that take turns, rounds that are not private, or an
        epsilon above 200. The lower bound is 0 with cohorts of fixed size, for which none is known here.

    Guarantees:
        The upper bound counts slack, tails and sampler distances like `Total.epsilon`; the lower bound leaves them out,
        and is one for the ideal mechanisms. For plain Gaussians both are exact.
    """
    view = View.parse(view)
    listed = [(plan, survivors, count, round_charge(plan, view, survivors)) for plan, survivors, count in rounds]
    total = Total()
    for *_, count, charge in listed:
        total = total + Total.of([charge]).times(count)
    rough = total.epsilon(delta)
    if any(plan.mechanism == "skellam" or charge.cohort for plan, *_, charge in listed) or rough > _LARGEST_EPSILON:
        return None
    if not total.rdp:
        bare = Total(total.rounds, (total.parts[0], *((0.0, 0.0),) * 3))
        return Bracket(bare.epsilon(delta) * (1.0 - 1e-10), rough)
    width = 2.0 * (_REACH_FACTOR * rough + _REACH_MORE)
    size = SIZE
    while size < _LARGEST_SIZE and size * STEP < width:
        size *= 2
    step = max(STEP, width / size)
    upper = LossLedger(step=step, size=size)
    lower = LossLedger(step=step, size=size, optimistic=True)
    one_sided = not two_sided
    for plan, survivors, count, _ in listed:
        hidden = hides_sample(plan, view)
        replacing = hidden and plan.sampling.kind == "fixed_size"
        rate = plan.sampling.rate if hidden else 1.0
        # As if nothing were sampled, rounded up.
        mu = plan.l2_sensitivity / math.sqrt(unknown_noise(plan, view, survivors).variance) * (1.0 + 1e-14)
        upper.compose(rate=rate, mu=mu, rounds=count, replacing=replacing)
        one_sided = one_sided or replacing
        if not one_sided:
            lower.compose(rate=rate, mu=mu * (1.0 - 1e-13), rounds=count)
    tail, distance = total.delta_tail, total.sampler_distance
    safe = within(
        delta, total.epsilon_slack, lambda epsilon: leaked(epsilon, tail=tail, distance=distance), upper.epsilon
    )
    return Bracket(0.0 if one_sided else lower.epsilon(delta), min(safe, rough))
