"""The baseline that averages parameters: what it computes, what its sum guarantees, and how it fails."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.em import fit_rows
from privfed.learners.mixture.exact.parameter_average import LocalParameters
from privfed.query import decode_query, encode_query
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import TYPES, clusters, random_model, rows_of
from tests.mixture.test_estimator import starts

NAMES = [field.name for field in fields(LocalParameters)]


def query_for(kind="full", K=3, d=2, *, by_size=False, seed=0):
    model = random_model(kind, K, d, seed, spread=0.5)
    frame = Coordinates(np.full(d, -10.0), np.full(d, 10.0), np.zeros(d), np.eye(d) / 10)
    return LocalParameters(
        model.weights, model.means, model.precisions_cholesky, kind,
        frame.low, frame.high, frame.centre, frame.transform, np.full(d, 1e-4), by_size, 1000.0,
    )  # fmt: skip


def fit(X, parts, aggregation="statistics", **arguments):
    settings = {"max_iter": 60, "tol": 1e-6, **starts("full", 3, 2, 1), **arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(3, aggregation=aggregation, **settings).fit(LocalFederation(parts, mode="trusted"))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), kind=st.sampled_from(TYPES), n=st.integers(0, 30), by_size=st.booleans(),
    reach=st.floats(-8, 60),
)  # fmt: skip
def test_no_client_passes_its_bound(seed, kind, n, by_size, reach):
    """Any rows, none and one among them: blocks keep their bounds, the scaled vector has norm 1 at most."""
    query = query_for(kind, by_size=by_size)
    rows = np.random.default_rng(seed).standard_normal((n, 2)) * 10.0**reach
    contribution = query.contribution(rows)
    for block in query.blocks:
        assert np.linalg.norm(np.ravel(contribution[block.name])) <= block.bound * (1 + 1e-9), block.name
    assert np.linalg.norm(query.checked_contribution(rows)) <= 1 + 1e-9
    assert query.sensitivity("client").l2 == 1.0
    assert query.sensitivity("record").l2 == 2.0


@pytest.mark.parametrize("kind", TYPES)
def test_a_model_that_no_row_fits_tells_nothing_by_failing(kind):
    """A server may ask under any model: where rows are beyond all of its densities, their client adds zeros."""
    sharp = MixtureModel.from_matrices([0.5, 0.5], [[1e60, 0.0], [0.0, 1e60]], 1e-190 * np.eye(2), kind)
    arguments = {name: getattr(query_for(kind, K=2), name) for name in NAMES}
    arguments |= {name: getattr(sharp, name) for name in ("weights", "means", "precisions_cholesky")}
    query = LocalParameters(**arguments)
    for rows in (np.zeros((0, 2)), np.ones((3, 2)), np.full((1, 2), 1e100)):
        assert np.linalg.norm(query.checked_contribution(rows, {})) <= 1 + 1e-12


def test_it_travels_and_refuses_what_does_not_fit():
    query = query_for()
    again = decode_query(encode_query(query))
    rows = rows_of(random_model("full", 3, 2, 1), 50, 1)
    np.testing.assert_array_equal(again.checked_contribution(rows), query.checked_contribution(rows))
    with pytest.raises(UsageError, match="features"):
        LocalParameters(*(getattr(query, n) for n in NAMES[:-3]), np.ones(3), False, 10.0)
    with pytest.raises(UsageError, match="most_rows"):
        LocalParameters(*(getattr(query, n) for n in NAMES[:-1]), 0.0)


@pytest.mark.parametrize("kind", TYPES)
def test_one_client_twice_is_em_on_its_rows(kind):
    """Where all clients hold the same rows, the average of parameters is the parameter."""
    X = clusters(n=200, d=2, K=3, seed=2)
    start = starts(kind, 3, 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        averaged = GaussianMixture(3, covariance_type=kind, max_iter=15, tol=0.0, aggregation="parameters", **start)
        averaged.fit(LocalFederation([X, X], mode="trusted"))
    model = MixtureModel.from_precisions(start["weights_init"], start["means_init"], start["precisions_init"], kind)
    plain = fit_rows(model, X, tol=0.0, max_iter=15)
    np.testing.assert_allclose(averaged.means_, plain.model.means, atol=1e-4)
    np.testing.assert_allclose(averaged.covariances_, plain.model.covariances, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(averaged.lower_bounds_, plain.lower_bounds, atol=1e-4)


def test_size_counts_where_it_is_asked_for():
    """A client of nine times the rows has nine times the say."""
    a, b = np.full((90, 1), 1.0), np.full((10, 1), 3.0)
    start = {"weights_init": [1.0], "means_init": [[2.0]], "precisions_init": [[[1.0]]], "max_iter": 1, "tol": 0.0}
    for aggregation, mean in (("parameters", 2.0), ("parameters_by_size", 1.2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = GaussianMixture(1, aggregation=aggregation, **start).fit(LocalFederation([a, b], mode="trusted"))
        assert fitted.means_[0, 0] == pytest.approx(mean, abs=1e-6)
        assert fitted.covariances_[0, 0, 0] < 1e-5  # the scatter between clients is lost: pooled it would be 0.36


def test_it_fails_where_silos_differ_and_statistics_do_not():
    X = clusters(n=600, d=2, K=3, seed=9)
    mixed, apart = np.array_split(X, 3), np.array_split(X[np.argsort(X[:, 0])], 3)
    start = GaussianMixture(3, random_state=0).fit(X)
    given_start = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    pooled = start.score(X)
    assert fit(X, apart, **given_start).score(X) == pytest.approx(pooled, abs=1e-3)
    assert fit(X, mixed, "parameters", **given_start).score(X) > pooled - 0.1
    assert fit(X, apart, "parameters", **given_start).score(X) < pooled - 1.0


def test_a_client_without_rows_of_a_component_keeps_it():
    X = clusters(n=300, d=2, K=3, seed=9)
    far = {"means_init": [[0.0, 0.0], [1.0, 1.0], [1e4, 1e4]]}
    fitted = fit(X, np.array_split(X, 3), "parameters", **far)
    assert np.isfinite(fitted.covariances_).all()
    assert np.isfinite(fitted.means_).all()


def test_budgets_and_rows_are_refused_with_the_remedy():
    X = clusters(n=60, d=2)
    silos = LocalFederation(np.array_split(X, 3), mode="trusted", budget=Budget(1.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match="aggregation='statistics'"):
        GaussianMixture(2, bounds=(-60, 60), aggregation="parameters").fit(silos)
    assert silos.remaining_share == 1.0
    with pytest.raises(UsageError, match="for one array use"):
        GaussianMixture(2, aggregation="parameters").fit(X)
    with pytest.raises(UsageError, match="'aggregation' parameter"):
        GaussianMixture(2, aggregation="median").fit(X)


@pytest.mark.parametrize("kind", TYPES)
def test_factors_without_positive_diagonals_are_refused_before_any_row_is_seen(kind):
    """The same check as of every query under a mixture: a factor that turns space inside out is no model."""
    query = query_for(kind)
    with pytest.raises(UsageError, match="positive diagonals"):
        replace(query, precisions_cholesky=-query.precisions_cholesky)
    with pytest.raises(UsageError, match="weights need"):
        replace(query, weights=np.zeros(3))
