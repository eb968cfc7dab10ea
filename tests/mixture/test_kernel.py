"""The fast E-step: against whitening row by row, for every block size, and where densities underflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.statistics import mixture_kernel
from privfed.statistics.mixture_kernel import PointKernel, n_products
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import TYPES, random_model, rows_of


def expected(model, X, point):
    g, x = model.responsibilities(X), X - point
    if model.covariance_type == "full":
        rows, columns = np.triu_indices(X.shape[1])
        products = x[:, rows] * x[:, columns]
    else:
        products = {"tied": x[:, :0], "diag": x * x, "spherical": (x * x).sum(axis=1, keepdims=True)}[
            model.covariance_type
        ]
    return g.sum(axis=0), g.T @ x, g.T @ products, model.log_likelihoods(X).sum()


def check(model, X, point):
    found = PointKernel(model, point).sums(X)
    counts, first, products, likelihood = expected(model, X, point)
    scale = max(np.abs(X - point).max(initial=1.0), 1.0) * max(len(X), 1)
    np.testing.assert_allclose(found.counts, counts, atol=1e-11 * len(X) + 1e-12)
    np.testing.assert_allclose(found.first, first, atol=1e-11 * scale)
    np.testing.assert_allclose(found.products, products, atol=1e-10 * scale**2)
    assert found.log_likelihood == pytest.approx(likelihood, rel=1e-11, abs=1e-9)
    if model.covariance_type == "tied":
        np.testing.assert_allclose(found.pooled, (X - point).T @ (X - point), rtol=1e-10, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(TYPES),
    K=st.integers(1, 6),
    d=st.integers(1, 7),
    n=st.integers(0, 700),
    budget=st.sampled_from([1, 300, 5_000, 1_000_000]),
)
def test_sums_are_the_definition_however_products_are_cut(seed, kind, K, d, n, budget):
    model = random_model(kind, K, d, seed)
    X = rows_of(model, n, seed) if n else np.empty((0, d))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_kernel, "SMALL_PRODUCT", budget)
        patch.setattr(mixture_kernel, "SMALL_TRANSPOSED", 0 if seed % 2 else 1_200)
        patch.setattr(mixture_kernel, "LEAST_CHUNK", 16)
        check(model, X, X.mean(axis=0) if n else np.zeros(d))


@pytest.mark.parametrize("kind", TYPES)
def test_rows_that_underflow_are_counted_from_their_own_maximum(kind):
    """Far rows score below exp's range: their responsibilities must still be those of the nearest component."""
    model = random_model(kind, 3, 2, seed=4)
    X = rows_of(model, 300, seed=1)
    X[::7] *= 60.0
    assert model.log_likelihoods(X).min() < -1000
    found = PointKernel(model, np.zeros(2)).sums(X)
    np.testing.assert_allclose(found.counts, model.responsibilities(X).sum(axis=0), rtol=1e-9)
    assert found.log_likelihood == pytest.approx(model.log_likelihoods(X).sum(), rel=1e-11)


def test_deep_densities_are_cut_and_change_nothing():
    """Components hundreds of nats below the best: cut before exp, for speed, without a trace in the sums."""
    model = MixtureModel.from_covariances([0.5, 0.5], [[0.0, 0.0], [60.0, 0.0]], np.ones(2), "spherical")
    X = np.random.default_rng(0).standard_normal((40_000, 2))
    found = PointKernel(model, np.zeros(2)).sums(X)
    assert found.counts[1] < 1e-200
    assert found.log_likelihood == pytest.approx(model.log_likelihoods(X).sum(), rel=1e-13)


def test_a_weight_of_zero_takes_no_part():
    model = MixtureModel.from_covariances([0.0, 1.0], np.zeros((2, 3)), np.ones((2, 3)), "diag")
    found = PointKernel(model, np.zeros(3)).sums(np.random.default_rng(0).standard_normal((50, 3)))
    assert found.counts[0] < 1e-200
    assert found.counts[1] == pytest.approx(50)


def test_likelihood_is_scikit_learns_to_twelve_digits():
    from sklearn.mixture import GaussianMixture as Peer

    rng = np.random.default_rng(0)
    X = rng.standard_normal((4_000, 16)) + 2 * rng.standard_normal((5, 16))[rng.integers(5, size=4_000)]
    for kind in ("full", "diag"):
        peer = Peer(5, covariance_type=kind, random_state=0, init_params="random_from_data", tol=1.0, reg_covar=1e-2)
        peer.fit(X)
        model = MixtureModel.from_covariances(peer.weights_, peer.means_, peer.covariances_, kind)
        found = PointKernel(model, X.mean(axis=0)).sums(X).log_likelihood / len(X)
        assert found == pytest.approx(peer.score(X), rel=1e-12)


def test_products_are_counted():
    assert [n_products(kind, 4) for kind in TYPES] == [
        {"full": 10, "tied": 0, "diag": 4, "spherical": 1}[k] for k in TYPES
    ]
