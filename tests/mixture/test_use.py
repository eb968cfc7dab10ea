"""Anomaly thresholds and federated inference: exact without noise, within their intervals with it, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from privfed.engines import LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture, anomaly_threshold, infer
from privfed.learners.mixture.use.anomaly import _increasing
from privfed_accounting import Budget
from tests.mixture.cases import random_model, rows_of

MODEL = random_model("full", 3, 2, seed=3, spread=5.0)
ROWS = rows_of(MODEL, 12_000, seed=1)
FRESH = rows_of(MODEL, 30_000, seed=9)
SILOS = np.array_split(ROWS, 6)


def fitted() -> GaussianMixture:
    settings = {"weights_init": MODEL.weights, "means_init": MODEL.means, "precisions_init": MODEL.precisions}
    return GaussianMixture(3, tol=1e-2, **settings).fit(ROWS)


MIXTURE = fitted()


def budgeted(seed: int = 0, epsilon: float = 2.0, **more) -> LocalFederation:
    return LocalFederation(SILOS, budget=Budget(epsilon=epsilon, delta=1e-5), mode="trusted", noise_seed=seed, **more)


def test_without_noise_the_rate_is_met():
    with LocalFederation(SILOS, mode="trusted") as federation:
        found = anomaly_threshold(federation, MIXTURE, false_positive_rate=0.02)
    measured = found.is_anomaly(ROWS).mean()
    assert measured == pytest.approx(0.02, rel=0.15)
    assert found.interval[0] < measured < found.interval[1]
    assert found.rows == pytest.approx(12_000)
    assert found.is_anomaly([[1e3, 1e3]])[0]
    np.testing.assert_array_equal(found.score(ROWS) > 0, found.is_anomaly(ROWS))
    assert "2.000%" in str(found)


def test_with_noise_the_rate_lies_in_its_interval():
    inside = 0
    for seed in range(10):
        with budgeted(seed) as federation:
            found = anomaly_threshold(federation, MIXTURE, false_positive_rate=0.02, share=0.15, public=True)
        inside += found.interval[0] <= found.is_anomaly(FRESH).mean() <= found.interval[1]
    assert inside >= 9


def test_where_noise_dominates_the_interval_still_holds():
    inside = 0
    for seed in range(30):
        with budgeted(seed) as federation, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = anomaly_threshold(federation, MIXTURE, false_positive_rate=0.05, share=0.01, public=True)
        inside += found.interval[0] <= found.is_anomaly(FRESH).mean() <= found.interval[1]
    assert inside >= 26


def test_the_interval_knows_the_noise():
    widths = {}
    for share in (0.01, 0.04, 0.16):
        lengths = []
        for seed in range(6):
            with budgeted(seed) as federation:
                found = anomaly_threshold(federation, MIXTURE, false_positive_rate=0.05, share=share, public=True)
            assert found.release.private
            lengths.append(found.interval[1] - found.interval[0])
        widths[share] = np.median(lengths)
    assert widths[0.01] > 1.4 * widths[0.04] > 1.4 * widths[0.16]


def test_noise_that_dominates_is_said():
    with budgeted(1, epsilon=0.3) as federation, pytest.warns(UserWarning, match="spend a larger share"):
        anomaly_threshold(federation, MIXTURE, false_positive_rate=0.01, share=0.05, public=True)
    with budgeted(1, epsilon=0.1) as federation, pytest.raises(UsageError, match="stands out"):
        anomaly_threshold(federation, MIXTURE, share=0.001, public=True)
    with budgeted(1, epsilon=0.02) as federation, pytest.raises(UsageError, match="stands out"):
        infer(federation, MIXTURE, share=0.001, public=True)


def test_inference_without_noise_is_exact():
    with LocalFederation(SILOS, mode="trusted") as federation:
        found = infer(federation, MIXTURE)
    np.testing.assert_allclose(found.sizes, MIXTURE.predict_proba(ROWS).mean(axis=0), atol=1e-7)
    assert found.mean_log_likelihood == pytest.approx(MIXTURE.score(ROWS), abs=0.01)
    assert found.scores.sum() == pytest.approx(1.0)
    assert found.expected_scores.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.cumsum(found.scores), np.cumsum(found.expected_scores), atol=0.03)
    assert found.rows_std == 0.0


def test_inference_errors_have_the_stated_size():
    """Standardised errors of 24 releases: their spread is 1, neither a half nor two."""
    truth, errors = MIXTURE.predict_proba(ROWS).mean(axis=0), []
    for seed in range(24):
        with budgeted(seed) as federation:
            found = infer(federation, MIXTURE, share=0.1, public=True)
        errors.append((found.sizes - truth) / found.sizes_std)
        assert abs(found.rows - 12_000) < 5 * found.rows_std
        assert abs(found.mean_log_likelihood - MIXTURE.score(ROWS)) < 5 * found.mean_log_likelihood_std + 0.01
    assert 0.75 < np.sqrt(np.mean(np.square(errors))) < 1.3
    assert found.sizes.sum() == pytest.approx(1.0)
    assert "component" in str(found)


def test_another_federation_may_be_asked():
    """Where only one cluster is held, the sizes say so, and rows that the mixture does not know score low."""
    mine = [ROWS[MIXTURE.predict(ROWS) == 0][part::2] for part in range(2)]
    with LocalFederation(mine, mode="trusted") as federation:
        assert infer(federation, MIXTURE).sizes[0] > 0.9
    with LocalFederation([ROWS[:2000] + 40, ROWS[:2000] - 40], mode="trusted") as federation:
        found = infer(federation, MIXTURE)
        assert found.mean_log_likelihood == pytest.approx(found.score_range[0])
        assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("use", [anomaly_threshold, infer])
def test_models_of_unprotected_rows_are_not_sent_under_a_budget(use):
    with budgeted() as federation:
        with pytest.raises(UsageError, match="public=True"):
            use(federation, MIXTURE, share=0.1)
        assert federation.remaining_share == 1.0
        private = GaussianMixture(3, bounds=(-30, 30), share=0.5, random_state=0).fit(federation)
        before = federation.remaining_share
        assert use(federation, private, share=0.1).release.private
        assert federation.remaining_share == pytest.approx(before - 0.1, abs=1e-6)


@pytest.mark.parametrize("use", [anomaly_threshold, infer])
def test_what_cannot_be_is_refused_and_costs_nothing(use):
    other = GaussianMixture(1).fit(np.random.default_rng(0).standard_normal((50, 3)))
    with budgeted() as federation:
        for arguments, message in (
            ({"mixture": other}, "3 features"),
            ({"mixture": GaussianMixture(2)}, "not fitted"),
            ({"mixture": MIXTURE, "share": 1.5}, "share is 1.5"),
            ({"mixture": MIXTURE, "share": 0.0}, "share is 0.0"),
        ):
            with pytest.raises(Exception, match=message):
                use(federation, public=True, **arguments)
        assert federation.remaining_share == 1.0


@pytest.mark.parametrize("rate", [0.0, 0.6, float("nan"), "1"])
def test_rates_are_checked(rate):
    with LocalFederation(SILOS, mode="trusted") as federation, pytest.raises(UsageError, match="false_positive_rate"):
        anomaly_threshold(federation, MIXTURE, false_positive_rate=rate)


def test_increasing_is_the_nearest_increasing_sequence():
    values = np.array([1.0, 3.0, 2.0, 2.0, 5.0, 4.0])
    np.testing.assert_allclose(_increasing(values), [1, 7 / 3, 7 / 3, 7 / 3, 4.5, 4.5])


@pytest.mark.parametrize("budget", [None, Budget(4.0, 1e-6)])
def test_targets_are_not_taken_for_features(budget) -> None:
    pairs = [(rows, np.arange(len(rows))) for rows in SILOS]
    with LocalFederation(pairs, mode="trusted", budget=budget) as federation:
        with pytest.raises(UsageError, match=r"pairs \(X, y\).*no use for the 1 target.*X alone.*column_stack"):
            GaussianMixture(2, bounds=(-50, 50), random_state=0).fit(federation)
        with pytest.raises(UsageError, match=r"pairs \(X, y\)"):
            infer(federation, MIXTURE, public=True)
        assert not federation.ledger.rounds()


def test_swapped_arguments_are_pointed_out() -> None:
    with budgeted() as federation, pytest.raises(UsageError, match="a federation and a fitted GaussianMixture, in"):
        infer(MIXTURE, federation)
