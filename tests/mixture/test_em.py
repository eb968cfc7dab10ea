"""Exact EM: scikit-learn's from the same start or seed, and never downhill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.cluster import kmeans_plusplus as peer_kmeans_plusplus

from privfed.learners.mixture.em import fit_rows, model_from_responsibilities, server_update
from privfed.learners.mixture.initialise import INIT_PARAMS, initial_responsibilities, kmeans, kmeans_plusplus
from privfed.statistics.mixture_estep import client_statistics
from tests.mixture.cases import TYPES, clusters


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), init=st.sampled_from(INIT_PARAMS), K=st.integers(1, 5))
def test_the_likelihood_never_falls(seed, kind, init, K):
    X = clusters(n=80, d=2, K=3, seed=seed)
    random = np.random.RandomState(seed)
    start = model_from_responsibilities(X, initial_responsibilities(X, K, init, random), kind, reg_covar=1e-3)
    result = fit_rows(start, X, tol=0.0, max_iter=8, reg_covar=1e-6)
    assert (np.diff(result.lower_bounds) >= -1e-6).all()  # reg_covar moves the update off the maximum by that much


@pytest.mark.parametrize("kind", TYPES)
def test_one_update_is_the_weighted_moments(kind):
    X = clusters(seed=3)
    g = np.random.RandomState(0).dirichlet(np.ones(3), len(X))
    model = model_from_responsibilities(X, g, kind, reg_covar=0.0)
    np.testing.assert_allclose(model.weights, g.mean(axis=0), rtol=1e-12)
    for k in range(3):
        mean = np.average(X, axis=0, weights=g[:, k])
        np.testing.assert_allclose(model.means[k], mean, rtol=1e-10)
        if kind == "full":
            expected = np.cov(X.T, aweights=g[:, k], bias=True)
            np.testing.assert_allclose(model.covariances[k], expected, rtol=1e-9, atol=1e-11)


def test_regularisation_may_differ_by_feature():
    X = clusters()
    model = model_from_responsibilities(X, np.ones((len(X), 1)), "full", reg_covar=0.0)
    for kind in TYPES:
        start = model_from_responsibilities(X, np.ones((len(X), 1)), kind)
        sums = client_statistics(start, X, reference=X.mean(axis=0))
        added = server_update(sums, reg_covar=np.array([1.0, 2.0, 3.0])).full_covariances()[0]
        extra = [2.0] * 3 if kind == "spherical" else [1.0, 2.0, 3.0]
        plain = server_update(sums, reg_covar=0.0).full_covariances()[0]
        np.testing.assert_allclose(np.diag(added - plain), extra, rtol=1e-9)
    assert model.n_components == 1


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_and_its_start_are_scikit_learns(seed):
    X = clusters(n=400, seed=seed, offset=10.0)
    _, expected = peer_kmeans_plusplus(X, 6, random_state=np.random.RandomState(seed))
    np.testing.assert_array_equal(kmeans_plusplus(X, 6, np.random.RandomState(seed)), expected)
    labels = KMeans(6, n_init=1, random_state=np.random.RandomState(seed)).fit(X).labels_
    np.testing.assert_array_equal(kmeans(X, 6, np.random.RandomState(seed)), labels)


def test_kmeans_fills_clusters_that_ran_empty():
    X = np.concatenate([np.zeros((50, 1)), np.linspace(10, 11, 5)[:, None]])
    labels = kmeans(X, 5, np.random.RandomState(0))
    assert len(np.unique(labels)) == 5
    assert len(np.unique(kmeans(np.ones((6, 2)), 3, np.random.RandomState(0)))) >= 1  # nothing to tell apart
