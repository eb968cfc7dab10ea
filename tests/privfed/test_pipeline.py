from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import privfed
from privfed import BudgetExhausted, DataError, Loss, UsageError
from privfed.pipeline import release_sum


@settings(max_examples=25, deadline=None)
@given(
    vectors=hnp.arrays(
        np.float64,
        st.tuples(st.integers(2, 5), st.integers(1, 6)),
        elements=st.floats(-1e6, 1e6, allow_subnormal=False),
    )
)
def test_sum_and_mean_without_noise_are_exact_to_the_grid(vectors) -> None:
    scale = max(float(np.linalg.norm(vectors, axis=1).max()), 1.0)
    np.testing.assert_allclose(privfed.protected_sum(vectors), vectors.sum(axis=0), atol=1e-10 * scale, rtol=0)
    np.testing.assert_allclose(privfed.protected_mean(list(vectors)), vectors.mean(axis=0), atol=1e-10 * scale, rtol=0)


def test_any_shape_comes_back() -> None:
    matrices = [np.full((2, 3), float(i)) for i in range(4)]
    np.testing.assert_allclose(privfed.protected_sum(matrices), np.full((2, 3), 6.0), atol=1e-9)
    assert privfed.protected_sum([1.0, 2.0, 4.0]).shape == ()
    assert float(privfed.protected_sum([1.0, 2.0, 4.0])) == pytest.approx(7.0)


def test_clip_bounds_each_client() -> None:
    total = privfed.protected_sum({"a": [3.0, 4.0], "b": [300.0, 400.0]}, clip=5.0)
    np.testing.assert_allclose(total, [6.0, 8.0], atol=1e-9)


def test_noise_is_that_of_the_budget() -> None:
    release = release_sum([np.zeros(3000)] * 5, clip=2.0, epsilon=1.0, delta=1e-5, mode="trusted")
    assert np.std(release["sum"]) == pytest.approx(release.noise_std["sum"], rel=0.08)
    mu = 2.0 / release.noise_std["sum"]
    from privfed_accounting import gaussian_delta

    assert gaussian_delta(1.0, mu) == pytest.approx(1e-5, rel=0.02)
    assert release.epsilon["server"] <= 1.0


def test_lost_clients_are_left_out_of_the_mean() -> None:
    vectors = {"a": [1.0], "b": [2.0], "c": [30.0], "d": [6.0]}
    mean = privfed.protected_mean(vectors, dropout=0.25, losses=[Loss("c", "masked")])
    np.testing.assert_allclose(mean, [3.0], atol=1e-9)


def test_one_ledger_bounds_several_calls(tmp_path) -> None:
    options = {"clip": 1.0, "epsilon": 1.0, "delta": 1e-5, "ledger": tmp_path / "b.db", "mode": "trusted"}
    privfed.protected_sum([[1.0]] * 3, **options)
    with pytest.raises(BudgetExhausted):
        privfed.protected_sum([[1.0]] * 3, **options)


@pytest.mark.parametrize(
    ("vectors", "options", "match"),
    [
        ([[1.0], [2.0]], {"epsilon": 1.0}, "together"),
        ([[1.0], [2.0]], {"epsilon": 1.0, "delta": 1e-5}, "clip is missing"),
        ([[1.0]], {}, "fewer than 2"),
        ([], {}, "no vectors"),
        ([[1.0], [1.0, 2.0]], {}, "shape"),
        ([[1.0], [np.nan]], {}, "NaN"),
        ([["x"], ["y"]], {}, "not an array of numbers"),
        ([[], []], {}, "empty"),
        ([[1.0], [2.0]], {"clip": 0.0}, "clip is 0"),
        ([[1.0], [2.0]], {"clip": np.nan}, "clip is nan"),
        ([[0.0], [1.0]], {"dropout": 2.0}, "dropout"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(vectors, options, match) -> None:
    with pytest.raises((UsageError, DataError), match=match):
        privfed.protected_sum(vectors, **options)


def test_zero_vectors_have_a_sum() -> None:
    np.testing.assert_array_equal(privfed.protected_sum([[0.0, 0.0]] * 3), [0.0, 0.0])


def test_a_frame_has_one_client_in_each_row() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    np.testing.assert_allclose(privfed.protected_sum(frame), [9.0, 12.0], atol=1e-9)
    np.testing.assert_allclose(privfed.protected_mean(frame.to_numpy()), [3.0, 4.0], atol=1e-9)
    with pytest.raises(UsageError, match="one column"):
        privfed.protected_sum(frame[0])


@pytest.mark.parametrize("vectors", [None, 3.0, (vector for vector in [[1.0], [2.0]])])
def test_what_is_no_list_of_vectors_is_refused(vectors) -> None:
    with pytest.raises(UsageError, match="expected a list or a dict"):
        privfed.protected_sum(vectors)


def test_numpy_scalars_are_numbers() -> None:
    vectors = np.ones((4, 2))
    noisy = privfed.protected_mean(vectors, clip=np.float64(3.0), epsilon=np.float64(8.0), delta=1e-6, mode="trusted")
    assert noisy.shape == (2,)


@pytest.mark.parametrize("size", [1e-100, 1e-30, 1.0, 1e50, 9e99])
def test_sums_are_exact_at_every_size(size) -> None:
    total = privfed.protected_sum([[size, -size], [2 * size, size]] if size < 1e99 else [[size, -size], [0.0, size]])
    expected = np.array([3 * size, 0.0]) if size < 1e99 else np.array([size, 0.0])
    np.testing.assert_allclose(total, expected, atol=1e-10 * size)
