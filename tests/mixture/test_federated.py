"""Fits to federations: EM on all rows without a budget, the recipe with one, and clear refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_blobs

from privfed import Budget, BudgetExhausted, Count, LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture, RoundReport
from privfed.statistics.transform import LinearMap, TransformedFederation
from tests.mixture.cases import TYPES, clusters
from tests.mixture.test_estimator import starts

BOUNDS = (-20.0, 20.0)


def blobs(n: int = 4000, K: int = 4, d: int = 3, seed: int = 2) -> np.ndarray:
    X, _ = make_blobs(n, n_features=d, centers=K, random_state=seed)
    return X


def federation(X: np.ndarray, n_clients: int = 10, **arguments) -> LocalFederation:
    arguments = {"mode": "trusted", "noise_seed": 1 if "budget" in arguments else None} | arguments
    return LocalFederation(np.array_split(X, n_clients), **arguments)


def budgeted(X: np.ndarray, epsilon: float = 4.0, **arguments) -> LocalFederation:
    return federation(X, budget=Budget(epsilon=epsilon, delta=1e-5), **arguments)


# --- without a budget -------------------------------------------------------------------------------------------------


def assert_pooled(federated: GaussianMixture, pooled: GaussianMixture) -> None:
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        expected, found = getattr(pooled, name), getattr(federated, name)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(), err_msg=name)
    assert federated.n_iter_ == pooled.n_iter_
    assert federated.converged_ == pooled.converged_
    np.testing.assert_allclose(federated.lower_bounds_, pooled.lower_bounds_, rtol=1e-7, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(TYPES),
    K=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 150), min_size=1, max_size=7),
    offset=st.sampled_from([0.0, 30.0, 1e4]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_any_split_is_the_pooled_fit(seed, kind, K, cuts, offset, scale):
    """Whatever the split, and wherever the data lie; from starts at rows, so that every component holds some.

    Sums travel on a grid of 2^-38 of a record: what a component that holds a millionth of a row is like is lost there.
    """
    X = scale * (clusters(n=150, seed=seed) + offset)
    start = starts(kind, K, 3, seed)
    start["means_init"] = X[np.random.default_rng(seed).choice(150, K, replace=False)]
    start["precisions_init"] = start["precisions_init"] / scale**2
    arguments = {"covariance_type": kind, "max_iter": 12, "reg_covar": 1e-2 * scale**2, **start}
    shuffled = X[np.random.RandomState(seed).permutation(150)]
    silos = np.split(shuffled, sorted({min(max(cut, 1), 149) for cut in cuts}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pooled = GaussianMixture(K, **arguments).fit(X)
        federated = GaussianMixture(K, **arguments).fit(LocalFederation(silos, mode="trusted"))
    assert_pooled(federated, pooled)


@pytest.mark.parametrize("kind", TYPES)
def test_secure_aggregation_changes_nothing(kind):
    X = clusters(n=200)
    arguments = {"covariance_type": kind, **starts(kind, 3, 3)}
    assert_pooled(
        GaussianMixture(3, **arguments).fit(LocalFederation(np.array_split(X, 3))),
        GaussianMixture(3, **arguments).fit(X),
    )


@pytest.mark.parametrize("kind", TYPES)
def test_without_a_start_it_finds_one(kind):
    """As good as the best of several k-means starts on all rows at once."""
    X = clusters(n=1500, K=5, seed=4)
    pooled = GaussianMixture(5, covariance_type=kind, n_init=5, random_state=0).fit(X)
    federated = GaussianMixture(5, covariance_type=kind, random_state=0).fit(federation(X[np.argsort(X[:, 0])]))
    assert federated.score(X) > pooled.score(X) - 0.01
    stages = [release.query for release in federated.releases_]
    assert stages[:3] == ["feature_magnitudes", "mixture_statistics", "feature_magnitudes"]
    assert federated.epsilon_ == {}
    assert len(federated.lower_bounds_) == federated.n_iter_


def test_parts_of_a_start_enter_the_federated_one():
    X = clusters(n=600, K=3, seed=5)
    means = np.array([X[:200].mean(axis=0), X[200:400].mean(axis=0), X[400:].mean(axis=0)])
    fit = GaussianMixture(3, means_init=means, random_state=0, max_iter=0).fit(federation(X))
    np.testing.assert_allclose(fit.means_, means, atol=1e-9)
    assert not fit.converged_
    precisions = np.stack([np.eye(3)] * 3)
    fit = GaussianMixture(3, precisions_init=precisions, random_state=0, max_iter=0).fit(federation(X))
    np.testing.assert_allclose(fit.precisions_, precisions, atol=1e-9)


def test_public_bounds_save_the_search_for_a_range():
    X = clusters(n=300)
    start = starts("full", 3, 3)
    fit = GaussianMixture(3, bounds=(-60, 60), **start).fit(federation(X))
    assert {release.query for release in fit.releases_} == {"mixture_statistics"}
    assert_pooled(fit, GaussianMixture(3, **start).fit(X))


def test_several_starts_and_warm_starts():
    X = clusters(n=400, K=4, seed=6)
    few = GaussianMixture(4, random_state=0, max_iter=1, warm_start=True, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = few.fit(federation(X)).lower_bound_
        assert few.fit(federation(X)).lower_bound_ > first
    more = GaussianMixture(4, random_state=0, n_init=2).fit(federation(X))
    assert sum(release.query == "feature_magnitudes" for release in more.releases_) == 2


def test_one_component_is_the_sample_moments():
    X = clusters(n=300)
    for kind in TYPES:
        fit = GaussianMixture(1, covariance_type=kind, reg_covar=0.0).fit(federation(X))
        np.testing.assert_allclose(fit.means_[0], X.mean(axis=0), rtol=1e-8)
    full = GaussianMixture(1, reg_covar=0.0).fit(federation(X))
    np.testing.assert_allclose(full.covariances_[0], np.cov(X.T, bias=True), rtol=1e-7)


# --- under a budget ---------------------------------------------------------------------------------------------------


def test_the_recipe_end_to_end_through_secure_aggregation():
    X = blobs(3000)
    reports: list[RoundReport] = []
    silos = LocalFederation(np.array_split(X, 5), budget=Budget(epsilon=4.0, delta=1e-5), noise_seed=3)
    fit = GaussianMixture(4, bounds=BOUNDS, random_state=0, callback=reports.append).fit(silos)
    assert fit.score(X) > GaussianMixture(4, random_state=0, n_init=3).fit(X).score(X) - 0.05
    assert [report.release for report in reports] == list(fit.releases_)
    assert {release.query for release in fit.releases_} == {"whitened_mixture_statistics", "candidate_likelihoods"}
    assert all(release.private and release.protection == "secure_aggregation" for release in fit.releases_)
    stages = ["moments", "start", "shapes", "judgement", "mixture"]
    assert list(dict.fromkeys(report.stage for report in reports)) == stages
    assert fit.epsilon_["server"] <= 4.0
    assert fit.epsilon_ == dict(fit.releases_[-1].epsilon)
    assert silos.remaining_share < 1e-4
    assert fit.converged_
    assert fit.lower_bounds_ == [report.log_likelihood for report in reports if report.stage == "mixture"]
    assert np.median(fit.lower_bounds_[-8:]) == pytest.approx(fit.score(X), abs=0.5)  # released, so noised
    with pytest.raises(BudgetExhausted):
        silos.release(Count(), share=0.01)


def test_a_seed_fixes_all_but_the_noise():
    X = blobs(1500)

    def fit(noise_seed):
        return GaussianMixture(3, bounds=BOUNDS, random_state=7).fit(budgeted(X, noise_seed=noise_seed)).means_

    np.testing.assert_array_equal(fit(1), fit(1))
    assert np.abs(fit(1) - fit(2)).max() > 1e-6
    assert np.abs(fit(None) - fit(None)).max() > 1e-6  # the system's noise, whatever the seed


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_close_to_the_pooled_fit(kind):
    X = blobs(4000)
    fit = GaussianMixture(4, covariance_type=kind, bounds=BOUNDS, random_state=0).fit(budgeted(X))
    pooled = GaussianMixture(4, covariance_type=kind, n_init=3, random_state=0).fit(X)
    assert fit.covariances_.shape == pooled.covariances_.shape
    assert fit.score(X) > pooled.score(X) - 0.03


def test_a_part_of_the_budget_can_be_kept():
    X = blobs(2000)
    silos = budgeted(X)
    GaussianMixture(3, bounds=BOUNDS, share=0.4, random_state=0).fit(silos)
    assert silos.remaining_share == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(UsageError, match=r"share is 0\.7 of the budget, but 0\.6\d* of it is left"):
        GaussianMixture(3, bounds=BOUNDS, share=0.7).fit(silos)
    GaussianMixture(3, bounds=BOUNDS, random_state=0).fit(silos)  # the rest
    with pytest.raises(UsageError, match="of the budget is left, too little for a fit"):
        GaussianMixture(3, bounds=BOUNDS).fit(silos)


def test_one_gaussian_takes_the_whole_budget():
    X = blobs(500, K=1)
    for kind in TYPES:
        silos = budgeted(X, epsilon=1.0)
        fit = GaussianMixture(1, covariance_type=kind, bounds=BOUNDS, random_state=0).fit(silos)
        assert fit.score(X) > GaussianMixture(1, covariance_type=kind).fit(X).score(X) - 0.3
        assert silos.remaining_share < 1e-4
        assert len(fit.releases_) == 6  # three find the frame, three spend the rest in it


def test_what_cannot_be_afforded_is_replaced_aloud():
    X = blobs(400)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = GaussianMixture(4, bounds=BOUNDS, random_state=0).fit(budgeted(X, epsilon=0.3))
    said = " ".join(str(warning.message) for warning in caught)
    assert "with 4 full components of 3 features: fitting" in said
    assert "raise epsilon, bring more rows, lower n_components" in said
    assert fit.means_.shape[0] <= 4
    assert fit.covariances_.shape == (*fit.means_.shape, 3)
    assert fit.predict_proba(X).shape == (400, len(fit.weights_))
    with pytest.warns(UserWarning, match="fitting a single Gaussian instead"):
        fit = GaussianMixture(4, covariance_type="tied", bounds=BOUNDS, random_state=0).fit(budgeted(X, epsilon=0.1))
    assert fit.means_.shape == (1, 3)
    assert fit.covariances_.shape == (3, 3)


def test_given_means_and_warm_starts_save_the_start():
    X = blobs(3000)
    means = GaussianMixture(4, random_state=0).fit(X).means_
    reports: list[RoundReport] = []
    fit = GaussianMixture(
        4, bounds=BOUNDS, means_init=means, share=0.5, random_state=0, warm_start=True, callback=reports.append
    )
    silos = budgeted(X)
    first = fit.fit(silos).score(X)
    assert {report.stage for report in reports} == {"moments", "mixture"}
    fit.set_params(share=None).fit(silos)
    assert {report.stage for report in reports} == {"moments", "mixture"}
    assert fit.score(X) > first - 0.05
    both = GaussianMixture(4, bounds=BOUNDS, rounds=3, random_state=0, means_init=means, weights_init=np.full(4, 0.25))
    assert both.fit(budgeted(X)).n_iter_ == 3
    precisions = np.stack([np.eye(3)] * 4)
    given = GaussianMixture(4, bounds=BOUNDS, rounds=2, random_state=0, means_init=means, precisions_init=precisions)
    assert given.fit(budgeted(X)).score(X) > first - 0.05


def test_clients_as_the_unit():
    """One client is one record, however many rows it holds."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    silos = [centres[rng.integers(3, size=size)] + rng.standard_normal((size, 2)) for size in rng.integers(1, 9, 150)]
    X = np.concatenate(silos)
    budget = Budget(epsilon=8.0, delta=1e-5, unit="client")
    with LocalFederation(silos, mode="trusted", budget=budget, noise_seed=1) as clients:
        fit = GaussianMixture(3, bounds=BOUNDS, random_state=0).fit(clients)
    assert fit.score(X) > GaussianMixture(3, random_state=0).fit(X).score(X) - 0.2


def test_lost_clients_are_borne():
    X = blobs(2000)
    from privfed.engines import Loss

    losses = [Loss("client_3", "masked", rounds=[5]), Loss("client_4", "unmask", rounds=[9])]
    names = {f"client_{i}": part for i, part in enumerate(np.array_split(X, 8))}
    silos = LocalFederation(names, budget=Budget(epsilon=4.0, delta=1e-5), dropout=0.3, losses=losses, noise_seed=1)
    fit = GaussianMixture(4, bounds=BOUNDS, random_state=0).fit(silos)
    assert min(release.survivors for release in fit.releases_) < 8
    assert fit.score(X) > GaussianMixture(4, random_state=0).fit(X).score(X) - 0.1


def test_frames_and_mapped_federations():
    X = blobs(900)
    frames = [pd.DataFrame(part, columns=["a", "b", "c"]) for part in np.array_split(X, 3)]
    fit = GaussianMixture(2, random_state=0).fit(LocalFederation(frames, mode="trusted"))
    assert fit.feature_names_in_.tolist() == ["a", "b", "c"]
    mapped = TransformedFederation(federation(X), LinearMap(np.zeros(3), np.eye(3)[:2], reach=1e3))
    assert GaussianMixture(2, random_state=0).fit(mapped).n_features_in_ == 2
    private = TransformedFederation(budgeted(X), LinearMap(np.zeros(3), np.eye(3)[:2], reach=1e3))
    assert GaussianMixture(2, bounds=BOUNDS, random_state=0).fit(private).n_features_in_ == 2


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_bounds_are_asked_for():
    silos = budgeted(blobs(100))
    with pytest.raises(UsageError, match=r"needs public bounds.*pass bounds=\(low, high\)"):
        GaussianMixture(2).fit(silos)
    assert silos.remaining_share == 1.0


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (3.0, "a pair"),
        ((1.0, 2.0, 3.0), "a pair"),
        ((0.0, [1.0, 2.0]), "one per feature"),
        (("a", "b"), "one per feature"),
        ((1.0, 1.0), "low < high"),
        ((0.0, np.inf), "finite"),
    ],
)
def test_bad_bounds_are_named(bounds, message):
    silos = budgeted(blobs(100))
    with pytest.raises(UsageError, match=message):
        GaussianMixture(2, bounds=bounds).fit(silos)
    assert silos.remaining_share == 1.0


def test_a_federation_shows_no_rows_to_predict():
    with pytest.raises(UsageError, match="shows none"):
        GaussianMixture(2).fit_predict(federation(blobs(100)))


def test_bad_parameters_cost_nothing():
    silos = budgeted(blobs(100))
    with pytest.raises(UsageError, match="'n_components' parameter"):
        GaussianMixture(0, bounds=BOUNDS).fit(silos)
    with pytest.raises(UsageError, match="shape of"):
        GaussianMixture(2, bounds=BOUNDS, means_init=np.zeros((3, 3))).fit(silos)
    assert silos.remaining_share == 1.0


def test_a_model_of_unprotected_rows_does_not_travel_under_a_budget():
    rows = np.random.default_rng(0).standard_normal((300, 2))
    mixture = GaussianMixture(2, bounds=(-6.0, 6.0), warm_start=True, random_state=0).fit(rows)
    federation = LocalFederation(np.array_split(rows, 3), budget=Budget(4.0, 1e-5), mode="trusted")
    with pytest.raises(UsageError, match="unprotected rows"):
        mixture.fit(federation)
    assert federation.ledger.rounds() == []
