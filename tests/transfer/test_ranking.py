"""Scores from protected sums are the papers' scores; noise is stated, repaired and paid for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from privfed import Budget, BudgetExhausted, LocalFederation, UsageError
from privfed.transfer import Candidate, rank_sources
from tests.transfer import central
from tests.transfer.central import Task

ALL = ("logme", "h_score", "h_score_shrunk", "leep", "nce")


def candidate(task: Task, name: str = "source", **options) -> Candidate:
    return Candidate(name, task.features, source_head=task.probabilities, **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bound", ["unit", 1.5, 50.0])
def test_without_noise_the_scores_are_the_central_ones(seed, bound) -> None:
    task = Task(seed)
    ranking = rank_sources(
        LocalFederation(task.silos()), [candidate(task)], n_classes=4, methods=ALL, feature_bound=bound
    )
    found = ranking.scores[0].scores
    F = task.features(task.X)
    norms = np.linalg.norm(F, axis=1, keepdims=True)
    F = F / norms if bound == "unit" else F * np.minimum(1.0, bound / norms)
    theta = task.probabilities(task.X)
    assert found["logme"] == pytest.approx(central.logme(F, task.labels, 4), abs=1e-6)
    assert found["h_score"] == pytest.approx(central.h_score(F, task.labels), abs=1e-6)
    assert found["h_score_shrunk"] == pytest.approx(central.h_score_shrunk(F, task.labels), abs=1e-6)
    assert found["leep"] == pytest.approx(central.leep(theta, task.labels), abs=1e-6)
    assert found["nce"] == pytest.approx(central.nce(theta, task.labels), abs=1e-6)
    assert set(ranking.scores[0].errors.values()) == {0.0}
