"""Fewer rounds: the same maximum, the guard that holds, and EM in turns."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.base import ConvergenceWarning
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.em import expectation_maximization, fit_rows, model_from_responsibilities
from privfed.learners.mixture.exact import accelerate
from privfed.learners.mixture.exact.accelerate import Chart, squarem_maximization
from privfed.learners.mixture.exact.online import online_maximization, recentred
from privfed.learners.mixture.initialise import initial_responsibilities
from privfed.statistics.mixture_estep import client_statistics
from tests.mixture.cases import TYPES, clusters, random_model, rows_of


def start_of(X, K, kind, seed=0):
    g = initial_responsibilities(X, K, "kmeans", np.random.RandomState(seed))
    return model_from_responsibilities(X, g, kind, reg_covar=1e-6)


# --- the chart --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), K=st.integers(1, 4), d=st.integers(1, 4))
def test_a_model_comes_back_from_its_vector(seed, kind, K, d):
    model = random_model(kind, K, d, seed)
    chart = Chart.of(random_model(kind, K, d, seed + 1))
    again = chart.model(chart.vector(model))
    np.testing.assert_allclose(again.weights, model.weights, rtol=1e-12)
    np.testing.assert_allclose(again.means, model.means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(again.covariances, model.covariances, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), size=st.floats(0, 5))
def test_any_vector_of_moderate_length_is_a_model(seed, kind, size):
    """Extrapolation cannot leave the models: weights stay positive, covariances definite."""
    model = random_model(kind, 3, 3, seed)
    chart = Chart.of(model)
    vector = chart.vector(model)
    moved = chart.model(vector + size * np.random.default_rng(seed).standard_normal(vector.size))
    assert (moved.weights > 0).all()
    assert (np.linalg.eigvalsh(moved.full_covariances()) > 0).all()


def test_units_of_the_data_do_not_matter():
    """Rows in other units take the same steps."""
    X = clusters(n=400, K=4, seed=3)
    scale = np.array([1e-3, 1.0, 1e4])
    plain = fit_rows(start_of(X, 4, "full"), X, tol=1e-8, max_iter=60, reg_covar=0.0, maximise=squarem_maximization)
    g = initial_responsibilities(X, 4, "kmeans", np.random.RandomState(0))
    start = model_from_responsibilities(X * scale, g, "full", reg_covar=0.0)
    scaled = fit_rows(start, X * scale, tol=1e-8, max_iter=60, reg_covar=0.0, maximise=squarem_maximization)
    assert abs(len(plain.lower_bounds) - len(scaled.lower_bounds)) <= 1
    np.testing.assert_allclose(scaled.model.means / scale, plain.model.means, rtol=1e-4, atol=1e-4)


# --- SQUAREM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_it_ends_where_em_ends_in_fewer_rounds(kind):
    X = PCA(6, random_state=0).fit_transform(load_digits().data[:900])
    start = start_of(X, 6, kind)
    slow = fit_rows(start, X, tol=1e-9, max_iter=3000)
    fast = fit_rows(start, X, tol=1e-9, max_iter=3000, maximise=squarem_maximization)
    assert fast.converged
    assert fast.lower_bounds[-1] > slow.lower_bounds[-1] - 1e-6
    assert len(fast.lower_bounds) < 0.75 * len(slow.lower_bounds)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), K=st.integers(1, 4))
def test_a_kept_model_is_never_worse(seed, kind, K):
    """Rejected leaps aside, the likelihood does not fall: the last bound is the best of all, up to reg_covar."""
    X = clusters(n=80, d=2, K=3, seed=seed)
    result = fit_rows(
        start_of(X, K, kind, seed), X, tol=1e-7, max_iter=60, reg_covar=1e-4, maximise=squarem_maximization
    )
    assert result.lower_bounds[-1] >= max(result.lower_bounds) - 1e-4


def test_the_guard_rejects_leaps_that_lose(monkeypatch):
    """With leaps gone wild the fit still ends where EM does."""
    X = clusters(n=300, K=3, seed=1)
    start = start_of(X, 3, "full")
    monkeypatch.setattr(accelerate, "_length", lambda *_: 40.0)
    wild = fit_rows(start, X, tol=1e-8, max_iter=300, maximise=squarem_maximization)
    calm = fit_rows(start, X, tol=1e-8, max_iter=300)
    assert wild.lower_bounds[-1] == pytest.approx(calm.lower_bounds[-1], abs=1e-6)


def test_every_e_step_counts_against_max_iter():
    X = clusters(n=200, K=3, seed=1)
    for most in range(1, 8):
        asked = []

        def e_step(model, asked=asked):
            asked.append(model)
            return client_statistics(model, X)

        result = squarem_maximization(start_of(X, 3, "full"), e_step, tol=0.0, max_iter=most)
        assert len(asked) == most == len(result.lower_bounds)
        assert not result.converged


@pytest.mark.parametrize("kind", TYPES)
def test_on_a_federation_it_is_the_fit_on_rows(kind):
    X = clusters(n=300, K=3, seed=2)
    model = start_of(X, 3, kind)
    arguments = {
        "covariance_type": kind,
        "weights_init": model.weights / model.weights.sum(),
        "means_init": model.means + 0.3,
        "precisions_init": model.precisions,
        "tol": 1e-7,
        "acceleration": "squarem",
    }
    pooled = GaussianMixture(3, **arguments).fit(X)
    federated = GaussianMixture(3, **arguments).fit(LocalFederation(np.array_split(X, 4), mode="trusted"))
    np.testing.assert_allclose(federated.means_, pooled.means_, atol=1e-4)
    assert abs(federated.n_iter_ - pooled.n_iter_) <= 2


# --- in turns ---------------------------------------------------------------------------------------------------------


def turns(parts):
    """An E-step over one part after the other."""
    state = {"turn": 0}

    def e_step(model):
        part = parts[state["turn"] % len(parts)]
        state["turn"] += 1
        return client_statistics(model, part, reference=part.mean(axis=0))

    return e_step


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scheme", ["incremental", "stepwise"])
def test_turns_end_at_a_maximum_of_all_rows(kind, scheme):
    """Silos sorted by their first feature, as unlike as can be."""
    X = clusters(n=600, K=3, seed=4)
    parts = np.array_split(X[np.argsort(X[:, 0])], 5)
    start = start_of(X, 3, kind)
    most = 400 if scheme == "incremental" else 500
    result = online_maximization(start, turns(parts), period=5, scheme=scheme, tol=1e-8, max_iter=most)
    pooled = fit_rows(start, X, tol=1e-10, max_iter=500)
    found = client_statistics(result.model, X).log_likelihood / len(X)
    assert found == pytest.approx(pooled.lower_bounds[-1], abs=1e-4 if scheme == "incremental" else 1e-2)


def test_the_first_pass_stands_still():
    """Before everybody was seen, no update: the first cohort alone may hold nothing of a component."""
    X = clusters(n=300, K=3, seed=5)
    start = start_of(X, 3, "full")
    parts = np.array_split(X[np.argsort(X[:, 0])], 4)
    early = online_maximization(start, turns(parts), period=4, scheme="incremental", tol=0.0, max_iter=3)
    assert early.model is start
    full = online_maximization(start, turns(parts), period=4, scheme="incremental", tol=0.0, max_iter=4)
    step = expectation_maximization(start, lambda model: client_statistics(model, X), tol=0.0, max_iter=1)
    np.testing.assert_allclose(full.model.means, step.model.means, rtol=1e-9)
    np.testing.assert_allclose(full.model.covariances, step.model.covariances, rtol=1e-7, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(TYPES), each=st.booleans())
def test_statistics_move_to_another_reference(seed, kind, each):
    model = random_model(kind, 3, 2, seed)
    X = rows_of(model, 50, seed)
    reference = model.means if each else X.mean(axis=0) + 1.0
    moved = recentred(client_statistics(model, X, reference=reference))
    plain = client_statistics(model, X)
    for name in ("counts", "first", "second"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scheme", ["incremental", "stepwise"])
def test_cohorts_of_a_federation_take_turns(scheme):
    X = clusters(n=300, K=3, seed=6)
    model = start_of(X, 3, "full")
    start = {"weights_init": model.weights, "means_init": model.means, "precisions_init": model.precisions}
    silos = LocalFederation(np.array_split(X[np.argsort(X[:, 0])], 6), mode="trusted")
    fit = GaussianMixture(3, acceleration=scheme, clients_per_round=2, max_iter=300, tol=2e-3, **start).fit(silos)
    main = [release for release in fit.releases_ if release.query == "mixture_statistics"]
    assert all(release.participants == 2 for release in main[1:])
    assert fit.n_iter_ % 3 == 0
    assert fit.score(X) > GaussianMixture(3, **start).fit(X).score(X) - 5e-3


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acceleration": "incremental"}, "needs clients_per_round"),
        ({"clients_per_round": 2}, "clients_per_round is for"),
        ({"aggregation": "parameters", "acceleration": "squarem"}, "baseline of its own"),
        ({"acceleration": "anderson"}, "'acceleration' parameter"),
        ({"clients_per_round": 1}, "'clients_per_round' parameter"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    silos = LocalFederation(np.array_split(clusters(n=60), 3), mode="trusted")
    for data in (silos, clusters(n=60)):
        with pytest.raises(UsageError, match=message):
            GaussianMixture(2, **arguments).fit(data)
    assert silos.ledger.rounds() == []


def test_rows_take_no_turns_and_budgets_no_leaps():
    X = clusters(n=60)
    with pytest.raises(UsageError, match="takes turns among the clients"):
        GaussianMixture(2, acceleration="stepwise", clients_per_round=2).fit(X)
    silos = LocalFederation(np.array_split(X, 3), mode="trusted", budget=Budget(1.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match="the recipe averages its last rounds"):
        GaussianMixture(2, acceleration="squarem", bounds=(-40, 40)).fit(silos)
    assert silos.remaining_share == 1.0


def test_a_federated_fit_that_stops_early_says_so_at_the_line_that_called_it():
    X = clusters(n=300, K=4, seed=6)
    silos = LocalFederation(np.array_split(X, 3), mode="trusted")
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        GaussianMixture(4, random_state=0, max_iter=1, tol=0.0).fit(silos)
    assert caught[0].filename == __file__
    with pytest.warns(ConvergenceWarning) as caught:
        GaussianMixture(4, random_state=0, max_iter=1, tol=0.0).fit(X)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(4, random_state=0, max_iter=0).fit(silos)
