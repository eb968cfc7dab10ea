"""The ledger as dp-accounting events, so that another library's accountant can be asked (extra `verify`).

dp-accounting knows nothing of grids and samplers: it is handed each round's plain mechanism, and its epsilon is
compared with ours without the error terms; ours with them is larger by what `error_terms` of the report states.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from privfed_accounting.charge import Charge, Total
from privfed_accounting.errors import ParameterError
from privfed_accounting.ledger import Ledger
from privfed_accounting.rdp import ORDERS
from privfed_accounting.records import RoundRecord, seen_view
from privfed_accounting.round_charge import hides_sample, round_event, unknown_noise
from privfed_accounting.views import View

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# Their privacy-loss distributions take a third of a second for each kind of sampled round.
_MOST_KINDS: Final = 50


@dataclass(frozen=True)
class Comparison:
    """Epsilon of one ledger in one view by two libraries; None where theirs has no such method for the rounds.

    Attributes:
        view, delta: what it is about.
        ours: with all error terms.
        ours_bare: of the ideal mechanisms alone.
        theirs_exact: dp-accounting's exact Gaussian at the total mu, if all rounds are plain Gaussians.
        theirs_pld: dp-accounting's privacy loss distributions over the events; an upper bound, off by its grid, for a
            schedule fixed in advance.
        theirs_rdp: dp-accounting's Renyi accountant over the events, at the orders used here.
    """

    view: str
    delta: float
    ours: float
    ours_bare: float
    theirs_exact: float | None
    theirs_pld: float | None
    theirs_rdp: float | None = None


def dp_event(ledger: Ledger, *, view: str | View | None = None, realised: bool = False) -> DpEvent:
    """Return the ledger's rounds in a view as one dp-accounting event, equal ones counted together.

    Gaussian rounds are `GaussianDpEvent`, Skellam rounds `ZCDpEvent`; in views that do not see the sample they stand
    inside `PoissonSampledDpEvent` or `SampledWithoutReplacementDpEvent`. Of cohorts that take turns, the one with the
    dearest rounds is given, as a unit is in one only.

    Args:
        ledger: an open ledger.
        view: whose eyes; None for the guarded view.
        realised: as in `Ledger.spent`.

    Raises:
        ParameterError: dp-accounting is not installed.
    """
    dp_accounting = _library()
    counts: collections.Counter[DpEvent] = collections.Counter()
    for record, charge in _dearest(_counted(ledger, view, realised=realised)):
        seen = _seen(ledger, record, view, realised=realised)
        counts[_event(dp_accounting, record, charge, seen, realised=realised)] += 1
    events = [
        each if isinstance(each, dp_accounting.NonPrivateDpEvent) else dp_accounting.SelfComposedDpEvent(each, count)
        for each, count in counts.items()
    ]
    event: DpEvent = dp_accounting.ComposedDpEvent(events)
    return event


def compare(ledger: Ledger, *, view: str | View | None = None, realised: bool = False) -> Comparison:
    """Ask dp-accounting for the ledger's epsilon at the budget's delta, and put ours beside it.

    Raises:
        ParameterError: dp-accounting is not installed, or the ledger has no budget and thus no delta.
    """
    dp_accounting = _library()
    budget = ledger.budget
    if budget is None:
        raise ParameterError(
            "a ledger without a budget has no delta, expected one: compare a ledger made with a budget"
        )
    charges = [charge for _, charge in _counted(ledger, view, realised=realised)]
    bare = Total.of(replace(charge, epsilon_slack=0.0, delta_tail=0.0, sampler_distance=0.0) for charge in charges)
    theirs: dict[str, float | None] = dict.fromkeys(("exact", "pld", "rdp"), 0.0 if not charges else math.inf)
    if charges and bare.private:
        event = dp_event(ledger, view=view, realised=realised)
        theirs["exact"] = None if bare.rdp else float(dp_accounting.get_epsilon_gaussian(1.0 / bare.mu, budget.delta))
        kinds = len(event.events)
        theirs["pld"] = _asked(dp_accounting.pld.PLDAccountant(), event, budget.delta) if kinds <= _MOST_KINDS else None
        theirs["rdp"] = _asked(dp_accounting.rdp.RdpAccountant(ORDERS), event, budget.delta)
    return Comparison(
        view=str(_view(ledger, view)),
        delta=budget.delta,
        ours=Total.of(charges).epsilon(budget.delta),
        ours_bare=bare.epsilon(budget.delta),
        theirs_exact=theirs["exact"],
        theirs_pld=theirs["pld"],
        theirs_rdp=theirs["rdp"],
    )


def _asked(accountant: Any, event: DpEvent, delta: float) -> float | None:
    """Their epsilon, or None where the accountant does not know such rounds."""
    if not accountant.supports(event):
        return None
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def _event(dp_accounting: Any, record: RoundRecord, charge: Charge, seen: View, *, realised: bool) -> DpEvent:
    """One round's mechanism, without error terms."""
    event: DpEvent
    if not charge.private:
        event = dp_accounting.NonPrivateDpEvent()
        return event
    plan = record.plan
    if not charge.rdp:
        event = dp_accounting.GaussianDpEvent(1.0 / math.sqrt(charge.mu2))
        return event
    survivors = record.survivors if realised or record.broke_guarantee else None
    hidden = hides_sample(plan, seen)
    unsampled = round_event(plan, seen, survivors)
    if unsampled is None:
        multiplier = math.sqrt(unknown_noise(plan, seen, survivors).variance) / plan.l2_sensitivity
        event = dp_accounting.GaussianDpEvent(multiplier)
    else:
        event = dp_accounting.ZCDpEvent(unsampled.rho, unsampled.xi)
    if hidden and plan.sampling.kind == "poisson":
        event = dp_accounting.PoissonSampledDpEvent(plan.sampling.rate, event)
    elif hidden:
        event = dp_accounting.SampledWithoutReplacementDpEvent(plan.sampling.population, plan.sampling.size, event)
    return event


def _dearest(counted: Iterable[tuple[RoundRecord, Charge]]) -> list[tuple[RoundRecord, Charge]]:
    """Rounds without those of cohorts that spent less than another of their schedule."""
    listed = list(counted)
    spent: dict[str, float] = collections.defaultdict(float)
    for _, charge in listed:
        spent[charge.cohort] += charge.mu2 + (charge.rdp[0] if charge.rdp else 0.0)
    best: dict[str, str] = {}
    for cohort, amount in spent.items():
        schedule = cohort.rpartition(":")[0]
        if schedule not in best or amount > spent[best[schedule]]:
            best[schedule] = cohort
    return [(record, charge) for record, charge in listed if best[charge.cohort.rpartition(":")[0]] == charge.cohort]


def _counted(ledger: Ledger, view: str | View | None, *, realised: bool) -> list[tuple[RoundRecord, Charge]]:
    """Rounds that are not void, with their charges in what the view saw of them."""
    kept = [record for record in ledger.rounds() if record.status != "void"]
    return [
        (record, record.charge(_seen(ledger, record, view, realised=realised), realised=realised)) for record in kept
    ]


def _seen(ledger: Ledger, record: RoundRecord, view: str | View | None, *, realised: bool) -> View:
    """What the view saw of a round; in the guarded view, what the budget is charged."""
    wanted = _view(ledger, view)
    guarded = not realised and wanted == ledger.guarded_view
    return wanted if guarded else seen_view(record.plan, wanted)


def _view(ledger: Ledger, view: str | View | None) -> View:
    return ledger.guarded_view if view is None else View.parse(view)


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise ParameterError("dp-accounting is not installed, expected it for this: install privfed[verify]") from error
    return dp_accounting
