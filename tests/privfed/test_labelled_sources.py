"""Rows with targets: pairs (X, y) in every shape that users have them, and the errors for the rest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed import DataError, LocalFederation
from privfed.statistics.moments import Count, VectorSum


def images(n: int = 4, shape: tuple[int, ...] = (2, 3), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n, *shape)), rng.integers(0, 3, n)


@given(
    n=st.integers(1, 5),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    targets=st.sampled_from([None, 1, 2, 5]),
)
def test_pairs_become_flat_rows_with_their_targets_last(n, shape, targets) -> None:
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n, *shape))
    y = rng.standard_normal(n if targets is None else (n, targets))
    federation = LocalFederation({"a": (X, y), "b": (X, y)})
    columns = 1 if targets is None else targets
    assert federation.feature_shape == shape
    assert federation.n_targets == columns
    assert federation.n_features == int(np.prod(shape)) + columns
    rows = federation._sources["a"].load()
    np.testing.assert_array_equal(rows[:, :-columns].reshape(X.shape), X)
    np.testing.assert_array_equal(rows[:, -columns:], y.reshape(n, columns))
    assert not rows.flags.writeable


def test_the_sum_is_over_features_and_targets() -> None:
    pairs = [images(seed=seed) for seed in range(3)]
    release = LocalFederation(pairs).release(VectorSum(7, 50.0))
    expected = np.concatenate([sum(X.sum(axis=0).ravel() for X, _ in pairs), [sum(y.sum() for _, y in pairs)]])
    np.testing.assert_allclose(release["sum"], expected, atol=1e-6)


def test_plain_rows_have_no_targets() -> None:
    federation = LocalFederation([np.ones((3, 5))] * 2)
    assert (federation.feature_shape, federation.n_targets, federation.n_features) == ((5,), 0, 5)


def test_later_changes_of_the_users_arrays_change_nothing() -> None:
    X, y = images()
    federation = LocalFederation([(X, y), images(seed=1)])
    before = federation._sources["client-00"].load().copy()
    X[:], y[:] = 9.0, 9
    np.testing.assert_array_equal(federation._sources["client-00"].load(), before)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint16", "bool", "float64"])
def test_numbers_of_every_kind_are_fine(dtype) -> None:
    X, y = images()
    X = X > 0 if dtype == "bool" else (X * 5).clip(0).astype(dtype)
    federation = LocalFederation([(X, y.astype("int64")), (X, y.astype(dtype))])
    assert federation.release(Count())["count"] == pytest.approx(8)


def test_lists_of_lists_are_a_pair_as_well() -> None:
    federation = LocalFederation([([[1.0, 2.0], [3.0, 4.0]], [0, 1]), ([[1, 2]], [[1]])])
    assert (federation.feature_shape, federation.n_targets) == ((2,), 1)


def test_a_tuple_of_rows_stays_rows() -> None:
    federation = LocalFederation([([1.0, 2.0, 5.0], [3.0, 4.0, 6.0]), ([1.0, 1.0, 1.0],) * 3])
    assert (federation.feature_shape, federation.n_targets) == ((3,), 0)
    assert federation.release(Count())["count"] == pytest.approx(5)


def test_one_feature_without_an_axis_of_its_own_is_not_taken_for_two_rows() -> None:
    """(X, y) of shapes (5,) and (5,) read as two rows of five would train on nonsense without a word."""
    x, y = np.arange(5.0), np.arange(5)
    with pytest.raises(DataError, match=r"one axis each may be \(X, y\) or two rows.*reshape\(-1, 1\)"):
        LocalFederation([(x, y), (x, y)])
    assert LocalFederation([(x.reshape(-1, 1), y)] * 2).feature_shape == (1,)
    assert LocalFederation([[x, y]] * 2).n_features == 5


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_callables_may_load_pairs_and_empty_ones(mode) -> None:
    calls = []

    def load():
        calls.append(1)
        return images(5)

    def nobody():
        return np.empty((0, 2, 3)), np.empty(0)

    federation = LocalFederation({"a": load, "b": nobody, "c": images(2)}, mode=mode)
    assert calls == []
    assert federation.feature_shape == (2, 3)
    assert federation.n_targets == 1
    assert federation.release(Count())["count"] == pytest.approx(7)
    assert calls


def test_shapes_of_callables_are_known_once_one_is_loaded() -> None:
    federation = LocalFederation([images, images])
    assert (federation.n_targets, federation.feature_shape, federation.n_features) == (1, (2, 3), 7)


def test_a_callable_that_changes_its_shape_is_refused_by_name() -> None:
    shapes = iter([(2, 3), (2, 3), (3, 2), (3, 2)])
    federation = LocalFederation({"a": lambda: images(shape=next(shapes)), "b": images()}, mode="trusted")
    federation.release(Count())
    with pytest.raises(DataError, match=r"client 'a' has features of shape \(3, 2\) and 1 target"):
        federation.release(Count())


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (
            (np.ones((4, 3, 2)), np.ones(4)),
            r"'b' has features of shape \(3, 2\) and 1 target column\(s\), 'a' has features",
        ),
        ((np.ones((4, 6)), np.ones(4)), "'b' has 6 features and 1 target"),
        ((np.ones((4, 2, 3)), np.ones((4, 2))), r"'b' has features of shape \(2, 3\) and 2 target"),
        (np.ones((4, 7)), "'b' has 7 features, 'a' has features of shape"),
    ],
)
def test_clients_agree_on_shapes_and_targets(second, match) -> None:
    with pytest.raises(DataError, match=match) as caught:
        LocalFederation({"a": images(), "b": second})
    assert caught.value.client == "b"


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        ((np.ones((4, 2)), np.ones(3)), r"shapes \(4, 2\) and \(3, 1\)"),
        ((np.ones((4, 2)), np.ones((4, 2, 2))), r"shapes \(4, 2\) and \(4, 2, 2\)"),
        ((np.ones((0, 2)), np.ones(0)), "rows >= 1"),
        ((np.ones((4, 0)), np.ones(4)), r"shapes \(4, 0\)"),
        ((np.ones((4, 2)), np.ones((4, 0))), r"and \(4, 0\)"),
        ((np.ones((4, 2)), 1.0), r"and \(\)"),
        ((np.ones((4, 2)), None), r"and \(\)"),
        ((np.ones((4, 2)), np.array(list("abcd"))), "encode them as numbers"),
        ((np.ones((4, 2)), np.array(list("abcd"), dtype=object)), "encode categories as numbers"),
        ((np.ones((4, 2), dtype=complex), np.ones(4)), "expected real numbers"),
        ((np.full((4, 2), np.nan), np.ones(4)), "4 row"),
        ((np.ones((4, 2)), np.array([0, 1, np.nan, np.inf])), "2 row"),
        ((np.ones((4, 2)), np.full(4, 1e101)), "4 row"),
        (([[1.0, 2.0], [3.0]], [0, 1]), "no rectangle of numbers"),
        (([[1.0, 2.0], [3.0, 4.0]], [[0], [1, 2]]), "no rectangle of numbers"),
    ],
)
def test_pairs_that_cannot_be_used_get_a_clear_error(pair, match) -> None:
    with pytest.raises(DataError, match=match) as caught:
        LocalFederation({"good": (np.ones((4, 2)), np.ones(4)), "bad": pair})
    assert caught.value.client == "bad"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"X": np.ones((4, 2)), "y": np.ones(4)}, r"are a dict, expected rows or a pair \(X, y\)"),
        (iter(np.ones((4, 2))), "expected rows or a pair"),
        ([np.ones((4, 2)), np.ones(4)], "as a tuple"),
        ([[1.0, 2.0], [3.0]], "every row the same length"),
        (
            pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]}),
            "values are missing",
        ),
        (pd.DataFrame({"a": ["x", "y"], "b": [1.0, 2.0]}), r"not numeric: 'a'\): encode categories"),
    ],
)
def test_data_of_another_form_are_refused_with_the_remedy(data, match) -> None:
    with pytest.raises(DataError, match=match):
        LocalFederation({"a": data})


def test_data_sets_of_torch_are_named_with_their_loader() -> None:
    torch = pytest.importorskip("torch")
    records = torch.utils.data.TensorDataset(torch.ones(4, 2), torch.ones(4))
    for data in (records, torch.utils.data.DataLoader(records)):
        with pytest.raises(DataError, match=f"{type(data).__name__}.*from_torch"):
            LocalFederation({"a": data})


def test_no_value_of_a_row_reaches_an_error() -> None:
    for pair in (
        (np.full((2, 2), 4242.0), np.array(["4242x", "b"], dtype=object)),
        (np.full((2, 2), 4242e120), np.ones(2)),
        (np.full((2, 2), 4242.0), np.ones(3)),
    ):
        with pytest.raises(DataError) as caught:
            LocalFederation([pair, pair])
        assert "4242" not in str(caught.value)


def test_targets_can_hold_a_bad_value_that_a_loader_brings_later() -> None:
    rows = [images()]
    federation = LocalFederation({"a": lambda: rows[0], "b": images()})
    federation.release(Count())
    rows[0] = (images()[0], np.full(4, np.nan))
    with pytest.raises(DataError, match=r"'a'.*4 row"):
        federation.release(Count())


def test_frames_and_series() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.0, 2.0], "height": [3.0, 4.0]})
    target = pandas.Series([0, 1], name="ill")
    federation = LocalFederation(
        [(frame, target), (frame, target.to_numpy()), (frame, pandas.DataFrame({"ill": [0, 1]}))]
    )
    assert (federation.feature_shape, federation.n_targets) == ((2,), 1)
    assert federation.feature_names == ("age", "height", "target")
    several = LocalFederation([(frame, pandas.DataFrame({"ill": [0, 1], "dose": [1, 2]}))] * 2)
    assert several.feature_names == ("age", "height", "target_0", "target_1")


def test_frames_of_pairs_must_agree_on_their_columns() -> None:
    """Columns in another order would be mixed up without a word."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.0, 2.0], "height": [3.0, 4.0]})
    with pytest.raises(DataError, match="bring them into one order"):
        LocalFederation([(frame, [0, 1]), (frame[["height", "age"]], [0, 1])])
    with pytest.raises(DataError, match=r"not numeric: 'name'"):
        LocalFederation([(frame.assign(name=["x", "y"]), [0, 1])] * 2)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    X, y = torch.ones((3, 1, 2, 2)), torch.tensor([0, 1, 2])
    federation = LocalFederation([(X, y)] * 2)
    assert (federation.feature_shape, federation.n_targets) == ((1, 2, 2), 1)
    with pytest.raises(DataError, match=r"\.detach\(\)"):
        LocalFederation([(X.requires_grad_(), y)] * 2)
    with pytest.raises(DataError, match="one axis each"):
        LocalFederation([(y.double(), y)] * 2)


def test_sparse_features_say_what_to_do() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(DataError, match=r"\.toarray\(\)"):
        LocalFederation([(sparse.csr_matrix(np.eye(3)), np.ones(3))] * 2)


def test_too_many_rows_are_counted_in_pairs() -> None:
    with pytest.raises(DataError, match="raise max_records"):
        LocalFederation([images(9), images(3)], max_records=8)
