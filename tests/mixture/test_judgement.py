"""What a refit may draw from, which other optima it offers, and how rows choose: no cluster is lost to noise."""

from __future__ import annotations

import numpy as np
import pytest

from privfed import Budget, LocalFederation
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.private import judgement, overcomplete
from privfed.learners.mixture.private.estimates import Estimate, Noise, RowCount
from privfed.learners.mixture.private.frames import Box
from privfed.learners.mixture.private.rounds import Run, Stage
from privfed.learners.mixture.refit import _distinct, refit, refits
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import random_model, rows_of

BOX = Box(np.full(2, -20.0), np.full(2, 20.0), diagonal=False)
TRUTH = MixtureModel.from_matrices(np.full(3, 1 / 3), [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], np.eye(2), "full")
LOST = MixtureModel.from_matrices(
    np.full(3, 1 / 3),
    [[4.5, 0.0], [0.0, 9.0], [0.5, 9.0]],
    np.stack([np.diag([21.0, 1.0]), np.eye(2), np.eye(2)]),
    "full",
)


def stage_of(counts, noise: float, kind: str = "tied") -> Stage:
    counts = np.asarray(counts, dtype=float)
    K = len(counts)
    model = random_model(kind, K, 2, seed=0, spread=6.0)
    weights = np.maximum(counts, 0.05 * counts.mean())
    model = MixtureModel.from_covariances(weights / weights.sum(), model.means, model.covariances, kind)
    shape = (2, 2) if kind == "tied" else (K, 2, 2)
    used = Estimate(model, counts, np.zeros((K, 2)), np.zeros(shape), Noise(noise, noise, noise))
    return Stage(model, used, (0.0,), 0.0)


# --- what is refitted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tied", "full"])
def test_a_component_that_may_be_noise_is_left_out_and_offered_apart(kind):
    """Counts 66 and 72 with noise 23: 2.9 and 3.1 standard deviations, both a third of an average count."""
    stage = stage_of([450, 400, 66, 72, 3], 23.0, kind)
    heard, heavy = overcomplete._sources(stage, 2)
    np.testing.assert_array_equal(heard.means, stage.model.means[[0, 1, 3]])
    np.testing.assert_allclose(heard.weights, stage.model.weights[[0, 1, 3]] / stage.model.weights[[0, 1, 3]].sum())
    assert heavy.n_components == 4
    # Where counts are known better both are heard, and there is one source only.
    (alone,) = overcomplete._sources(stage_of([450, 400, 66, 72, 3], 20.0, kind), 2)
    assert alone.n_components == 4


def test_the_heaviest_components_wanted_are_never_phantoms():
    heard, heavy = overcomplete._sources(stage_of([400, 44, 43, 42, 41, 40], 15.0), 4)
    assert heard.n_components == 4
    assert heavy.n_components == 6


def test_a_start_of_few_rows_keeps_what_it_can_hardly_hear():
    """Of 3.4 standard deviations in an average component, those of 2.5 are components; those of 1.2 may be noise."""
    (alone,) = overcomplete._sources(stage_of([100, 180, 140, 120, 160, 110], 40.0), 2)
    assert alone.n_components == 6
    heard, heavy = overcomplete._sources(stage_of([50, 180, 140, 120, 160, 160], 40.0), 2)
    assert (heard.n_components, heavy.n_components) == (5, 6)


def test_components_of_two_starts_stand_side_by_side():
    first, second = random_model("tied", 2, 3, seed=1), random_model("full", 3, 3, seed=2)
    both, rows = overcomplete._together(first, second), rows_of(second, 50, 1)
    expected = np.logaddexp(first.log_likelihoods(rows), second.log_likelihoods(rows)) - np.log(2)
    np.testing.assert_allclose(both.log_likelihoods(rows), expected, rtol=1e-9)


def test_other_optima_come_after_the_refit_and_are_others():
    model = random_model("full", 9, 2, seed=4, spread=3.0)
    found = refits(model, 4, "full", np.random.RandomState(0))
    again = refit(model, 4, "full", np.random.RandomState(0))
    np.testing.assert_array_equal(found[0].means, again.means)
    rows = rows_of(model, 20_000, 5)
    scores = [each.log_likelihoods(rows).mean() for each in found]
    assert 2 <= len(found) <= 5
    assert max(scores) - min(scores) < 0.1
    for each in found[1:]:
        assert np.abs(np.sort(each.means[:, 0]) - np.sort(found[0].means[:, 0])).max() > 0.01


def test_runs_that_ended_alike_count_as_one_optimum():
    bounds = [-1.5, -1.0, -1.001, -1.0005, -1.2, -1.01, -1.3, -1.4]
    runs = [(bound, -number, random_model("full", 2, 2, seed=number)) for number, bound in enumerate(bounds)]
    kept = _distinct(runs)
    assert [model.means[0, 0] for model in kept] == [runs[number][2].means[0, 0] for number in (1, 5, 4, 6, 7)]


# --- how it is judged -------------------------------------------------------------------------------------------------


def judged(candidates, *, rows: int = 3000, epsilon: float = 1.0, share: float = 0.03, seed: int = 0):
    """Return the winner, and what was spent."""
    silos = np.array_split(rows_of(TRUTH, rows, seed), 5)
    with LocalFederation(silos, mode="trusted", budget=Budget(epsilon, 1e-5), noise_seed=seed) as federation:
        reports = []
        run = Run(federation, np.random.RandomState(seed), reports.append, RowCount(float(rows), 1.0))
        won = judgement.best_of(run, candidates, BOX, share=share, mu2=share * federation.total_mu**2)
        assert [report.release for report in reports] == run.releases
        assert run.spent == pytest.approx(1 - federation.remaining_share)
        return won, run.spent


def test_rows_prefer_the_model_that_lost_no_cluster():
    for seed in range(5):
        assert judged([LOST, TRUTH], seed=seed) == (1, 0.03)
        assert judged([TRUTH, LOST], seed=seed) == (0, 0.03)
        assert judged([LOST, LOST, TRUTH, LOST], seed=seed)[0] == 2


def test_nothing_is_asked_where_one_candidate_is_left_or_noise_would_decide():
    assert judged([LOST]) == (0, 0.0)
    assert judged([LOST, TRUTH], rows=200, epsilon=0.2) == (0, 0.0)


def test_a_lead_within_the_noise_leaves_the_first():
    """Models a thousandth of a nat apart: the second wins only where noise is a standard deviation on its side."""
    near = MixtureModel.from_matrices(TRUTH.weights, TRUTH.means + 0.01, np.eye(2), "full")
    won = [judged([TRUTH, near], seed=seed, rows=500)[0] for seed in range(30)]
    assert 1 <= sum(won) <= 9  # 16 % of them, expected; without the margin a half


def test_a_few_far_rows_do_not_outvote_the_rest():
    """One row in a hundred, 12 standard deviations out, would cost the truth 0.3 nats on average, and counts for 3."""
    far = np.tile([[-12.0, -12.0]], (30, 1))
    wide = MixtureModel.from_matrices(TRUTH.weights, TRUTH.means, 1.7 * np.eye(2), "full")
    rows = np.concatenate([rows_of(TRUTH, 2970, 1), far])
    assert wide.log_likelihoods(rows).mean() > TRUTH.log_likelihoods(rows).mean()
    silos = np.array_split(rows[np.random.RandomState(0).permutation(3000)], 5)
    with LocalFederation(silos, mode="trusted", budget=Budget(4.0, 1e-5), noise_seed=0) as federation:
        run = Run(federation, np.random.RandomState(0), lambda report: None, RowCount(3000.0, 1.0))
        assert judgement.best_of(run, [TRUTH, wide], BOX, share=0.1, mu2=0.1 * federation.total_mu**2) == 0


def test_a_fit_judges_once_and_pays_for_it_out_of_its_share():
    rows = rows_of(TRUTH, 3000, 3)
    with LocalFederation(np.array_split(rows, 5), mode="trusted", budget=Budget(4.0, 1e-5), noise_seed=1) as silos:
        fit = GaussianMixture(3, bounds=(-20.0, 20.0), random_state=0, share=0.5).fit(silos)
        assert silos.remaining_share == pytest.approx(0.5, abs=1e-4)
    queries = [release.query for release in fit.releases_]
    assert queries.count("candidate_likelihoods") == 1
    assert fit.score(rows) > TRUTH.log_likelihoods(rows).mean() - 0.02
