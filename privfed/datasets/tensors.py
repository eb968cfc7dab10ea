"""Data sets of torch, read once into arrays. torch itself is not imported: whoever has such a set has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from privfed.datasets.dataset import Array, Dataset, targets_of
from privfed.errors import UsageError, checked_integer

__all__ = ["from_torch"]


def from_torch(
    dataset: Any,
    *,
    name: str | None = None,
    target_names: tuple[str, ...] | None = None,
    bounds: tuple[float, float] | None = None,
    image_shape: tuple[int, ...] | None = None,
    licence: str = "",
    max_records: int = 10_000_000,
) -> Dataset:
    """Return the records of a torch data set of pairs (features, target), or of features alone.

    A `TensorDataset` is taken as a whole; of another map-style data set each record is asked for once, transforms
    included, so that a random transform is drawn once for good.

    Args:
        dataset: with a length, and records of one shape: tensors, arrays or numbers.
        name: what reports call it; the class's name by default.
        target_names, bounds, image_shape, licence: what is publicly known, see `Dataset`.
        max_records: a longer data set is refused before it is read.

    Returns:
        `X` in the records' own type and shape; images of torch are channels first, so leave `image_shape` out.

    Raises:
        UsageError: it has no length or no records, or they are no numbers of one shape.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UsageError(
            f"the data set is a {type(dataset).__name__}, expected one with a length and an index: read a stream into a"
            " TensorDataset first"
        )
    count = len(dataset)
    if not 1 <= count <= checked_integer("max_records", max_records, least=1):
        raise UsageError(f"the data set has {count} records, expected 1 to {max_records}: raise max_records")
    tensors = getattr(dataset, "tensors", None)
    parts = list(tensors) if isinstance(tensors, tuple) else _columns(dataset[number] for number in range(count))
    if not 1 <= len(parts) <= 2:
        raise UsageError(f"a record has {len(parts)} parts, expected features and a target")
    X, y = _array("features", parts[0]), _array("targets", parts[1]) if len(parts) == 2 else None
    named = target_names if target_names is not None else getattr(dataset, "classes", None)
    return Dataset(
        name=name or type(dataset).__name__,
        X=X.reshape(-1, 1) if X.ndim == 1 else X,
        y=None if y is None else targets_of(y)[0],
        target_names=None if named is None or y is None else tuple(str(label) for label in named),
        bounds=bounds,
        image_shape=image_shape,
        licence=licence,
    )


def _columns(records: Iterable[Any]) -> list[Any]:
    """Return features and targets of records as two lists, or features alone."""
    rows = [record if isinstance(record, tuple | list) else (record,) for record in records]
    if len({len(row) for row in rows}) != 1:
        raise UsageError("the records have different numbers of parts, expected features and a target in each")
    return [[_plain(value) for value in column] for column in zip(*rows, strict=True)]


def _plain(value: Any) -> Any:
    """Return a tensor of any device as an array; other values as they are."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _array(what: str, values: Any) -> Array:
    try:
        array = np.asarray(_plain(values))
    except (TypeError, ValueError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        raise UsageError(
            f"the {what} are no numbers of one shape: give the data set a transform that makes tensors of one size"
        )
    return array
