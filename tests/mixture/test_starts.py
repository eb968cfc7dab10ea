"""What costs no privacy: starts spread over a Gaussian, merged components, the refit; and what a fit says aloud."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.private.advice import warn_bounds, warn_outdone
from privfed.learners.mixture.refit import divided, merged, refit
from privfed.learners.mixture.starts import spread_components
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import TYPES, random_model


def in_a_row(n: int, K: int, d: int, gap: float, seed: int = 0) -> np.ndarray:
    """Rows of K unit clusters along the diagonal."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) + gap * rng.integers(K, size=n)[:, None]


def fit(rows: np.ndarray, K: int, bounds, *, epsilon: float = 4.0, seed: int = 0, **settings) -> GaussianMixture:
    silos = np.array_split(rows, 5)
    with LocalFederation(silos, mode="trusted", budget=Budget(epsilon, 1e-5), noise_seed=seed) as federation:
        return GaussianMixture(K, bounds=bounds, random_state=seed, **settings).fit(federation)


# --- starts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), d=st.integers(1, 5), K=st.integers(1, 12), kind=st.sampled_from(TYPES))
def test_cells_keep_the_moments_of_the_gaussian(seed, d, K, kind):
    """Total mean and (for one common covariance) total covariance are the Gaussian's, up to its draws."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((d, d))
    covariance = A @ A.T + 0.2 * np.eye(d)
    box = Coordinates(np.full(d, -9.0), np.full(d, 9.0), np.zeros(d), np.eye(d))
    model = spread_components(box, covariance, K, kind, np.random.RandomState(seed))
    scale = np.sqrt(np.trace(covariance))
    assert model.weights.sum() == pytest.approx(1.0)
    assert np.linalg.norm(model.weights @ model.means) < 0.15 * scale
    if kind in ("full", "tied"):
        centred = model.means - model.weights @ model.means
        total = (model.weights * centred.T) @ centred + np.einsum("k,kij->ij", model.weights, model.full_covariances())
        np.testing.assert_allclose(total, covariance, atol=0.2 * scale**2)


def test_cells_divide_the_long_side_of_the_box():
    """Whitened, the directions are alike; in the bounds' units the first is ten times longer."""
    sd = np.array([10.0, 1.0, 1.0])
    box = Coordinates(np.full(3, -50.0), np.full(3, 50.0), np.zeros(3), np.diag(1 / sd))
    model = spread_components(box, np.eye(3), 9, "tied", np.random.RandomState(0))
    within = np.diag(model.covariances)
    assert within[0] < 0.05
    assert within[1:].min() > 0.8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), K=st.integers(2, 9), data=st.data())
def test_mergers_keep_mean_and_covariance(seed, d, K, data):
    left = data.draw(st.integers(1, K))
    model = random_model("full", K, d, seed)

    def moments(m):
        centre = m.weights @ m.means
        away = m.means - centre
        return centre, np.einsum("k,kij->ij", m.weights, m.covariances + away[:, :, None] * away[:, None, :])

    result = merged(model, left, "full")
    assert result.n_components == left
    for found, expected in zip(moments(result), moments(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_the_pair_merged_first_is_the_one_nobody_misses():
    means = np.array([[0.0, 0.0], [0.1, 0.0], [6.0, 0.0], [0.0, 9.0]])
    model = MixtureModel.from_matrices(np.full(4, 0.25), means, np.eye(2), "full")
    result = merged(model, 3, "full")
    np.testing.assert_allclose(sorted(result.weights), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(result.means[np.argmax(result.weights)], [0.05, 0.0], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_refit_finds_discs_side_by_side(seed):
    """Six flat discs, three thin components each: k-means in working coordinates cuts across them."""
    rng = np.random.default_rng(seed)
    means = np.zeros((18, 6))
    means[:, 0] = np.repeat(np.linspace(-1.5, 1.5, 6), 3)
    means[:, 1:] = 0.5 * rng.standard_normal((18, 5))
    model = MixtureModel.from_matrices(np.full(18, 1 / 18), means, np.diag([0.003, *[0.75] * 5]), "tied")
    found = refit(model, 6, "full", np.random.RandomState(seed))
    np.testing.assert_allclose(np.sort(found.means[:, 0]), np.linspace(-1.5, 1.5, 6), atol=0.05)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize(("n", "K", "d", "gap", "epsilon"), [(480, 3, 3, 8.0, 6.0), (3000, 5, 2, 6.0, 2.0)])
def test_clusters_in_a_row_are_all_found(kind, n, K, d, gap, epsilon):
    rows, test = in_a_row(n, K, d, gap), in_a_row(4000, K, d, gap, seed=1)
    truth = MixtureModel.from_matrices(np.full(K, 1 / K), gap * np.arange(K)[:, None] * np.ones(d), np.eye(d), "full")
    for seed in range(3):
        found = fit(rows, K, (-10.0, gap * K + 10.0), epsilon=epsilon, seed=seed, covariance_type=kind)
        assert found.score(test) > truth.log_likelihoods(test).mean() - 0.15


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), K=st.integers(1, 4), more=st.integers(0, 5), d=st.integers(1, 4))
def test_dividing_keeps_the_moments(seed, K, more, d):
    model = random_model("full", K, d, seed=seed)
    halves = divided(model, K + more, "full")
    assert halves.n_components == K + more

    def moments(mixture):
        mean = mixture.weights @ mixture.means
        centred = mixture.means - mean
        within = np.tensordot(mixture.weights, mixture.full_covariances(), axes=1)
        return np.concatenate([mean, (within + (mixture.weights * centred.T) @ centred).ravel()])

    np.testing.assert_allclose(moments(halves), moments(model), atol=1e-9 * (1 + np.abs(moments(model)).max()))
    assert np.linalg.eigvalsh(halves.full_covariances()).min() > 0


def test_a_component_over_two_clusters_is_divided_between_them():
    model = MixtureModel.from_matrices(
        [0.6, 0.4], [[0.0, 0.0], [0.0, 30.0]], np.stack([np.diag([50.0, 1.0]), np.eye(2)]), "full"
    )
    found = refit(model, 3, "full", np.random.RandomState(0))
    assert sorted(found.means[:, 0].round(1)) == [-5.7, 0.0, 5.7]


# --- what is said -----------------------------------------------------------------------------------------------------


def test_more_clusters_than_components_are_told():
    rows = np.concatenate([in_a_row(1500, 2, 2, 40.0), in_a_row(1500, 2, 2, 40.0) * [1, -1] + [0, 20.0]])
    with pytest.warns(
        UserWarning, match=r"a start of \d+ explained the rows better by .* Raise n_components"
    ) as caught:
        fit(rows, 2, (-60.0, 60.0))
    assert caught[0].filename == __file__  # the line that called the fit


def test_a_difference_within_the_noise_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_outdone(start=1.0, components=6, final=0.5, wanted=2, error=0.2)
        warn_outdone(start=1.0, components=2, final=0.5, wanted=2, error=0.0)
        warn_outdone(start=0.5, components=6, final=1.0, wanted=2, error=0.0)
    with pytest.warns(UserWarning, match="explained the rows better by 0.5 nats"):
        warn_outdone(start=1.0, components=6, final=0.5, wanted=2, error=0.02)


@pytest.mark.parametrize("bounds", [(-1.0, 3.0), (20.0, 40.0)])
def test_rows_cut_by_bounds_are_told(bounds):
    rows = in_a_row(2000, 2, 2, 8.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(rows, 2, bounds)
    assert any("edge of bounds in features 0, 1" in str(warning.message) for warning in caught)


def test_bounds_that_suit_are_not_remarked_on_and_empty_ones_are():
    low, high = np.full(3, -10.0), np.full(3, 10.0)
    model = MixtureModel.from_matrices([0.5, 0.5], [[0, 0, 0], [6.0, 6.0, 6.0]], np.eye(3), "full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_bounds(model, low, high)
    with pytest.warns(UserWarning, match="1000 times wider than the data in feature 2"):
        warn_bounds(model, np.array([-10.0, -10.0, -1e5]), np.array([10.0, 10.0, 1e5]))


@pytest.mark.parametrize("epsilon", [0.1, 4.0])
@pytest.mark.parametrize("K", [1, 3])
def test_means_lie_within_bounds(epsilon, K):
    rows = np.clip(in_a_row(60, 2, 3, 8.0), 0.0, 8.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(5):
            found = fit(rows, K, (0.0, 8.0), epsilon=epsilon, seed=seed)
            assert found.means_.min() >= 0.0
            assert found.means_.max() <= 8.0


def test_the_choice_is_told_as_an_attribute():
    rows = in_a_row(3000, 2, 2, 8.0)
    mixture = fit(rows, 2, (-6.0, 14.0))
    assert (mixture.choice_.covariance_type, mixture.choice_.n_components) == ("full", 2)
    assert 0 < mixture.choice_.excess < 0.1
    mixture.set_params(bounds=None).fit(rows)
    assert not hasattr(mixture, "choice_")


@pytest.mark.parametrize("given", [{"weights_init": [0.5, 0.5]}, {"precisions_init": np.stack([np.eye(2)] * 2)}])
def test_a_start_in_parts_is_refused_before_anything_is_spent(given):
    silos = np.array_split(in_a_row(200, 2, 2, 8.0), 4)
    with LocalFederation(silos, mode="trusted", budget=Budget(1.0, 1e-5)) as federation:
        with pytest.raises(UsageError, match="need means_init"):
            GaussianMixture(2, bounds=(-6.0, 14.0), **given).fit(federation)
        assert federation.remaining_share == 1.0


def test_a_given_start_that_noise_will_drown_is_told():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(in_a_row(60, 2, 2, 8.0), 2, (-6.0, 14.0), epsilon=0.2, means_init=[[0.0, 0.0], [8.0, 8.0]])
    assert "the given start is all that will be left" in str(caught[0].message)
