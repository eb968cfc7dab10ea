"""The E-step as a sum: against a naive route, and the same whatever the order, the grouping or the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.learners.mixture.em import server_update
from privfed.statistics.mixture_estep import choose_reference, client_statistics, second_shape
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.moments import svec
from tests.mixture.cases import TYPES, random_model, rows_of


def naive(model, X, reference):
    """The definition, component by component."""
    g = model.responsibilities(X)
    K = model.n_components
    first = np.stack([g[:, k] @ (X - reference) for k in range(K)])
    matrices = np.stack([(g[:, k, None] * (X - reference)).T @ (X - reference) for k in range(K)])
    second = {
        "full": svec(matrices),
        "tied": svec(matrices.sum(axis=0)),
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": np.trace(matrices, axis1=1, axis2=2),
    }[model.covariance_type]
    return g.sum(axis=0), first, second, model.log_likelihoods(X).sum()


def same(a, b, atol=1e-10):
    for left, right in zip(
        (a.counts, a.first, a.second, a.log_likelihood), (b.counts, b.first, b.second, b.log_likelihood), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("n", "d", "K"), [(1, 1, 1), (7, 3, 2), (9000, 2, 3), (700, 12, 4)])
def test_it_is_the_definition(kind, n, d, K):
    model = random_model(kind, K, d, seed=n + d)
    X = rows_of(model, n, seed=1)
    reference = X.mean(axis=0)
    sums = client_statistics(model, X, reference=reference)
    counts, first, second, likelihood = naive(model, X, reference)
    np.testing.assert_allclose(sums.counts, counts, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(sums.first, first, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(sums.second, second, rtol=1e-9, atol=1e-7)
    assert sums.log_likelihood == pytest.approx(likelihood, rel=1e-11)
    assert sums.n_rows == n
    assert sums.second.shape == second_shape(kind, K, d)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_order_and_grouping_change_nothing(seed, kind, cuts):
    model = random_model(kind, 3, 2, seed=seed)
    X = rows_of(model, 60, seed=seed)
    whole = client_statistics(model, X)
    shuffled = X[np.random.RandomState(seed).permutation(60)]
    parts = [client_statistics(model, part) for part in np.split(shuffled, sorted(cuts))]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    same(total, whole)


@pytest.mark.parametrize("kind", TYPES)
def test_statistics_about_means_give_the_same_update(kind):
    model = random_model(kind, 3, 4, seed=8)
    X = rows_of(model, 500, seed=9)
    about_point = server_update(client_statistics(model, X, reference=X.mean(axis=0)))
    about_means = server_update(client_statistics(model, X, reference=model.means))
    np.testing.assert_allclose(about_means.means, about_point.means, rtol=1e-10)
    np.testing.assert_allclose(about_means.covariances, about_point.covariances, rtol=1e-9, atol=1e-11)
    assert client_statistics(model, X, reference=model.means).log_likelihood == pytest.approx(
        client_statistics(model, X).log_likelihood, rel=1e-12
    )


@pytest.mark.parametrize("kind", TYPES)
def test_far_and_narrow_components_are_summed_about_their_means(kind):
    """Two clusters 1e7 widths apart: about one point, every digit of the covariances would cancel."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((500, 2)), rng.standard_normal((500, 2)) + 1e7])
    one = {"full": np.eye(2)[None].repeat(2, 0), "tied": np.eye(2), "diag": np.ones((2, 2)), "spherical": np.ones(2)}
    model = MixtureModel.from_covariances([0.5, 0.5], [[0.0, 0.0], [1e7, 1e7]], one[kind], kind)
    centre = X.mean(axis=0)
    reference = choose_reference(model, centre)
    assert reference.shape == (2, 2)
    updated = server_update(client_statistics(model, X, reference=reference), reg_covar=0.0)
    expected = [np.cov(X[:500].T, bias=True), np.cov(X[500:].T, bias=True)]
    np.testing.assert_allclose(
        updated.full_covariances().mean(axis=0).trace(), np.mean([c.trace() for c in expected]), rtol=1e-6
    )
    close = random_model(kind, 2, 2, seed=1)
    assert choose_reference(close, centre * 0).shape == (2,)


def test_no_rows_are_no_statistics():
    for kind in TYPES:
        sums = client_statistics(random_model(kind, 2, 3, seed=1), np.empty((0, 3)))
        assert sums.n_rows == 0
        assert sums.log_likelihood == 0
        assert not sums.second.any()


def test_what_does_not_fit_is_refused():
    model = random_model("full", 2, 3, seed=1)
    with pytest.raises(UsageError, match=r"expects \(n, 3\)"):
        client_statistics(model, np.zeros((4, 2)))
    with pytest.raises(UsageError, match="reference"):
        client_statistics(model, np.zeros((4, 3)), reference=np.zeros(2))
    with pytest.raises(UsageError, match="do not add up"):
        client_statistics(model, np.zeros((4, 3))) + client_statistics(model, np.zeros((4, 3)), reference=np.ones(3))
