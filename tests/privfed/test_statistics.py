from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.federation import Release
from privfed.query import Query
from privfed.statistics.histograms import Histogram, Magnitudes, radius_of
from privfed.statistics.moments import Count, Moments, VectorSum, clip_rows, moments_of, svec, unsvec
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
        return Moments(center=np.zeros(3), radius=0.5, second=False)


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


@given(st.integers(0, 2**32))
def test_clipping_keeps_direction_and_short_rows(seed: int) -> None:
    rows = hostile_rows(seed, 30, 4)
    clipped = clip_rows(rows, 1.0)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_array_equal(clipped[norms <= 1.0], rows[norms <= 1.0])
    np.testing.assert_allclose(np.linalg.norm(clipped[norms > 1.0], axis=1), 1.0, rtol=1e-12)
    cosine = np.einsum("ij,ij->i", clipped, rows)[norms > 0] / (np.linalg.norm(clipped, axis=1) * norms)[norms > 0]
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-12)


def test_clipping_survives_the_ends_of_float64() -> None:
    rows = np.array([[1e308, 1e308], [1e-308, 0.0], [0.0, 0.0], [3e200, 4e200]])
    np.testing.assert_allclose(clip_rows(rows, 1.0)[3], [0.6, 0.8], rtol=1e-12)
    assert np.isfinite(clip_rows(rows, 1.0)).all()
    np.testing.assert_array_equal(clip_rows(rows, 1.0)[1:3], rows[1:3])


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
    assert count == 200
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


@pytest.mark.parametrize(("center", "radius"), [(np.zeros((2, 2)), 1.0), ([np.nan], 1.0), ([0.0], 0.0), ([0.0], np.inf)])
def test_bad_balls_are_refused(center, radius) -> None:
    with pytest.raises(UsageError):
        Moments(center=np.asarray(center), radius=radius)
