"""scikit-learn's contract on one array: attributes, errors, warnings, tools; and what does not hold, by name.

What does not hold:
- scikit-learn's private methods (`_initialize`, `_set_parameters`, `_e_step`, ...) and module functions are not ours.
- Arrays of other libraries (`array_api_dispatch`) are turned into numpy's.
- `n_components=True` is refused; a warm start of another size is refused; `sample(0)` names the number that was asked.
- Messages never quote an entry of a row, where scikit-learn's do.
"""

from __future__ import annotations

import copy
import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from privfed.learners.mixture import GaussianMixture
from tests.mixture.cases import TYPES, clusters

X = np.random.RandomState(0).rand(20, 2)
METHODS = ("predict", "predict_proba", "score_samples", "score", "bic", "aic")
NAN, INFINITE = (np.where(X > 0.9, value, X) for value in (np.nan, np.inf))

BAD_FITS = [
    ({"n_components": 0}, X),
    ({"n_components": 2.5}, X),
    ({"tol": -1}, X),
    ({"tol": "a"}, X),
    ({"reg_covar": -1}, X),
    ({"max_iter": -1}, X),
    ({"n_init": 0}, X),
    ({"init_params": "x"}, X),
    ({"init_params": None}, X),
    ({"covariance_type": "x"}, X),
    ({"warm_start": 1}, X),
    ({"verbose": -1}, X),
    ({"verbose_interval": 0}, X),
    ({"random_state": "a"}, X),
    ({"random_state": -1}, X),
    ({"weights_init": "a"}, X),
    ({"weights_init": [0.5, 0.6], "n_components": 2}, X),
    ({"weights_init": [1.5, -0.5], "n_components": 2}, X),
    ({"weights_init": [0.5], "n_components": 2}, X),
    ({"weights_init": [np.nan, 1], "n_components": 2}, X),
    ({"means_init": [[1, 2, 3]]}, X),
    ({"means_init": [[1, np.inf]]}, X),
    ({"precisions_init": [[[1, 2], [3, 4]]]}, X),
    ({"precisions_init": [[1, 1]]}, X),
    ({"precisions_init": [[0, 1]], "covariance_type": "diag"}, X),
    ({"precisions_init": [[-1, 0], [0, 1]], "covariance_type": "tied"}, X),
    ({"precisions_init": [0], "covariance_type": "spherical"}, X),
    ({"n_components": 30}, X),
    ({}, X[:1]),
    ({}, X[:0]),
    ({}, X[:, :0]),
    ({}, X[0]),
    ({}, 5.0),
    ({}, None),
    ({}, NAN),
    ({}, INFINITE),
    ({}, X.astype(str)),
    ({}, [["a", "b"], ["c", "d"]]),
    ({}, [[{}, 1], [2, 3]]),
    ({}, X * 1j),
    ({}, X[None]),
    ({}, scipy.sparse.csr_matrix(X)),
    ({}, pd.DataFrame({"a": [1.0, 2, 3], "b": ["x", "y", "z"]})),
    ({}, pd.DataFrame({"a": [1.0, 2, 3], 1: [1, 2, 3]})),
    ({"reg_covar": 0.0, "n_components": 2}, np.zeros((5, 2))),
    ({"reg_covar": 0.0, "n_components": 2, "covariance_type": "diag"}, np.zeros((5, 2))),
]


def failure(call) -> tuple[Exception | None, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever is raised is what is compared
            return error, []
    return None, [str(warning.message) for warning in caught]


def assert_alike(ours, theirs) -> None:
    """Errors of the same kind that begin alike, up to where either quotes what it found."""
    mine, _ = failure(ours)
    peers, _ = failure(theirs)
    assert (mine is None) == (peers is None), (mine, peers)
    if peers is None:
        return
    for kind in (ValueError, TypeError, AttributeError):
        if type(peers) is kind or (kind is ValueError and isinstance(peers, kind)):
            assert isinstance(mine, kind), (mine, peers)
    start = str(peers).split("\n")[0].split(":")[0].split(" instead")[0].rstrip(".")
    assert str(mine).startswith(start[:60].rstrip()), f"{mine}\n{peers}"


@pytest.mark.parametrize(("settings", "rows"), BAD_FITS)
def test_fits_fail_alike(settings, rows):
    assert_alike(lambda: GaussianMixture(**settings).fit(rows), lambda: Peer(**settings).fit(rows))


def test_no_message_quotes_a_row():
    secret = "1b9-secret"
    for rows in ([[secret, 1.0], [2.0, 3.0]], np.array([[7.77123 + 1j, 0]]), np.array([7.77123, 1.0])):
        error, _ = failure(lambda rows=rows: GaussianMixture().fit(rows))
        assert error is not None
        assert secret not in str(error)
        assert "7.77" not in str(error)


@pytest.mark.parametrize("method", METHODS)
def test_methods_fail_alike(method):
    ours, theirs = GaussianMixture(2, random_state=0).fit(X), Peer(2, random_state=0).fit(X)
    for rows in (X[:, :1], X[0], NAN, X[:0], X[None]):
        assert_alike(lambda rows=rows: getattr(ours, method)(rows), lambda rows=rows: getattr(theirs, method)(rows))
    assert_alike(lambda: getattr(GaussianMixture(), method)(X), lambda: getattr(Peer(), method)(X))


def test_sampling_fails_alike():
    ours, theirs = GaussianMixture().fit(X), Peer().fit(X)
    assert_alike(GaussianMixture().sample, Peer().sample)
    error, _ = failure(lambda: ours.sample(0))
    peers, _ = failure(lambda: theirs.sample(0))
    assert str(error).startswith("Invalid value for 'n_samples'")
    assert str(peers).startswith("Invalid value for 'n_samples'")


def test_every_parameter_attribute_and_method_of_theirs_is_ours():
    theirs, ours = inspect.signature(Peer).parameters, inspect.signature(GaussianMixture).parameters
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == parameter.kind, name
    peer, mine = Peer(2, random_state=0).fit(X), GaussianMixture(2, random_state=0).fit(X)
    assert set(vars(peer)) <= set(vars(mine))
    public = {name for name in dir(Peer) if not name.startswith("_")}
    assert public - set(dir(GaussianMixture)) == {"get_metadata_routing"}
    for name in vars(peer):
        if name.endswith("_"):
            expected, found = getattr(peer, name), getattr(mine, name)
            assert np.shape(found) == np.shape(expected), name
            assert type(found) is type(expected) or np.isscalar(expected), name


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_precision_of_the_rows(kind, dtype):
    rows = clusters(n=300, seed=2).astype(dtype)
    ours = GaussianMixture(3, covariance_type=kind, random_state=0).fit(rows)
    theirs = Peer(3, covariance_type=kind, random_state=0).fit(rows)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype == dtype, name
    np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-3 if dtype is np.float32 else 1e-8)
    for method in ("predict", "predict_proba", "score_samples"):
        assert getattr(ours, method)(rows).dtype == getattr(theirs, method)(rows).dtype, method
        mixed = rows.astype(np.float64)
        assert getattr(ours, method)(mixed).dtype == getattr(theirs, method)(mixed).dtype, method
    np.testing.assert_array_equal(copy.deepcopy(ours).fit_predict(rows), ours.predict(rows))


def test_integers_are_numbers():
    rows = np.random.RandomState(0).randint(0, 9, (40, 2))
    np.testing.assert_allclose(
        GaussianMixture(2, random_state=0).fit(rows).means_, Peer(2, random_state=0).fit(rows).means_
    )


def test_warnings_are_theirs():
    settings = {"n_components": 3, "max_iter": 1, "random_state": 0, "tol": 0.0}
    for estimator in (GaussianMixture, Peer):
        with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge"):
            estimator(**settings).fit(X)
    frame = pd.DataFrame(X, columns=["a", "b"])
    ours, theirs = GaussianMixture(2, random_state=0).fit(frame), Peer(2, random_state=0).fit(frame)
    for rows in (X, frame[["b", "a"]], frame.rename(columns={"b": "c"})):
        mine, my_warnings = failure(lambda rows=rows: ours.predict(rows))
        peers, peer_warnings = failure(lambda rows=rows: theirs.predict(rows))
        assert (mine is None) == (peers is None)
        assert my_warnings == peer_warnings
        if peers is not None:
            assert str(mine).split(".")[0] == str(peers).split(".")[0]


def test_grid_search_chooses_as_theirs():
    rows = clusters(n=120, d=2, K=3, seed=6)
    grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "diag"]}
    ours, theirs = (
        GridSearchCV(estimator(random_state=0), grid, cv=3).fit(rows) for estimator in (GaussianMixture, Peer)
    )
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], atol=1e-6)


def test_pipelines_clones_and_scores():
    rows = clusters(n=200, seed=3)
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    assert clone(pipeline).set_params(gaussianmixture__n_components=3).fit(rows).predict(rows).shape == (200,)
    peers = make_pipeline(StandardScaler(), Peer(random_state=0))
    np.testing.assert_allclose(cross_val_score(pipeline, rows, cv=4), cross_val_score(peers, rows, cv=4), atol=1e-8)
    fitted = GaussianMixture(2, random_state=0).fit(rows)
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    assert not any(name.endswith("_") for name in vars(again))


def test_checks_of_estimators_pass_without_exception():
    from sklearn.utils.estimator_checks import check_estimator

    for estimator in (GaussianMixture(), GaussianMixture(2, covariance_type="diag", init_params="random")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = check_estimator(estimator, on_fail=None)
        failed = [result["check_name"] for result in results if result["status"] == "failed"]
        assert failed == []
