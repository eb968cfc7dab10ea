"""Rounds to account for, and a clock that can be read off."""

from __future__ import annotations

import datetime
import math
from typing import Any

from privfed_accounting import Budget, RoundPlan

BUDGET = Budget(4.0, 1e-6)
SIGMA = 2.0**24  # of the sum, in grid steps


def plan(*, mu2: float = 0.01, shares: int = 35, planned: int = 50, sigma: float = SIGMA, **changes: Any) -> RoundPlan:
    """A round that costs `mu2` to a view that knows none of `shares` guaranteed shares."""
    fields: dict[str, Any] = {
        "run": "run-1",
        "purpose": "mean",
        "query": "moments",
        "mechanism": "discrete_gaussian",
        "protection": "secure_aggregation",
        "unit": "record",
        "l2_sensitivity": math.sqrt(mu2) * sigma,
        "dimension": 100,
        "scale": 2.0**20,
        "bits": 64,
        "share_sigma": sigma / math.sqrt(shares),
        "planned_shares": planned,
        "guaranteed_shares": shares,
        "plan_digest": "ab" * 32,
        "query_digest": "cd" * 32,
        "software": "privfed 0",
    }
    return RoundPlan(**{**fields, **changes})


def open_plan(**changes: Any) -> RoundPlan:
    """A round without noise."""
    bare = {"mechanism": "none", "share_sigma": 0.0, "l2_sensitivity": 0.0}
    return plan(**{**bare, **changes})


class Clock:
    """A second later at every call."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2025, 1, 31, 12, 0, 0, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        self.now += datetime.timedelta(seconds=1)
        return self.now
