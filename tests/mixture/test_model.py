"""The mixture as a value: densities by an independent route, conversions, samples, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as Peer

from privfed.errors import UsageError
from privfed.statistics.mixture_model import MixtureModel, covariance_shape, n_parameters
from tests.mixture.cases import TYPES, clusters, random_model, rows_of


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_log_densities_are_scipys(kind, d):
    model = random_model(kind, 3, d, seed=d)
    rows = rows_of(model, 5000 if d == 2 else 50, seed=1)  # 5000 crosses a chunk
    for k, covariance in enumerate(model.full_covariances()):
        expected = multivariate_normal(model.means[k], covariance).logpdf(rows)
        np.testing.assert_allclose(model.log_densities(rows)[:, k], expected, rtol=1e-10)


@pytest.mark.parametrize("kind", TYPES)
def test_responsibilities_follow_from_densities(kind):
    model = random_model(kind, 4, 3, seed=2)
    rows = rows_of(model, 100, seed=3)
    joint = model.weights * np.exp(model.log_densities(rows))
    np.testing.assert_allclose(model.responsibilities(rows), joint / joint.sum(axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(model.log_likelihoods(rows), np.log(joint.sum(axis=1)), rtol=1e-12)


@pytest.mark.parametrize("kind", TYPES)
def test_the_three_ways_to_build_a_model_agree(kind):
    model = random_model(kind, 3, 4, seed=4)
    others = [
        MixtureModel.from_precisions(model.weights, model.means, model.precisions, kind),
        MixtureModel.from_factors(model.weights, model.means, model.precisions_cholesky, kind),
    ]
    for other in others:
        np.testing.assert_allclose(other.precisions_cholesky, model.precisions_cholesky, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(other.covariances, model.covariances, rtol=1e-9, atol=1e-11)
    assert model.covariances.shape == covariance_shape(kind, 3, 4)


@pytest.mark.parametrize("kind", TYPES)
def test_factors_and_counts_are_scikit_learns(kind):
    X = clusters()
    peer = Peer(4, covariance_type=kind, random_state=0).fit(X)
    model = MixtureModel.from_covariances(peer.weights_, peer.means_, peer.covariances_, kind)
    np.testing.assert_allclose(model.precisions_cholesky, peer.precisions_cholesky_, rtol=1e-10)
    np.testing.assert_allclose(model.precisions, peer.precisions_, rtol=1e-10)
    np.testing.assert_allclose(model.log_likelihoods(X), peer.score_samples(X), rtol=1e-10)
    assert n_parameters(kind, 4, 3) == peer._n_parameters()


@pytest.mark.parametrize("kind", TYPES)
def test_samples_have_the_models_moments(kind):
    model = random_model(kind, 3, 2, seed=5)
    rows, labels = model.sample(60_000, np.random.RandomState(0))
    assert (np.diff(labels) >= 0).all()
    for k, covariance in enumerate(model.full_covariances()):
        part = rows[labels == k]
        assert abs(len(part) / 60_000 - model.weights[k]) < 0.01
        np.testing.assert_allclose(part.mean(axis=0), model.means[k], atol=0.05)
        np.testing.assert_allclose(np.cov(part.T), covariance, atol=0.06 * np.trace(covariance))


def test_a_weight_of_zero_is_never_responsible():
    model = MixtureModel.from_covariances([0.0, 1.0], [[0.0], [5.0]], [1.0, 1.0], "spherical")
    np.testing.assert_array_equal(model.responsibilities(np.zeros((2, 1)))[:, 0], 0.0)
    assert np.isfinite(model.log_likelihoods(np.zeros((2, 1)))).all()


def test_singular_covariances_are_refused_with_the_remedy():
    bad = {"full": np.zeros((1, 2, 2)), "tied": np.zeros((2, 2)), "diag": np.zeros((1, 2)), "spherical": np.zeros(1)}
    for kind, covariances in bad.items():
        with pytest.raises(UsageError, match="increase reg_covar"):
            MixtureModel.from_covariances([1.0], np.zeros((1, 2)), covariances, kind)
    with pytest.raises(UsageError, match="increase reg_covar"):
        MixtureModel.from_covariances([1.0], np.zeros((1, 1)), np.full((1, 1, 1), np.nan), "full")


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="do not fit"):
        MixtureModel.from_covariances([0.5, 0.5], np.zeros((1, 2)), np.ones(1), "spherical")
    with pytest.raises(UsageError, match="have shapes"):
        MixtureModel.from_covariances([1.0], np.zeros((1, 2)), np.ones(2), "spherical")
    with pytest.raises(UsageError, match="covariance_type"):
        MixtureModel(np.ones(1), np.zeros((1, 2)), np.ones(1), np.ones(1), "round")


def test_a_model_cannot_be_changed():
    model = random_model("full", 2, 2, seed=6)
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(model, name)[...] = 0.0
