"""Queries about scores and sizes: bounds, meaning, rounding, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.mixture_scores import MixtureScores, MixtureUse, bracket
from tests.mixture.cases import TYPES, random_model, rows_of
from tests.privfed.query_contract import QueryContract

KNOTS = np.array([-400.0, -30.0, -12.0, -9.0, -8.5, -6.0, -4.0, 1.0])


def use_of(model, knots=KNOTS):
    return MixtureUse.of(model, knots, typical=-7.0, likelihood_clip=5.0)


class TestScoresFull(QueryContract):
    kind = "full"

    def make(self):
        return MixtureScores.of(random_model(self.kind, 4, 3, seed=1), KNOTS)


class TestScoresDiag(TestScoresFull):
    kind = "diag"


class TestUseTied(QueryContract):
    kind = "tied"

    def make(self):
        return use_of(random_model(self.kind, 4, 3, seed=1))


class TestUseSpherical(TestUseTied):
    kind = "spherical"


@pytest.mark.parametrize("kind", TYPES)
def test_bounds_are_attained(kind):
    model = random_model(kind, 3, 2, seed=2)
    row = rows_of(model, 1, seed=3)
    score = float(model.log_likelihoods(row)[0])
    at_a_knot = MixtureScores.of(model, np.array([score - 3, score, score + 1]))
    assert np.linalg.norm(at_a_knot.contribution(row)["scores"]) == pytest.approx(1.0, abs=1e-9)
    far = use_of(model).contribution(np.full((1, 2), 1e90))
    assert float(far["log_likelihood"]) == -5.0
    assert far["scores"][0] == 1.0


def test_a_row_between_two_knots_counts_at_both():
    """So that a score's last bits move the counts in proportion, and no row jumps from bin to bin."""
    model = random_model("full", 3, 2, seed=2)
    row = rows_of(model, 1, seed=3)
    score = float(model.log_likelihoods(row)[0])
    counts = MixtureScores.of(model, np.array([score - 3.0, score - 1.0, score + 3.0])).contribution(row)["scores"]
    np.testing.assert_allclose(counts, [0.0, 0.75, 0.25], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES))
def test_a_row_is_counted_once_and_sums_bracket_the_distribution(seed, kind):
    model = random_model(kind, 3, 2, seed=seed)
    rows = rows_of(model, 80, seed)
    scores = model.log_likelihoods(rows)
    knots = np.unique(np.quantile(scores, np.linspace(0, 1, 9)))
    counts = MixtureScores.of(model, knots).contribution(rows)["scores"]
    assert counts.sum() == pytest.approx(80)
    lower, upper = bracket(counts)
    below = (scores[:, None] < knots - 1e-9).sum(axis=0)
    assert (lower <= below + 1e-6).all()
    assert (below <= upper + 1e-6).all()


def test_use_is_sizes_scores_and_their_mean():
    model = random_model("full", 3, 2, seed=5)
    rows = rows_of(model, 400, seed=6)
    found = MixtureUse.of(model, KNOTS, typical=-3.0, likelihood_clip=100.0).contribution(rows)
    np.testing.assert_allclose(found["sizes"], model.responsibilities(rows).sum(axis=0), rtol=1e-10)
    assert float(found["log_likelihood"]) / 400 - 3.0 == pytest.approx(model.log_likelihoods(rows).mean())
    np.testing.assert_array_equal(found["scores"], MixtureScores.of(model, KNOTS).contribution(rows)["scores"])


@pytest.mark.parametrize("kind", TYPES)
def test_rounding_moves_a_row_by_less_than_is_said(kind):
    model = random_model(kind, 5, 6, seed=3)
    for query in (MixtureScores.of(model, KNOTS), use_of(model)):
        assert 1e-14 < query.row_error < 1e-6
        for row in 4 * np.random.default_rng(0).standard_normal((60, 6)):
            alone = query.layout.flatten(query.contribution(row[None, :]))
            crowd = query.layout.flatten(query.contribution(np.repeat(row[None, :], 64, axis=0))) / 64
            assert np.linalg.norm(alone - crowd) < query.row_error
    assert MixtureScores.of(model, KNOTS * 1e-6).row_error > 1e4 * MixtureScores.of(model, KNOTS).row_error


def test_an_ill_conditioned_model_says_so():
    well = MixtureModel.from_covariances([1.0], np.zeros((1, 2)), np.eye(2)[None], "full")
    ill = MixtureModel.from_covariances([1.0], np.zeros((1, 2)), np.diag([1.0, 1e-16])[None], "full")
    assert MixtureScores.of(ill, KNOTS).row_error > 1e5 * MixtureScores.of(well, KNOTS).row_error


BAD = [
    ({"knots": np.zeros(3)}, "increasing"),
    ({"knots": np.array([0.0])}, "at least two"),
    ({"knots": np.array([0.0, math.nan])}, "knots holds NaN"),
    ({"weights": np.array([-0.5, 1.5])}, "weights"),
    ({"weights": np.zeros(2)}, "weights"),
    ({"precisions_cholesky": np.zeros((2, 2, 2))}, "precisions_cholesky"),
    ({"covariance_type": "round"}, "covariance_type"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_what_makes_no_sense_is_refused(fields, message):
    model = random_model("full", 2, 2, seed=1)
    good = {
        "weights": model.weights,
        "means": model.means,
        "precisions_cholesky": model.precisions_cholesky,
        "covariance_type": "full",
        "knots": KNOTS,
    }
    with pytest.raises(UsageError, match=message):
        MixtureScores(**(good | fields))
    with pytest.raises(UsageError, match=message):
        MixtureUse(**(good | fields), typical=0.0, likelihood_clip=1.0)


def test_ranges_and_shares_are_checked():
    model = random_model("full", 2, 2, seed=1)
    with pytest.raises(UsageError, match="likelihood_clip"):
        MixtureUse.of(model, KNOTS, typical=0.0, likelihood_clip=0.0)
    with pytest.raises(UsageError, match="typical"):
        MixtureUse.of(model, KNOTS, typical=math.nan, likelihood_clip=1.0)
    query = use_of(model)
    with pytest.raises(UsageError, match="3: one for each block"):
        MixtureUse(query.weights, query.means, query.precisions_cholesky, "full", KNOTS, 0.0, 1.0, (1.0, 1.0))
