"""The ledger as dp-accounting events, so that another library's accountant can be asked (extra `verify`).

dp-accounting knows nothing of grids and samplers: it is handed each round's plain Gaussian, and its epsilon is compared
with ours without the error terms; ours with them is larger by what `error_terms` of the report states.
"""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privfed_accounting.charge import Charge, Total
from privfed_accounting.errors import ParameterError
from privfed_accounting.ledger import Ledger
from privfed_accounting.views import View

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclass(frozen=True)
class Comparison:
    """Epsilon of one ledger in one view by two libraries.

    Attributes:
        view, delta: what it is about.
        ours: with all error terms.
        ours_bare: of the Gaussian rounds alone, exact.
        theirs_exact: dp-accounting's exact Gaussian at the total mu.
        theirs_pld: dp-accounting's privacy loss distributions over the events; an upper bound, off by its grid.
    """

    view: str
    delta: float
    ours: float
    ours_bare: float
    theirs_exact: float
    theirs_pld: float


def dp_event(ledger: Ledger, *, view: str | View | None = None, realised: bool = False) -> DpEvent:
    """Return the ledger's rounds in a view as one dp-accounting event: Gaussians, equal ones counted together.

    Args:
        ledger: an open ledger.
        view: whose eyes; None for the guarded view.
        realised: as in `Ledger.spent`.

    Raises:
        ParameterError: dp-accounting is not installed.
    """
    dp_accounting = _library()
    counts = collections.Counter(charge.mu2 for charge in _charges(ledger, view, realised=realised))
    events = [
        dp_accounting.NonPrivateDpEvent()
        if mu2 == math.inf
        else dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(1.0 / math.sqrt(mu2)), count)
        for mu2, count in counts.items()
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
    view = budget.view if view is None else View.parse(view)
    charges = _charges(ledger, view, realised=realised)
    bare = Total.of(Charge(mu2=charge.mu2) for charge in charges)
    theirs_exact = theirs_pld = 0.0 if not charges else math.inf
    if charges and bare.private:
        theirs_exact = float(dp_accounting.get_epsilon_gaussian(1.0 / bare.mu, budget.delta))
        accountant = dp_accounting.pld.PLDAccountant()
        accountant.compose(dp_event(ledger, view=view, realised=realised))
        theirs_pld = float(accountant.get_epsilon(budget.delta))
    return Comparison(
        view=str(view),
        delta=budget.delta,
        ours=Total.of(charges).epsilon(budget.delta),
        ours_bare=bare.epsilon(budget.delta),
        theirs_exact=theirs_exact,
        theirs_pld=theirs_pld,
    )


def _charges(ledger: Ledger, view: str | View | None, *, realised: bool) -> list[Charge]:
    wanted = ledger.guarded_view if view is None else View.parse(view)
    return [record.charge(wanted, realised=realised) for record in ledger.rounds() if record.status != "void"]


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError as error:
        raise ParameterError("dp-accounting is not installed, expected it for this: install privfed[verify]") from error
    return dp_accounting
