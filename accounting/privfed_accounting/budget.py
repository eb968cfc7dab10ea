"""A budget (epsilon, delta, unit, relation, view), and the noise it affords."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import Final, Literal

from privfed_accounting.charge import Total
from privfed_accounting.errors import ParameterError
from privfed_accounting.gaussian import gaussian_mu
from privfed_accounting.views import View

Unit = Literal["record", "client"]
RELATION: Final = "add/remove"

# What a budget keeps back, so that error terms never meet a budget spent to the last bit. The slack covers 10 000
# rounds of dimension 10^6 at sigma = 2^24 (3e-6) three times over; a coarser grid needs a larger reserve.
SLACK_RESERVE: Final = 1e-5
SLACK_RESERVE_SHARE: Final = 1e-4
DELTA_RESERVE_SHARE: Final = 1e-4

# Smaller deltas are on the edge of what floats hold with all their digits.
_LEAST_DELTA: Final = 1e-300

# Callers divide the allowed mu^2 into shares; their rounding must not cost them the last round.
_ROUNDING_HAIR: Final = 2.0**-30


@dataclass(frozen=True)
class Allowance:
    """The three caps a budget turns into; a ledger accepts a round if and only if all three hold afterwards.

    Three caps rather than one joint test, because rounds may be chosen after seeing earlier answers: the theorem for
    adaptively chosen Gaussian rounds needs a cap on mu^2 that does not itself depend on what was seen.

    Attributes:
        mu2: what callers may plan to spend.
        mu2_cap: what the ledger enforces, 1e-9 larger.
        epsilon_slack: cap on the sum of slacks.
        delta_leak: cap on exp(epsilon) * tails + (1 + exp(epsilon)) * distances.
    """

    mu2: float
    mu2_cap: float
    epsilon_slack: float
    delta_leak: float


@dataclass(frozen=True)
class Budget:
    """How much one unit's privacy may suffer in all, and in whose eyes.

    Attributes:
        epsilon: > 0.
        delta: 1e-300 < delta < 1.
        unit: "record" (one row at one client) or "client" (one client's whole contribution).
        view: the adversary the budget guards against; the noise is sized and rounds are refused in this view.
        slack_reserve: part of epsilon kept for the grid's error terms; None takes 1e-5 + 1e-4 epsilon, at most a tenth
            of epsilon.
        relation: always "add/remove": a unit is present or absent (its contribution zero).

    >>> Budget(epsilon=4.0, delta=1e-6).view
    View(kind='server', t=0)
    """

    epsilon: float
    delta: float
    unit: Unit = "record"
    view: View = field(default_factory=lambda: View("server"))
    slack_reserve: float | None = None

    def __init__(
        self,
        epsilon: float,
        delta: float,
        unit: Unit = "record",
        view: str | View = "server",
        *,
        slack_reserve: float | None = None,
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "epsilon", _number(epsilon, "epsilon", least=0.0, below=math.inf))
        set_field(self, "delta", _number(delta, "delta", least=_LEAST_DELTA, below=1.0))
        if unit not in ("record", "client"):
            raise ParameterError(f"unit is {unit!r}, expected 'record' or 'client'")
        set_field(self, "unit", unit)
        set_field(self, "view", View.parse(view))
        if slack_reserve is not None:
            slack_reserve = _number(slack_reserve, "slack_reserve", least=0.0, below=self.epsilon)
        set_field(self, "slack_reserve", slack_reserve)

    @property
    def relation(self) -> str:
        """Neighbouring relation: always add/remove of one unit."""
        return RELATION

    def allowance(self) -> Allowance:
        """Caps that this budget puts on a ledger."""
        slack = default_slack_reserve(self.epsilon) if self.slack_reserve is None else self.slack_reserve
        return allowance(self.epsilon, self.delta, slack_reserve=slack)

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g}, delta {self.delta:g}, unit {self.unit} ({RELATION}), view {self.view}"


def default_slack_reserve(epsilon: float) -> float:
    """Part of epsilon that a budget keeps for the grid's error terms unless told otherwise."""
    return min(SLACK_RESERVE + SLACK_RESERVE_SHARE * epsilon, 0.1 * epsilon)


def allowance(epsilon: float, delta: float, *, slack_reserve: float | None = None) -> Allowance:
    """Turn (epsilon, delta) into caps such that any total under all three is (epsilon, delta)-DP."""
    epsilon = _number(epsilon, "epsilon", least=0.0, below=math.inf)
    delta = _number(delta, "delta", least=_LEAST_DELTA, below=1.0)
    slack = default_slack_reserve(epsilon) if slack_reserve is None else slack_reserve
    if not 0.0 <= slack < epsilon:
        raise ParameterError(f"slack_reserve is {slack!r}, expected 0 <= reserve < epsilon = {epsilon!r}")
    gaussian = delta * (1.0 - DELTA_RESERVE_SHARE) * math.exp(-slack) * (1.0 - 1e-12)
    cap = gaussian_mu((epsilon - slack) * (1.0 - 1e-15), gaussian) ** 2 * (1.0 - 1e-14)
    return Allowance(
        mu2=cap * (1.0 - _ROUNDING_HAIR),
        mu2_cap=cap,
        epsilon_slack=slack,
        delta_leak=delta * DELTA_RESERVE_SHARE * (1.0 - 1e-12),
    )


def leak(total: Total, epsilon: float) -> float:
    """What counts against `delta_leak`: exp(epsilon) * tails + (1 + exp(epsilon)) * distances, rounded up."""
    if total.delta_tail == 0.0 and total.sampler_distance == 0.0:
        return 0.0
    if epsilon > 700.0 or not total.private:
        return math.inf
    factor = math.exp(epsilon)
    return (factor * total.delta_tail + (1.0 + factor) * total.sampler_distance) * (1.0 + 1e-13)


def calibrate_mu2(epsilon: float, delta: float, *, slack_reserve: float | None = None) -> float:
    """Sum of mu^2 that a budget affords, rounded down, with a hair kept for slack and tails.

    Args:
        epsilon: > 0.
        delta: 0 < delta < 1.
        slack_reserve: part of epsilon kept for the grid's error terms; None takes 1e-5 + 1e-4 epsilon.

    Guarantees:
        A ledger with this budget accepts rounds whose mu^2 sum to exactly this value, if their grid is fine enough:
        10 000 rounds of dimension 10^6 at a noise of 2^24 grid steps use a third of the reserve.

    >>> round(calibrate_mu2(4.0, 1e-6) ** 0.5, 3)
    0.838
    """
    return allowance(epsilon, delta, slack_reserve=slack_reserve).mu2


def calibrate(
    epsilon: float,
    delta: float,
    rounds: int,
    view: str | View = "released",
    *,
    shares: int,
    slack_reserve: float | None = None,
) -> float:
    """Noise multiplier of each round's sum that makes `rounds` equal rounds spend exactly the budget in a view.

    Args:
        epsilon: > 0.
        delta: 0 < delta < 1.
        rounds: >= 1.
        view: whose eyes the budget guards against.
        shares: noise shares in each sum, as few as the plan lets survive.
        slack_reserve: as in `calibrate_mu2`.

    Returns:
        Standard deviation of the noise of the whole sum of `shares` shares, over the L2 sensitivity; each share
        carries this over sqrt(shares). Rounded up.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ParameterError(f"rounds is {rounds!r}, expected an integer >= 1")
    if isinstance(shares, bool) or not isinstance(shares, int) or shares < 1:
        raise ParameterError(f"shares is {shares!r}, expected an integer >= 1")
    unknown = View.parse(view).noise_shares(shares)
    if unknown == 0:
        raise ParameterError(f"in view {view} none of {shares} noise shares is unknown: raise the number of survivors")
    mu2 = calibrate_mu2(epsilon, delta, slack_reserve=slack_reserve) / rounds
    return math.sqrt(shares / (unknown * mu2)) * (1.0 + 1e-15)


def _number(value: float, name: str, *, least: float, below: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least < value < below:
        limit = "" if below == math.inf else f" and < {below:g}"
        raise ParameterError(f"{name} is {value!r}, expected a number > {least:g}{limit}")
    return float(value)
