"""Ledgers to report on, each with one thing in it that a reader must be told."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from privfed_accounting import Budget, GuaranteeBroken, Ledger, RoundPlan, calibrate_mu2, report_data

BUDGET = Budget(epsilon=4.0, delta=1e-5)
SENSITIVITY = 2.0**30
HOSTILE = "<script>alert('x')</script>&amp;\"'\u202e\x07\ud800"


def clock() -> Callable[[], datetime.datetime]:
    """A clock that ticks a second at every look."""
    moments = iter(
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=s) for s in range(10**6)
    )
    return lambda: next(moments)


def plan(rounds: int, **changes: Any) -> RoundPlan:
    """One of `rounds` equal rounds that spend `BUDGET`: 20 clients, 16 of them guaranteed."""
    mu2 = calibrate_mu2(BUDGET.epsilon, BUDGET.delta) / rounds
    base = RoundPlan(
        run="digits",
        purpose="mixture: stage two",
        query="mixture statistics",
        mechanism="discrete_gaussian",
        protection="secure_aggregation",
        unit="record",
        l2_sensitivity=SENSITIVITY,
        dimension=127,
        scale=SENSITIVITY,
        bits=64,
        share_sigma=SENSITIVITY / math.sqrt(16 * mu2) * (1 + 1e-12),
        planned_shares=20,
        guaranteed_shares=16,
        plan_digest="ab" * 32,
        query_digest="cd" * 32,
        software="privfed 0",
    )
    return dataclasses.replace(base, **changes)


def fill(ledger: Ledger, rounds: int, *, survivors: int = 19, **changes: Any) -> None:
    """Reserve and settle `rounds` rounds."""
    for _ in range(rounds):
        entry = ledger.reserve(plan(rounds, **changes))
        ledger.settle(entry, participants=19, survivors=survivors, bytes_up=123_456)


def make(path: Path | None = None, rounds: int = 12, **changes: Any) -> Ledger:
    """Return a settled ledger that spends the whole budget."""
    ledger = Ledger.open(path, budget=BUDGET, clock=clock())
    fill(ledger, rounds, **changes)
    return ledger


def break_guarantee(ledger: Ledger, *, of: int, survivors: int) -> None:
    """Open a sum with fewer noise shares than its plan guaranteed; the round costs a share `1/of` of the budget."""
    entry = ledger.reserve(plan(of))
    with contextlib.suppress(GuaranteeBroken):
        ledger.settle(entry, participants=19, survivors=survivors, bytes_up=1)


@lru_cache(maxsize=8)
def _cached(rounds: int, changes: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    with make(None, rounds, **dict(changes)) as ledger:
        return report_data(ledger)


def data(rounds: int = 12, **changes: Any) -> dict[str, Any]:
    """Return report data of a ledger in memory; do not change them."""
    return _cached(rounds, tuple(sorted(changes.items())))
