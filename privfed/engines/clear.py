"""The same sum without masks: for experiments with many runs, and for the modes that protect less."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from privfed.engines.faults import Lost
from privfed.errors import FederationError
from privfed.federation.client import ClientSide
from privfed.federation.rounds import RoundOutcome, RoundTask
from privfed.mechanism.encode import to_ring
from privfed_protocols import surplus_seed

__all__ = ["run_in_clear"]


def run_in_clear(clients: Mapping[str, ClientSide], task: RoundTask, lost: Lost) -> RoundOutcome:
    """Form the sum that the protocol would, integer by integer.

    A loss before the input counts; a later one leaves the sum whole, but keeps its client's surplus noise in.

    Raises:
        FederationError: fewer survivors than the plan needs.
    """
    terms = task.plan.terms
    invited = [name for name in task.cohort if not (lost(name, "advertise") or lost(name, "shares"))]
    survivors = [name for name in invited if not lost(name, "masked")]
    if len(survivors) < terms.guaranteed:
        raise FederationError(
            f"{len(survivors)} of {len(task.cohort)} clients are left, the plan needs {terms.guaranteed}:"
            " tolerate more drop-outs with a larger dropout="
        )
    agreed = {name: clients[name].agree(task.task) for name in survivors}
    for name, (query, _) in agreed.items():
        clients[name].admit(query)
    task.about_to_reveal()  # from here on the server sees vectors
    total, bytes_up = to_ring(np.zeros(task.plan.length, dtype=np.int64), task.plan.bits), 0
    dropped, surplus = terms.planned - len(survivors), []
    for name, (query, plan) in agreed.items():
        contribution = clients[name].contribution(query, plan, clients[name].admit(query))
        total += contribution.vector
        bytes_up += plan.nbytes
        if contribution.surplus_seed is not None and dropped < terms.tolerated and not lost(name, "unmask"):
            surplus.append(surplus_seed(contribution.surplus_seed, dropped + 1))
    return RoundOutcome(
        total=total,
        participants=len(invited),
        survivors=len(survivors),
        lost=tuple(sorted(set(task.cohort) - set(survivors))),
        bytes_up=bytes_up,
        surplus=tuple(surplus),
    )
