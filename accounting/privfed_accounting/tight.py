"""The tight estimate beside the guaranteed epsilon: exact for Gaussian rounds, by privacy losses for sampled ones.

It holds for the rounds as they stand, had their schedule been fixed before the first answer. The guaranteed epsilon is
what a budget enforces, whatever was chosen on the way; the distance between the two is the price of that, and of the
conversion from Renyi divergences.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable

from privfed_accounting.charge import Charge, Total
from privfed_accounting.records import RoundRecord, seen_view
from privfed_accounting.round_charge import hides_sample, unknown_noise
from privfed_accounting.views import View

# Different (noise, rate) pairs to transform, at about 20 ms each; beyond it no estimate is given.
MOST_KINDS = 200


def tight_epsilon(records: Iterable[RoundRecord], view: View, delta: float, *, realised: bool = False) -> float | None:
    """Tight epsilon at delta of a ledger's rounds in a view, all error terms counted; None where none is known.

    Args:
        records: rounds as in `Ledger.rounds`; void ones cost nothing.
        view: whose eyes; of trusted rounds the operator's are those of the view `unmasked`.
        delta: 0 < delta < 1.
        realised: with the survivors there were.

    Returns:
        Upper bound by privacy-loss distributions; for unsampled Gaussian rounds the exact value. None with Skellam
        noise, whose tight composition is not known here, and with more than 200 kinds of sampled rounds. Infinity
        where a round was not private, or delta is below what the method can tell.
    """
    charged = [record for record in records if record.status != "void"]
    charges = [record.charge(seen_view(record.plan, view), realised=realised) for record in charged]
    if not all(charge.private for charge in charges):
        return math.inf
    if any(record.plan.mechanism == "skellam" for record in charged):
        return None
    if not any(charge.rdp for charge in charges):
        return Total.of(charges).epsilon(delta)
    kinds = collections.Counter(_kind(record, view, realised=realised) for record in charged)
    if len(kinds) > MOST_KINDS:
        return None
    return _by_losses(kinds, Total.of(_terms_only(charge) for charge in charges), delta)


Kind = tuple[float, float, bool]  # rate, mu, cohorts of fixed size


def _kind(record: RoundRecord, view: View, *, realised: bool) -> Kind:
    plan, seen = record.plan, seen_view(record.plan, view)
    survivors = record.survivors if realised or record.broke_guarantee else None
    mu = plan.l2_sensitivity / math.sqrt(unknown_noise(plan, seen, survivors).variance)
    if not hides_sample(plan, seen):
        return 1.0, mu, False
    return plan.sampling.rate, mu, plan.sampling.kind == "fixed_size"


def _terms_only(charge: Charge) -> Charge:
    return Charge(0.0, charge.epsilon_slack, charge.delta_tail, charge.sampler_distance)


def _by_losses(kinds: dict[Kind, int], terms: Total, delta: float) -> float:
    """Epsilon of the ideal rounds at what the error terms leave of delta, and their slack."""
    from privfed_accounting.pld import LossLedger

    ledger = LossLedger()
    for (rate, mu, replacing), rounds in sorted(kinds.items()):
        ledger.compose(rate=rate, mu=mu, rounds=rounds, replacing=replacing)
    slack, epsilon = terms.epsilon_slack, 0.0
    for _ in range(20):  # what the terms take grows with epsilon, which grows with what they take
        factor = math.exp(min(epsilon, 700.0))
        room = (delta - factor * terms.delta_tail - (1.0 + factor) * terms.sampler_distance) * math.exp(-slack)
        if not room > 0.0:
            return math.inf
        found = slack + ledger.epsilon(room)
        if found <= epsilon or not math.isfinite(found):
            return found
        epsilon = found * (1.0 + 1e-12)
    return math.inf
