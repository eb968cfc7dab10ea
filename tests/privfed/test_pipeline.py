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


def test_calls_share_a_budget_by_their_shares(tmp_path) -> None:
    options = {"clip": 1.0, "epsilon": 1.0, "delta": 1e-5, "ledger": f"sqlite:///{tmp_path}/b.db", "mode": "trusted"}
    releases = [release_sum([[1.0]] * 3, share=share, **options) for share in (0.25, 0.75)]
    assert releases[0].noise_std["sum"] == pytest.approx(3**0.5 * releases[1].noise_std["sum"], rel=1e-6)
    assert 0.999 < releases[1].epsilon["server"] <= 1.0
    with pytest.raises(BudgetExhausted):
        privfed.protected_sum([[1.0]] * 3, share=0.25, **options)
    assert issubclass(BudgetExhausted, privfed.AccountingError)


def test_small_coordinates_beside_large_ones_are_rounded_away() -> None:
    total = privfed.protected_sum([[1e6, 1e-9], [0.0, 1e-9]])
    assert total[0] == pytest.approx(1e6, rel=1e-11)
    assert abs(total[1] - 2e-9) > 1e-9


def test_tensors_that_require_grad_are_refused_with_the_remedy() -> None:
    torch = pytest.importorskip("torch")
    tracked = torch.ones(2, requires_grad=True)
    with pytest.raises(DataError, match=r"\.detach\(\)"):
        privfed.protected_sum([tracked, tracked])
    with pytest.raises(UsageError, match=r"\.detach\(\)"):
        privfed.protected_mean([[1.0], [2.0]], clip=1.0, weights=tracked, largest_weight=2.0)


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
        ([[0.0], [1.0]], {"clip": 1.0, "epsilon": 1.0, "delta": 1e-5, "bits": "16"}, "bits"),
        ([[0.0], [1.0]], {"clip": 1.0, "epsilon": 1.0, "delta": 1e-5, "share": 2.0}, "share"),
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


@settings(max_examples=25, deadline=None)
@given(
    vectors=hnp.arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(1, 6)), elements=st.integers(-(2**33), 2**33))
)
def test_sums_of_integers_are_exact(vectors) -> None:
    total = privfed.protected_sum(vectors, mode="trusted")
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total, vectors.sum(axis=0))


def test_integers_beyond_the_grid_are_refused_not_rounded() -> None:
    with pytest.raises(DataError, match="too large to be summed exactly"):
        privfed.protected_sum([[2**50, 1], [1, 1]])
    assert privfed.protected_sum([[1, 2], [3, 4]]).dtype == np.int64
    assert privfed.protected_sum([[True], [False], [True]]).tolist() == [2]
    assert privfed.protected_sum([[1.0, 2], [3, 4]]).dtype == np.float64
    assert privfed.protected_sum([[1, 2], [3, 4]], clip=10.0).dtype == np.float64


def test_weights_travel_inside_the_vector() -> None:
    means = {"a": [1.0, 0.0], "b": [5.0, 4.0], "c": [9.0, 9.0]}
    weights = {"a": 30.0, "b": 10.0, "c": 0.0}
    mean = privfed.protected_mean(means, clip=20.0, weights=weights, largest_weight=50.0)
    np.testing.assert_allclose(mean, [2.0, 1.0], atol=1e-9)
    noisy = privfed.protected_mean(
        np.tile([1.0, -1.0], (200, 1)),
        clip=2.0,
        weights=np.arange(200) % 5,
        largest_weight=4.0,
        epsilon=8.0,
        delta=1e-6,
        mode="trusted",
    )
    np.testing.assert_allclose(noisy, [1.0, -1.0], atol=0.3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": [1.0, 1.0]}, "largest_weight"),
        ({"weights": [1.0], "largest_weight": 2.0, "clip": 1.0}, "each of 2 clients"),
        ({"weights": ["a"], "largest_weight": 2.0, "clip": 1.0}, "not numbers"),
        ({"weights": [1.0, [2.0]], "largest_weight": 2.0, "clip": 1.0}, "not numbers"),
        ({"weights": [1.0, -1.0], "largest_weight": 2.0, "clip": 1.0}, "negative"),
        ({"weights": {"x": 1.0, "y": 2.0}, "largest_weight": 2.0, "clip": 1.0}, "different clients"),
        ({"weights": [1.0, 1.0], "largest_weight": 2.0}, "clip is missing"),
        ({"weights": [0.0, 0.0], "largest_weight": 2.0, "clip": 1.0}, "sum to nothing"),
        ({"droput": 0.1}, "unknown options"),
    ],
)
def test_weights_and_options_that_mean_nothing_are_refused(options, match) -> None:
    with pytest.raises((UsageError, DataError), match=match):
        privfed.protected_mean([[1.0], [2.0]], **options)


@pytest.mark.parametrize(
    ("options", "regime", "bits"),
    [
        ({"bits": 16}, "coarse", 16),
        ({"noise": "skellam"}, "coarse", None),
        ({"bits": 32}, "fine", 32),
        ({"bits": 16, "drop_outs": "exact", "dropout": 0.2, "losses": [Loss("client-03", "masked")]}, "coarse", 16),
        ({"mode": "local", "bits": 32}, "fine", 32),
        ({"mode": "central", "view": "released"}, "fine", 64),
        ({"security": "malicious"}, "fine", 64),
    ],
)
def test_all_that_a_federation_can_do_in_one_call(options, regime, bits) -> None:
    vectors = np.full((20, 300), 0.05)
    release = release_sum(vectors, clip=1.0, epsilon=6.0, delta=1e-5, **options)
    assert release.plan.regime == regime
    assert bits is None or release.plan.bits == bits
    errors = release["sum"] - release.survivors * 0.05
    assert np.std(errors) == pytest.approx(release.noise_std["sum"], rel=0.2)
    assert release.epsilon[options.get("view", "server")] <= 6.0
