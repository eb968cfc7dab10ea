"""`GaussianMixture` on rows: scikit-learn's fit, attributes, tools and refusals."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning as PeerConvergenceWarning
from sklearn.exceptions import NotFittedError as PeerNotFittedError
from sklearn.mixture import GaussianMixture as Peer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from privfed import LocalFederation
from privfed.errors import UsageError
from privfed.learners.base import ConvergenceWarning, NotFittedError
from privfed.learners.mixture import GaussianMixture, RoundReport
from privfed.learners.mixture.initialise import INIT_PARAMS
from privfed.learners.mixture.parameters import check_bounds
from tests.mixture.cases import TYPES, clusters

FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def starts(kind: str, K: int, d: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((K, d, d)) * 0.2
    matrices = A @ np.swapaxes(A, 1, 2) + 0.3 * np.eye(d)
    precisions = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": np.ones(K),
    }
    return {
        "weights_init": rng.dirichlet(np.full(K, 5.0)),
        "means_init": 4 * rng.standard_normal((K, d)),
        "precisions_init": precisions[kind],
    }


def assert_same_fit(ours: GaussianMixture, theirs: Peer) -> None:
    for name in FITTED:
        expected, found = getattr(theirs, name), getattr(ours, name)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(), err_msg=name)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-8)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-6, atol=1e-8)
    assert ours.n_features_in_ == theirs.n_features_in_


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), K=st.integers(1, 5), d=st.integers(1, 4))
def test_same_start_same_fit(seed, kind, K, d):
    X = clusters(n=200, d=d, K=3, seed=seed)
    # Where a component shrinks onto single rows, EM multiplies rounding errors by its own steps: keep it from that.
    arguments = {"covariance_type": kind, "max_iter": 300, "reg_covar": 1e-3, **starts(kind, K, d, seed)}
    assert_same_fit(GaussianMixture(K, **arguments).fit(X), Peer(K, **arguments).fit(X))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("init", INIT_PARAMS)
def test_same_seed_same_fit(kind, init):
    X = clusters(n=500, seed=7, offset=3.0)
    arguments = {"covariance_type": kind, "init_params": init, "random_state": 5, "max_iter": 300}
    ours, theirs = GaussianMixture(4, **arguments), Peer(4, **arguments)
    np.testing.assert_array_equal(ours.fit_predict(X), theirs.fit_predict(X))
    assert_same_fit(ours, theirs)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-8)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-8)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-9)
    assert ours.bic(X) == pytest.approx(theirs.bic(X))
    assert ours.aic(X) == pytest.approx(theirs.aic(X))
    rows, labels = ours.sample(50)
    peer_rows, peer_labels = theirs.sample(50)
    np.testing.assert_allclose(rows, peer_rows, atol=1e-6)
    np.testing.assert_array_equal(labels, peer_labels)


@pytest.mark.parametrize("given_parts", [("weights_init",), ("means_init",), ("precisions_init", "means_init")])
def test_parts_of_a_start_may_be_given(given_parts):
    X = clusters(n=300, seed=9)
    parts = {name: value for name, value in starts("full", 3, 3).items() if name in given_parts}
    arguments = {"init_params": "random", "random_state": 1, "max_iter": 500, **parts}
    assert_same_fit(GaussianMixture(3, **arguments).fit(X), Peer(3, **arguments).fit(X))


def test_no_steps_keep_the_start():
    X = clusters()
    ours = GaussianMixture(3, max_iter=0, **starts("full", 3, 3)).fit(X)
    np.testing.assert_allclose(ours.means_, starts("full", 3, 3)["means_init"])
    assert ours.n_iter_ == 0
    assert not ours.converged_
    assert ours.lower_bound_ == -np.inf
    assert ours.lower_bounds_ == []


def test_warm_start_goes_on():
    X = clusters(n=300, seed=11)
    arguments = {"max_iter": 2, "warm_start": True, "random_state": 3, "tol": 0.0, "init_params": "random"}
    ours, theirs = GaussianMixture(4, **arguments), Peer(4, **arguments)
    for _ in range(5):
        with pytest.warns(PeerConvergenceWarning):
            ours.fit(X)
        with pytest.warns(PeerConvergenceWarning):
            theirs.fit(X)
        np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-8)
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-9)
    ours.set_params(n_components=5)
    with pytest.raises(UsageError, match="warm_start"):
        ours.fit(X)


def test_of_several_starts_the_best_is_kept():
    X = clusters(n=300, K=6, seed=13)

    def bound(seed, n_init=1):
        mixture = GaussianMixture(6, init_params="random_from_data", random_state=seed, n_init=n_init)
        return mixture.fit(X).lower_bound_

    assert bound(0, n_init=8) >= max(bound(0), np.median([bound(seed) for seed in range(8)]))


def test_it_works_in_scikit_learns_tools():
    X = clusters(n=200)
    mixture = GaussianMixture(3, random_state=0)
    scores = cross_val_score(mixture, X, cv=3)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, cross_val_score(Peer(3, random_state=0), X, cv=3), atol=1e-6)
    pipeline = make_pipeline(StandardScaler(), mixture).fit(X)
    assert pipeline.predict(X).shape == (200,)
    assert np.isfinite(cross_val_score(pipeline, X, cv=3)).all()
    copy = clone(GaussianMixture(2, bounds=(0, 1), rounds=4, share=0.5))
    assert copy.get_params() == GaussianMixture(2, bounds=(0, 1), rounds=4, share=0.5).get_params()
    assert not hasattr(clone(mixture.fit(X)), "means_")


def test_scikit_learns_own_checks_pass():
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(GaussianMixture(), on_fail=None)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) >= 35


def test_parameters_go_in_and_out():
    mixture = GaussianMixture(2)
    assert mixture.set_params(tol=0.5, n_components=4) is mixture
    assert (mixture.tol, mixture.n_components) == (0.5, 4)
    with pytest.raises(UsageError, match="Invalid parameter 'components'"):
        mixture.set_params(tol=0.1, components=3)
    assert mixture.tol == 0.5  # nothing was changed
    assert repr(mixture) == "GaussianMixture(n_components=4, tol=0.5)"
    assert repr(GaussianMixture(means_init=np.zeros((1, 2)))) == "GaussianMixture(means_init=array of shape (1, 2))"


def test_frames_keep_their_names():
    X = clusters(n=100)
    frame = pd.DataFrame(X, columns=["age", "dose", "pulse"])
    mixture = GaussianMixture(2, random_state=0).fit(frame)
    assert mixture.feature_names_in_.tolist() == ["age", "dose", "pulse"]
    assert mixture.predict(frame).shape == (100,)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        mixture.predict(X)
    with pytest.raises(UsageError, match="should match those"):
        mixture.predict(frame.rename(columns={"dose": "weight"}))
    with pytest.raises(UsageError, match="another order"):
        mixture.predict(frame[["dose", "age", "pulse"]])
    with pytest.raises(UsageError, match="have string names"):
        mixture.fit(frame.rename(columns={"dose": 3}))
    mixture.fit(X)
    assert not hasattr(mixture, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without"):
        mixture.predict(frame)


BAD_PARAMETERS = [
    ("n_components", 0),
    ("n_components", 1.5),
    ("n_components", True),
    ("covariance_type", "round"),
    ("tol", -1.0),
    ("reg_covar", -1e-3),
    ("max_iter", -1),
    ("n_init", 0),
    ("init_params", "magic"),
    ("warm_start", 1),
    ("verbose", -1),
    ("verbose_interval", 0),
    ("rounds", 0),
    ("share", 0.0),
    ("share", 1.5),
    ("callback", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD_PARAMETERS)
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter of GaussianMixture must be"):
        GaussianMixture(**{name: value}).fit(clusters())


def test_a_bad_seed_is_named():
    with pytest.raises(UsageError, match="random_state' parameter"):
        GaussianMixture(random_state=-1).fit(clusters())
    for seed in (None, np.random.RandomState(0), np.random.default_rng(0), np.int64(3)):
        GaussianMixture(2, random_state=seed).fit(clusters())


BAD_STARTS = [
    ({"weights_init": [0.5, 0.5]}, "shape of"),
    ({"weights_init": [0.5, 0.5, 0.5]}, "normalized"),
    ({"weights_init": [1.5, -0.5, 0.0]}, "range"),
    ({"means_init": np.zeros((3, 2))}, "shape of"),
    ({"means_init": np.full((3, 3), np.nan)}, "NaN"),
    ({"precisions_init": np.zeros((3, 3, 3))}, "positive-definite"),
    ({"precisions_init": np.tri(3)[None].repeat(3, 0)}, "symmetric"),
]


@pytest.mark.parametrize(("start", "message"), BAD_STARTS)
def test_bad_starts_are_refused_as_scikit_learn_does(start, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(3, **start).fit(clusters())
    with pytest.raises(ValueError):
        Peer(3, **start).fit(clusters())


def test_bad_diagonal_precisions_are_refused():
    with pytest.raises(ValueError, match="'diag precision' should be positive"):
        GaussianMixture(2, covariance_type="diag", precisions_init=-np.ones((2, 3))).fit(clusters())


BAD_ROWS = [
    (np.array([[1.0, np.nan], [2.0, 3.0], [3.0, 4.0]]), "NaN"),
    (np.array([[1.0, np.inf], [2.0, 3.0], [3.0, 4.0]]), "infinity"),
    (np.zeros(5), "Expected 2D array"),
    (np.zeros((2, 2, 2)), "dim 3, while dim <= 2"),
    (np.zeros((0, 3)), "0 sample"),
    (np.zeros((4, 0)), "0 feature"),
    (np.zeros((1, 3)), "minimum of 2"),
    (np.array([["a", "b"], ["c", "d"]]), "must hold numbers"),
    (np.zeros((4, 2), dtype=complex), "Complex data not supported"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_bad_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture().fit(rows)


def test_sparse_rows_are_refused():
    from scipy.sparse import csr_matrix

    with pytest.raises(ValueError, match="Sparse data"):
        GaussianMixture().fit(csr_matrix(np.eye(4)))


def test_too_few_rows_for_the_components():
    with pytest.raises(ValueError, match="n_samples >= n_components"):
        GaussianMixture(5).fit(np.eye(3))


def test_other_features_than_in_fit():
    mixture = GaussianMixture(2, random_state=0).fit(clusters())
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        mixture.predict(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least one sample"):
        mixture.sample(0)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic", "aic"])
def test_use_before_fit(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(GaussianMixture(), method)(clusters())
    with pytest.raises(PeerNotFittedError):
        GaussianMixture().sample()


def test_collapse_names_the_remedy():
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0)
    with pytest.raises(ValueError, match="increase reg_covar"):
        GaussianMixture(2, reg_covar=0.0, random_state=0).fit(rows)


def test_a_fit_that_does_not_settle_warns():
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        GaussianMixture(4, max_iter=1, tol=0.0, random_state=0).fit(clusters())


def test_progress_is_shown_and_called_back(capsys):
    reports: list[RoundReport] = []
    mixture = GaussianMixture(3, random_state=0, verbose=2, verbose_interval=1, callback=reports.append)
    mixture.fit(clusters())
    printed = capsys.readouterr().out
    assert "Initialization 0" in printed
    assert "Iteration 1" in printed
    assert [report.log_likelihood for report in reports] == mixture.lower_bounds_
    assert {(report.stage, report.release) for report in reports} == {("em", None)}
    GaussianMixture(3, random_state=0).fit(clusters())
    assert capsys.readouterr().out == ""


def test_the_callers_rows_stay_as_they_are():
    X = clusters()
    before = X.copy()
    GaussianMixture(3, random_state=0).fit(X).predict(X)
    np.testing.assert_array_equal(X, before)


def test_scikit_learn_is_not_needed():
    code = (
        "import sys, numpy as np; sys.modules['sklearn'] = None\n"
        "from privfed.learners.mixture import GaussianMixture\n"
        "m = GaussianMixture(2, random_state=0).fit(np.random.RandomState(0).normal(size=(50, 2)))\n"
        "try: GaussianMixture().predict(np.zeros((1, 1)))\n"
        "except ValueError as e: print(type(e).__name__, m.converged_)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.split() == ["NotFittedError", "True"]


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


# --- bounds, and federations in the place of rows ---------------------------------------------------------------------


def test_bounds_cut_rows_at_hand_as_they_cut_those_of_a_federation():
    X = clusters(300, 2, 2, seed=3)
    low, high = np.quantile(X, 0.1, axis=0), np.quantile(X, 0.9, axis=0)
    settings = {"n_components": 2, "random_state": 0, "means_init": X[:2], "tol": 1e-9, "max_iter": 500}
    beyond = int((np.clip(X, low, high) != X).any(axis=1).sum())
    with pytest.warns(UserWarning, match=f"{beyond} of 300 rows lie beyond bounds"):
        here = GaussianMixture(bounds=(list(low), list(high)), **settings).fit(X)
    cut = GaussianMixture(**settings).fit(np.clip(X, low, high))
    np.testing.assert_array_equal(here.means_, cut.means_)
    silos = LocalFederation([X[:150], X[150:]], mode="trusted")
    there = GaussianMixture(bounds=(list(low), list(high)), **settings).fit(silos)
    np.testing.assert_allclose(there.means_, here.means_, atol=1e-4)
    np.testing.assert_array_equal(GaussianMixture(bounds=(-1e6, 1e6), **settings).fit(X).means_, fit_of(X, settings))


def fit_of(X, settings):
    return GaussianMixture(**settings).fit(X).means_


@pytest.mark.parametrize(
    ("bounds", "d"),
    [
        ([(-5, 5), (0, 20)], 2),
        (((-5, 5), (0, 20)), 2),
        ([[-5, 5], [0, 20]], 2),
        (np.array([[-5, 5], [0, 20]]), 2),
        ([(-5, 5), (0, 20), (1, 2)], 3),
        (np.array([[-5.0, 5.0], [0, 20], [1, 2]]), 3),
    ],
)
def test_a_pair_of_bounds_per_feature_is_never_taken_for_something_else(bounds, d):
    with pytest.raises(
        UsageError, match=r"one pair per feature.* Of pairs that is bounds=\(\[-5\.0, 0\.0.*\], \[5\.0, 20"
    ):
        check_bounds(bounds, d)


@pytest.mark.parametrize(
    "bounds",
    [
        ([-5, 0], [5, 20]),
        (np.array([-5, 0]), np.array([5, 20])),
        [np.array([5, 0]), np.array([6, 20])],  # (5, 0) is no pair
        [(0, 0), (16, 16)],
    ],
)
def test_lows_and_highs_of_two_features_are_taken_as_such(bounds):
    low, high = check_bounds(bounds, 2)
    np.testing.assert_array_equal(low, bounds[0])
    np.testing.assert_array_equal(high, bounds[1])


@pytest.mark.parametrize("call", ["score", "predict", "score_samples", "personalise"])
def test_a_federation_in_the_place_of_rows_is_sent_to_what_asks_one(call):
    X = clusters(60, 2, 2, seed=3)
    mixture = GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(UsageError, match=r"a federation shows none.*infer"):
        getattr(mixture, call)(LocalFederation([X[:30], X[30:]], mode="trusted"))
