from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.federation import Federation, Release
from privfed.query import Query
from privfed.statistics.histograms import Histogram, Magnitudes, radius_of
from privfed.statistics.moments import Count, Moments, VectorSum, moments_of, svec, unsvec
from privfed.statistics.transform import LinearMap, Transformed, TransformedFederation, principal_components
from tests.privfed.query_contract import QueryContract, hostile_rows


class TestCount(QueryContract):
    def make(self) -> Query:
        return Count()


class TestVectorSum(QueryContract):
    def make(self) -> Query:
        return VectorSum(3, 1.7)


class TestMoments(QueryContract):
    def make(self) -> Query:
        return Moments(center=np.array([0.1, -2.0, 3.0]), radius=2.5)


class TestFirstMoments(QueryContract):
    def make(self) -> Query:
        return Moments(center=np.zeros(3), radius=0.5, second="none")


class TestTrace(QueryContract):
    def make(self) -> Query:
        return Moments(center=np.zeros(3), radius=0.5, second="trace")


class TestTransformed(QueryContract):
    def make(self) -> Query:
        center, matrix = np.array([1.0, 2.0, 3.0]), np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 5.0]])
        return Transformed.of(Moments(center=np.zeros(2), radius=1.5), LinearMap(center, matrix, 1e6))


class TestTransformedHistogram(QueryContract):
    """A bin is a cliff: one last bit more in a mapped row would move a whole count."""

    width = 64

    def make(self) -> Query:
        rng = np.random.default_rng(3)
        linear_map = LinearMap(np.zeros(64), rng.standard_normal((8, 64)), 1e3)
        return Transformed.of(Histogram(np.tile(np.linspace(-9, 9, 400), (8, 1))), linear_map)


class TestHistogram(QueryContract):
    def make(self) -> Query:
        return Histogram(np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 2.0], [-9.0, 3.0, 4.0]]))


class TestMagnitudes(QueryContract):
    def make(self) -> Query:
        return Magnitudes()


def release_of(query: Query, rows: np.ndarray, noise: float = 0.0) -> Release:
    layout = query.layout
    values = layout.unflatten(query.checked_contribution(rows))
    return Release(
        query=query.kind,
        round=1,
        values=values,
        noise_std=layout.noise_std(noise),
        participants=2,
        survivors=2,
        lost=(),
        private=noise > 0,
        protection="trusted",
        entry=1,
    )


@given(st.integers(1, 7), st.integers(0, 2**32))
def test_svec_is_an_isometry_and_unsvec_its_inverse(d: int, seed: int) -> None:
    a = np.random.default_rng(seed).standard_normal((2, d, d))
    a = a + a.transpose(0, 2, 1)
    v = svec(a)
    assert v.shape == (2, d * (d + 1) // 2)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), np.linalg.norm(a, axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(unsvec(v, d), a, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_moments_without_noise_are_numpys(seed: int, d: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((200, d)) @ np.diag(np.arange(1.0, d + 1))
    query = Moments(center=np.full(d, 0.3), radius=1e3)
    count, mean, covariance = moments_of(query, release_of(query, rows))
    assert count == pytest.approx(200, rel=1e-12)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True).reshape(d, d), atol=1e-8)


def test_moments_of_noise_alone_can_be_factored() -> None:
    rng = np.random.default_rng(0)
    query = Moments(center=np.zeros(4), radius=1.0)
    quiet = release_of(query, rng.standard_normal((3, 4)), noise=50.0)
    noisy = {name: value + rng.normal(0, quiet.noise_std[name], value.shape) for name, value in quiet.values.items()}
    loud = Release(**{**quiet.__dict__, "values": noisy})
    count, _, covariance = moments_of(query, loud)
    assert count >= 1
    np.linalg.cholesky(covariance)


def test_box_and_its_ball() -> None:
    query = Moments.in_box(np.array([0.0, 0.0]), np.array([6.0, 8.0]))
    np.testing.assert_array_equal(query.center, [3.0, 4.0])
    assert query.radius == 5.0
    for low, high in (([1.0], [1.0]), ([0.0], [np.inf]), ([0.0, 0.0], [1.0])):
        with pytest.raises(UsageError, match="bounds"):
            Moments.in_box(np.array(low), np.array(high))


@given(st.integers(0, 2**32))
def test_histogram_is_numpys_within_the_edges(seed: int) -> None:
    rows = np.random.default_rng(seed).uniform(0, 1, (100, 2))
    edges = np.linspace(0, 1, 6)
    counts = Histogram(np.stack([edges, edges])).contribution(rows)["counts"]
    for feature in range(2):
        np.testing.assert_array_equal(counts[feature], np.histogram(rows[:, feature], edges)[0])
    assert Histogram(edges[None, :]).contribution(np.array([[-5.0], [7.0]]))["counts"].tolist() == [[1, 0, 0, 0, 1]]


@given(st.integers(0, 2**32))
def test_the_radius_holds_every_row(seed: int) -> None:
    rows = hostile_rows(seed, 30, 3)
    radius = radius_of(release_of(Magnitudes(), rows))
    assert radius >= np.linalg.norm(rows, axis=1).max()
    assert radius <= 2 * max(np.linalg.norm(rows, axis=1).max(), 2.0**-127)


def test_no_radius_out_of_noise_alone() -> None:
    with pytest.raises(UsageError, match="public bounds"):
        radius_of(release_of(Magnitudes(), np.ones((3, 2)), noise=10.0))


@pytest.mark.parametrize("edges", [[0.0, 1.0], [[0.0]], [[1.0, 0.0]], [[0.0, np.inf]]])
def test_bad_edges_are_refused(edges) -> None:
    with pytest.raises(UsageError, match="edges"):
        Histogram(np.array(edges))


@pytest.mark.parametrize(
    ("center", "radius"), [(np.zeros((2, 2)), 1.0), ([np.nan], 1.0), ([0.0], 0.0), ([0.0], np.inf)]
)
def test_bad_balls_are_refused(center, radius) -> None:
    with pytest.raises(UsageError):
        Moments(center=np.asarray(center), radius=radius)


def test_principal_components_are_those_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 4)) @ np.diag([5.0, 1.0, 3.0, 0.1]) + 7.0
    covariance = np.cov(rows.T, bias=True)
    linear_map, variances = principal_components(rows.mean(axis=0), covariance, 2)
    projected = linear_map(rows)
    np.testing.assert_allclose(projected.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.diag(variances), atol=1e-9)
    assert np.abs(linear_map.matrix).argmax(axis=1).tolist() == [0, 2]
    np.testing.assert_allclose(linear_map(linear_map.inverse(projected)), projected, atol=1e-9)
    with pytest.raises(UsageError, match="n_components"):
        principal_components(rows.mean(axis=0), covariance, 5)


def test_asking_mapped_rows_is_mapping_and_asking() -> None:
    rng = np.random.default_rng(1)
    silos = [rng.standard_normal((30, 3)) for _ in range(3)]
    linear_map = LinearMap(np.array([1.0, 0.0, -1.0]), rng.standard_normal((2, 3)), 100.0)
    query = Moments(center=np.zeros(2), radius=2.0)
    there = TransformedFederation(LocalFederation(silos), linear_map)
    here = LocalFederation([linear_map(rows) for rows in silos])
    one, other = there.release(query), here.release(query)
    assert (one.query, there.n_features, there.n_clients) == ("moments", 2, 3)
    for block in ("count", "sum", "second"):
        np.testing.assert_allclose(one[block], other[block], atol=1e-8)


def test_a_mapped_federation_spends_the_budget_below() -> None:
    below = LocalFederation([np.ones((5, 2))] * 3, budget=Budget(1.0, 1e-5), mode="trusted")
    mapped = TransformedFederation(below, LinearMap(np.zeros(2), np.ones((1, 2)), 100.0))
    query = VectorSum(1, 2.0)
    promised = mapped.noise_std(query, 0.4)["sum"]
    assert mapped.release(query, share=0.4).noise_std["sum"] == pytest.approx(promised)
    assert mapped.remaining_share == below.remaining_share == pytest.approx(0.6, abs=1e-6)
    assert isinstance(mapped, Federation)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="do not fit"):
        LinearMap(np.zeros(3), np.ones((2, 2)), 1.0)
    with pytest.raises(UsageError, match="finite"):
        LinearMap(np.zeros(2), np.full((2, 2), np.nan), 1.0)
    with pytest.raises(UsageError, match="reach"):
        LinearMap(np.zeros(2), np.ones((2, 2)), math.inf)
    flat = LinearMap(np.zeros(3), np.ones((2, 3)), 1.0)
    with pytest.raises(UsageError, match="needs 3"):
        Transformed.of(VectorSum(3, 1.0), flat)
    with pytest.raises(UsageError, match="multiply"):
        Transformed.of(Transformed.of(VectorSum(2, 1.0), flat), LinearMap(np.zeros(3), np.ones((3, 3)), 1.0))
    with pytest.raises(UsageError, match="takes 3 features"):
        TransformedFederation(LocalFederation([np.ones((2, 2))] * 2), flat)


def test_a_row_is_mapped_to_the_same_bits_at_every_place_and_size() -> None:
    rng = np.random.default_rng(5)
    hostile = np.concatenate([rng.standard_normal(32) * 1e25, rng.standard_normal(32)])
    linear_map = LinearMap(np.zeros(64), rng.standard_normal((8, 64)), 1e6)
    alone = linear_map(hostile[None, :])[0]
    for n in (1, 2, 3, 5, 8, 17, 64, 100, 150, 151, 513, 1000, 4096):
        rows = rng.standard_normal((n, 64))
        for place in {0, n // 2, n - 1}:
            rows[place] = hostile
            np.testing.assert_array_equal(linear_map(rows)[place], alone)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearMap(np.zeros(2), np.full((1, 2), 1e99), 100.0),
        lambda: LinearMap(np.full(2, 1e101), np.ones((1, 2)), 1.0),
        lambda: Moments(center=np.full(2, 1e101), radius=1.0),
        lambda: Histogram(np.array([[0.0, 1e101]])),
    ],
)
def test_public_numbers_that_could_overflow_are_refused_before_any_row_is_seen(make) -> None:
    with pytest.raises(UsageError, match="1e100"):
        make()
