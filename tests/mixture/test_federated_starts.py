"""Starts by name on a federation: k-means by protected sums, cells, and what a federation cannot do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.frames import frame_of, moments_of_model, refitted
from privfed.learners.mixture.initialise import FEDERATED_INIT
from privfed.learners.mixture.lloyd import lloyd
from privfed.statistics.clusters import ClusterSums
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import TYPES, clusters, random_model, rows_of
from tests.privfed.query_contract import QueryContract


class TestClusterSums(QueryContract):
    def make(self):
        centres = np.random.default_rng(0).standard_normal((4, 3))
        return ClusterSums(centres, np.full(3, -50.0), np.full(3, 50.0), np.zeros(3), np.array([1.0, 2.0, 0.5]), 1.5)


def test_a_row_is_counted_once_with_its_nearest_centre():
    """Against numpy's own distances; ties and far rows included."""
    query = TestClusterSums().make()
    rows = np.random.default_rng(1).standard_normal((200, 3)) * 3
    z = rows / query.scale
    distances = ((z[:, None] - query.centres) ** 2).sum(axis=2)
    labels = distances.argmin(axis=1)
    contribution = query.contribution(rows)
    np.testing.assert_array_equal(contribution["counts"], np.bincount(labels, minlength=4))
    shifts = z - query.centres[labels]
    lengths = np.linalg.norm(shifts, axis=1)
    cut = shifts * np.minimum(1, 1.5 / np.maximum(lengths, 1e-9))[:, None]
    np.testing.assert_allclose(contribution["shifts"][2], cut[labels == 2].sum(axis=0), rtol=1e-9)
    assert contribution["squares"] == pytest.approx((np.minimum(lengths, 1.5) ** 2).sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.0}, "radius"),
        ({"scale": np.array([1.0, 0.0, 1.0])}, "scale"),
        ({"low": np.full(3, 60.0)}, "low <= high"),
        ({"centre": np.zeros(2)}, "do not fit"),
    ],
)
def test_bad_queries_are_refused(change, message):
    query = TestClusterSums().make()
    names = ("centres", "low", "high", "centre", "scale", "radius")
    with pytest.raises(UsageError, match=message):
        ClusterSums(**({name: getattr(query, name) for name in names} | change))


# --- Lloyd ------------------------------------------------------------------------------------------------------------


def run_lloyd(X, start, *, budget=None, noise_seed=None, rounds=8, share=0.05):
    noise = {"noise_seed": noise_seed} if budget else {}
    d = X.shape[1]
    box = Coordinates(np.full(d, -20.0), np.full(d, 20.0), np.zeros(d), np.eye(d) / 20)
    with LocalFederation(np.array_split(X, 4), mode="trusted", budget=budget, **noise) as silos:
        return lloyd(
            lambda query, round: silos.release(query, share=share if budget else None),
            start,
            box,
            np.full(d, 20.0),
            rounds=rounds,
            clipped=budget is not None,
        )


def test_without_noise_it_is_lloyds_algorithm():
    X, _ = make_blobs(600, n_features=2, centers=3, random_state=4)
    start = MixtureModel.from_covariances(np.full(3, 1 / 3), X[:3] + 0.5, np.ones(3), "spherical")
    found = run_lloyd(X, start, rounds=30)
    centres = start.means
    for _ in range(30):
        nearest = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        centres = np.stack([X[nearest == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(found.centres, centres, atol=1e-6)
    np.testing.assert_allclose(found.weights, np.bincount(nearest, minlength=3) / 600, atol=1e-9)
    within = ((X - centres[nearest]) ** 2).sum() / 600 / 2
    assert found.variance * 400 == pytest.approx(within, rel=1e-6)
    assert found.mixture().covariances[0, 0] == pytest.approx(within, rel=1e-6)


def test_noise_of_the_declared_size_leaves_centres_where_they_belong():
    X, _ = make_blobs(8000, n_features=2, centers=[(-8, 0), (8, 0), (0, 9)], random_state=4)
    start = MixtureModel.from_covariances(np.full(3, 1 / 3), [[-5, -2], [6, 3], [1, 5]], np.full(3, 4.0), "spherical")
    for seed in range(5):
        found = run_lloyd(X, start, budget=Budget(1.0, 1e-5), noise_seed=seed, share=0.1)
        np.testing.assert_allclose(found.centres, [[-8, 0], [8, 0], [0, 9]], atol=0.5)
        assert 0.5 < found.variance * 400 < 2.0


def test_a_centre_without_rows_stays_and_drowned_centres_hardly_move():
    X, _ = make_blobs(200, n_features=2, centers=[(0, 0)], random_state=4)
    start = MixtureModel.from_covariances([0.5, 0.5], [[0, 0], [15, 15]], np.ones(2), "spherical")
    np.testing.assert_allclose(run_lloyd(X, start, rounds=3).centres[1], [15, 15])
    noisy = run_lloyd(X, start, budget=Budget(0.1, 1e-5), noise_seed=1, share=0.01, rounds=3)
    assert np.isfinite(noisy.centres).all()
    assert np.linalg.norm(noisy.centres - start.means, axis=1).max() < 8


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_frames_have_unit_scale_and_keep_the_type(kind):
    model = random_model(kind, 3, 3, 1)
    rows = rows_of(model, 40_000, 0)
    mean, covariance = moments_of_model(model)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(covariance, np.cov(rows.T), rtol=0.1, atol=0.3)
    frame = frame_of(model, kind, low=np.full(3, -np.inf), high=np.full(3, np.inf))
    whole = moments_of_model(frame.to_working(model))[1]
    assert np.trace(whole) / 3 == pytest.approx(1.0)
    again = frame.to_data(frame.to_working(model))
    np.testing.assert_allclose(again.covariances, model.covariances, rtol=1e-9)


def test_a_refit_finds_the_components_that_made_the_draws():
    model = random_model("full", 3, 2, 5, spread=6.0)
    found = refitted(model, 3, "full", np.random.RandomState(0))
    assert model.log_likelihoods(rows_of(model, 5000, 1)).mean() == pytest.approx(
        found.log_likelihoods(rows_of(model, 5000, 1)).mean(), abs=0.02
    )


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", FEDERATED_INIT)
@pytest.mark.parametrize("kind", TYPES)
def test_every_start_is_a_start_without_a_budget(init, kind):
    X = clusters(n=900, K=3, seed=5)
    silos = LocalFederation(np.array_split(X[np.argsort(X[:, 0])], 4), mode="trusted")
    fit = GaussianMixture(3, covariance_type=kind, init_params=init, random_state=0, max_iter=300).fit(silos)
    pooled = GaussianMixture(3, covariance_type=kind, n_init=3, random_state=0, max_iter=300).fit(X).score(X)
    assert fit.score(X) > pooled - (0.3 if init == "moments" else 0.02)
    queries = {release.query for release in fit.releases_}
    assert ("cluster_sums" in queries) == (init == "dp-kmeans")


@pytest.mark.parametrize("init", ["moments", "dp-kmeans"])
def test_every_start_is_a_start_under_a_budget(init):
    X, _ = make_blobs(6000, n_features=2, centers=[(-8, 0), (8, 0), (0, 9)], random_state=0)
    reports = []
    silos = LocalFederation(np.array_split(X, 5), mode="trusted", budget=Budget(2.0, 1e-5), noise_seed=2)
    fit = GaussianMixture(3, init_params=init, bounds=(-20, 20), random_state=0, callback=reports.append).fit(silos)
    assert fit.score(X) > GaussianMixture(3, random_state=0, n_init=3).fit(X).score(X) - 0.05
    assert 0 <= silos.remaining_share < 1e-3
    assert fit.epsilon_["server"] <= 2.0
    assert [report.release for report in reports] == list(fit.releases_)
    assert {report.stage for report in reports} == {"moments", "mixture"} | (
        {"start"} if init == "dp-kmeans" else set()
    )


def test_what_the_budget_cannot_carry_is_said_whatever_the_start():
    X, _ = make_blobs(400, n_features=3, centers=4, random_state=0)
    silos = LocalFederation(np.array_split(X, 5), mode="trusted", budget=Budget(0.3, 1e-5), noise_seed=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GaussianMixture(4, init_params="dp-kmeans", bounds=(-20, 20), random_state=0).fit(silos)
    assert any("fitting" in str(warning.message) for warning in caught)


def test_starts_that_need_rows_are_refused_with_the_remedy():
    X = clusters(n=90)
    silos = LocalFederation(np.array_split(X, 3), mode="trusted")
    for init in ("k-means++", "random", "random_from_data"):
        with pytest.raises(UsageError, match=r"shows no rows: use one of .*'dp-kmeans'.*means_init"):
            GaussianMixture(2, init_params=init).fit(silos)
    for init in FEDERATED_INIT:
        with pytest.raises(UsageError, match="For rows at hand use one of"):
            GaussianMixture(2, init_params=init).fit(X)
    assert silos.ledger.rounds() == []


def test_kmeans_is_what_a_federation_calls_cells():
    X = clusters(n=300, K=3, seed=1)

    def fit(init):
        silos = LocalFederation(np.array_split(X, 3), mode="trusted")
        return GaussianMixture(3, init_params=init, random_state=0).fit(silos).means_

    np.testing.assert_array_equal(fit("kmeans"), fit("cells"))
