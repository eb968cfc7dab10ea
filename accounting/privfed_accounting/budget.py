"""A budget (epsilon, delta, unit, relation, view), and the noise it affords."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from privfed_accounting.charge import Total, leaked
from privfed_accounting.errors import ParameterError
from privfed_accounting.gaussian import gaussian_mu
from privfed_accounting.rdp import ORDERS, FloatArray
from privfed_accounting.views import View

Unit = Literal["record", "client"]
Accounting = Literal["gaussian", "renyi"]
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
        accounting: how the filter counts. "gaussian": exactly, and rounds that are no plain Gaussians (Skellam noise,
            sampled rounds in views that do not see the sample) are refused. "renyi": any round, by its Renyi
            divergences; costs plain Gaussians some 12 % more noise.
        relation: always "add/remove": a unit is present or absent (its contribution zero).

    >>> Budget(epsilon=4.0, delta=1e-6).view
    View(kind='server', t=0)
    """

    epsilon: float
    delta: float
    unit: Unit = "record"
    view: View = field(default_factory=lambda: View("server"))
    slack_reserve: float | None = None
    accounting: Accounting = "gaussian"

    def __init__(
        self,
        epsilon: float,
        delta: float,
        unit: Unit = "record",
        view: str | View = "server",
        *,
        slack_reserve: float | None = None,
        accounting: Accounting = "gaussian",
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
        if accounting not in ("gaussian", "renyi"):
            raise ParameterError(f"accounting of a budget is {accounting!r}, expected 'gaussian' or 'renyi'")
        set_field(self, "accounting", accounting)

    @property
    def relation(self) -> str:
        """Neighbouring relation: always add/remove of one unit."""
        return RELATION

    def allowance(self) -> Allowance:
        """Caps that this budget puts on a ledger."""
        slack = default_slack_reserve(self.epsilon) if self.slack_reserve is None else self.slack_reserve
        return allowance(self.epsilon, self.delta, slack_reserve=slack, accounting=self.accounting)

    def __str__(self) -> str:
        how = "" if self.accounting == "gaussian" else f", {self.accounting} accounting"
        return f"epsilon {self.epsilon:g}, delta {self.delta:g}, unit {self.unit} ({RELATION}), view {self.view}{how}"

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON; `accounting`, later than schema version 1, only where it is not "gaussian"."""
        fields = {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "unit": self.unit,
            "relation": self.relation,
            "view": str(self.view),
            "slack_reserve": self.slack_reserve,
        }
        return fields if self.accounting == "gaussian" else {**fields, "accounting": self.accounting}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Budget:
        """Read back what `as_dict` gave; whatever would read back differently is a ParameterError."""
        known = ("epsilon", "delta", "unit", "view", "slack_reserve", "accounting")
        try:
            budget = cls(**{name: fields[name] for name in known if name in fields})
        except TypeError as error:
            raise ParameterError(f"a budget lacks a field, found {sorted(fields)}") from error
        if budget.as_dict() != fields:
            raise ParameterError(f"a budget reads back differently, found {fields}, expected {budget.as_dict()}")
        return budget


def default_slack_reserve(epsilon: float) -> float:
    """Part of epsilon that a budget keeps for the grid's error terms unless told otherwise."""
    return min(SLACK_RESERVE + SLACK_RESERVE_SHARE * epsilon, 0.1 * epsilon)


def allowance(
    epsilon: float, delta: float, *, slack_reserve: float | None = None, accounting: Accounting = "gaussian"
) -> Allowance:
    """Turn (epsilon, delta) into caps such that any total under all three is (epsilon, delta)-DP."""
    epsilon = _number(epsilon, "epsilon", least=0.0, below=math.inf)
    delta = _number(delta, "delta", least=_LEAST_DELTA, below=1.0)
    slack = default_slack_reserve(epsilon) if slack_reserve is None else slack_reserve
    if not 0.0 <= slack < epsilon:
        raise ParameterError(f"slack_reserve is {slack!r}, expected 0 <= reserve < epsilon = {epsilon!r}")
    gaussian = delta * (1.0 - DELTA_RESERVE_SHARE) * math.exp(-slack) * (1.0 - 1e-12)
    ideal = (epsilon - slack) * (1.0 - 1e-15)
    if accounting == "gaussian":
        cap = gaussian_mu(ideal, gaussian) ** 2 * (1.0 - 1e-14)
    else:
        cap = 2.0 * float(np.max(renyi_caps(ideal, gaussian) / np.array(ORDERS))) * (1.0 - 1e-14)
    return Allowance(
        mu2=cap * (1.0 - _ROUNDING_HAIR),
        mu2_cap=cap,
        epsilon_slack=slack,
        delta_leak=delta * DELTA_RESERVE_SHARE * (1.0 - 1e-12),
    )


def leak(total: Total, epsilon: float) -> float:
    """What counts against `delta_leak`: exp(epsilon) * tails + (1 + exp(epsilon)) * distances, rounded up."""
    tail, distance = total.delta_tail, total.sampler_distance
    return leaked(epsilon, tail=tail, distance=distance) if total.private or tail == distance == 0.0 else math.inf


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


def renyi_caps(epsilon: float, delta: float) -> FloatArray:
    """Caps on the Renyi divergence at each of `ORDERS`: whichever holds in the end, the whole is (epsilon, delta)-DP.

    Which order will be the one that holds may depend on the answers, so that each gets a part of delta fixed
    beforehand: the largest part for the order that is best for Gaussian rounds, falling with the squared distance from
    it along the list (accounting/README.md, "Filters"). Orders at which nothing could be spent have a cap of 0.
    """
    orders = np.array(ORDERS, dtype=np.float64)
    offsets = np.log1p(-1.0 / orders) - np.log(orders) / (orders - 1.0)

    def caps(weights: FloatArray) -> FloatArray:
        return epsilon + (np.log(delta * weights)) / (orders - 1.0) - offsets

    best = int(np.argmax(caps(np.ones_like(orders)) / orders))
    weights = 1.0 / (1.0 + np.abs(np.arange(orders.size) - best)) ** 2
    return np.asarray(np.maximum(caps(weights / (weights.sum() * (1.0 + 1e-12))) * (1.0 - 1e-12) - 1e-13, 0.0))


def _number(value: float, name: str, *, least: float, below: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least < value < below:
        limit = "" if below == math.inf else f" and < {below:g}"
        raise ParameterError(f"{name} is {value!r}, expected a number > {least:g}{limit}")
    return float(value)
