from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.datasets.dataset import split_rows
from privfed.demo.data import dirichlet_silos, load_data
from privfed.demo.options import DemoOptions
from privfed.errors import UsageError


def test_digits_are_the_real_ones() -> None:
    data = load_data(None)
    assert data.X.shape == (1797, 64)
    assert data.bounds == (0.0, 16.0)
    assert data.X.min() == 0.0
    assert data.X.max() == 16.0
    assert data.image_shape == (8, 8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(2, 30), labelled=st.booleans())
def test_silos_share_the_rows_out_and_nobody_is_left_empty(seed, n, labelled) -> None:
    rng = np.random.default_rng(seed)
    rows = np.arange(1000, 1000 + 10 * n)
    labels = rng.integers(0, 4, 2000) if labelled else None
    silos = dirichlet_silos(labels, rows, n, alpha=0.5, rng=rng)
    assert sorted(np.concatenate(silos).tolist()) == rows.tolist()
    assert min(map(len, silos)) >= 5


def test_silos_differ() -> None:
    data = load_data(None)
    rng = np.random.default_rng(0)
    silos = dirichlet_silos(data.y, np.arange(1797), 20, alpha=0.5, rng=rng)
    shares = np.array([np.bincount(data.y[silo], minlength=10) / len(silo) for silo in silos])
    assert np.abs(shares - 0.1).sum(axis=1).mean() > 0.6  # an even split would be near 0.2


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer --clients"):
        dirichlet_silos(None, np.arange(20), 5, alpha=0.5, rng=np.random.default_rng(0))


def test_split_is_a_partition() -> None:
    data = load_data(None)
    train, test = split_rows(len(data), held_out=0.2, random_state=1)
    assert sorted([*train, *test]) == list(range(1797))
    assert len(test) == 359


def test_files_are_read(tmp_path) -> None:
    rows, labels = np.arange(240.0).reshape(60, 4), np.arange(60) % 3
    np.savez(tmp_path / "a.npz", X=rows, y=labels)
    table = np.column_stack([rows[:, :2], labels, rows[:, 2:]])
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="p,q,label,r,s", comments="")
    for name in ("a.npz", "a.csv"):
        data = load_data(tmp_path / name)
        np.testing.assert_array_equal(data.X, rows)
        np.testing.assert_array_equal(data.y, labels)
        assert data.bounds is None
    np.savez(tmp_path / "images.npz", X=np.zeros((50, 3, 3), dtype=np.uint8))
    assert load_data(tmp_path / "images.npz").X.shape == (50, 9)


def test_files_that_cannot_be_used_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "named.npz", rows=np.zeros((60, 2)))
    np.savez(tmp_path / "short.npz", X=np.zeros((6, 2)))
    np.savez(tmp_path / "nan.npz", X=np.full((60, 2), np.nan))
    np.savez(tmp_path / "labels.npz", X=np.zeros((60, 2)), y=np.zeros(59))
    np.savez(tmp_path / "objects.npz", X=np.array([{}] * 60, dtype=object), allow_pickle=True)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "text.csv").write_text("a,b\n1,x\n")
    (tmp_path / "ragged.csv").write_text("a,b,c\n" + "1,2\n" * 60)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "table.xlsx").write_bytes(b"")
    for name in [path.name for path in tmp_path.iterdir()] + ["absent.npz"]:
        with pytest.raises(UsageError, match=name.split(".")[0]):
            load_data(tmp_path / name)
    with pytest.raises(UsageError, match="no file"):
        load_data(tmp_path)


def test_an_index_of_rows_is_no_feature(tmp_path) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((60, 2)), columns=["p", "q"])
    frame.to_csv(tmp_path / "pandas.csv")
    frame.to_csv(tmp_path / "named.csv", index_label="row")
    for name in ("pandas.csv", "named.csv"):
        with pytest.raises(UsageError, match=r"first column.*to_csv\(index=False\)"):
            load_data(tmp_path / name)
    frame.to_csv(tmp_path / "plain.csv", index=False)
    np.testing.assert_allclose(load_data(tmp_path / "plain.csv").X, frame.to_numpy())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"clients": 2}, "clients"),
        ({"components": 0}, "components"),
        ({"dropout": 0.6}, "dropout"),
    ],
)
def test_options_are_checked(options, match) -> None:
    with pytest.raises(UsageError, match=match):
        DemoOptions(**options)
