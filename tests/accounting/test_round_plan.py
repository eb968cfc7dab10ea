"""What a round may be, and that it survives being written down."""

from __future__ import annotations

import json
import math

import pytest

from privfed_accounting import Charge, ParameterError, RoundPlan
from tests.accounting.plans import open_plan, plan


def test_round_trip_through_json() -> None:
    for each in (plan(), open_plan(), plan(l2_sensitivity=3, scale=2, protection="trusted", noise_source="seeded")):
        assert RoundPlan.from_dict(json.loads(json.dumps(each.as_dict()))) == each


def test_integers_become_the_floats_they_are() -> None:
    assert plan(scale=4) == plan(scale=4.0)
    assert isinstance(plan(scale=4).scale, float)


def test_cost_per_view() -> None:
    each = plan(mu2=0.5, shares=20)
    assert each.charge("server").mu2 == pytest.approx(0.5)
    assert each.charge("server", survivors=40).mu2 == pytest.approx(0.25)
    assert each.charge("client").mu2 == pytest.approx(0.5 * 20 / 19)
    assert each.charge("colluders(20)") == Charge.non_private()
    assert open_plan().charge("server") == Charge.non_private()
    assert each.noise_multiplier == pytest.approx(math.sqrt(2.0))
    assert open_plan().noise_multiplier == 0.0


def test_unknown_or_missing_fields_are_refused() -> None:
    fields = plan().as_dict()
    with pytest.raises(ParameterError, match="colour"):
        RoundPlan.from_dict({**fields, "colour": "red"})
    del fields["bits"]
    with pytest.raises(ParameterError, match="bits"):
        RoundPlan.from_dict(fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": 3}, "run of a round"),
        ({"mechanism": "laplace"}, "discrete_gaussian, skellam, none"),
        ({"protection": "hope"}, "protection"),
        ({"unit": "row"}, "unit"),
        ({"relation": "replace"}, "relation"),
        ({"noise_source": "numpy"}, "noise_source"),
        ({"plan_digest": "xyz"}, "hexadecimal"),
        ({"query_digest": "ABCD"}, "hexadecimal"),
        ({"query_digest": b"ab"}, "hexadecimal"),
        ({"dimension": 0}, "dimension"),
        ({"bits": 64.0}, "bits"),
        ({"planned_shares": True}, "planned_shares"),
        ({"guaranteed_shares": 51}, "more than the 50"),
        ({"scale": 0.0}, "scale"),
        ({"scale": math.nan}, "scale"),
        ({"l2_sensitivity": 0.0}, "no unit can move"),
        ({"l2_sensitivity": math.inf}, "l2_sensitivity"),
        ({"share_sigma": 0.4}, "share_sigma"),
        ({"share_sigma": "1"}, "share_sigma"),
        ({"sampler_distance": -1.0}, "sampler_distance"),
        ({"mechanism": "none"}, "although the mechanism is 'none'"),
    ],
)
def test_no_such_round(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plan(**changes)
