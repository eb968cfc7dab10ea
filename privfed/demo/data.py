"""The demo's data: scikit-learn's digits, or the user's file, split into silos that differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privfed.datasets import Dataset, load_csv, load_npz, load_sklearn, partition_dirichlet, partition_quantity
from privfed.datasets.files import csv_header, existing_file
from privfed.errors import UsageError

__all__ = ["IntArray", "dirichlet_silos", "load_data"]

IntArray = npt.NDArray[np.int64]
LEAST_ROWS = 50
SIZES_ALPHA = 5.0  # without labels, silos differ in size only, and not by much


def load_data(path: Path | None) -> Dataset:
    """Return the digits, or the rows of an `.npz` (arrays `X` and, if there, `y`) or `.csv` file (a header and numbers;
    a column named `label` or `y` holds labels). Rows are flat float64; `y` holds labels from 0 on, or is None: they
    make silos differ and score, and nothing is fitted to them.

    Raises:
        UsageError: scikit-learn is missing, or the file cannot be read as numbers; the message names the remedy.
    """  # fmt: skip
    if path is None:
        return load_sklearn("digits")
    readers = {".npz": load_npz, ".csv": _load_csv}
    if existing_file(path).suffix.lower() not in readers:
        raise UsageError(f"{path} is neither .npz nor .csv")
    data = readers[path.suffix.lower()](path)
    if len(data) < LEAST_ROWS:
        raise UsageError(f"{path} holds rows of shape {data.X.shape}, expected at least {LEAST_ROWS} rows")
    rows = data.X.reshape(len(data), -1).astype(np.float64)
    labels = None if data.y is None else np.unique(data.y, return_inverse=True)[1].astype(np.int64)
    return replace(data, X=rows, y=labels, target_names=None)


def _load_csv(path: Path) -> Dataset:
    named = [name for name in csv_header(path) if name.lower() in ("label", "y")]
    data = load_csv(path, target=named[0] if named else None).without(*named[1:])
    first = data.X[:, 0]
    if len(data) > 1 and (np.diff(first) == 1).all():
        raise UsageError(
            f"{path} counts rows in its first column, {(data.feature_names or ('',))[0]!r}, which is no feature: drop"
            " it, or write the file with to_csv(index=False)"
        )
    return data


def dirichlet_silos(
    labels: IntArray | None, rows: IntArray, n_silos: int, *, alpha: float, rng: np.random.Generator, least: int = 5
) -> list[IntArray]:
    """Deal the data set's `rows` to silos of at least `least`: `partition_dirichlet`, or without labels sizes alone."""
    if len(rows) < n_silos * least:
        raise UsageError(f"{len(rows)} rows are too few for {n_silos} silos of at least {least}: fewer --clients")
    if labels is None:
        dealt = partition_quantity(len(rows), n_silos, alpha=SIZES_ALPHA, min_records=least, random_state=rng)
    else:
        dealt = partition_dirichlet(labels[rows], n_silos, alpha=alpha, min_records=least, random_state=rng)
    return [np.sort(rows[numbers]) for numbers in dealt.indices.values()]
