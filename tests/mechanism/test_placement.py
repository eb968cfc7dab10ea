"""Where noise is added: the table of the docstring, and enough of it in every case."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.mechanism.placement import NoisePlacement, Protection, place_noise


@pytest.mark.parametrize(
    ("protection", "client", "server"),
    [("secure_aggregation", 5.0, 0.0), ("trusted", 5.0, 0.0), ("local", 100.0, 0.0), ("central", 0.0, 100.0)],
)
def test_table(protection: Protection, client: float, server: float) -> None:
    placed = place_noise(100.0, protection=protection, shares=20)
    assert placed == NoisePlacement(client=client, server=server)
    assert placed.sum_variance(20) == 20 * client + server
    assert place_noise(0.0, protection=protection, shares=20).sum_variance(20) == 0.0


@given(
    total=st.floats(0, 1e20),
    shares=st.integers(1, 10**6),
    more=st.integers(0, 1000),
    protection=st.sampled_from(["secure_aggregation", "trusted", "local", "central"]),
)
def test_any_honest_majority_carries_enough(total: float, shares: int, more: int, protection: Protection) -> None:
    assert place_noise(total, protection=protection, shares=shares).sum_variance(shares + more) >= total * (1 - 1e-15)


@pytest.mark.parametrize(
    "change", [{"total_variance": -1.0}, {"total_variance": math.nan}, {"shares": 0}, {"protection": "none"}]
)
def test_arguments_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"expected"):
        place_noise(**({"total_variance": 1.0, "protection": "local", "shares": 1} | change))  # type: ignore[arg-type]
