"""What equal rounds cost a budget, the least noise with which all of them fit, and what that noise is against.

Advice before anything is spent: a sum over many parameters carries noise in each of them, a clip bounds the length of
all together. Which of the two is longer decides whether a network learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

from privfed.errors import UsageError, warn_caller
from privfed.federation.release import Federation
from privfed.learners.neural.running import LEAST_SHARE, nothing_left
from privfed.plan import Plan
from privfed.plan.entry import round_plan
from privfed.query import Query
from privfed_accounting import Budget, ParameterError, RoundPlan, Sampling, Total
from privfed_accounting.calibration import least_multiplier
from privfed_accounting.filters import exceeded, spent_share
from privfed_accounting.fixed_schedule import schedule_bounds

__all__ = ["DROWNED", "Payment", "Schedule", "check_budget_for", "fixed_schedule", "schedule_of", "warn_if_drowned"]

PRECISION: Final = 1e-7  # of the noise multiplier, on the safe side
VIEWS: Final = ("released", "server", "client", "unmasked")  # for which releases name an epsilon
DROWNED: Final = 0.5  # noise of all rounds over what they can move a model by: docs/neural-networks.md has the runs
_Planner = Callable[..., Plan]


class Payment(TypedDict, total=False):
    """What `Federation.release` is told of the price of one round."""

    share: float
    noise_multiplier: float


@dataclass(frozen=True)
class Schedule:
    """Equal rounds, and what they cost together; known before the first of them.

    Attributes:
        rounds: how many.
        sampling: of each round.
        noise_multiplier: standard deviation of a sum's noise over the clip; 0.0 without a budget, None where the
            federation says it only while it runs.
        epsilon: what these rounds cost in the guarded view, as the budget's accounting guarantees it, whatever is
            chosen on the way; infinity without a budget.
        tight_epsilon: what they cost if all was fixed in advance, by privacy loss distributions; None where unknown.
        delta, view: of the budget.
        payment: what each release is told.
        epsilons: view -> what these rounds cost in it; views without privacy are left out.
        n_coordinates: length of the vector that a round sums for the model.
        noise_ratio: length of the noise of a round's mean over the longest mean that there can be, the clip:
            `sqrt(n_coordinates) * standard deviation / clip`. None without noise, and where the number to divide by is
            not known yet.
        unit: what the budget protects; None without one.
        advice: what would spend the budget better, in words; empty if nothing is known to.
    """

    rounds: int
    sampling: Sampling
    noise_multiplier: float | None
    epsilon: float
    tight_epsilon: float | None
    delta: float | None
    view: str | None
    payment: Payment
    epsilons: Mapping[str, float] = field(default_factory=dict)
    n_coordinates: int = 0
    noise_ratio: float | None = None
    unit: str | None = None
    advice: str = ""

    @property
    def drowning(self) -> float | None:
        """Length of all rounds' noise together over that of all their means, if these are as long as they can be and
        all of one direction: `noise_ratio / sqrt(rounds)`. Above `DROWNED` accuracy falls fast.
        """  # fmt: skip
        return None if self.noise_ratio is None else self.noise_ratio / math.sqrt(self.rounds)

    def __str__(self) -> str:
        if self.delta is None:
            return f"{self.rounds} rounds without noise"
        tight = "" if self.tight_epsilon is None else f" (tight: {self.tight_epsilon:.4g})"
        noise = "of the federation's own choice" if self.noise_multiplier is None else f"{self.noise_multiplier:.4g}"
        ratio = "" if self.noise_ratio is None else f"; a round's noise is {self.noise_ratio:.3g} times the clip"
        return (
            f"{self.rounds} rounds at rate {self.sampling.rate:g} and noise {noise}: epsilon {self.epsilon:.4g}{tight}"
            f" at delta {self.delta:g} in view {self.view}{ratio}{self.advice and '; '}{self.advice}"
        )


def check_budget_for(federation: Federation, rate: float, noise_multiplier: float | None) -> None:
    """Refuse a budget that cannot count what record-level training with this rate spends.

    Raises:
        UsageError: with the remedy.
    """
    budget = federation.budget
    if budget is None:
        if noise_multiplier is not None:
            raise UsageError(
                f"noise_multiplier is {noise_multiplier!r}, but without a budget there is no noise: give the federation"
                " budget=privfed.Budget(...), or leave noise_multiplier out"
            )
        return
    if budget.unit != "record":
        raise UsageError(
            "FederatedSGD clips each record's gradient, its unit is a record, but the budget protects whole clients:"
            ' use Budget(..., unit="record"), or FederatedAveraging'
        )
    if rate < 1.0 and budget.accounting != "renyi":
        raise UsageError(
            f"sampling_rate is {rate:g}, and what secret samples save cannot be counted by exact Gaussian accounting:"
            ' use Budget(..., accounting="renyi"), or sampling_rate=1.0, which few rounds on all records make do with'
        )


def schedule_of(
    federation: Federation,
    query: Query,
    *,
    rounds: int,
    sampling: Sampling,
    noise_multiplier: float | None = None,
    share: float | None = None,
    reserved: float = 0.0,
    divisor: float | None = None,
) -> Schedule:
    """Return the schedule of `rounds` equal releases of `query`. Costs nothing.

    Args:
        federation: whose budget pays.
        query: of the layout that every round has.
        rounds: >= 1.
        sampling: of each round.
        noise_multiplier: to be kept; None for the least with which all rounds fit.
        share: part of the WHOLE budget that the rounds may cost; None for all that is left, less `reserved`.
        reserved: part of the whole budget to be left for others.
        divisor: of the sums; None where it is not known yet.

    Raises:
        UsageError: the rounds do not fit, or no plan can be made; nothing was charged.
    """
    budget = federation.budget
    if budget is None:
        return Schedule(rounds, sampling, 0.0, math.inf, None, None, None, Payment())
    left = federation.remaining_share - reserved
    if share is None and left < LEAST_SHARE:
        raise UsageError(nothing_left(federation, reserved))
    part = left if share is None else share
    if not 0.0 < part <= left * (1.0 + 1e-9):
        raise UsageError(
            f"training is to cost {part:.3g} of the budget of {budget}, of which {max(left, 0.0):.3g} is left for it:"
            " ask for less, or start with a larger budget"
        )
    plan: _Planner | None = getattr(federation, "plan", None)
    if plan is None:
        payment = (
            Payment(share=part / rounds) if noise_multiplier is None else Payment(noise_multiplier=noise_multiplier)
        )
        return Schedule(rounds, sampling, noise_multiplier, math.inf, None, budget.delta, str(budget.view), payment)

    def entry(multiplier: float) -> RoundPlan:
        made = plan(query, noise_multiplier=multiplier, sampling=sampling)
        return round_plan(made, run="", purpose="", query=query.kind, query_digest=bytes(32), noise_source="os")

    def cost(multiplier: float) -> Total:
        return Total.of([entry(multiplier).charge(budget.view)]).times(rounds)

    multiplier = noise_multiplier
    if multiplier is None:
        multiplier = _least(federation, budget, cost, entry, limit=min(1.0, 1.0 - left - reserved + part))
    elif exceeded(federation.ledger.spent() + cost(multiplier), budget):
        epsilon = cost(multiplier).epsilon(budget.delta)
        raise UsageError(
            f"{rounds} rounds with noise_multiplier={multiplier:g} cost epsilon {epsilon:.4g}, and {left:.3g} of the"
            f" budget of {budget} is left: more noise, fewer rounds, or noise_multiplier=None for the least that fits"
        )
    return fixed_schedule(
        federation,
        query,
        rounds=rounds,
        sampling=sampling,
        payment=Payment(noise_multiplier=multiplier),
        block="gradient",
        divisor=divisor,
    )


def fixed_schedule(
    federation: Federation,
    query: Query,
    *,
    rounds: int,
    sampling: Sampling | None,
    payment: Payment,
    block: str,
    divisor: float | None,
) -> Schedule:
    """Return what `rounds` releases of `query` at this price cost and carry. Costs nothing.

    Args:
        federation: whose budget pays.
        query: of the layout that every round has.
        rounds: >= 1.
        sampling: of each round; None leaves it to the federation.
        payment: what each release is told.
        block: of the query that moves the model.
        divisor: of its sums; None where it is not known yet.
    """
    scale = next(one.bound for one in query.blocks if one.name == block)
    size = math.prod(next(one.shape for one in query.blocks if one.name == block))
    budget, plan = federation.budget, getattr(federation, "plan", None)
    chosen = Sampling.none() if sampling is None else sampling
    if budget is None:
        return Schedule(rounds, chosen, 0.0, math.inf, None, None, None, Payment(), n_coordinates=size)
    if plan is None:
        multiplier = payment.get("noise_multiplier")
        return Schedule(rounds, chosen, multiplier, math.inf, None, budget.delta, str(budget.view), payment)
    made: Plan = plan(query, **payment, sampling=sampling)
    chosen = made.terms.sampling.sampling()
    one = round_plan(made, run="", purpose="", query=query.kind, query_digest=bytes(32), noise_source="os")
    times = chosen.participations(rounds)
    found = {}
    for view in dict.fromkeys((*VIEWS, str(budget.view))):
        epsilon = Total.of([one.charge(view)]).times(times).epsilon(budget.delta)
        if math.isfinite(epsilon):
            found[view] = epsilon
    bounds = schedule_bounds([(one, None, times)], budget.view, budget.delta, two_sided=False)
    std = query.layout.noise_std(made.noise_std(made.terms.guaranteed))[block]
    return Schedule(
        rounds=rounds,
        sampling=chosen,
        noise_multiplier=made.terms.noise_multiplier,
        epsilon=found.get(str(budget.view), math.inf),
        tight_epsilon=None if bounds is None else bounds.upper,
        delta=budget.delta,
        view=str(budget.view),
        payment=payment,
        epsilons=found,
        n_coordinates=size,
        unit=budget.unit,
        noise_ratio=None if divisor is None else math.sqrt(size) * std / (divisor * scale),
    )


def warn_if_drowned(schedule: Schedule, *, remedy: str) -> None:
    """Say so, before anything is spent, where noise leaves a network next to nothing to learn from."""
    drowning = schedule.drowning
    if drowning is None or schedule.noise_ratio is None or drowning <= DROWNED:
        return
    warn_caller(
        f"noise will drown what the model could learn: over {schedule.rounds} rounds of {schedule.n_coordinates}"
        f" coordinates it is {drowning:.3g} times as long as the furthest that clipped updates can move the model, and"
        f" beyond {DROWNED:g} accuracy falls fast. Use {remedy}, or a larger epsilon; plan(federation) tells the noise"
        " beforehand, at no cost"
    )


def _least(
    federation: Federation,
    budget: Budget,
    cost: Callable[[float], Total],
    entry: Callable[[float], RoundPlan],
    *,
    limit: float,
) -> float:
    """Return the least multiplier with which a ledger that goes on as it stands stays within `limit` of its budget."""
    spent = federation.ledger.spent()

    def fits(multiplier: float) -> bool:
        try:
            total = spent + cost(multiplier)
        except UsageError:  # no grid holds so little noise, or so much
            return False
        return spent_share(total, budget) <= limit and not exceeded(total, budget)

    try:
        return least_multiplier(fits, precision=PRECISION)
    except ParameterError as error:
        entry(1.0)  # says why no plan can be made, if that is it
        raise UsageError(f"no noise makes these rounds fit what is left of the budget of {budget}: {error}") from error
