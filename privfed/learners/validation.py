"""Checks of what users hand in: rows and features, with scikit-learn's wording where it has one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.mapped import parts
from privfed.query import FloatArray

__all__ = ["NotNumbersError", "as_rows", "check_feature_names", "feature_names", "refuse_federation", "refuse_turned"]


class NotNumbersError(UsageError, TypeError):
    """Rows are no dense array of numbers, or their columns have names that are no text; a TypeError, too."""


def as_rows(X: Any, *, estimator: str, min_samples: int = 1) -> FloatArray:
    """Return `X` as finite float64 rows of shape (n, d), C order; the caller's array is not changed.

    Rows of that kind are not copied, those of a memory-mapped file included.

    Args:
        X: array-like or frame with two dimensions and numeric entries.
        estimator: name for messages.
        min_samples: fewest rows.

    Raises:
        UsageError: a federation, not two-dimensional, not real numbers, NaN or infinite, too few rows, no features.
    """
    refuse_federation(X, estimator=estimator)
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise NotNumbersError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to a dense numpy "
            "array."
        )
    raw = np.asarray(X)
    if raw.dtype.kind == "c":
        raise UsageError("Complex data not supported: pass real and imaginary parts as features.")
    try:
        rows = np.ascontiguousarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        # Python quotes the entry in a ValueError: it is part of a row, and stays out of the message.
        what = "could not convert string to float" if isinstance(error, ValueError) else str(error)
        raise NotNumbersError(
            f"{what}: X must hold numbers, found dtype {raw.dtype}. Encode text before fitting."
        ) from None
    if raw.ndim > 2:
        raise UsageError(f"Found array with dim {raw.ndim}, while dim <= 2 is required by {estimator}.")
    if raw.ndim != 2:
        raise UsageError(
            f"Expected 2D array, got {'scalar' if raw.ndim == 0 else f'{raw.ndim}D'} array instead. Reshape your data "
            "either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it "
            "contains a single sample."
        )
    if rows.shape[0] < min_samples:
        raise UsageError(
            f"Found array with {rows.shape[0]} sample(s) (shape={rows.shape}) while a minimum of {min_samples} is "
            f"required by {estimator}."
        )
    if rows.shape[1] < 1:
        raise UsageError(
            f"Found array with 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required by {estimator}."
        )
    if not all(np.isfinite(part).all() for part in parts(rows)):
        what = "NaN" if np.isnan(rows).any() else "infinity or a value too large for dtype('float64')"
        raise UsageError(
            f"Input X contains {what}. {estimator} does not accept missing or infinite values: drop those rows, or "
            "impute them before fitting."
        )
    return rows


def refuse_federation(X: object, *, estimator: str) -> None:
    """Refuse a federation where rows are wanted.

    Raises:
        UsageError: saying what asks one.
    """
    if callable(getattr(X, "release", None)) and hasattr(X, "noise_std"):
        raise UsageError(
            f"{estimator} needs rows here, and a federation shows none. By protected sums over everybody's rows"
            " privfed.learners.mixture.infer tells how a mixture does, privfed.learners.neural.evaluate how a network"
            " does; else each client calls this on rows of its own"
        )


def refuse_turned(found: tuple[int, ...], expected: tuple[int, ...], *, what: str) -> None:
    """Refuse rows whose axes are those that are expected, in another order: a new shape would scramble them.

    Args:
        found, expected: shapes of one row's features.
        what: name for the message.

    Raises:
        UsageError: with the order that puts them right.
    """
    if len(found) < 2 or found == expected or sorted(found) != sorted(expected):
        return
    free, order = list(range(len(found))), []
    for side in expected:
        order.append(next(axis for axis in free if found[axis] == side))
        free.remove(order[-1])
    raise UsageError(
        f"{what} has rows of shape {found}, expected {expected}, and a new shape alone would scramble them: bring"
        f" {what}.transpose({', '.join(map(str, (0, *(axis + 1 for axis in order))))})"
    )


def feature_names(X: Any) -> npt.NDArray[np.object_] | None:
    """Return the column names of a frame if all are strings, else None."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(list(columns), dtype=object)
    if names.size and all(isinstance(name, str) for name in names):
        return names
    if any(isinstance(name, str) for name in names):
        raise NotNumbersError(
            "Feature names are only supported if all input features have string names: rename the other columns."
        )
    return None


def check_feature_names(X: Any, fitted: npt.NDArray[np.object_] | None, *, estimator: str) -> None:
    """Compare the names of `X` with those seen in fit: an error when they differ, a warning when one side has none."""
    names = feature_names(X)
    if names is None and fitted is None:
        return
    if fitted is None:
        warnings.warn(
            f"X has feature names, but {estimator} was fitted without feature names", UserWarning, stacklevel=4
        )
    elif names is None:
        warnings.warn(
            f"X does not have valid feature names, but {estimator} was fitted with feature names",
            UserWarning,
            stacklevel=4,
        )
    elif len(names) != len(fitted) or (names != fitted).any():
        unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
        detail = f" Unseen at fit time: {unseen}." if unseen else ""
        detail += f" Missing now: {missing}." if missing else ""
        raise UsageError(
            "The feature names should match those that were passed during fit."
            + (detail or " They are in another order.")
        )
