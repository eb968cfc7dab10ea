"""Data sets from files: CSV, Parquet, NPZ. Readers are strict, bounded, and run nothing that a file holds."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from privfed.datasets.dataset import Array, Dataset, require_names, targets_of
from privfed.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MAX_FILE_BYTES",
    "csv_header",
    "existing_file",
    "from_frame",
    "load_csv",
    "load_npz",
    "load_parquet",
    "reading",
]

MAX_FILE_BYTES = 2**31
MAX_ARRAY_BYTES = 2**34  # of one array out of a compressed file
UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError),  # pyarrow's own are among these
    *(csv.Error, zipfile.BadZipFile, zlib.error),
)
PARQUET_NEEDS = "Parquet files are read with pandas and pyarrow: pip install 'privfed[pandas]'"


def load_csv(
    path: str | Path,
    *,
    target: str | None = None,
    delimiter: str = ",",
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    image_shape: tuple[int, ...] | None = None,
    licence: str = "",
) -> Dataset:
    """Return the rows of a CSV file, UTF-8: a header, then numbers. The target alone may be words, which are numbered.

    Args:
        path: the file, at most 2 GiB.
        target: column that becomes `y`; None keeps all columns as features.
        delimiter: between values.
        name: what reports call it; the file's name by default.
        bounds, image_shape, licence: what is publicly known, see `Dataset`.

    Raises:
        UsageError: the file is missing, too large, or no header and rows of numbers; no value of a row is quoted.
    """
    path = existing_file(path)
    header = csv_header(path, delimiter=delimiter)
    y, classes = None, None
    columns = list(range(len(header)))
    remedy = ": impute empty cells and encode words as numbers first"
    with reading(path, f"a header and rows of numbers between {delimiter!r}", remedy):
        with path.open(encoding="utf-8-sig", newline="") as file:
            file.readline()
            lines = [line for line in file if line.strip()]
        if not lines:
            raise UsageError(f"{path} holds no rows below its header")
        if target is not None:
            columns.remove(require_names(str(path), header, target))
            y, classes = targets_of(_numbers_or_words(_read(lines, delimiter, [header.index(target)], str)[:, 0]))
        width = next(csv.reader(lines[:1], delimiter=delimiter))
        if len(width) != len(header):
            raise UsageError(f"{path} has {len(header)} names in its header and {len(width)} columns")
        if not columns:
            raise UsageError(f"{path} has no column beside its target {target!r}")
        X = _read(lines, delimiter, columns if target is not None else None, np.float64)
    names = tuple(header[column] for column in columns)
    return _named(path, name, X=X, y=y, feature_names=names, target_names=classes, bounds=bounds,
                  image_shape=image_shape, licence=licence)  # fmt: skip


def csv_header(path: Path, *, delimiter: str = ",") -> list[str]:
    """Return the names in a CSV file's first line.

    Raises:
        UsageError: there is none, or it holds numbers, repeated or empty names.
    """
    with reading(path, "text in UTF-8"), path.open(encoding="utf-8-sig", newline="") as file:
        header = [name.strip() for name in next(csv.reader([file.readline()], delimiter=delimiter), [])]
    if not header:
        raise UsageError(f"{path} holds no header: give every column a name in the first line")
    if not header[0]:
        raise UsageError(
            f"{path} has a first column without a name, as pandas writes its index: drop it, or write the file with"
            " to_csv(index=False)"
        )
    if any(_is_number(name) or not name for name in header) or len(set(header)) < len(header):
        raise UsageError(
            f"{path} has a header with numbers, empty or repeated names: give every column a name in the first line"
        )
    return header


def load_parquet(
    path: str | Path,
    *,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    image_shape: tuple[int, ...] | None = None,
    licence: str = "",
) -> Dataset:
    """Return the rows of a Parquet file; needs pandas and pyarrow.

    Args:
        path: the file, at most 2 GiB.
        target: column that becomes `y`, numbers or words; None keeps all columns as features.
        columns: features to read; None reads all.
        name: what reports call it; the file's name by default.
        bounds, image_shape, licence: what is publicly known, see `Dataset`.

    Raises:
        UsageError: a library is missing, or the file cannot be used.
    """
    path = existing_file(path)
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError(PARQUET_NEEDS) from error
    if find_spec("pyarrow") is None:
        raise UsageError(PARQUET_NEEDS)
    wanted = None if columns is None else [*columns, *([] if target is None else [target])]
    with reading(path, "Parquet"):
        frame = pd.read_parquet(path, columns=wanted, engine="pyarrow")
    return from_frame(
        frame, target=target, name=name or path.name, bounds=bounds, image_shape=image_shape, licence=licence
    )


def from_frame(
    frame: pd.DataFrame,
    *,
    target: str | None = None,
    name: str = "data frame",
    bounds: tuple[float, float] | None = None,
    image_shape: tuple[int, ...] | None = None,
    licence: str = "",
) -> Dataset:
    """Return a pandas frame as a data set; its columns are numbers, the target may be words.

    Raises:
        UsageError: columns that are not numbers, by name; missing values.
    """
    names = [str(column) for column in frame.columns]
    y: Array | None = None
    classes = None
    if target is not None:
        column = frame.iloc[:, require_names(name, names, target)]
        if bool(column.isna().any()):
            raise UsageError(f"{name} misses some targets in {target!r}: drop those rows first")
        y, classes = targets_of(column.to_numpy())
        frame = frame.drop(columns=frame.columns[names.index(target)])
        names.remove(target)
    kinds: list[Any] = [getattr(dtype, "kind", "O") for dtype in frame.dtypes]
    words = [column for column, kind in zip(names, kinds, strict=True) if kind not in "biuf"]
    if words or not names:
        raise UsageError(
            f"{name} has columns that are not numbers: {', '.join(map(repr, words))}: encode categories as numbers"
            " first, drop the rest"
            if words
            else f"{name} has no column beside its target {target!r}"
        )
    X = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return Dataset(name, X, y, tuple(names), classes, bounds, image_shape, licence)


def load_npz(
    path: str | Path,
    *,
    features: str = "X",
    targets: str = "y",
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    image_shape: tuple[int, ...] | None = None,
    licence: str = "",
) -> Dataset:
    """Return the arrays of a file that `numpy.savez` wrote; no object is unpickled.

    Args:
        path: the file, at most 2 GiB.
        features: name of the array of features; other arrays than this and the targets are not read.
        targets: name of the array of targets, which need not be there.
        name: what reports call it; the file's name by default.
        bounds, image_shape, licence: what is publicly known, see `Dataset`.

    Raises:
        UsageError: the file is missing or too large, or holds no such arrays of numbers.
    """
    path = existing_file(path)
    with reading(path, "an .npz of numbers", ": write it with numpy.savez"):
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        if features not in sizes:
            raise UsageError(f"{path} holds arrays {sorted(sizes)}, expected one called {features}")
        if max(sizes.get(array, 0) for array in (features, targets)) > MAX_ARRAY_BYTES:
            raise UsageError(f"{path} holds an array of more than {MAX_ARRAY_BYTES} bytes")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            X = np.asarray(found[features])
            y, classes = targets_of(found[targets]) if targets in sizes else (None, None)
    return _named(path, name, X=X, y=y, target_names=classes, bounds=bounds, image_shape=image_shape, licence=licence)


@contextmanager
def reading(path: Path, kind: str, remedy: str = "") -> Iterator[None]:
    """Say of whatever fails while a file is read that it cannot be read as `kind`; what it holds is not repeated."""
    try:
        yield
    except UsageError:
        raise
    except UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as {kind} ({type(error).__name__}){remedy}") from None


def existing_file(path: str | Path) -> Path:
    """Return the path of a file of at most 2 GiB.

    Raises:
        UsageError: there is none, or it is larger.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are read")
    return path


def _named(path: Path, name: str | None, **parts: Any) -> Dataset:
    """Return the data set; what is wrong with it is said with the file's name."""
    try:
        return Dataset(name or path.name, **parts)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _read(lines: list[str], delimiter: str, columns: list[int] | None, dtype: type) -> Array:
    return np.loadtxt(
        lines, delimiter=delimiter, dtype=dtype, usecols=columns, ndmin=2, comments=None, quotechar='"'
    )  # fmt: skip


def _numbers_or_words(texts: Array) -> Array:
    try:
        return texts.astype(np.float64)
    except ValueError:
        return np.char.strip(texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
