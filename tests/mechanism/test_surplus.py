"""Exact drop-outs: the sum carries the target however many drop out, and the surplus is made again to the bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import chdtr, chdtrc

from privfed.errors import UsageError
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.surplus import (
    MIN_COMPONENT_SIGMA,
    ComponentVariances,
    Law,
    client_noise,
    component_variances,
    integer_noise,
    surplus_noise,
)
from privfed_protocols import surplus_seed

LAWS: list[Law] = ["discrete_gaussian", "skellam"]
FALSE_ALARM = 1e-6
PLANNED, TOLERATED, SIZE = 9, 4, 100_000
TOTAL = {"discrete_gaussian": 2.0e4, "skellam": 5.0}


def seed_of(client: int) -> bytes:
    return client.to_bytes(32, "big")


def sum_variance(components: ComponentVariances, survivors: int, *, released: int | None = None) -> float:
    """Variance of the sum over `survivors` clients of whom `released` gave their surplus back (all by default)."""
    released = survivors if released is None else released
    dropped = min(components.planned - survivors, components.tolerated)
    kept = components.total / (components.planned - dropped)
    return survivors * kept + (survivors - released) * math.fsum(components.surplus[dropped:])


# ---- variances


@given(planned=st.integers(1, 200), data=st.data(), total=st.floats(1e-3, 1e12))
def test_what_survivors_keep_adds_up_to_the_total(planned: int, data: st.DataObject, total: float) -> None:
    tolerated = data.draw(st.integers(0, planned - 1))
    components = component_variances(total, planned=planned, tolerated=tolerated)
    assert components.tolerated == tolerated
    kept = Fraction(components.base)
    for dropped in range(tolerated + 1):
        if dropped:
            kept += Fraction(components.surplus[dropped - 1])
        assert float((planned - dropped) * kept) == pytest.approx(total, rel=1e-12)
        assert sum_variance(components, planned - dropped) == pytest.approx(total, rel=1e-12)


@given(planned=st.integers(2, 60), data=st.data())
def test_unreleased_surplus_only_adds(planned: int, data: st.DataObject) -> None:
    tolerated = data.draw(st.integers(1, planned - 1))
    components = component_variances(100.0, planned=planned, tolerated=tolerated)
    survivors = data.draw(st.integers(planned - tolerated, planned))
    variances = [sum_variance(components, survivors, released=released) for released in range(survivors, -1, -1)]
    assert variances == sorted(variances)
    assert variances[0] == pytest.approx(100.0)
    # None released: every survivor carries what would have been right for the fewest.
    assert variances[-1] == pytest.approx(survivors * 100.0 / (planned - tolerated))


def test_beyond_the_tolerance_the_noise_falls_short_and_says_so() -> None:
    components = component_variances(12.0, planned=4, tolerated=2)
    assert [sum_variance(components, survivors) for survivors in (4, 3, 2, 1, 0)] == [12.0, 12.0, 12.0, 6.0, 0.0]


# ---- the noise itself


@pytest.fixture(scope="module", params=LAWS)
def round_noise(request: pytest.FixtureRequest) -> tuple[Law, ComponentVariances, npt.NDArray[np.int64]]:
    law: Law = request.param
    components = component_variances(TOTAL[law], planned=PLANNED, tolerated=TOLERATED)
    rows = [
        client_noise(components, seed_of(i), SIZE, law=law, keystream=Keystream.seeded(bytes([i])))
        for i in range(PLANNED)
    ]
    return law, components, np.stack(rows)


def two_sided(noise: npt.NDArray[np.int64], variance: float) -> float:
    """p-value of the sum of squares: chi-square for a Gaussian, the Skellam's heavier tails counted in the scale."""
    excess = 1.0 if variance >= 1000 else 1 + 1 / (2 * variance)  # variance of the square: 2 v^2 + v
    degrees = len(noise) / excess
    statistic = float((noise.astype(np.float64) ** 2).sum()) / variance / excess
    return float(2 * min(chdtr(degrees, statistic), chdtrc(degrees, statistic)))


@pytest.mark.parametrize("dropped", range(TOLERATED + 1))
def test_sum_carries_the_target_for_every_number_of_drop_outs(
    round_noise: tuple[Law, ComponentVariances, npt.NDArray[np.int64]], dropped: int
) -> None:
    law, components, rows = round_noise
    survivors = range(dropped, PLANNED)
    total = rows[dropped:].sum(axis=0)
    for i in survivors:
        total -= surplus_noise(components, surplus_seed(seed_of(i), dropped + 1), SIZE, first=dropped + 1, law=law)
    assert two_sided(total, components.total) > FALSE_ALARM
    assert two_sided(total, components.total * 1.02**2) < FALSE_ALARM
    assert two_sided(total, components.total / 1.02**2) < FALSE_ALARM
    assert abs(total.mean()) < 5 * math.sqrt(components.total / SIZE)


@pytest.mark.parametrize(("dropped", "lost"), [(0, 1), (1, 3), (3, 2)])
def test_survivors_lost_before_their_seed_leave_more_noise(
    round_noise: tuple[Law, ComponentVariances, npt.NDArray[np.int64]], dropped: int, lost: int
) -> None:
    law, components, rows = round_noise
    total = rows[dropped:].sum(axis=0)
    for i in range(dropped + lost, PLANNED):
        total -= surplus_noise(components, surplus_seed(seed_of(i), dropped + 1), SIZE, first=dropped + 1, law=law)
    expected = sum_variance(components, PLANNED - dropped, released=PLANNED - dropped - lost)
    assert expected > components.total * 1.02
    assert two_sided(total, expected) > FALSE_ALARM
    assert two_sided(total, components.total) < FALSE_ALARM


def test_understating_drop_outs_would_leave_too_little_noise(
    round_noise: tuple[Law, ComponentVariances, npt.NDArray[np.int64]],
) -> None:
    # Why D has to be agreed by the survivors: with three lost and none admitted, the removal takes everything but the
    # base, and a third of the noise is missing. A server that is given seed_4 only cannot do it.
    law, components, rows = round_noise
    total = rows[3:].sum(axis=0)
    for i in range(3, PLANNED):
        total -= surplus_noise(components, seed_of(i), SIZE, first=1, law=law)
    assert two_sided(total, components.total * 6 / 9) > FALSE_ALARM
    assert two_sided(total, components.total) < FALSE_ALARM


@pytest.mark.parametrize("law", LAWS)
def test_surplus_is_made_again_to_the_bit_from_any_link(law: Law) -> None:
    components = component_variances(1e6, planned=12, tolerated=7)
    whole = surplus_noise(components, seed_of(5), 1000, first=1, law=law)
    assert (whole == surplus_noise(components, seed_of(5), 1000, first=1, law=law)).all()
    for first in range(1, 9):
        later = surplus_noise(components, surplus_seed(seed_of(5), first), 1000, first=first, law=law)
        earlier = sum(
            (
                integer_noise(
                    law,
                    components.surplus[k - 1],
                    1000,
                    Keystream.derived(surplus_seed(seed_of(5), k), purpose=b"surplus noise v1"),
                )
                for k in range(1, first)
            ),
            np.zeros(1000, dtype=np.int64),
        )
        assert (whole == earlier + later).all()
    assert not surplus_noise(components, seed_of(5), 1000, first=8, law=law).any()


@pytest.mark.parametrize("law", LAWS)
def test_base_does_not_come_from_the_seed(law: Law) -> None:
    # Whoever learns seed_1 can take the surplus away, not the base.
    components = component_variances(1e6, planned=4, tolerated=2)
    noise = client_noise(components, seed_of(1), 20_000, law=law, keystream=Keystream.seeded(b"own"))
    base = noise - surplus_noise(components, seed_of(1), 20_000, first=1, law=law)
    assert (base == integer_noise(law, components.base, 20_000, Keystream.seeded(b"own"))).all()
    assert base.astype(float).var() == pytest.approx(2.5e5, rel=0.05)


def test_components_and_clients_are_independent() -> None:
    components = component_variances(1e6, planned=4, tolerated=3)
    parts = [
        integer_noise("skellam", v, 50_000, Keystream.derived(surplus_seed(seed_of(1), k), purpose=b"surplus noise v1"))
        for k, v in enumerate(components.surplus, start=1)
    ]
    parts.append(surplus_noise(components, seed_of(2), 50_000, first=1, law="skellam"))
    correlations = np.corrcoef(np.stack(parts)) - np.eye(len(parts))
    assert np.abs(correlations).max() < 5 / math.sqrt(50_000)


# ---- the interface


@pytest.mark.parametrize(("planned", "tolerated"), [(0, 0), (4, 4), (4, -1), (4, 5)])
def test_impossible_tolerances_are_refused(planned: int, tolerated: int) -> None:
    with pytest.raises(UsageError, match="may drop out"):
        component_variances(1.0, planned=planned, tolerated=tolerated)


@pytest.mark.parametrize("total", [0.0, -1.0, math.nan, math.inf])
def test_variances_out_of_range_are_refused(total: float) -> None:
    with pytest.raises(UsageError, match="total_variance is"):
        component_variances(total, planned=3, tolerated=1)


def test_small_components_of_discrete_gaussians_are_refused() -> None:
    # Variances 1/(99 * 100) of the total: a fine grid has room for that, a coarse one does not.
    components = component_variances(100 * 99 * (MIN_COMPONENT_SIGMA**2 - 0.1), planned=100, tolerated=1)
    with pytest.raises(UsageError, match="use Skellam noise, or a finer grid"):
        surplus_noise(components, bytes(32), 3, first=1, law="discrete_gaussian")
    assert surplus_noise(components, bytes(32), 3, first=1, law="skellam").shape == (3,)


@pytest.mark.parametrize("first", [0, -1, 4])
def test_numbers_out_of_range_are_refused(first: int) -> None:
    components = component_variances(1e4, planned=5, tolerated=2)
    with pytest.raises(UsageError, match=f"first is {first}, expected 1 to 3"):
        surplus_noise(components, bytes(32), 3, first=first, law="skellam")


def test_wrong_seeds_laws_and_counts_are_refused() -> None:
    components = component_variances(1e4, planned=5, tolerated=2)
    with pytest.raises(UsageError, match="31 bytes, expected 32"):
        surplus_noise(components, bytes(31), 3, first=1, law="skellam")
    with pytest.raises(UsageError, match="law is 'laplace'"):
        integer_noise("laplace", 1.0, 3, Keystream())  # type: ignore[arg-type]
