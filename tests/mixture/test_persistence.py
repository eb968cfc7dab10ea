"""Mixtures on disk and as scikit-learn's: what is written comes back to the bit, and nothing else is let in."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture as Peer

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.base import NotFittedError
from privfed.learners.mixture import GaussianMixture, persistence
from tests.mixture.cases import TYPES, clusters

FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bounds_")


def fitted(kind="full", K=3, seed=0, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(K, covariance_type=kind, random_state=seed, max_iter=10, **arguments).fit(
            clusters(n=120, seed=seed)
        )


def assert_same(a, b):
    for name in FITTED:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("converged_", "n_iter_", "lower_bound_", "n_features_in_"):
        assert getattr(a, name) == getattr(b, name)


# --- round trips ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(TYPES),
    K=st.integers(1, 4),
    seed=st.integers(0, 1000),
    suffix=st.sampled_from([".json", ".npz"]),
)
def test_what_is_saved_is_loaded_to_the_bit(tmp_path, kind, K, seed, suffix):
    mixture, path = fitted(kind, K, seed), tmp_path / f"mixture{suffix}"
    mixture.save(path)
    again = GaussianMixture.load(path)
    assert_same(again, mixture)
    X = clusters(n=50, seed=seed + 1)
    np.testing.assert_array_equal(again.score_samples(X), mixture.score_samples(X))
    np.testing.assert_array_equal(again.sample(20)[0], mixture.sample(20)[0])
    for name in persistence.KEPT:
        assert getattr(again, name) == getattr(mixture, name), name


def test_names_survive_and_generators_do_not(tmp_path):
    frame = pd.DataFrame(clusters(n=100), columns=["a", "b", "ü"])
    mixture = GaussianMixture(2, random_state=np.random.RandomState(0), callback=lambda report: None).fit(frame)
    mixture.save(tmp_path / "m.json")
    again = GaussianMixture.load(tmp_path / "m.json")
    assert again.feature_names_in_.tolist() == ["a", "b", "ü"]
    assert again.random_state is None
    assert again.callback is None
    np.testing.assert_array_equal(again.predict(frame), mixture.predict(frame))


def test_a_fit_that_never_stepped_is_kept_too(tmp_path):
    mixture = fitted().set_params(max_iter=0).fit(clusters(n=50))
    mixture.save(tmp_path / "m.npz")
    again = GaussianMixture.load(tmp_path / "m.npz")
    assert again.lower_bound_ == -np.inf
    assert again.lower_bounds_ == []


def test_numpy_reads_the_archive_and_the_same_mixture_gives_the_same_bytes(tmp_path):
    mixture = fitted()
    mixture.save(tmp_path / "a.npz")
    mixture.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["means"], mixture.means_)


def test_a_loaded_model_counts_as_unprotected(tmp_path):
    """A file may say anything: it does not travel to clients under a budget unless the caller says so with means_init.
    """  # fmt: skip
    X = clusters(n=300)
    budget = Budget(8.0, 1e-5)
    mixture = GaussianMixture(2, bounds=(-60, 60), share=0.5, random_state=0, warm_start=True)
    silos = LocalFederation(np.array_split(X, 3), mode="trusted", budget=budget, noise_seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture.fit(silos)
    mixture.save(tmp_path / "m.json")
    again = GaussianMixture.load(tmp_path / "m.json").set_params(bounds=(-60, 60))
    with pytest.raises(UsageError, match="unprotected rows"):
        again.fit(silos)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_what_is_no_plain_file_is_refused_by_our_own_error(tmp_path, suffix):
    with pytest.raises(UsageError, match="is not there"):
        GaussianMixture.load(tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(UsageError, match="folder"):
        GaussianMixture.load(tmp_path / f"folder{suffix}")
    fitted().save(tmp_path / f"m{suffix}")
    (tmp_path / f"link{suffix}").symlink_to(tmp_path / f"m{suffix}")
    with pytest.raises(UsageError, match="link"):
        GaussianMixture.load(tmp_path / f"link{suffix}")


# --- hostile files ----------------------------------------------------------------------------------------------------


def resealed(document):
    """A document whose digest agrees with what it holds: what a forger would write."""
    decoded = persistence.msgspec.convert(document, persistence._Document)
    arrays = {name: np.array(a.values, dtype=float).reshape(a.shape) for name, a in decoded.arrays.items()}
    return document | {"digest": persistence._digest(decoded, arrays)}


def change(document, *path, value):
    *outer, last = path
    inner = document
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return document


@pytest.fixture
def saved(tmp_path):
    fitted(K=2).save(tmp_path / "m.json")
    return json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "other", "has format 'other'"),
        (("version",), 2, "version 2, expected"),
        (("arrays", "weights", "values"), [0.5, 0.4], "sum to 1"),
        (("arrays", "weights", "values"), [1.5, -0.5], "at least 0"),
        (("arrays", "means", "values"), [1e400, 0, 0, 0, 0, 0], "NaN or infinity|out of range|malformed|no saved"),
        (("arrays", "means", "shape"), [3, 2], "do not fit"),
        (("arrays", "means", "shape"), [6, 1, 1, 1], "three axes"),
        (("arrays", "means", "shape"), [2**40, 2**40], "has 6 values"),
        (("arrays", "covariances", "values"), [1.0] * 18, "match covariances"),
        (("arrays", "precisions_cholesky", "values"), [-1.0] * 18, "positive diagonals"),
        (("covariance_type",), "tied", "expected"),
        (("covariance_type",), "other", "no saved mixture"),
        (("parameters", "n_components"), "many", "'n_components' parameter"),
        (("parameters", "covariance_type"), "tied", "the model is 'full'"),
        (("parameters", "extra"), 1, "expected"),
        (("feature_names",), ["a"], "names 1 features of 3"),
        (("converged",), "yes", "no saved mixture"),
        (("unknown",), 1, "no saved mixture"),
    ],
)
def test_a_forged_document_is_refused(saved, tmp_path, path, value, message):
    """Even where the digest agrees."""
    document = change(saved, *path, value=value)
    with contextlib.suppress(ValueError, persistence.msgspec.ValidationError):
        document = resealed(document)
    (tmp_path / "f.json").write_text(json.dumps(document).replace("Infinity", "1e400"), encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        GaussianMixture.load(tmp_path / "f.json")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".json", ".npz"]))
def test_no_changed_byte_goes_unnoticed(tmp_path, data, suffix):
    """A file differs by a byte: it is refused, or nothing of the model differs."""
    mixture, path = fitted("diag", 2), tmp_path / f"m{suffix}"
    mixture.save(path)
    raw = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(raw))
    try:
        again = GaussianMixture.load(path)
    except UsageError:
        return
    assert_same(again, mixture)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=400), suffix=st.sampled_from([".json", ".npz"]))
def test_rubbish_is_refused(tmp_path, raw, suffix):
    (tmp_path / f"m{suffix}").write_bytes(raw)
    with pytest.raises(UsageError):
        GaussianMixture.load(tmp_path / f"m{suffix}")


def repacked(path, **members):
    """The archive with some members replaced by other bytes."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (parts | {f"{name}.npy": raw for name, raw in members.items()}).items():
            if content is not None:
                archive.writestr(name, content)


def npy(array, allow_pickle=False):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"means": None}, "no others"),
        ({"extra": b"x"}, "no others"),
        ({"means": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)}, "expected <f8"),
        ({"means": npy(np.zeros((2, 3), dtype=np.float32))}, "expected <f8"),
        ({"means": npy(np.asfortranarray(np.arange(6.0).reshape(2, 3)))}, "C order"),
        ({"means": npy(np.zeros((2, 3)))[:-8]}, "has 40 bytes"),
        ({"means": b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 5000}, "malformed"),
        ({"means": npy(np.zeros((2, 3))).replace(b"(2, 3)", b"(2,30)")}, "has 48 bytes"),
        ({"means": npy(np.zeros((2, 3)))}, "digest"),
        ({"document": npy(np.frombuffer(b'{"a": 1}', dtype=np.uint8))}, "no saved mixture"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path, members, message):
    path = tmp_path / "m.npz"
    fitted(K=2).save(path)
    repacked(path, **members)
    with pytest.raises(UsageError, match=message):
        GaussianMixture.load(path)


def test_sizes_are_checked_before_anything_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    fitted(K=2).save(path)
    repacked(path, means=bytes(2_000_000))  # packs to two thousand bytes
    monkeypatch.setattr(persistence, "MAX_BYTES", 1_000_000)
    with pytest.raises(UsageError, match="larger than 1000000"):
        GaussianMixture.load(path)
    monkeypatch.setattr(persistence, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="more than 100 bytes"):
        GaussianMixture.load(path)


def test_other_suffixes_and_unfitted_mixtures(tmp_path):
    for suffix in (".pkl", ""):
        with pytest.raises(UsageError, match=r"expected \.json or \.npz"):
            fitted().save(tmp_path / f"m{suffix}")
        with pytest.raises(UsageError, match=r"expected \.json or \.npz"):
            GaussianMixture.load(tmp_path / f"m{suffix}")
    with pytest.raises(NotFittedError):
        GaussianMixture(2).save(tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()
    with pytest.raises(UsageError, match=r"none\.json is not there"):
        GaussianMixture.load(tmp_path / "none.json")


# --- scikit-learn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_scikit_learn_takes_over_and_hands_back(kind):
    X = clusters(n=200)
    ours = GaussianMixture(3, covariance_type=kind, random_state=0, max_iter=300).fit(X)
    theirs = ours.to_sklearn()
    assert isinstance(theirs, Peer)
    np.testing.assert_allclose(theirs.score_samples(X), ours.score_samples(X), rtol=1e-9)
    np.testing.assert_array_equal(theirs.predict(X), ours.predict(X))
    np.testing.assert_allclose(theirs.sample(50)[0], ours.sample(50)[0], rtol=1e-9)
    assert theirs.bic(X) == pytest.approx(ours.bic(X))
    assert_same(GaussianMixture.from_sklearn(theirs), ours)
    theirs.means_[0] = 0.0
    assert not np.array_equal(theirs.means_, ours.means_)  # copies


def test_from_a_fit_of_scikit_learn(tmp_path):
    frame = pd.DataFrame(clusters(n=200), columns=["a", "b", "c"])
    theirs = Peer(3, random_state=0, max_iter=300).fit(frame)
    ours = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_allclose(ours.score_samples(frame), theirs.score_samples(frame), rtol=1e-9)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    assert ours.feature_names_in_.tolist() == ["a", "b", "c"]
    ours.save(tmp_path / "m.json")
    np.testing.assert_array_equal(GaussianMixture.load(tmp_path / "m.json").means_, theirs.means_)
    with pytest.raises(UsageError, match="not a fitted Gaussian mixture"):
        GaussianMixture.from_sklearn(Peer(3))
    theirs.weights_ = theirs.weights_ * 2
    with pytest.raises(UsageError, match="sum to 1"):
        GaussianMixture.from_sklearn(theirs)


def test_a_federated_fit_is_exported_with_a_start_that_scikit_learn_knows():
    silos = LocalFederation(np.array_split(clusters(n=200), 3), mode="trusted")
    fit = GaussianMixture(2, init_params="moments", random_state=0, max_iter=300).fit(silos)
    theirs = fit.to_sklearn()
    assert theirs.init_params == "kmeans"
    theirs.fit(clusters(n=200))
