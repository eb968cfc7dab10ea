"""The second route for every kind of round, from the plan's written fields: it finds what the first charges."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from privfed_accounting import RoundPlan, Sampling, Total
from privfed_accounting.fine_grid import TAIL_EXPONENT
from privfed_accounting.rdp import ORDERS
from privfed_accounting.second_route_plans import PlanCost, joint_epsilon, plan_cost
from tests.accounting.plans import open_plan, plan

SAMPLINGS = [
    Sampling.none(),
    Sampling.poisson(0.03, unit="record"),
    Sampling.poisson(0.03, unit="client"),
    Sampling.fixed_size(3, 100, unit="client"),
    Sampling.round_robin(3, 100, unit="client", turn=5),
    Sampling.round_robin(3, 100, unit="record", turn=5),
]
PROTECTIONS = [
    ("secure_aggregation", "provision"),
    ("secure_aggregation", "exact"),
    ("trusted", "provision"),
    ("local", "provision"),
    ("central", "provision"),
]
SKELLAM = {"mechanism": "skellam", "sigma": 40.0, "l1_sensitivity": 60.0}


def again(each: RoundPlan, view: str, survivors: int | None = None) -> PlanCost | None:
    written = json.loads(json.dumps(each.as_dict()))
    return plan_cost(written, view, survivors, exponent=TAIL_EXPONENT, orders=ORDERS)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda each: f"{each.kind}-{each.unit}")
@pytest.mark.parametrize("changes", [{}, SKELLAM], ids=["gaussian", "skellam"])
def test_both_routes_charge_the_same(sampling: Sampling, changes: dict[str, Any]) -> None:
    for (protection, drop_outs), unit in itertools.product(PROTECTIONS, ("record", "client")):
        each = plan(**{"mu2": 0.3, **changes}, protection=protection, drop_outs=drop_outs, sampling=sampling, unit=unit)
        for view, survivors in itertools.product(
            ("released", "server", "client", "colluders(7)", "unmasked"), (None, 20, 42)
        ):
            first, second = each.charge(view, survivors=survivors), again(each, view, survivors)
            if second is None or not first.private:
                assert (second is None) == (not first.private)
                continue
            for name in ("mu2", "epsilon_slack", "delta_tail", "sampler_distance"):
                value = getattr(second, name)
                assert value * (1 - 1e-9) <= getattr(first, name) <= value * (1 + 1e-9) + 1e-290
            assert len(first.rdp) == len(second.rdp)
            pairs = zip(first.rdp, second.rdp, strict=True)
            assert all(b * (1 - 1e-11) <= a <= b * (1 + 1e-9) for a, b in pairs)
            assert first.cohort == second.cohort


def test_both_routes_see_the_smallest_component() -> None:
    """On a grid so coarse that the error of adding unequal widths is all of the slack."""
    each = plan(sigma=32.0, drop_outs="exact")
    first, second = each.charge("server"), again(each, "server")
    assert second is not None
    assert second.epsilon_slack > 1.0
    assert first.epsilon_slack == pytest.approx(second.epsilon_slack, rel=1e-9)


def test_both_routes_find_the_same_epsilon() -> None:
    rounds = [
        plan(mu2=0.02),
        plan(mu2=0.05, sampling=SAMPLINGS[1]),
        plan(**{**SKELLAM, "mu2": 0.01, "l1_sensitivity": 30.0}),
        plan(mu2=0.03, sampling=SAMPLINGS[4]),
        plan(mu2=0.04, sampling=Sampling.round_robin(3, 100, unit="client", turn=6)),
        plan(mu2=0.04, drop_outs="exact", unit="client", sampling=SAMPLINGS[3]),
    ]
    for chosen in (rounds, rounds[:1], rounds[3:5], rounds[1:2], []):
        for view in ("released", "colluders(7)", "unmasked"):
            first = Total.of(each.charge(view) for each in chosen).epsilon(1e-6)
            costs = [again(each, view) for each in chosen]
            second = joint_epsilon([cost for cost in costs if cost is not None], 1e-6, orders=ORDERS)
            assert first == pytest.approx(second, rel=1e-9, abs=1e-9)
            assert first >= second * (1 - 1e-9)


def test_what_has_no_finite_cost() -> None:
    assert again(open_plan(), "server") is None
    assert again(plan(protection="central"), "server") is None
    heavy = PlanCost(9.0, 0.0, 1e-10, 0.0)
    assert joint_epsilon([heavy], 1e-5, orders=ORDERS) == math.inf
    assert joint_epsilon([PlanCost(1e9, 0.0, 0.0, 0.0)], 1e-5, orders=ORDERS) == math.inf
