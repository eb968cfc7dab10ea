from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.plan import SamplingTerms, Terms, decode_terms, make_plan
from privfed.plan.fine import MAX_SCALE, NOISE_TAIL
from privfed.statistics.moments import Moments, VectorSum
from privfed_accounting import View, fine_grid_charge

DIGEST = bytes(32)
QUERY = VectorSum(5, 2.0)


def terms(**changes: object) -> Terms:
    base = {
        "unit": "record",
        "view": "server",
        "noise_multiplier": 5.0,
        "planned": 20,
        "guaranteed": 16,
        "max_records": 10_000,
        "records_per_client": 1.0,
        "protection": "secure_aggregation",
    }
    return Terms(**(base | changes))


@given(
    unit=st.sampled_from(["record", "client"]),
    view=st.sampled_from(["released", "server", "client", "colluders(3)", "unmasked"]),
    mu2=st.floats(1e-6, 100.0),
    planned=st.integers(2, 1000),
    lost=st.floats(0, 0.5),
    max_records=st.integers(1, 10**8),
    cap=st.floats(0.5, 1000.0),
)
def test_the_noise_of_the_guaranteed_survivors_suffices_and_nothing_wraps(
    unit, view, mu2, planned, lost, max_records, cap
) -> None:
    guaranteed = planned - math.floor(lost * planned)
    honest = View.parse(view).noise_shares(guaranteed) if guaranteed > 4 else 0
    assume(honest >= 1)
    plan = make_plan(
        QUERY,
        DIGEST,
        terms(
            unit=unit,
            view=view,
            noise_multiplier=math.sqrt(guaranteed / (honest * mu2)),
            planned=planned,
            guaranteed=guaranteed,
            max_records=max_records,
            records_per_client=cap,
        ),
    )
    charge = fine_grid_charge(
        l2_sensitivity=plan.l2_sensitivity, dimension=plan.dimension, share_sigma=plan.share_sigma, shares=honest
    )
    assert charge.mu2 <= mu2
    assert charge.mu2 == pytest.approx(mu2, rel=1e-9)
    assert planned * (plan.bound + NOISE_TAIL * plan.share_sigma) < 2**63
    unit_bound = 1.0 if unit == "record" else cap
    assert plan.l2_sensitivity >= unit_bound * plan.scale
    assert math.log2(plan.scale).is_integer()
    assert plan.scale <= MAX_SCALE
    # The price of the grid is small: rounding and float summation cost less than a thousandth.
    if max_records <= 10**6:
        assert plan.l2_sensitivity <= 1.001 * unit_bound * plan.scale


def test_no_noise_without_a_cost() -> None:
    plan = make_plan(QUERY, DIGEST, terms(noise_multiplier=0.0))
    assert plan.mechanism == "none"
    assert plan.share_sigma == 0.0


def test_noise_grows_as_the_root_of_the_shares() -> None:
    plan = make_plan(QUERY, DIGEST, terms())
    assert plan.noise_std(16) == pytest.approx(5.0, rel=1e-4)
    assert plan.noise_std(20) == pytest.approx(plan.noise_std(16) * math.sqrt(20 / 16))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"view": "colluders(16)"}, "no honest noise share"),
        ({"view": "client", "guaranteed": 1}, "no honest noise share"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"guaranteed": 21}, "guaranteed"),
        ({"guaranteed": 0}, "guaranteed"),
        ({"population": 19}, "population"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_records": 0}, "max_records"),
        ({"records_per_client": 0.0}, "records_per_client"),
        ({"records_per_client": math.inf}, "records_per_client"),
        ({"noise_multiplier": 1e15}, "epsilon between"),
        ({"noise_multiplier": 1e-15}, "epsilon between"),
        ({"bits": 7}, "bits is 7"),
        ({"bits": 65}, "bits is 65"),
        ({"rotation_seed": b"short"}, "seed"),
        ({"drop_outs": "exact", "protection": "local"}, "provision"),
        ({"max_records": 2**60}, "lower max_records"),
    ],
)
def test_meaningless_terms_are_refused(changes, match) -> None:
    with pytest.raises(UsageError, match=match):
        make_plan(QUERY, DIGEST, terms(**changes))


def test_every_term_and_the_query_are_in_the_digest() -> None:
    changes = [
        {"unit": "client"},
        {"view": "released"},
        {"noise_multiplier": 4.0},
        {"noise": "discrete_gaussian"},
        {"bits": 64},
        {"planned": 21},
        {"guaranteed": 15},
        {"population": 30},
        {"dropout": 0.2},
        {"max_records": 9},
        {"records_per_client": 2.0},
        {"protection": "trusted"},
        {"drop_outs": "exact"},
        {"sampling": SamplingTerms("poisson", "record", rate=0.5)},
        {"rotation_seed": b"\x01" * 32},
    ]
    assert {key for change in changes for key in change} | {"version"} == set(Terms.__struct_fields__)
    digests = {make_plan(QUERY, DIGEST, terms(**change)).digest for change in [{}, *changes]}
    digests.add(make_plan(QUERY, b"\x01" * 32, terms()).digest)
    assert len(digests) == len(changes) + 2


def test_terms_travel_strictly() -> None:
    assert decode_terms(terms().encode()) == terms()
    wire = msgspec.msgpack.decode(terms().encode())
    for bad in (
        wire | {"extra": 1},
        {k: v for k, v in wire.items() if k != "noise_multiplier"},
        wire | {"unit": "row"},
        wire | {"noise_multiplier": "1"},
        wire | {"sampling": {"kind": "dice"}},
    ):
        with pytest.raises(UsageError, match="malformed"):
            decode_terms(msgspec.msgpack.encode(bad))
    with pytest.raises(UsageError, match="malformed"):
        decode_terms(terms().encode() + b"\x00")
    with pytest.raises(UsageError, match="version 1, expected 2"):
        decode_terms(terms(version=1).encode())


def test_plans_are_the_same_at_every_party() -> None:
    query = Moments(center=np.arange(3.0), radius=2.0)
    assert make_plan(query, DIGEST, terms()) == make_plan(query, DIGEST, decode_terms(terms().encode()))
