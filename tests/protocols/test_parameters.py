"""Parameters on the complete graph against their definition, by brute force."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols import GraphParameters, InfeasibleParameters, LocalProtocolError, select_parameters

PERCENT = st.integers(0, 99)


def by_definition(n: int, bad: int, gone: int) -> int | None:
    """The threshold: secrecy and liveness first, then the smallest that also splits no honest client in two."""
    k = n - 1
    safe_and_live = [t for t in range(1, k + 1) if t >= bad + 1 and k - t >= gone]
    if not safe_and_live:
        return None
    splitting = [t for t in safe_and_live if 2 * t >= k + bad + 1]
    return min(splitting) if splitting else max(safe_and_live)


@given(st.integers(2, 300), PERCENT, PERCENT)
def test_threshold_is_that_of_the_definition(n: int, corrupt: int, dropout: int) -> None:
    bad = int(Fraction(corrupt, 100) * n)
    gone = int(Fraction(dropout, 100) * n)
    expected = by_definition(n, bad, gone)
    if expected is None:
        with pytest.raises(InfeasibleParameters):
            select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100)
    else:
        found = select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100)
        assert found == GraphParameters(k=n - 1, t=expected)


@given(st.integers(2, 300), PERCENT, PERCENT)
def test_refusals_name_settings_that_work(n: int, corrupt: int, dropout: int) -> None:
    if by_definition(n, int(Fraction(corrupt, 100) * n), int(Fraction(dropout, 100) * n)) is not None:
        return
    with pytest.raises(InfeasibleParameters, match="the nearest that work") as caught:
        select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100)
    for name, value in re.findall(r"(dropout|corrupt)=([\d.]+) at this", str(caught.value)):
        other = {"corrupt": corrupt / 100, "dropout": dropout / 100} | {name: float(value)}
        assert select_parameters(n, **other).t >= 1


def test_fractions_that_floats_cannot_hold_count_fully() -> None:
    """0.29 * 100 is 28.999... in float64; the threshold must stand 29 corrupt clients."""
    assert select_parameters(100, corrupt=0.29, dropout=0.6).t == by_definition(100, 29, 60)


@given(st.integers(3, 40), st.data())
def test_whoever_is_lost_in_set_up_the_threshold_exceeds_the_colluders(invited: int, data: st.DataObject) -> None:
    """Colluders all turn up: those who are lost are honest. No permitted roster may let them open a secret alone."""
    colluders = data.draw(st.integers(0, invited - 2))
    n_min = data.draw(st.integers(colluders + 2, invited))
    dropout = data.draw(st.floats(0.0, 0.9))
    for n in range(n_min, invited + 1):
        found = select_parameters(n, corrupt=colluders / invited, dropout=dropout, n_min=n_min, n_max=invited)
        assert colluders < found.t <= n - 1
        assert found.k - found.t >= min(int(dropout * n), n - n_min)


def test_a_roster_outside_the_offer_is_refused() -> None:
    for n in (4, 11):
        with pytest.raises(LocalProtocolError, match="outside"):
            select_parameters(n, corrupt=0.0, dropout=0.0, n_min=5, n_max=10)


def test_examples() -> None:
    assert select_parameters(2, corrupt=0.0, dropout=0.0) == GraphParameters(k=1, t=1)
    assert select_parameters(20, corrupt=0.0, dropout=0.2) == GraphParameters(k=19, t=10)
    assert select_parameters(100, corrupt=0.33, dropout=0.33) == GraphParameters(k=99, t=66)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 1},
        {"n": 0},
        {"n": 5, "corrupt": -0.1},
        {"n": 5, "corrupt": 1.0},
        {"n": 5, "dropout": float("nan")},
        {"n": 5, "mode": "malicious"},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        select_parameters(**({"corrupt": 0.0, "dropout": 0.0} | arguments))  # type: ignore[arg-type]


def test_more_clients_than_the_complete_graph_carries() -> None:
    with pytest.raises(InfeasibleParameters, match="300"):
        select_parameters(301, corrupt=0.0, dropout=0.0)
