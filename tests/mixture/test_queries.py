"""What the mixture's queries owe: bounds that no row passes and some rows reach, and sums that hold the E-step."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privfed.engines import LocalFederation
from privfed.errors import UsageError
from privfed.query import decode_query, encode_query
from privfed.statistics.mixture import MixtureStatistics, WhitenedMixtureStatistics
from privfed.statistics.mixture_clipping import clipping
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_estep import client_statistics
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.mixture_range import FeatureMagnitudes, scales_of
from tests.mixture.cases import TYPES, random_model, rows_of
from tests.privfed.query_contract import QueryContract


def coordinates(d: int, reach: float = 1e30) -> Coordinates:
    transform = np.eye(d) + 0.1 * np.random.default_rng(d).standard_normal((d, d))
    return Coordinates(np.full(d, -reach), np.full(d, reach), np.linspace(0, 1, d), transform)


class TestWhitenedFull(QueryContract):
    kind = "full"

    def make(self):
        return WhitenedMixtureStatistics.of(random_model(self.kind, 4, 3, seed=1), coordinates(3))


class TestWhitenedTied(TestWhitenedFull):
    kind = "tied"


class TestWhitenedDiag(TestWhitenedFull):
    kind = "diag"


class TestWhitenedSpherical(TestWhitenedFull):
    kind = "spherical"


class TestExactFull(QueryContract):
    kind = "full"

    def make(self):
        return MixtureStatistics.of(random_model(self.kind, 4, 3, seed=1), coordinates(3), radius=7.0)


class TestExactTied(TestExactFull):
    kind = "tied"


class TestExactDiag(TestExactFull):
    kind = "diag"


class TestExactSpherical(TestExactFull):
    kind = "spherical"


class TestExactAboutMeans(QueryContract):
    """Components so narrow that the query sums about their means."""

    def make(self):
        model = MixtureModel.from_covariances(
            [0.5, 0.5], [[0.0, 0, 0], [5.0, 5, 5]], np.eye(3)[None].repeat(2, 0) * 1e-8, "full"
        )
        query = MixtureStatistics.of(model, coordinates(3), radius=9.0)
        assert query.reference.shape == (2, 3)
        return query


class TestFeatureMagnitudes(QueryContract):
    def make(self):
        return FeatureMagnitudes(np.array([0.0, 1.0, -5.0]))


# --- sensitivity ------------------------------------------------------------------------------------------------------


def norms(query, row):
    contribution = query.contribution(row[None, :])
    each = {block.name: np.linalg.norm(np.ravel(contribution[block.name])) / block.bound for block in query.blocks}
    return each, float(np.linalg.norm(query.layout.flatten(contribution)))


def hunt(query, d, seed, tries=150):
    """Rows of every length and direction, then uphill from the best: the greatest norms, per block and jointly."""
    rng = np.random.default_rng(seed)
    best, worst = dict.fromkeys([block.name for block in query.blocks], 0.0), 0.0

    def look(row):
        nonlocal worst
        each, joint = norms(query, row)
        for name, value in each.items():
            best[name] = max(best[name], value)
        worst = max(worst, joint)
        return joint

    champion, height = np.zeros(d), 0.0
    for _ in range(tries):
        k = rng.integers(query.weights.size)
        direction = rng.standard_normal(d) * (rng.random(d) < rng.uniform(0.2, 1.0))
        row = query.centre + (query.means[k] + direction * 10.0 ** rng.uniform(-3, 3)) @ np.linalg.inv(query.transform)
        joint = look(row)
        if joint > height:
            champion, height = row, joint
    for step in np.geomspace(1, 1e-3, 60):
        row = champion + step * rng.standard_normal(d)
        joint = look(row)
        if joint > height:
            champion, height = row, joint
    return best, worst


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("K", "d"), [(1, 1), (1, 2), (3, 2), (4, 5)])
def test_no_row_passes_a_bound_and_some_row_reaches_it(kind, K, d):
    """Adversarial search. The joint sensitivity is attained: noise of the declared size is not more than is needed."""
    greatest, attained = 0.0, dict.fromkeys(("counts", "means", "second", "log_likelihood"), 0.0)
    for seed in range(3):
        model = random_model(kind, K, d, seed=seed, spread=20.0)
        query = WhitenedMixtureStatistics.of(model, coordinates(d), typical=0.0, likelihood_clip=5.0)
        best, joint = hunt(query, d, seed)
        greatest = max(greatest, joint)
        attained = {name: max(attained[name], value) for name, value in best.items()}
        assert joint <= 1 + 1e-12
        assert max(best.values()) <= 1 + 1e-12
    assert greatest > 0.99
    assert min(attained.values()) > 0.99, attained


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(TYPES),
    K=st.integers(1, 5),
    d=st.integers(1, 6),
    size=st.floats(-150, 150),
    width=st.floats(-6, 6),
)
def test_bounds_hold_for_any_model_and_any_row(seed, kind, K, d, size, width):
    rng = np.random.default_rng(seed)
    model = random_model(kind, K, d, seed=seed)
    model = MixtureModel.from_covariances(
        rng.dirichlet(np.full(K, 0.1)), model.means, model.covariances * 10.0**width, kind
    )
    query = WhitenedMixtureStatistics.of(model, coordinates(d, reach=1e300))
    row = rng.standard_normal(d) * 10.0**size
    each, joint = norms(query, row)
    assert joint <= 1 + 1e-12
    assert max(each.values()) <= 1 + 1e-12


def test_a_smaller_second_clip_than_the_means_imply_is_kept_too():
    """The bound is a promise of the query, not of whoever fills in its fields."""
    for kind in TYPES:
        query = WhitenedMixtureStatistics.of(random_model(kind, 2, 3, seed=1), coordinates(3))
        harsh = replace(query, second_clip=0.01, mean_clip=30.0)
        _, joint = hunt(harsh, 3, seed=2, tries=60)
        assert joint <= 1 + 1e-12


def test_rows_that_overflow_count_nowhere():
    model = MixtureModel.from_covariances([0.5, 0.5], [[0.0], [1.0]], [1e-200, 1.0], "spherical")
    query = WhitenedMixtureStatistics.of(model, Coordinates.shifted(np.zeros(1)))
    with np.errstate(all="ignore"):
        contribution = query.contribution(np.array([[1e200], [np.nan], [np.inf], [-np.inf]]))
    assert all(not np.any(value) for value in contribution.values())


@pytest.mark.parametrize("kind", TYPES)
def test_rounding_stays_below_what_the_query_declares(kind):
    """A row is not computed to the same bits alone and in a crowd; the plan counts on a bound of the difference."""
    model = random_model(kind, 5, 6, seed=3)
    query = WhitenedMixtureStatistics.of(model, coordinates(6, reach=50.0))
    assert 1e-13 < query.row_error < 1e-6
    # Whoever writes the query chooses what its blocks are divided by: a tiny range makes rounding large.
    tiny = replace(query, likelihood_clip=1e-9)
    assert tiny.row_error > 1e6 * query.row_error
    rows = 8 * np.random.default_rng(0).standard_normal((100, 6))
    for row in rows:
        alone = query.layout.flatten(query.contribution(row[None, :]))
        crowd = query.layout.flatten(query.contribution(np.repeat(row[None, :], 64, axis=0))) / 64
        assert np.linalg.norm(alone - crowd) < query.row_error
    opened = WhitenedMixtureStatistics.of(model, Coordinates.shifted(np.zeros(6)))
    assert opened.row_error == math.inf


def exact_whitening(query, row, k):
    """(c T - m) P in rational arithmetic."""
    d = query.n_features
    factors = query.precisions_cholesky
    if query.covariance_type in ("full", "tied"):
        P = factors[k] if query.covariance_type == "full" else factors
    else:
        P = np.diag(factors[k]) if query.covariance_type == "diag" else factors[k] * np.eye(d)
    shifted = np.clip(row, query.low, query.high) - query.centre
    z = [sum(Fraction(shifted[i]) * Fraction(query.transform[i, j]) for i in range(d)) for j in range(d)]
    z = [value - Fraction(mean) for value, mean in zip(z, query.means[k], strict=True)]
    return [sum(z[i] * Fraction(P[i, j]) for i in range(d)) for j in range(d)]


@pytest.mark.parametrize("kind", TYPES)
def test_rounding_of_features_in_odd_units_is_bounded_feature_by_feature(kind):
    """Against rational arithmetic: an understated bound is broken, one by norms is a million times as large."""
    d, K = 6, 3
    units = 10.0 ** np.linspace(-6, 6, d)
    random = np.random.default_rng(1)
    transform = random.standard_normal((d, d)) / units[:, None]
    frame = Coordinates(-30 * units, 30 * units, units, transform)
    query = WhitenedMixtureStatistics.of(random_model(kind, K, d, seed=3), frame)
    corner = np.maximum(np.abs(query.low - query.centre), np.abs(query.high - query.centre))
    bound, worst = query._whitening_error(corner), 0.0
    assert 0 < query.row_error < 1e-6  # as in units of one size
    assert bound < 1e-6 * 2.0**-53 * np.linalg.norm(corner) * np.linalg.norm(transform)
    for row in random.uniform(-30, 30, (40, d)) * units:
        z = query.coordinates.apply(row[None, :])
        for k in range(K):
            found, exact = query.model.whiten(z, k)[0], exact_whitening(query, row, k)
            off = [float(Fraction(a) - b) for a, b in zip(found, exact, strict=True)]
            worst = max(worst, float(np.linalg.norm(off)))
    assert worst < bound
    assert worst > bound / 500  # it is not idle: an understated bound is broken


# --- contents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_exact_sums_are_the_e_step_in_working_coordinates(kind):
    model, frame = random_model(kind, 3, 4, seed=6), coordinates(4)
    rows = rows_of(model, 300, seed=7) @ np.linalg.inv(frame.transform) + frame.centre
    query = MixtureStatistics.of(model, frame, radius=100.0)
    found = query.sums_of({k: np.asarray(v) for k, v in query.contribution(rows).items()})
    expected = client_statistics(model, frame.apply(rows))
    np.testing.assert_allclose(found.counts, expected.counts, rtol=1e-10)
    np.testing.assert_allclose(found.second, expected.second, rtol=1e-9, atol=1e-9)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-11)
    assert found.n_rows == pytest.approx(300, rel=1e-12)


@pytest.mark.parametrize("kind", TYPES)
def test_unclipped_whitened_sums_are_the_definition(kind):
    """With clip bounds out of reach, the blocks are plain moments of whitened rows."""
    model = random_model(kind, 3, 2, seed=8)
    rows = rows_of(model, 200, seed=9)
    query = WhitenedMixtureStatistics.of(model, Coordinates.shifted(np.zeros(2)))
    query = replace(query, mean_clip=1e3, second_clip=1e9, likelihood_clip=1e6)
    g, found = model.responsibilities(rows), query.contribution(rows)
    whitened = [model.whiten(rows, k) for k in range(3)]
    np.testing.assert_allclose(found["counts"], g.sum(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found["means"], [g[:, k] @ whitened[k] for k in range(3)], rtol=1e-9, atol=1e-9)
    assert found["log_likelihood"] == pytest.approx(model.log_likelihoods(rows).sum(), rel=1e-10)
    if kind == "diag":
        np.testing.assert_allclose(found["second"][1], g[:, 1] @ (whitened[1] ** 2 - 1), rtol=1e-9)
    if kind == "spherical":
        np.testing.assert_allclose(found["second"][1], g[:, 1] @ ((whitened[1] ** 2).mean(axis=1) - 1), rtol=1e-9)


def test_rows_are_cut_to_the_box_first():
    model = random_model("full", 2, 2, seed=1)
    frame = Coordinates(np.zeros(2), np.ones(2), np.zeros(2), np.eye(2))
    query = WhitenedMixtureStatistics.of(model, frame)
    inside, outside = np.array([[1.0, 0.0]]), np.array([[9.0, -3.0]])
    for name, value in query.contribution(inside).items():
        np.testing.assert_array_equal(query.contribution(outside)[name], value)


@pytest.mark.parametrize("kind", TYPES)
def test_models_move_between_coordinates_and_back(kind):
    model = random_model(kind, 3, 3, seed=2)
    transform = {"diag": np.diag([1.0, 3.0, 0.5]), "spherical": 2.0 * np.eye(3)}.get(kind, coordinates(3).transform)
    frame = Coordinates(np.full(3, -np.inf), np.full(3, np.inf), np.arange(3.0), transform)
    there = frame.to_working(model)
    rows = rows_of(model, 50, seed=1)
    np.testing.assert_allclose(
        there.log_likelihoods(frame.apply(rows)) + frame.log_volume, model.log_likelihoods(rows), rtol=1e-10
    )
    np.testing.assert_allclose(frame.to_data(there).means, model.means, atol=1e-10)
    np.testing.assert_allclose(frame.to_data(there).covariances, model.covariances, rtol=1e-9, atol=1e-12)
    if kind in ("diag", "spherical"):
        with pytest.raises(UsageError, match="does not keep"):
            coordinates(3).to_working(model)


def test_sizes_of_features_are_found_by_a_sum():
    rows = np.array([[1e-9, 5.0, 0.0], [-3e-9, -700.0, 0.0]])
    silos = [rows, rows / 2]
    release = LocalFederation(silos, mode="trusted").release(FeatureMagnitudes(np.zeros(3)))
    scales = scales_of(release)
    assert (scales[:2] > np.abs(rows).max(axis=0)[:2]).all()
    assert (scales[:2] <= 2 * np.abs(rows).max(axis=0)[:2]).all()
    assert scales[2] == 1.0


# --- refusals ---------------------------------------------------------------------------------------------------------

BAD_FIELDS = [
    ("mean_clip", 0.0, "mean_clip"),
    ("second_clip", math.inf, "second_clip"),
    ("likelihood_clip", -1.0, "likelihood_clip"),
    ("typical", math.nan, "typical"),
    ("shares", (1.0, 1.0), "4: one for each block"),
    ("weights", np.array([-0.5, 1.5]), "weights"),
    ("weights", np.array([np.nan, 1.0]), "NaN"),
    ("means", np.zeros((2, 3)), "have shapes"),
    ("precisions_cholesky", np.zeros((2, 2, 2)), "factor"),
    ("covariance_type", "round", "covariance_type"),
    ("centre", np.zeros(3), "coordinates"),
    ("transform", np.full((2, 2), np.inf), "transform holds"),
    ("low", np.full(2, 1e31), "low <= high"),
    ("high", np.full(2, np.nan), "low <= high"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_FIELDS)
def test_a_client_refuses_a_query_that_makes_no_sense(name, value, message):
    query = WhitenedMixtureStatistics.of(random_model("full", 2, 2, seed=1), coordinates(2))
    with pytest.raises((UsageError, KeyError, ValueError), match=message):
        replace(query, **{name: value})


def test_a_radius_is_needed():
    with pytest.raises(UsageError, match="radius"):
        MixtureStatistics.of(random_model("full", 2, 2, seed=1), coordinates(2), radius=0.0)


def test_open_boxes_travel():
    query = MixtureStatistics.of(random_model("diag", 2, 2, seed=1), Coordinates.shifted(np.zeros(2)), radius=3.0)
    again = decode_query(encode_query(query))
    assert np.isinf(again.low).all()


def test_shares_follow_the_square_roots_of_the_costs():
    """Costs are given in the design: c0 = 1/2, c1 = d B^2 / 2, c2 = d (d+1) G / 8."""
    query = WhitenedMixtureStatistics.of(random_model("full", 7, 4, seed=1), coordinates(4), likelihood_share=0.04)
    clips = clipping("full", 4)
    roots = np.sqrt([0.5, 4 * clips.mean_clip**2 / 2, 20 * clips.second_clip**2 / 8])
    np.testing.assert_allclose(query.shares[:3], 0.96 * roots / roots.sum(), rtol=1e-12)
    assert query.shares[3] == 0.04
