"""The demo's data: scikit-learn's digits, or the user's file, split into silos that differ."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.query import FloatArray

__all__ = ["DemoData", "dirichlet_silos", "load_data", "split"]

IntArray = npt.NDArray[np.int64]
MAX_FILE_BYTES = 2**31
NO_INDEX = "drop it, or write the file with to_csv(index=False)"


@dataclass(frozen=True)
class DemoData:
    """Rows and what is publicly known of them.

    Attributes:
        name: how the report calls the data set.
        rows: float64 of shape `(n, d)`.
        labels: int64 of shape `(n,)`, or None; used to make silos differ and to score, never to fit.
        bounds: public `(low, high)` of every value, or None if nobody knows one.
        image_shape: `(height, width)` when a row is an image, else None.
    """

    name: str
    rows: FloatArray
    labels: IntArray | None
    bounds: tuple[float, float] | None
    image_shape: tuple[int, int] | None


def load_data(path: Path | None) -> DemoData:
    """Return the digits, or the rows of an `.npz` (arrays `X` and, if there, `y`) or `.csv` file (a header and numbers;
    a column named `label` or `y` holds labels).

    Raises:
        UsageError: scikit-learn is missing, or the file cannot be read as numbers; the message names the remedy.
    """  # fmt: skip
    if path is None:
        return _digits()
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are read")
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path} is neither .npz nor .csv")
    rows, labels = readers[path.suffix.lower()](path)
    if rows.ndim != 2 or rows.shape[0] < 50 or rows.shape[1] < 1:
        raise UsageError(f"{path} holds rows of shape {rows.shape}, expected at least 50 rows of at least one number")
    if not np.isfinite(rows).all():
        raise UsageError(f"{path} holds NaN or infinity: impute or drop those rows first")
    return DemoData(path.name, rows, labels, None, None)


def _digits() -> DemoData:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the digits come with scikit-learn: pip install 'privfed[sklearn]', or give --data") from error
    digits = load_digits()
    rows, labels = np.asarray(digits.data, dtype=np.float64), np.asarray(digits.target, dtype=np.int64)
    return DemoData("handwritten digits (UCI, 1797 images of 8 x 8)", rows, labels, (0.0, 16.0), (8, 8))


def _read_npz(path: Path) -> tuple[FloatArray, IntArray | None]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "X" not in archive:
                raise UsageError(f"{path} holds arrays {sorted(archive)}, expected one called X")
            rows = np.asarray(archive["X"], dtype=np.float64)
            labels = _as_labels(archive["y"]) if "y" in archive else None
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} cannot be read as an .npz of numbers ({type(error).__name__}): write it with numpy.savez"
        ) from None
    return _checked(rows.reshape(len(rows), -1) if rows.ndim > 1 else rows, labels, path)


def _read_csv(path: Path) -> tuple[FloatArray, IntArray | None]:
    try:
        with path.open(encoding="utf-8") as file:
            header = [name.strip() for name in file.readline().rstrip("\r\n").split(",")]
            lines = [line for line in file if line.strip()]
        if not lines:
            raise UsageError(f"{path} holds no rows below its header")
        if not header[0]:
            raise UsageError(f"{path} has a first column without a name, as pandas writes its index: {NO_INDEX}")
        if any(_is_number(name) or not name for name in header):
            raise UsageError(
                f"{path} has a header with numbers or empty names: give every column a name in the first line"
            )
        table = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as a header and rows of numbers between commas ({type(error).__name__}):"
            " impute empty cells and encode words as numbers first"
        ) from None
    if table.shape[1] != len(header):
        raise UsageError(f"{path} has {len(header)} names in its header and {table.shape[1]} columns")
    if len(table) > 1 and (np.diff(table[:, 0]) == 1).all():
        raise UsageError(f"{path} counts rows in its first column, {header[0]!r}, which is no feature: {NO_INDEX}")
    columns = [index for index, name in enumerate(header) if name.lower() in ("label", "y")]
    labels = _as_labels(table[:, columns[0]]) if columns else None
    return _checked(np.delete(table, columns, axis=1), labels, path)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_labels(values: npt.ArrayLike) -> IntArray:
    return np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64).ravel()


def _checked(rows: FloatArray, labels: IntArray | None, path: Path) -> tuple[FloatArray, IntArray | None]:
    if labels is not None and len(labels) != len(rows):
        raise UsageError(f"{path} holds {len(rows)} rows and {len(labels)} labels")
    return rows, labels


def split(data: DemoData, *, held_out: float, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Return row numbers for training and for testing; `held_out` is the fraction of the second."""
    order = rng.permutation(len(data.rows))
    n_test = max(1, round(held_out * len(order)))
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def dirichlet_silos(
    labels: IntArray | None, rows: IntArray, n_silos: int, *, alpha: float, rng: np.random.Generator, least: int = 5
) -> list[IntArray]:
    """Deal `rows` to silos whose mixtures of labels differ: per label, shares from a Dirichlet(alpha) (Hsu et al. 2019,
    arXiv:1909.06335). Without labels, silos differ in size only. Every silo gets at least `least` rows.
    """  # fmt: skip
    if len(rows) < n_silos * least:
        raise UsageError(f"{len(rows)} rows are too few for {n_silos} silos of at least {least}: fewer --clients")
    groups = [rows] if labels is None else [rows[labels[rows] == label] for label in np.unique(labels[rows])]
    silos: list[list[int]] = [[] for _ in range(n_silos)]
    for group in groups:
        cuts = np.cumsum(rng.dirichlet(np.full(n_silos, alpha if labels is not None else 5.0)))[:-1] * len(group)
        for silo, part in zip(silos, np.split(rng.permutation(group), cuts.astype(int)), strict=True):
            silo.extend(part.tolist())
    while min(map(len, silos)) < least:  # the largest gives to the smallest: nobody is left empty
        max(silos, key=len).sort()
        min(silos, key=len).append(max(silos, key=len).pop(int(rng.integers(len(max(silos, key=len))))))
    return [np.array(sorted(silo), dtype=np.int64) for silo in silos]
