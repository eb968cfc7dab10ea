"""Weighted sums, and sums whose clip bound follows the clients' norms."""

from __future__ import annotations

import numpy as np
import pytest

from privfed import Budget, LocalFederation, UsageError
from privfed.statistics.moments import Count, VectorSum
from privfed.statistics.vectors import AdaptiveSum, WeightedSum
from tests.privfed.query_contract import QueryContract


class TestWeightedSum(QueryContract):
    def make(self):
        return WeightedSum(2, clip=1.5, largest_weight=3.0)


class TestAdaptiveSum(QueryContract):
    def make(self):
        return AdaptiveSum(3, clip=1.5, count_weight=0.2)


def test_weights_are_cut_to_what_was_agreed() -> None:
    rows = np.array([[2.0, 1.0, 0.0], [-1.0, 1.0, 1.0], [99.0, 0.0, 7.0]])
    sums = WeightedSum(2, clip=3.0, largest_weight=4.0).contribution(rows)
    np.testing.assert_allclose(sums["sum"], [2.0, 12.0])
    assert sums["weight"] == pytest.approx(6.0)


def test_the_count_says_how_many_were_short_enough() -> None:
    rows = np.array([[0.5, 0.0], [0.9, 0.0], [3.0, 4.0]])
    sums = AdaptiveSum(2, clip=1.0).contribution(rows)
    assert sums["unclipped"] == pytest.approx(0.5)
    np.testing.assert_allclose(sums["sum"], [0.5 + 0.9 + 0.6, 0.8])


def norms(n: int = 40, d: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((n, d))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.lognormal(1.0, 0.5, (n, 1))


@pytest.mark.parametrize("start", [0.5, 20.0])
@pytest.mark.parametrize("quantile", [0.3, 0.7])
def test_the_clip_bound_finds_the_quantile_under_noise(start, quantile) -> None:
    updates = norms()
    budget = Budget(epsilon=30.0, delta=1e-6, unit="client")
    query = AdaptiveSum.for_noise(20, start, noise_multiplier=2.0, clients=len(updates))
    with LocalFederation(
        list(updates[:, None, :]), budget=budget, mode="trusted", max_records=1, noise_seed=3
    ) as federation:
        for _ in range(30):
            release = federation.release(query, noise_multiplier=2.0)
            query = query.following(release, quantile=quantile, rate=0.5)
    found = np.mean(np.linalg.norm(updates, axis=1) <= query.clip)
    assert abs(found - quantile) < 0.15


def test_the_noise_is_split_as_the_paper_says() -> None:
    """sigma_b = n / 20 on the count, and z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2) on the update."""
    updates = norms(60)
    query = AdaptiveSum.for_noise(20, 1.0, noise_multiplier=1.5, clients=60)
    budget = Budget(epsilon=8.0, delta=1e-6, unit="client")
    federation = LocalFederation(list(updates[:, None, :]), budget=budget, mode="trusted", max_records=1)
    noise = federation.noise_std(query, noise_multiplier=1.5)
    assert noise["unclipped"] == pytest.approx(3.0, rel=1e-3)
    assert noise["sum"] == pytest.approx((1.5**-2 - 6.0**-2) ** -0.5, rel=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedSum(0, 1.0, 1.0),
        lambda: WeightedSum(2, 0.0, 1.0),
        lambda: WeightedSum(2, 1.0, -1.0),
        lambda: WeightedSum(2, 1.0, 1.0, weight_share=1.0),
        lambda: AdaptiveSum(2, np.inf),
        lambda: AdaptiveSum(2, 1.0, count_weight=0.0),
        lambda: AdaptiveSum.for_noise(2, 1.0, noise_multiplier=100.0, clients=5),
    ],
)
def test_nonsense_is_refused(make) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()


def test_a_count_that_hangs_on_rounding_is_for_no_budget_of_records() -> None:
    federation = LocalFederation([np.ones((2, 3))] * 3, budget=Budget(epsilon=1.0, delta=1e-5))
    with pytest.raises(UsageError, match=r"does not bound how rounding.*unit=\"client\""):
        federation.release(AdaptiveSum(3, 1.0), share=0.5)


def test_a_fraction_that_drowns_in_noise_is_pointed_out() -> None:
    silos, budget = [np.ones((1, 3))] * 12, Budget(epsilon=8.0, delta=1e-6, unit="client")
    loud, quiet = AdaptiveSum(3, 1.0, count_weight=0.1), AdaptiveSum(3, 1.0, count_weight=0.2)
    with LocalFederation(silos, budget=budget, mode="trusted", max_records=1) as federation:
        release = federation.release(loud, noise_multiplier=2.0)  # sigma 10 on a count of 12
        with pytest.warns(
            UserWarning, match="the fraction drowns in noise: standard deviation 10 on a count of 12"
        ) as caught:
            loud.following(release)
        assert caught[0].filename == __file__
        quiet.following(federation.release(quiet, noise_multiplier=2.0))  # 5 of 12


def test_only_a_release_of_this_query_moves_the_norm() -> None:
    federation, query = LocalFederation([np.ones((1, 3))] * 3), AdaptiveSum(3, 1.0)
    for other in (VectorSum(3, 1.0), Count()):
        with pytest.raises(UsageError, match="release is of query"):
            query.following(federation.release(other))
    with pytest.raises(UsageError, match="dimension 2"):
        AdaptiveSum(2, 1.0).following(federation.release(query))
