"""The tight estimate beside the guaranteed epsilon, for a ledger's rounds as they stand.

It holds for a schedule that was fixed before its first answer. The guaranteed epsilon is what a budget enforces,
whatever was chosen on the way; the distance between the two is the price of that and of Renyi accounting.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Final

from privfed_accounting.fixed_schedule import schedule_bounds
from privfed_accounting.pld import Bracket
from privfed_accounting.records import RoundRecord, seen_view
from privfed_accounting.round_plan import RoundPlan
from privfed_accounting.views import View

# Kinds of sampled rounds to transform, at some 20 ms each; beyond it no estimate is given.
MOST_KINDS: Final = 200


def tight_bounds(records: Iterable[RoundRecord], view: View, delta: float) -> Bracket | None:
    """Lower and upper bound on epsilon at delta in a view, of rounds fixed in advance, at their guaranteed cost.

    Args:
        records: rounds as in `Ledger.rounds`; void ones cost nothing.
        view: whose eyes; of trusted rounds the operator's are those of the view `unmasked`.
        delta: 0 < delta < 1.

    Returns:
        None where no tight method is known (`schedule_bounds`) or there are more than 200 kinds of sampled rounds.
    """
    kinds: collections.Counter[tuple[RoundPlan, View, int | None]] = collections.Counter()
    for record in records:
        if record.status != "void":
            survivors = record.survivors if record.broke_guarantee else None
            kinds[_wordless(record.plan), seen_view(record.plan, view), survivors] += 1
    views = {seen for _, seen, _ in kinds}
    sampled = sum(plan.sampling.kind != "none" for plan, _, _ in kinds)
    if len(views) > 1 or sampled > MOST_KINDS:
        return None  # trusted and masked rounds in one ledger: two adversaries' knowledge, and no one schedule
    seen = views.pop() if views else view
    return schedule_bounds(((plan, survivors, count) for (plan, _, survivors), count in kinds.items()), seen, delta)


def _wordless(plan: RoundPlan) -> RoundPlan:
    """The plan without what has no bearing on its cost, so that equal rounds are counted together."""
    return dataclasses.replace(plan, run="", purpose="", query="", plan_digest="", query_digest="", software="")
