from __future__ import annotations

import gzip
import struct
import sys
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.datasets import (
    Dataset,
    files,
    from_frame,
    from_torch,
    idx,
    load_csv,
    load_idx,
    load_npz,
    load_parquet,
    load_sklearn,
)
from privfed.datasets.bundled import BUNDLED
from privfed.datasets.idx import read_idx
from privfed.errors import UsageError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def as_idx(array: np.ndarray) -> bytes:
    """The format, written from its definition."""
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim])
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_sets_in_the_wheel_are_whole(name) -> None:
    data = load_sklearn(name)
    assert len(data) == len(data.y) > 100
    assert len(data.feature_names) == data.X.shape[1]
    assert not data.X.flags.writeable
    if name != "diabetes":
        assert data.licence.startswith("CC BY")
        assert len(data.target_names) == data.labels.max() + 1


def test_other_sets_are_refused_not_fetched() -> None:
    with pytest.raises(UsageError, match=r"mnist_784.*nothing is downloaded"):
        load_sklearn("mnist_784")


def test_a_missing_scikit_learn_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"privfed\[sklearn\]"):
        load_sklearn("iris")


def test_csv_with_quotes_words_and_a_mark(tmp_path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text('\ufeff"width, cm",kind,height\n1.5,rose,2\n"2.5",tulip,3\n\n0,rose,-1e3\n', encoding="utf-8")
    data = load_csv(path, target="kind", licence="CC0")
    assert data.feature_names == ("width, cm", "height")
    np.testing.assert_array_equal(data.X, [[1.5, 2], [2.5, 3], [0, -1000]])
    assert data.y.tolist() == [0, 1, 0]
    assert data.target_names == ("rose", "tulip")
    assert (data.name, data.licence) == ("flowers.csv", "CC0")


def test_csv_targets_keep_their_kind(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x;y\n1;0.5\n2;1.5\n")
    assert load_csv(path, target="y", delimiter=";").y.tolist() == [0.5, 1.5]
    path.write_text("y,x\n3,1\n5,2\n")
    data = load_csv(path, target="y")
    assert data.y.dtype == np.int64
    assert data.y.tolist() == [3, 5]
    assert load_csv(path).y is None
    assert load_csv(path, target="y", bounds=(0.0, 9.0)).bounds == (0.0, 9.0)


@pytest.mark.parametrize(
    ("text", "arguments", "match"),
    [
        ("", {}, "no header"),
        ("a,b\n", {}, "no rows"),
        ("1,2\n3,4\n", {}, "header with numbers"),
        ("a,a\n3,4\n", {}, "repeated"),
        (",a\n0,4\n", {}, "index=False"),
        ("a,b\n1,x\n", {}, "encode words"),
        ("a,b\n1,\n", {}, "empty cells"),
        ("a,b\n1,nan\n", {}, "NaN or infinity in 1 records"),
        ("a,b,c\n1,2\n", {}, "3 names in its header and 2 columns"),
        ("a,b\n1,2\n1,2,3\n", {}, "rows of numbers"),
        ("a,b\n1,2\n", {"target": "c"}, "no column 'c', there are a, b"),
        ("a\n1\n", {"target": "a"}, "no column beside"),
        ("a,b\n1,2\n", {"bounds": (0.0, 1.0)}, "outside the bounds"),
    ],
)
def test_csv_that_cannot_be_used_is_refused(tmp_path, text, arguments, match) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=match) as refusal:
        load_csv(path, **arguments)
    assert "bad.csv" in str(refusal.value)


def test_errors_quote_no_value_of_a_row(tmp_path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1,secretvalue\n")
    with pytest.raises(UsageError) as refusal:
        load_csv(path)
    assert "secretvalue" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_files_too_large_are_not_opened(tmp_path, monkeypatch) -> None:
    path = tmp_path / "large.csv"
    path.write_text("a,b\n1,2\n")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 5)
    for load in (load_csv, load_npz, load_parquet, load_idx):
        with pytest.raises(UsageError, match="at most 5"):
            load(path)
        with pytest.raises(UsageError, match="no file"):
            load(tmp_path / "absent")


def test_npz(tmp_path) -> None:
    path = tmp_path / "a.npz"
    images = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
    np.savez_compressed(path, X=images, y=np.array(["b", "a", "b", "b"]), other=np.array([object()]))
    data = load_npz(path, image_shape=(3, 3))
    np.testing.assert_array_equal(data.X, images)
    assert (data.y.tolist(), data.target_names) == ([1, 0, 1, 1], ("a", "b"))
    assert data.images().shape == (4, 1, 3, 3)
    np.savez(path, rows=np.ones((3, 2)), labels=np.array([0.0, 1.0, 1.0]))
    data = load_npz(path, features="rows", targets="labels")
    assert data.y.dtype == np.int64
    assert load_npz(path, features="rows").y is None
    with pytest.raises(UsageError, match=r"'labels', 'rows'.*called X"):
        load_npz(path)


def test_npz_that_would_unpack_to_too_much_is_refused(tmp_path, monkeypatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, X=np.zeros((1000, 10)))
    monkeypatch.setattr(files, "MAX_ARRAY_BYTES", 10_000)
    with pytest.raises(UsageError, match="more than 10000 bytes"):
        load_npz(path)


def test_npz_runs_nothing(tmp_path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, X=np.array([{}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        load_npz(path)


def test_frames() -> None:
    frame = pd.DataFrame({"age": [30, 40], "weight": [60.5, 70.0], "sick": [True, False]})
    data = from_frame(frame, target="sick", name="clinic")
    assert data.feature_names == ("age", "weight")
    assert data.y.tolist() == [1, 0]
    assert data.X.dtype == np.float64
    words = from_frame(pd.DataFrame({"a": [1, 2], "kind": ["x", "y"]}), target="kind")
    assert words.target_names == ("x", "y")
    with pytest.raises(UsageError, match="not numbers: 'kind'"):
        from_frame(pd.DataFrame({"a": [1, 2], "kind": ["x", "y"]}))
    with pytest.raises(UsageError, match="misses some targets"):
        from_frame(pd.DataFrame({"a": [1, 2], "kind": ["x", None]}), target="kind")
    with pytest.raises(UsageError, match="NaN"):
        from_frame(pd.DataFrame({"a": [1, np.nan]}))
    with pytest.raises(UsageError, match="no column beside"):
        from_frame(pd.DataFrame({"a": [1, 2]}), target="a")


def test_parquet_names_what_is_missing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pyarrow"):
        load_parquet(path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"privfed\[pandas\]"):
        load_parquet(path)


def test_parquet_reads_what_pandas_reads(tmp_path, monkeypatch) -> None:
    """The reader behind it stands in where pyarrow is not installed."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    frame = pd.DataFrame({"x": [1.0, 2.0], "z": [0, 1], "y": ["n", "m"]})
    asked = []

    def read(path, *, columns, engine):
        asked.append((columns, engine))
        return frame if columns is None else frame[columns]

    monkeypatch.setattr(files, "find_spec", lambda name: types.SimpleNamespace())
    monkeypatch.setattr(pd, "read_parquet", read)
    data = load_parquet(path, target="y", columns=["z"])
    assert asked == [(["z", "y"], "pyarrow")]
    assert (data.feature_names, data.name, data.target_names) == (("z",), "a.parquet", ("m", "n"))
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: (_ for _ in ()).throw(OSError("rows: 1, 2, 3")))
    with pytest.raises(UsageError, match=r"cannot be read as Parquet \(OSError\)"):
        load_parquet(path)


def test_parquet_for_real(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": [1.0, 2.0], "y": ["n", "m"]}).to_parquet(path)
    data = load_parquet(path, target="y")
    assert data.X.tolist() == [[1.0], [2.0]]
    path.write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        load_parquet(path)


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from(sorted(CODES)),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_idx_round_trip(tmp_path_factory, code, shape, packed, seed) -> None:
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(code)
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(gzip.compress(as_idx(array)) if packed else as_idx(array))
    found = read_idx(path)
    assert found.dtype == np.dtype(code)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_idx_images_and_labels(tmp_path) -> None:
    images, labels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.array([2, 0, 1], dtype=np.uint8)
    (tmp_path / "images.gz").write_bytes(gzip.compress(as_idx(images)))
    (tmp_path / "labels").write_bytes(as_idx(labels))
    data = load_idx(tmp_path / "images.gz", tmp_path / "labels", name="tiny")
    assert (data.X.shape, data.X.dtype, data.bounds, data.image_shape) == ((3, 16), np.uint8, (0.0, 255.0), (4, 4))
    np.testing.assert_array_equal(data.images()[:, 0], images)
    assert data.y.tolist() == [2, 0, 1]
    assert data.scaled().X.max() == 47 / 255
    (tmp_path / "two").write_bytes(as_idx(labels[:2]))
    with pytest.raises(UsageError, match=r"two holds uint8.*expected 3"):
        load_idx(tmp_path / "images.gz", tmp_path / "two")
    with pytest.raises(UsageError, match="expected records"):
        load_idx(tmp_path / "labels")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no IDX file"),
        (b"\x00\x00\x08", "no IDX file"),
        (b"\x01\x00\x08\x01\x00\x00\x00\x01\x07", "no IDX file"),
        (b"\x00\x00\x0a\x01\x00\x00\x00\x01\x07", "begins with 00 00 0a 01"),
        (b"\x00\x00\x08\x00\x07", "no IDX file"),
        (b"\x00\x00\x08\x05" + b"\x00\x00\x00\x01" * 5 + b"\x07", "1 to 4 axes"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x01", "within its header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02\x07", "1 bytes of values, its header says 2"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01\x07\x08", "goes on after"),
        (b"\x00\x00\x0e\x02\xff\xff\xff\xff\xff\xff\xff\xff", "at most 4 GiB"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_is_strict(tmp_path, content, match, packed) -> None:
    path = tmp_path / "bad"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UsageError, match=match):
        read_idx(path)


def test_damaged_gzip_is_refused(tmp_path) -> None:
    whole = gzip.compress(as_idx(np.arange(1000, dtype=np.int32)))
    path = tmp_path / "bad.gz"
    for damaged in (whole[:-9], whole[:20], b"\x1f\x8b garbage", whole[:-6] + bytes(6)):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"bad\.gz"):
            read_idx(path)


def test_a_gzipped_bomb_is_not_unpacked(tmp_path, monkeypatch) -> None:
    """One byte beyond what the header says is read, not the rest."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(as_idx(np.zeros(4, dtype=np.uint8)) + bytes(50_000_000)))
    asked = []
    real = gzip.GzipFile.read

    def read(self, size=-1):
        asked.append(size)
        return real(self, size)

    monkeypatch.setattr(idx.gzip.GzipFile, "read", read)
    with pytest.raises(UsageError, match="goes on"):
        read_idx(path)
    assert sum(asked) < 100
    assert min(asked) >= 0


def test_torch_data_sets() -> None:
    torch = pytest.importorskip("torch")
    images, labels = torch.arange(32.0).reshape(2, 1, 4, 4), torch.tensor([1, 0])
    whole = from_torch(torch.utils.data.TensorDataset(images, labels), name="two")
    assert (whole.name, whole.X.shape, whole.X.dtype) == ("two", (2, 1, 4, 4), np.float32)
    assert whole.y.tolist() == [1, 0]

    class Pairs(torch.utils.data.Dataset):
        classes = ("zero", "one")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, number):
            return images[number].requires_grad_(), int(labels[number])

    read = from_torch(Pairs())
    np.testing.assert_array_equal(read.X, whole.X)
    assert (read.name, read.target_names) == ("Pairs", ("zero", "one"))
    part = from_torch(torch.utils.data.Subset(Pairs(), [1]))
    assert part.y.tolist() == [0]
    alone = from_torch([[1.0], [2.0]])
    assert (alone.X.tolist(), alone.y) == ([[1.0], [2.0]], None)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (iter([1]), "length and an index"),
        ([], "0 records"),
        ([(np.zeros(2), 1), (np.zeros(3), 1)], "no numbers of one shape"),
        ([(np.zeros(2), "a"), (np.zeros(2), "b")], "targets are no numbers"),
        ([(np.zeros(2), 1, 2)], "3 parts"),
        ([(np.zeros(2), 1), (np.zeros(2),)], "different numbers of parts"),
    ],
)
def test_torch_data_sets_that_cannot_be_used(data, match) -> None:
    with pytest.raises(UsageError, match=match):
        from_torch(data)
    with pytest.raises(UsageError, match="max_records"):
        from_torch([[1.0]] * 3, max_records=2)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"X": np.zeros(3)}, r"reshape\(-1, 1\)"),
        ({"X": np.zeros((0, 3))}, "shape"),
        ({"X": np.array([["a"]])}, "encode categories"),
        ({"X": np.array([[1.0], [np.inf]])}, "in 1 records"),
        ({"y": np.zeros(3)}, "one for each record"),
        ({"y": np.array([0, 2]), "target_names": ("a", "b")}, "outside 0 to 1"),
        ({"feature_names": ("a",)}, "1 feature names for 2"),
        ({"feature_names": ("a", "a")}, "distinct"),
        ({"image_shape": (3, 3)}, "image_shape"),
        ({"bounds": (1.0, 0.0)}, "bounds"),
        ({"bounds": (0.0, 0.5)}, "outside the bounds"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, match) -> None:
    with pytest.raises(UsageError, match=match):
        Dataset(**{"name": "a", "X": np.ones((2, 2))} | parts)


def test_parts_of_a_data_set() -> None:
    digits = load_sklearn("digits")
    train, test = digits.split(held_out=0.2, random_state=0)
    assert (len(train), len(test)) == (1438, 359)
    both = np.concatenate([train.X, test.X])
    assert sorted(map(tuple, both)) == sorted(map(tuple, digits.X))
    assert digits.scaled().bounds == (0.0, 1.0)
    np.testing.assert_array_equal(digits.scaled().X * 16, digits.X)
    smaller = digits.without("pixel_0_0")
    assert (smaller.X.shape, smaller.image_shape) == ((1797, 63), None)
    np.testing.assert_array_equal(digits.column("pixel_0_2"), digits.X[:, 2])
    assert "X of shape" in repr(digits)
    colour = Dataset("c", np.arange(24.0).reshape(2, 12), image_shape=(2, 2, 3))
    assert colour.images().shape == (2, 3, 2, 2)
    assert colour.images()[0, 1, 0, 0] == 1.0
    for wrong, match in (
        (lambda: digits.column("nothing"), "no feature 'nothing'"),
        (lambda: colour.scaled(), "no public bounds"),
        (lambda: colour.labels, "no column of class numbers"),
        (lambda: smaller.images(), "no images"),
        (lambda: digits.split(held_out=1.0), "held_out"),
    ):
        with pytest.raises(UsageError, match=match):
            wrong()
