"""What no federation does, and no preview promises: budgets beyond counting, samples that show who is missing."""

from __future__ import annotations

import math
from typing import Final

from privfed.errors import UsageError
from privfed.plan.terms import tolerated_losses
from privfed_accounting import Budget, Sampling, View

__all__ = ["check_budget", "check_colluders", "check_sample"]

MAX_EPSILON: Final = 35.0  # e^35 times the sampler's 2^-112 a draw: a billion draws fit into a delta of 1e-5

TOO_SMALL: Final = 1e-6  # of delta: chance that a Poisson cohort is too small to be summed, beyond which it is refused


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


def check_colluders(view: View, guaranteed: int) -> None:
    """Refuse a guarded coalition from which secure aggregation with `guaranteed` survivors keeps nothing secret.

    Raises:
        UsageError: with the remedy.
    """
    if view.t > guaranteed - 2:
        raise UsageError(
            f"view {view}: {guaranteed} guaranteed survivors keep a secret from at most {max(guaranteed - 2, 0)}"
            " colluders; bring more clients, or tolerate fewer losses"
        )


def check_sample(sampling: Sampling, *, clients: int, dropout: float, budget: Budget | None) -> None:
    """Refuse sampling that a federation of `clients` cannot do.

    A Poisson cohort too small to be summed would show that a client is missing from it; where samples are to hide who
    is in them, that must hardly ever happen.

    Args:
        sampling: who takes part.
        clients: in the federation.
        dropout: fraction of a release's clients that may be lost.
        budget: whose unit and delta decide; None for sums without noise.

    Raises:
        UsageError: with the remedy.
    """
    if not isinstance(sampling, Sampling):
        raise UsageError(f'sampling is {sampling!r}, expected privfed.Sampling.poisson(0.1, unit="record") or the like')
    if sampling.kind == "none":
        return
    if sampling.unit == "record":
        if sampling.kind != "poisson":
            raise UsageError(
                f"records are sampled by Poisson coins only, found {sampling.kind!r}: use Sampling.poisson"
            )
        if budget is not None and budget.unit != "record":
            raise UsageError("sampled records amplify nothing for unit 'client': sample clients, or nothing")
    elif sampling.kind != "poisson":
        _check_cohorts(sampling, clients, dropout)
    elif budget is not None:
        _check_rate(sampling.rate, clients, TOO_SMALL * budget.delta)


def _check_cohorts(sampling: Sampling, clients: int, dropout: float) -> None:
    if sampling.population != clients:
        raise UsageError(
            f"the sampling is of {sampling.population} clients, the federation has {clients}: use that population"
        )
    smallest = clients // sampling.period if sampling.kind == "round_robin" else sampling.size
    if smallest - tolerated_losses(smallest, dropout) < 2:
        raise UsageError(f"cohorts of {smallest} clients may leave fewer than 2 of them: sample more")


def _check_rate(rate: float, clients: int, allowed: float) -> None:
    others = clients - 1
    if _risk(rate, others) <= allowed:
        return
    least = _least_rate(others, allowed)
    remedy = "bring more clients" if least is None else f"raise the rate to {least:.4g} at least"
    raise UsageError(
        f"a Poisson sample of {clients} clients at rate {rate:g} has fewer than 2 with probability"
        f" {_risk(rate, others):.2g}, too often to hide who is in it (at most {allowed:.2g}): {remedy},"
        " or use Sampling.fixed_size"
    )


def _risk(rate: float, others: int) -> float:
    """Return the probability that fewer than 2 of a client's `others` are drawn."""
    return (1.0 - rate) ** others + others * rate * (1.0 - rate) ** (others - 1)


def _least_rate(others: int, allowed: float) -> float | None:
    """Return the least rate of four digits whose risk is allowed; None if every rate's is too large.

    The risk falls in the rate, for it is the lower tail of a binomial.
    """
    if _risk(1.0, others) > allowed:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if _risk(middle, others) <= allowed else (middle, high)
    digits = 3 - math.floor(math.log10(high))
    return min(1.0, math.ceil(high * 10.0**digits) / 10.0**digits)
