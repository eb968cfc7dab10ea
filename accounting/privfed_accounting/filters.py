"""The rule of a budget, in one place: what a total exceeds, and what part of a budget a charge takes.

Every cap is fixed before the first answer, so that the rule is a privacy filter: it holds although each round may be
chosen after seeing the answers to those before it (accounting/README.md, "Filters").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from privfed_accounting.budget import DELTA_RESERVE_SHARE, Allowance, Budget, leak, renyi_caps
from privfed_accounting.charge import Charge, Total
from privfed_accounting.rdp import ORDERS, FloatArray


@dataclass(frozen=True)
class Excess:
    """One cap that a total does not keep: what, how much it would be, the cap, and what to do."""

    what: str
    used: float
    cap: float
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} would be {self.used:.6g} of {self.cap:.6g}"


def exceeded(total: Total, budget: Budget, caps: Allowance | None = None) -> tuple[Excess, ...]:
    """Caps that a total exceeds; none: the budget covers it.

    Args:
        total: all charges in the budget's view, the one in question included.
        budget: whose rule it is.
        caps: as they stand in a ledger; the budget's own if None.
    """
    caps = budget.allowance() if caps is None else caps
    spend = _renyi(total, budget, caps) if budget.accounting == "renyi" else _gaussian(total, caps)
    rest = (
        Excess(
            "grid slack", total.epsilon_slack, caps.epsilon_slack, "take a finer grid, or a budget with slack_reserve="
        ),
        Excess("tails and sampler distance", leak(total, budget.epsilon), caps.delta_leak, "take a larger delta"),
    )
    # Written so that a number that is none counts as an excess.
    return tuple(each for each in (*spend, *rest) if not each.used <= each.cap)


def share_of(charge: Charge, budget: Budget) -> float:
    """Part of a budget that a charge takes: charges whose parts sum to at most 1 are accepted, error terms aside.

    Infinite for a charge that the budget can never cover.
    """
    caps = budget.allowance()
    if budget.accounting == "gaussian":
        return math.inf if charge.rdp else charge.mu2 / caps.mu2_cap
    limits = _limits(budget, caps)
    best = int(np.argmax(limits / np.array(ORDERS)))
    return float(Total.of([charge]).joint_rdp[best] / limits[best])


def spent_share(total: Total, budget: Budget, caps: Allowance | None = None) -> float:
    """Part of a budget that a total has spent, as its filter counts, error terms aside; at most 1 while it is kept.

    With "renyi" accounting that of the order which has spent the least, as one order that keeps its cap is enough.
    Rounds cost other orders more: what is left need not buy a round of that `share_of`.

    Args:
        total, budget, caps: as in `exceeded`.

    Returns:
        0 or more; infinite where a round was not private, or is of a kind that the budget cannot count.
    """
    caps = budget.allowance() if caps is None else caps
    if budget.accounting == "renyi":
        (spend,) = _renyi(total, budget, caps)
        return spend.used
    return math.inf if total.rdp else total.mu2 / caps.mu2_cap


def _gaussian(total: Total, caps: Allowance) -> tuple[Excess, ...]:
    excess = Excess("mu^2", total.mu2, caps.mu2_cap, "stop here, raise the noise, or start with a larger budget")
    if not total.rdp:
        return (excess,)
    remedy = "rounds with Skellam noise or hidden samples need a budget with accounting='renyi'"
    return (excess, Excess("Renyi divergence beside exact Gaussians", max(total.rdp), 0.0, remedy))


def _renyi(total: Total, budget: Budget, caps: Allowance) -> tuple[Excess, ...]:
    limits, spent = _limits(budget, caps), total.joint_rdp
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(limits > 0.0, spent / limits, math.inf)
    used = 0.0 if not spent.any() else float(np.min(part))
    remedy = "stop here, raise the noise, or start with a larger budget"
    return (Excess("part of the Renyi divergence", used, 1.0, remedy),)


def _limits(budget: Budget, caps: Allowance) -> FloatArray:
    slack = caps.epsilon_slack
    delta = budget.delta * (1.0 - DELTA_RESERVE_SHARE) * math.exp(-slack) * (1.0 - 1e-12)
    return renyi_caps((budget.epsilon - slack) * (1.0 - 1e-15), delta)
