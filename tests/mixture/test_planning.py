"""What a budget buys: the design's table of rows, the fallbacks, and rounds that stay above the noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.learners.mixture import expected_excess_nats
from privfed.learners.mixture.private.planning import (
    ACCEPTABLE,
    choose,
    excess,
    findable,
    noise_of_counts,
    quantile_within,
    rounds_within,
    start_components,
)
from privfed.statistics.mixture import WhitenedMixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed_accounting import gaussian_mu
from tests.mixture.cases import TYPES, random_model

# Rows for 0.05 nats at epsilon 1, delta 1e-5, K = 10, d = 2, 8, 16, 32: docs/design of the mixture, section 2.
ROWS = {
    "full": (1_600, 12_000, 39_000, 136_000),
    "tied": (800, 3_200, 7_400, 20_000),
    "diag": (1_600, 4_900, 8_900, 16_000),
    "spherical": (1_100, 2_500, 4_200, 7_500),
}


@pytest.mark.parametrize("kind", TYPES)
def test_the_table_of_rows(kind):
    for d, n in zip((2, 8, 16, 32), ROWS[kind], strict=True):
        first = excess(n, d, 10, kind, mu2=0.7 * gaussian_mu(1.0, 1e-5) ** 2)
        assert first == pytest.approx(0.05, rel=0.15)
        assert expected_excess_nats(n, d, 10, 1.0, covariance_type=kind) == pytest.approx(first * (1 + 8 * first))


@given(
    n=st.floats(10, 1e7),
    d=st.integers(1, 20),
    K=st.integers(1, 20),
    epsilon=st.floats(0.1, 10),
    kind=st.sampled_from(TYPES),
)
def test_more_of_anything_good_loses_less(n, d, K, epsilon, kind):
    loss = expected_excess_nats(n, d, K, epsilon, covariance_type=kind)
    assert loss > 0
    assert expected_excess_nats(2 * n, d, K, epsilon, covariance_type=kind) <= loss / 4 * (1 + 1e-9)
    assert expected_excess_nats(n, d, K, 2 * epsilon, covariance_type=kind) < loss
    assert expected_excess_nats(n, d, K + 1, epsilon, covariance_type=kind) > loss
    assert expected_excess_nats(n, d, K, epsilon, delta=1e-7, covariance_type=kind) > loss
    assert expected_excess_nats(n, d, K, epsilon, covariance_type=kind, share=1.0) < loss


def test_bad_arguments_are_named():
    for bad in ({"n": 0}, {"n_features": 0}, {"n_components": 0}, {"share": 0.0}):
        with pytest.raises(UsageError, match="expected n >= 1"):
            expected_excess_nats(**({"n": 10, "n_features": 2, "n_components": 2, "epsilon": 1.0} | bad))
    with pytest.raises(UsageError, match="covariance_type"):
        expected_excess_nats(10, 2, 2, 1.0, covariance_type="round")


def test_the_choice_is_the_first_that_can_be_afforded():
    mu2 = gaussian_mu(1.0, 1e-5) ** 2 * 0.7
    chosen = [choose(n, 8, 10, "full", mu2=mu2) for n in (100_000, 3_000, 900, 300, 20)]
    kinds = [(choice.covariance_type, choice.n_components) for choice in chosen]
    assert kinds[0] == ("full", 10)
    assert kinds[1] == ("tied", 10)
    assert kinds[2][0] in ("tied", "spherical")
    assert [K for _, K in kinds] == sorted((K for _, K in kinds), reverse=True)
    assert kinds[-1] == ("full", 1)
    assert all(choice.excess <= ACCEPTABLE or choice.n_components == 1 for choice in chosen)


@given(
    n=st.floats(2, 1e6),
    d=st.integers(1, 12),
    K=st.integers(1, 30),
    epsilon=st.floats(0.1, 8),
    kind=st.sampled_from(TYPES),
)
def test_a_choice_can_always_be_said_in_the_type_asked_for(n, d, K, epsilon, kind):
    choice = choose(n, d, K, kind, mu2=gaussian_mu(epsilon, 1e-5) ** 2)
    allowed = {"full": TYPES, "tied": ("tied",), "diag": ("diag", "spherical"), "spherical": ("spherical",)}[kind]
    assert choice.covariance_type in allowed
    assert 1 <= choice.n_components <= K
    assert choice.excess == excess(
        n, d, choice.n_components, choice.covariance_type, mu2=gaussian_mu(epsilon, 1e-5) ** 2
    )


@given(
    n=st.floats(2, 1e5),
    d=st.integers(1, 12),
    K=st.integers(2, 30),
    epsilon=st.floats(0.1, 8),
    kind=st.sampled_from(TYPES),
)
def test_clusters_that_a_start_cannot_find_are_not_looked_for(n, d, K, epsilon, kind):
    mu2 = gaussian_mu(epsilon, 1e-5) ** 2
    choice = choose(n, d, K, kind, mu2=0.7 * mu2, start_mu2=0.25 * mu2)
    assert findable(n, d, choice.n_components, choice.covariance_type, mu2=0.25 * mu2)
    simpler = ("full", "tied", "spherical") if kind == "full" else ("diag", "spherical") if kind == "diag" else (kind,)
    if not any(findable(n, d, K, each, mu2=0.25 * mu2) for each in simpler):
        assert choice == choose(n, d, 1, kind, mu2=0.7 * mu2)
    if findable(n, d, K, kind, mu2=0.25 * mu2) and excess(n, d, K, kind, mu2=0.7 * mu2) <= ACCEPTABLE:
        assert choice == choose(n, d, K, kind, mu2=0.7 * mu2)  # nothing is given up that could be had


def test_rounds_and_starting_components_shrink_with_the_rows():
    arguments = {"mu2": 0.05, "likelihood_share": 0.02}
    rounds = [rounds_within(n, 8, 10, "tied", most=16, least=4, **arguments) for n in (100, 1200, 1600, 50_000)]
    assert rounds == sorted(rounds)
    assert (rounds[0], rounds[-1]) == (4, 16)
    starts = [start_components(n, 8, 10, "tied", rounds=8, **arguments) for n in (100, 2500, 4000, 50_000)]
    assert starts == sorted(starts)
    assert (starts[0], starts[-1]) == (10, 30)


@pytest.mark.parametrize("kind", TYPES)
def test_clip_bounds_widen_with_the_rows_as_far_as_noise_stays_unheard(kind):
    mu2 = gaussian_mu(1.0, 1e-5) ** 2
    found = [quantile_within(n, 4, 5, kind, mu2=mu2) for n in (100, 10_000, 20_000, 40_000, 10**6)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0.9, 0.9999)
    for n in (10_000, 40_000):
        quantile = quantile_within(n, 4, 5, kind, mu2=mu2)
        loss = excess(n, 4, 5, kind, mu2=mu2, quantile=quantile)
        assert quantile == 0.9 or loss <= 0.003
        assert loss >= excess(n, 4, 5, kind, mu2=mu2)


def test_the_noise_of_counts_is_the_queries():
    """The plan's shortcut against the layout of the query that is sent."""
    for kind, K in itertools.product(TYPES, (2, 7)):
        query = WhitenedMixtureStatistics.of(
            random_model(kind, K, 3, seed=1), Coordinates.shifted(np.zeros(3)), likelihood_share=0.02
        )
        expected = query.layout.noise_std(1 / np.sqrt(0.3))["counts"]
        assert noise_of_counts(3, K, kind, mu2=0.3, likelihood_share=0.02) == pytest.approx(expected)
