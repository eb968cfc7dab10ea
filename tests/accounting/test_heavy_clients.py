"""Drawn clients amplify nothing for a record: its client's other rows tell whether the client was drawn.

Neighbouring data differ by one row of one client. If that client is not drawn, all its rows are missing: a third case,
as far from the other two as the client is heavy. The divergences here are exact sums over the grid.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
import pytest

from privfed_accounting import RoundPlan, Sampling, Total, calibrate, schedule_bounds
from privfed_accounting.fine_grid import TAIL_EXPONENT
from privfed_accounting.rdp import ORDERS
from privfed_accounting.second_route_plans import plan_cost
from tests.accounting import reference
from tests.accounting.plans import plan

CLIENTS, ROWS, RATE, DELTA = 60, 200, 0.5, 1e-6
STEP, SIGMA = 100, 256  # of one row and of the noise of the sum, in grid steps
POISSON = Sampling.poisson(RATE, unit="client")
COHORT = Sampling.fixed_size(CLIENTS // 2, CLIENTS, unit="client")
VIEWS: Final = ("released", "server", "client", "colluders(7)", "unmasked")
SKELLAM: Final = {"mechanism": "skellam", "sigma": 40.0, "l1_sensitivity": 60.0}


def counting(sampling: Sampling, **changes: Any) -> RoundPlan:
    """A round that counts rows, one of which moves the sum by 100 of 256 steps."""
    fields: dict[str, Any] = {
        "l2_sensitivity": float(STEP),
        "dimension": 1,
        "drop_outs": "exact",
        "unit": "record",
        **changes,
    }
    return plan(shares=CLIENTS, planned=CLIENTS, sigma=float(SIGMA), sampling=sampling, **fields)


def sums(sampling: Sampling, *, own: int, others: int) -> reference.FloatArray:
    """Mass of the noisy sum: one client of `own` rows among 59 of `others` rows each, half of the clients drawn."""
    reach = 12 * SIGMA
    mass = np.zeros((CLIENTS * max(ROWS, others)) * STEP + 2 * reach + 1)
    noise = reference.discrete_gaussian(SIGMA, reach)
    for drawn, other in itertools.product((False, True), range(CLIENTS)):
        if sampling.kind == "poisson":
            chance = RATE * math.comb(CLIENTS - 1, other) * 0.5 ** (CLIENTS - 1)
        else:
            chance = RATE * float(other == sampling.size - drawn)
        if chance > 0.0:
            first = (drawn * own + other * others) * STEP
            mass[first : first + noise.size] += chance * noise
    return mass


@pytest.mark.parametrize("others", [0, ROWS])
@pytest.mark.parametrize("sampling", [POISSON, COHORT], ids=["poisson", "cohort"])
def test_the_claim_covers_the_exact_divergence(sampling: Sampling, others: int) -> None:
    total = Total.of([counting(sampling).charge("released")])
    claimed = total.epsilon(DELTA)
    more, fewer = (sums(sampling, own=own, others=others) for own in (ROWS, ROWS - 1))
    assert math.fsum(more.tolist()) == pytest.approx(1.0, abs=1e-12)
    for upper, lower in ((more, fewer), (fewer, more)):
        assert reference.hockey_stick(upper, lower, claimed) <= DELTA
        for epsilon in (0.1, 0.5, 1.0, 1.5):
            assert reference.hockey_stick(upper, lower, epsilon) <= total.delta(epsilon)
    if others == 0:
        assert reference.hockey_stick(more, fewer, 0.96 * claimed) > DELTA, "sampling saved next to nothing"


def test_these_sums_would_catch_a_claim_that_was_amplified() -> None:
    """The Poisson claim for a whole client covers one whose only row comes or goes, and no row of a heavy client."""
    claimed = Total.of([counting(POISSON, unit="client").charge("released")]).epsilon(DELTA)
    light, heavy = (
        reference.hockey_stick(sums(POISSON, own=own, others=0), sums(POISSON, own=own - 1, others=0), claimed)
        for own in (1, ROWS)
    )
    assert light <= DELTA < 50.0 * DELTA < heavy


@pytest.mark.parametrize("sampling", [POISSON, COHORT], ids=["poisson", "cohort"])
@pytest.mark.parametrize("changes", [{}, SKELLAM], ids=["gaussian", "skellam"])
def test_no_view_amplifies_a_record_by_drawing_clients(sampling: Sampling, changes: dict[str, Any]) -> None:
    ways = [("secure_aggregation", "provision"), ("secure_aggregation", "exact"), ("trusted", "exact")]
    for protection, drop_outs in (*ways, ("local", "provision"), ("central", "provision")):
        fields = {"mu2": 0.3, **changes, "protection": protection, "drop_outs": drop_outs, "unit": "record"}
        sampled, everybody = plan(sampling=sampling, **fields), plan(**fields)
        for view, survivors in itertools.product(VIEWS, (None, 20, 42)):
            assert not sampled.amplified(view)
            assert sampled.charge(view, survivors=survivors) == everybody.charge(view, survivors=survivors)
            second, plain = (
                plan_cost(each.as_dict(), view, survivors, exponent=TAIL_EXPONENT, orders=ORDERS)
                for each in (sampled, everybody)
            )
            assert second == plain


@pytest.mark.parametrize("sampling", [POISSON, COHORT], ids=["poisson", "cohort"])
def test_what_is_built_on_charges_amplifies_nothing_either(sampling: Sampling) -> None:
    arguments: dict[str, Any] = {"shares": 20, "drop_outs": "exact", "unit": "record"}
    for schedule in ("adaptive", "fixed"):
        drawn = calibrate(2.0, DELTA, 30, "released", sampling=sampling, schedule=schedule, **arguments)
        assert drawn == calibrate(2.0, DELTA, 30, "released", schedule=schedule, **arguments)
    drawn_bounds = schedule_bounds([(counting(sampling), None, 30)], "released", DELTA)
    assert drawn_bounds == schedule_bounds([(counting(Sampling.none()), None, 30)], "released", DELTA)


def test_rotas_of_clients_still_count_a_record_once_a_turn() -> None:
    """A row is at one client, and a client in one cohort: that is parallel composition over time, and hides nothing."""
    turns = [Sampling.round_robin(6, CLIENTS, unit="client", turn=turn) for turn in range(20)]
    charges = [counting(each).charge("released") for each in turns]
    once = counting(Sampling.none()).charge("released")
    assert Total.of(charges).epsilon(DELTA) == pytest.approx(Total.of([once, once]).epsilon(DELTA), rel=1e-9)
