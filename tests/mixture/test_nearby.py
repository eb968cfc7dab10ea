"""Rows near to few components: summed pair by pair, to the same sums as by matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from privfed.statistics import mixture_nearby
from privfed.statistics.mixture_estep import client_statistics
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.mixture_nearby import HELD, NearMoments, few_are_near


def far_apart(n: int, d: int = 33, K: int = 8, *, scale: float = 2.0):
    """Rows of K clusters in more features than it takes to sum pairs, and the model of them."""
    rng = np.random.default_rng(7)
    means = scale * rng.standard_normal((K, d))
    X = means[rng.integers(K, size=n)] + rng.standard_normal((n, d))
    return MixtureModel.from_covariances(np.full(K, 1 / K), means, np.tile(np.eye(d), (K, 1, 1)), "full"), X


@pytest.mark.parametrize("n", [1, 500, HELD, HELD + 1])
def test_moments_are_the_definition_however_rows_come(n):
    rng = np.random.default_rng(n)
    rows, densities = rng.standard_normal((n, 3)), rng.random((2, n))
    densities[0, ::2] = 0.0
    scale = 1.0 / densities.sum(axis=0)
    found = NearMoments(2, 3)
    for part in np.array_split(np.arange(n), 5):
        found.add(rows[part], densities[:, part], scale[part])
    one = np.concatenate([np.ones((n, 1)), rows], axis=1)
    expected = np.einsum("kn,ni,nj->kij", densities * scale, one, one)
    np.testing.assert_allclose(found.totals(), expected, rtol=1e-12, atol=1e-11)
    np.testing.assert_array_equal(found.totals(), found.totals())  # asking again adds nothing


@pytest.mark.parametrize("about", ["centre", "away"])
def test_pairs_and_products_give_the_same_statistics(about, monkeypatch):
    model, X = far_apart(5_000)
    reference = X.mean(axis=0) + (0.0 if about == "centre" else 3.0)
    assert few_are_near(model.responsibilities(X).T)
    pairs = client_statistics(model, X, reference=reference)
    monkeypatch.setattr(mixture_nearby, "WORTH", 10**9)
    products = client_statistics(model, X, reference=reference)
    assert not np.array_equal(pairs.second, products.second)  # two routes indeed
    for name in ("counts", "first", "second"):
        found, expected = getattr(pairs, name), getattr(products, name)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max() * 10)
    assert pairs.log_likelihood == products.log_likelihood


def test_clusters_that_overlap_are_left_to_the_matrix_product(monkeypatch):
    model, X = far_apart(3_000, scale=0.1)
    assert not few_are_near(model.responsibilities(X).T)
    monkeypatch.setattr(NearMoments, "add", None)  # calling it would fail
    assert client_statistics(model, X).n_rows == 3_000


def test_a_component_that_dies_out_keeps_its_count():
    """Responsibilities of 1e-22 everywhere: far below what scikit-learn adds to a count, and still summed."""
    model, X = far_apart(5_000, K=20)
    weights, means = model.weights.copy(), model.means.copy()
    weights[-1], means[-1] = 1e-22, means[0]
    dying = MixtureModel.from_covariances(weights, means, model.covariances, "full")
    g = dying.responsibilities(X)
    assert few_are_near(g.T)
    sums = client_statistics(dying, X, reference=X.mean(axis=0))
    assert 0 < sums.counts[-1] < 1e-16
    np.testing.assert_allclose(sums.counts, g.sum(axis=0), rtol=1e-12, atol=5_000 * mixture_nearby.NEGLIGIBLE)
