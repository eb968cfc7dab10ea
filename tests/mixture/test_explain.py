"""Explanations: contributions add up to the score, and expectations are those of the conditional law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture, explain_scores
from tests.mixture.cases import TYPES, clusters, random_model, rows_of


def mixture_of(model) -> GaussianMixture:
    """A fitted mixture with the parameters of `model`."""
    start = {"weights_init": model.weights, "means_init": model.means, "precisions_init": model.precisions}
    K = model.n_components
    return GaussianMixture(K, covariance_type=model.covariance_type, max_iter=0, **start).fit(rows_of(model, 20 * K, 0))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(TYPES),
    K=st.integers(1, 5),
    d=st.integers(1, 5),
    far=st.sampled_from([1.0, 30.0, 1e4]),
)
def test_contributions_add_up_to_the_score(seed, kind, K, d, far):
    model = random_model(kind, K, d, seed)
    mixture, rows = mixture_of(model), far * rows_of(model, 30, seed)
    found = mixture.explain(rows)
    scores = mixture.score_samples(rows)
    np.testing.assert_allclose(found.baseline + found.contributions.sum(axis=1), scores, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.score, scores, rtol=1e-9)
    np.testing.assert_allclose(found.by_component.sum(axis=1), found.contributions, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.responsibilities, mixture.predict_proba(rows), atol=1e-6)
    for k in range(K):
        squares = (model.whiten(rows, k) ** 2).sum(axis=1)
        np.testing.assert_allclose(
            found.by_component[:, k].sum(axis=1), -0.5 * found.responsibilities[:, k] * squares, rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("kind", TYPES)
def test_expectations_are_those_of_the_conditional_law(kind):
    """By integration over the feature, for a mixture whose components overlap."""
    model = random_model(kind, 3, 2, seed=6, spread=1.0)
    mixture, rows = mixture_of(model), rows_of(model, 5, seed=1)
    found = mixture.explain(rows)
    grid = np.linspace(-12, 12, 6001)
    for i, row in enumerate(rows):
        for j in range(2):
            points = np.tile(row, (len(grid), 1))
            points[:, j] = grid
            density = sum(
                w * multivariate_normal(m, c).pdf(points)
                for w, m, c in zip(model.weights, model.means, model.full_covariances(), strict=True)
            )
            density = density / density.sum()
            mean = float((grid * density).sum())
            assert found.expected[i, j] == pytest.approx(mean, abs=1e-4)
            assert found.expected_std[i, j] == pytest.approx(np.sqrt((grid - mean) ** 2 @ density), rel=1e-3)


def test_the_feature_that_is_wrong_stands_out():
    X = clusters(n=2000, d=4, K=2, seed=1)
    mixture = GaussianMixture(2, random_state=0).fit(X)
    rows = X[:20].copy()
    rows[:, 2] += 40.0
    found = explain_scores(mixture, rows)
    assert (found.contributions.argmin(axis=1) == 2).mean() > 0.9
    assert (np.abs(rows - found.expected)[:, 2] > 10).all()


def test_a_table_names_features_worst_first():
    frame = pd.DataFrame(clusters(n=300, d=3), columns=["age", "dose", "pressure"])
    found = GaussianMixture(2, random_state=0).fit(frame).explain(frame.iloc[:4])
    lines = found.table(1).splitlines()
    assert lines[0].startswith("score ")
    assert lines[1].startswith("components: ")
    nats = [float(line.split()[-1]) for line in lines[3:]]
    assert nats == sorted(nats)
    assert {line.split()[0] for line in lines[3:]} == {"age", "dose", "pressure"}
    assert found.table(-1) == found.table(3)
    with pytest.raises(UsageError, match="4 row"):
        found.table(4)


def test_no_rows_in_what_is_shown():
    X = clusters(n=300, d=3)
    assert "rows" not in repr(GaussianMixture(2, random_state=0).fit(X).explain(X[:1]))


def test_a_component_of_weight_zero_explains_nothing():
    start = {"weights_init": [0.0, 1.0], "means_init": [[0.0], [5.0]], "precisions_init": [1.0, 1.0]}
    mixture = GaussianMixture(2, covariance_type="spherical", max_iter=0, **start).fit([[0.0], [5.0]])
    found = mixture.explain([[0.0]])
    assert np.isfinite(found.baseline).all()
    assert found.baseline[0] + found.contributions[0].sum() == pytest.approx(found.score[0])
