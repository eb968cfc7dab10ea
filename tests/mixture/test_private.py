"""The server under a budget: estimates with the noise they claim, updates without collapse, no way round releases."""

from __future__ import annotations

import inspect
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.federation.release import Release
from privfed.learners.mixture.private import estimates, recipe, single, update
from privfed.learners.mixture.private.estimates import Estimate, Noise, RowCount, average, whitened_query
from privfed.learners.mixture.private.single import box_gaussian, single_update
from privfed.learners.mixture.private.update import FLOOR, Prior
from privfed.statistics.mixture import WhitenedMixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import TYPES, random_model, rows_of


def released(
    query: WhitenedMixtureStatistics, rows: np.ndarray, *, mu: float = np.inf, seed: int = 0, scale=1.0
) -> Release:
    """A release as the federation would make it, with numpy's noise of `scale` times the size that is declared."""
    std = query.layout.noise_std(0.0 if mu == np.inf else 1.0 / mu)
    rng = np.random.default_rng(seed)
    values = {
        name: np.asarray(value) + scale * std[name] * rng.standard_normal(np.shape(value))
        for name, value in query.contribution(rows).items()
    }
    return Release(query.kind, 1, values, std, 5, 5, (), mu < np.inf, "trusted", 1)


def query_for(model: MixtureModel) -> WhitenedMixtureStatistics:
    return WhitenedMixtureStatistics.of(model, Coordinates.shifted(np.zeros(model.n_features)))


# --- estimates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("d", [1, 3, 8])
def test_clipping_is_undone_at_the_model(kind, d):
    """Rows drawn from the model itself: counts, shifts and squares are those of standard normals."""
    model = random_model(kind, 2, d, seed=d, spread=12.0)
    estimate = Estimate.of(query_for(model), released(query_for(model), rows_of(model, 60_000, seed=1)))
    np.testing.assert_allclose(estimate.counts / 60_000, model.weights, atol=0.01)
    np.testing.assert_allclose(estimate.shifts / estimate.counts[:, None], 0.0, atol=0.04)
    identity = {"full": np.eye(d)[None].repeat(2, 0), "diag": np.ones((2, d)), "spherical": np.ones(2)}
    if kind == "tied":
        np.testing.assert_allclose(estimate.squares / estimate.total, np.eye(d), atol=0.03)
    else:
        counts = estimate.counts.reshape(2, *[1] * (estimate.squares.ndim - 1))
        np.testing.assert_allclose(estimate.squares / counts, identity[kind], atol=0.05)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("wider", [0.4, 2.0])
def test_clipping_is_undone_for_other_sizes_too(kind, wider):
    model = random_model(kind, 1, 4, seed=3)
    truth = MixtureModel.from_covariances(model.weights, model.means, model.covariances * wider, kind)
    estimate = Estimate.of(query_for(model), released(query_for(model), rows_of(truth, 60_000, seed=1)))
    size = {"full": lambda s: np.trace(s[0]) / 4, "tied": lambda s: np.trace(s) / 4}.get(kind, lambda s: s[0].mean())
    assert size(estimate.squares) / estimate.total == pytest.approx(wider, rel=0.03)


@pytest.mark.parametrize("kind", TYPES)
def test_the_declared_noise_is_the_noise(kind):
    """The spread of 300 noised estimates; a scale of 2/3 or 3/2 would be noticed."""
    model = random_model(kind, 3, 2, seed=5)
    query, rows = query_for(model), rows_of(model, 400, seed=2)

    def spreads(scale):
        many = [Estimate.of(query, released(query, rows, mu=2.0, seed=seed, scale=scale)) for seed in range(300)]
        noise = many[0].noise
        return [
            np.std([e.counts for e in many], axis=0).mean() / noise.counts,
            np.std([e.shifts for e in many], axis=0).mean() / noise.shifts,
        ]

    np.testing.assert_allclose(spreads(1.0), 1.0, atol=0.08)
    for wrong in (2 / 3, 3 / 2):
        assert np.abs(np.array(spreads(wrong)) - 1.0).min() > 0.25


@pytest.mark.parametrize("kind", TYPES)
def test_statistics_move_exactly_between_frames(kind):
    """Moved statistics are those that the other model's frame would have given, responsibilities being the same."""
    here, there = random_model(kind, 1, 3, seed=1), random_model(kind, 1, 3, seed=2)
    rows = rows_of(here, 500, seed=3)

    def about(model):
        y = model.whiten(rows, 0)
        squares = {"full": (y.T @ y)[None], "tied": y.T @ y, "diag": (y**2).sum(axis=0)[None]}
        spherical = np.array([(y**2).sum() / 3])
        return Estimate(
            model, np.array([500.0]), y.sum(axis=0)[None], squares.get(kind, spherical), Noise(1.0, 2.0, 3.0)
        )

    moved, expected = average([about(here)], there), about(there)
    np.testing.assert_allclose(moved.shifts, expected.shifts, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(moved.squares, expected.squares, rtol=1e-9, atol=1e-7)


def test_averages_carry_less_noise():
    model = random_model("full", 2, 2, seed=1)
    rows = rows_of(model, 1000, seed=1)
    estimates = [Estimate.of(query_for(model), released(query_for(model), rows, mu=0.1, seed=s)) for s in range(9)]
    combined = average(estimates, model)
    assert combined.noise.counts == pytest.approx(estimates[0].noise.counts / 3)
    np.testing.assert_allclose(combined.counts, np.mean([e.counts for e in estimates], axis=0))


@pytest.mark.parametrize("kind", TYPES)
def test_noise_of_wider_frames_is_louder_in_narrow_ones(kind):
    """Rounds under a model three times as wide: their noise in the frames of the model, against its spread."""
    model = random_model(kind, 2, 2, seed=1)
    wide = MixtureModel.from_covariances(model.weights, model.means, model.covariances * 9.0, kind)
    query, rows = query_for(wide), rows_of(model, 300, seed=1)
    moved = [average([Estimate.of(query, released(query, rows, mu=1.0, seed=s))], model) for s in range(300)]
    spread = np.std([e.shifts for e in moved], axis=0).mean()
    assert spread == pytest.approx(float(np.mean(moved[0].noise.shifts)), rel=0.1)
    plain = Estimate.of(query, released(query, rows, mu=1.0)).noise
    assert float(np.mean(moved[0].noise.squares)) == pytest.approx(9.0 * float(plain.squares))
    both = average([Estimate.of(query_for(m), released(query_for(m), rows, mu=1.0)) for m in (wide, model)], model)
    alone = average([Estimate.of(query_for(model), released(query_for(model), rows, mu=1.0))], model)
    assert float(np.mean(both.noise.squares)) <= float(np.mean(alone.noise.squares)) * 1.001  # it never harms


@pytest.mark.parametrize("kind", TYPES)
def test_bounds_of_any_quantile_are_undone(kind):
    model = random_model(kind, 1, 3, seed=2)
    rows = rows_of(model, 60_000, seed=1)
    for quantile in (0.9, 0.99, 0.9999):
        query = whitened_query(
            model,
            Coordinates.shifted(np.zeros(3)),
            quantile=quantile,
            likelihood_share=0.02,
            typical=0.0,
            likelihood_clip=20.0,
        )
        assert query.shares[3] == 0.02
        assert sum(query.shares) == pytest.approx(1.0)
        squares = Estimate.of(query, released(query, rows)).squares / 60_000
        sizes = {"full": lambda s: np.diag(s[0]), "tied": np.diag, "diag": lambda s: s[0]}.get(kind, lambda s: s)
        np.testing.assert_allclose(sizes(squares), 1.0, atol=0.04)


def test_the_number_of_rows_is_pieced_together_from_releases():
    model = random_model("full", 4, 2, seed=1)
    query, rows = query_for(model), rows_of(model, 3000, seed=1)
    count = RowCount()
    assert (count.value, count.std) == (1.0, np.inf)
    for seed in range(16):
        count = count.add(released(query, rows, mu=0.2, seed=seed))
    assert abs(count.value - 3000) < 4 * count.std
    single_std = query.layout.noise_std(1 / 0.2)["counts"] * 2  # four counts
    assert count.std == pytest.approx(single_std / 4)
    estimate = Estimate.of(query, released(query, rows, mu=0.2), rows=count)
    assert estimate.counts.sum() == pytest.approx(count.value)


def test_a_release_of_another_query_is_refused():
    model = random_model("full", 2, 2, seed=1)
    release = released(query_for(model), rows_of(model, 10, seed=1))
    with pytest.raises(UsageError, match="does not answer"):
        Estimate.of(query_for(random_model("full", 3, 2, seed=1)), release)


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_without_noise_the_update_approaches_the_m_step(kind):
    """Iterated on rows of a known mixture it arrives there."""
    truth = random_model(kind, 3, 2, seed=4, spread=8.0)
    rows = rows_of(truth, 20_000, seed=1)
    model = MixtureModel.from_covariances(np.full(3, 1 / 3), truth.means + 0.7, truth.covariances * 1.8, kind)
    prior = Prior(np.cov(rows.T))
    for _ in range(25):
        query = query_for(model)
        model = update.private_update(Estimate.of(query, released(query, rows)), prior)
    assert model.log_likelihoods(rows).mean() > truth.log_likelihoods(rows).mean() - 0.003


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(TYPES),
    K=st.integers(1, 6),
    d=st.integers(1, 6),
    n=st.integers(1, 200),
    strength=st.floats(-4, 1),
)
def test_no_noise_collapses_an_update(seed, kind, K, d, n, strength):
    """Ten rounds at any noise: finite, positive definite above the floor, no weight at zero, means within reach."""
    model = random_model(kind, K, d, seed=seed)
    rows, prior = rows_of(model, n, seed=seed), Prior(np.eye(d))
    for step in range(10):
        query = query_for(model)
        estimate = Estimate.of(query, released(query, rows, mu=10.0**strength, seed=seed + step))
        before = model
        model = update.private_update(estimate, prior)
        values = np.linalg.eigvalsh(model.full_covariances())
        assert np.isfinite(model.means).all()
        assert values.min() >= FLOOR * (1 - 1e-9)
        assert values.max() < 1e9
        assert model.weights.min() >= 0.05 / K / 2
        steps = [np.linalg.norm(before.whiten(model.means[k : k + 1], k)) for k in range(K)]
        assert max(steps) <= 3 * np.sqrt(d) * (1 + 1e-9)


@pytest.mark.parametrize("kind", TYPES)
def test_rows_without_spread_end_at_the_floor(kind):
    model = random_model(kind, 2, 2, seed=1)
    rows = np.repeat([[0.0, 0.0], [3.0, 1.0]], 400, axis=0)
    for _ in range(12):
        query = query_for(model)
        model = update.private_update(Estimate.of(query, released(query, rows)), Prior(np.eye(2)))
    values = np.linalg.eigvalsh(model.full_covariances())
    assert values.min() >= FLOOR * (1 - 1e-9)
    assert values.min() < 10 * FLOOR  # it is the floor that stops the fall


@pytest.mark.parametrize("kind", TYPES)
def test_drowned_updates_hardly_move(kind):
    model = random_model(kind, 3, 3, seed=1)
    query = query_for(model)
    estimate = Estimate.of(query, released(query, rows_of(model, 30, seed=1), mu=1e-3))
    model_after = update.private_update(estimate, Prior(np.eye(3)))
    moved = [np.linalg.norm(model.whiten(model_after.means[k : k + 1], k)) for k in range(3)]
    assert max(moved) < 1.0


def test_components_without_mass_stay_where_they_are():
    model = MixtureModel.from_covariances([0.5, 0.5], [[0.0, 0.0], [50.0, 50.0]], np.eye(2)[None].repeat(2, 0), "full")
    rows = np.random.default_rng(0).standard_normal((500, 2)) + 0.3
    query = query_for(model)
    after = update.private_update(Estimate.of(query, released(query, rows, mu=0.5)), Prior(np.eye(2)))
    np.testing.assert_array_equal(after.means[1], model.means[1])
    np.testing.assert_allclose(after.covariances[1], model.covariances[1])
    assert np.linalg.norm(after.means[0] - 0.3) < 0.2
    assert after.weights[1] < after.weights[0]


# --- one Gaussian -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_narrow_gaussian_is_found_in_a_wide_box(diagonal):
    truth = MixtureModel.from_covariances([1.0], [[0.5, -0.4]], [[0.002, 0.01]], "diag")
    rows = rows_of(truth, 5000, seed=1)
    model = box_gaussian(2, diagonal=diagonal)
    for _ in range(4):
        query = query_for(model)
        model = single_update(Estimate.of(query, released(query, rows)))
    assert model.log_likelihoods(rows).mean() > truth.log_likelihoods(rows).mean() - 0.02


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), d=st.integers(1, 8), diagonal=st.booleans(), strength=st.floats(-4, 1))
def test_one_gaussian_never_collapses_either(seed, d, diagonal, strength):
    rows = np.random.default_rng(seed).uniform(-1, 1, (50, d))
    model = box_gaussian(d, diagonal=diagonal)
    for step in range(3):
        query = query_for(model)
        release = released(query, rows, mu=10.0**strength, seed=seed + step)
        model = single_update(Estimate.of(query, release, rows=RowCount().add(release)))
        values = np.linalg.eigvalsh(model.full_covariances()[0])
        assert np.isfinite(model.means).all()
        assert values.min() > 0.08**3 / 3 * 0.99
        assert values.max() < 4**3


# --- what the server may see ------------------------------------------------------------------------------------------


def test_the_servers_functions_take_releases_and_public_values_only():
    """No public function of the server's step accepts rows: arrays appear only as fields of what a release made."""
    for module in (estimates, update, single):
        for name in module.__all__:
            thing = getattr(module, name)
            if not inspect.isfunction(thing):
                continue
            hints = typing.get_type_hints(thing)
            hints.pop("return", None)
            for parameter, kind in hints.items():
                text = str(kind)
                assert "ndarray" not in text, f"{module.__name__}.{name}({parameter}) takes an array"
    signature = inspect.signature(recipe.fit_private)
    assert "X" not in signature.parameters
    assert list(inspect.signature(Estimate.of).parameters) == ["query", "release", "rows"]
