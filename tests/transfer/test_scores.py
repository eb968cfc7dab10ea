"""The scores against the published algorithms, and what the repair of a noisy Gram matrix does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.statistics.moments import svec
from privfed.transfer.repair import noise_edge, repaired, shrunk_spectrum
from privfed.transfer.scores import h_score, likely_tables, log_evidence, logme, shrinkage
from tests.transfer import central
from tests.transfer.central import Task


def moments_of(F: np.ndarray, labels: np.ndarray, n_classes: int, **noise: float):
    y = np.eye(n_classes)[labels]
    return repaired(y.sum(axis=0), F.T @ y, svec(F.T @ F), **noise)


@pytest.mark.parametrize("seed", range(5))
def test_logme_is_that_of_the_authors(seed: int) -> None:
    """Their early stop costs a little evidence; the maximum is never below."""
    task = Task(seed)
    F = task.features(task.X)
    found = logme(moments_of(F, task.labels, 4))
    theirs = central.logme_of_the_authors(F, task.labels, 4)
    assert found == pytest.approx(theirs, abs=2e-3)
    assert found >= theirs - 1e-6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(-6, 6), beta=st.floats(-6, 6))
def test_no_other_precisions_have_more_evidence(seed: int, alpha: float, beta: float) -> None:
    rng = np.random.default_rng(seed)
    F, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    values, vectors = np.linalg.eigh(F.T @ F)
    best = log_evidence(values, np.square(vectors.T @ F.T @ y), float(y @ y), 30.0)
    assert central.log_evidence(F, y, math.exp(alpha), math.exp(beta)) / 30 <= best + 1e-9


def test_directions_without_anything_do_not_matter() -> None:
    task = Task(1)
    F = task.features(task.X)
    wide = np.column_stack([F, np.zeros((len(F), 3)), F[:, :2]])  # zeros, and copies: rank 5 of 10
    assert logme(moments_of(wide[:, :8], task.labels, 4)) == pytest.approx(
        logme(moments_of(F, task.labels, 4)), abs=1e-9
    )
    assert h_score(moments_of(wide, task.labels, 4)) == pytest.approx(central.h_score(F, task.labels), abs=1e-6)


def test_useless_and_perfect_features_have_finite_scores() -> None:
    labels = np.arange(60) % 3
    for F in (np.zeros((60, 2)), np.ones((60, 1)), np.eye(3)[labels], 1e8 * np.eye(3)[labels]):
        made = moments_of(F, labels, 3)
        assert math.isfinite(logme(made))
        assert 0.0 <= h_score(made) <= 3.0
    assert logme(moments_of(np.eye(3)[labels], labels, 3)) > logme(moments_of(np.ones((60, 1)), labels, 3)) + 5


def test_a_class_nobody_has_is_left_out() -> None:
    task = Task(2)
    F = task.features(task.X)
    assert logme(moments_of(F, task.labels, 6)) == pytest.approx(logme(moments_of(F, task.labels, 4)))
    assert h_score(moments_of(F, task.labels, 6)) == pytest.approx(h_score(moments_of(F, task.labels, 4)))


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_shrinkage_is_ledoit_and_wolfs(shift: float) -> None:
    from sklearn.covariance import LedoitWolf

    task = Task(3)
    F = task.features(task.X) + shift
    square = (F**2).sum(axis=1)
    found = shrinkage(moments_of(F, task.labels, 4), square @ F, float(square @ square))
    assert found == pytest.approx(LedoitWolf().fit(F).shrinkage_, rel=1e-6)


def test_the_noise_ends_where_wigner_says() -> None:
    rng = np.random.default_rng(0)
    tops = []
    for _ in range(20):
        noise = rng.standard_normal((60, 60))
        matrix = np.triu(noise, 1) / math.sqrt(2)
        matrix = 3.0 * (matrix + matrix.T + np.diag(np.diag(noise)))
        tops.append(np.linalg.eigvalsh(matrix)[-1])
    assert noise_edge(60, 3.0) == pytest.approx(np.mean(tops), rel=0.08)
    assert shrunk_spectrum(matrix, 3.0)[0].size == 0  # all of it is noise
    assert shrunk_spectrum(matrix, 1.0)[0].size > 5  # and with too small a noise it would be taken for signal


def test_what_stands_out_of_the_noise_is_taken_back_to_its_size() -> None:
    rng = np.random.default_rng(1)
    axis = np.zeros(60)
    axis[0] = 1.0
    edge = noise_edge(60, 3.0)
    for size in (1.0, 2.0, 5.0):
        raw, kept = [], []
        for _ in range(20):
            noise = rng.standard_normal((60, 60))
            noise = np.triu(noise, 1) / math.sqrt(2) + np.triu(noise, 1).T / math.sqrt(2) + np.diag(np.diag(noise))
            matrix = size * edge * np.outer(axis, axis) + 3.0 * noise
            raw.append(np.linalg.eigvalsh(matrix)[-1])
            values, _ = shrunk_spectrum(matrix, 3.0)
            assert values.size == 1
            kept.append(values[0])
        assert np.mean(kept) == pytest.approx(size * edge, rel=0.03)
        assert np.mean(raw) == pytest.approx(size * edge + edge / (4 * size), rel=0.03)


def test_without_noise_nothing_positive_is_lost() -> None:
    rng = np.random.default_rng(2)
    F = rng.standard_normal((20, 6))
    values, vectors = shrunk_spectrum(F.T @ F, 0.0)
    np.testing.assert_allclose((vectors * values) @ vectors.T, F.T @ F, atol=1e-12)
    values, _ = shrunk_spectrum(np.diag([1.0, -2.0, 3.0]), 0.0)
    np.testing.assert_allclose(values, [1.0, 3.0])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(1e-3, 1e4))
def test_any_noise_leaves_scores_in_their_range(seed: int, size: float) -> None:
    """Indefinite matrices, negative counts, cross terms that do not fit: every score is finite and within its range."""
    rng = np.random.default_rng(seed)
    d, classes = 5, 3
    made = repaired(
        rng.normal(20, size, classes),
        rng.normal(0, size, (d, classes)),
        rng.normal(0, size, d * (d + 1) // 2) + svec(20 * np.eye(d)),
        cross_noise=size,
        gram_noise=size,
    )
    assert math.isfinite(logme(made))
    assert 0.0 <= h_score(made) <= d
    assert 0.0 <= shrinkage(made, rng.normal(0, size, d), rng.normal(0, size)) <= 1.0


def test_likely_tables_are_conditional_distributions() -> None:
    table = np.array([[4.0, 0.0, -1.0], [1.0, 0.0, 3.0]])
    np.testing.assert_allclose(likely_tables(table), [[0.8, 0.5, 0.0], [0.2, 0.5, 1.0]])
