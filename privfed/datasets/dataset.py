"""A data set in memory, and what is publicly known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer

__all__ = [
    "Array",
    "Dataset",
    "IntArray",
    "RandomState",
    "class_labels",
    "generator",
    "require_names",
    "split_rows",
    "targets_of",
]

Array: TypeAlias = npt.NDArray[Any]
IntArray: TypeAlias = npt.NDArray[np.int64]
RandomState: TypeAlias = "int | np.random.Generator | None"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Records, and what everybody may know of them.

    Args:
        name: what reports call it.
        X: features, shape `(n, ...)`, finite real numbers of any dtype; kept as given, read-only.
        y: targets, shape `(n,)` or `(n, targets)`, or None. Class numbers are int64.
        feature_names: one for each column of a flat `X`, or None.
        target_names: the classes' names, in the order of their numbers; of several targets, their names; or None.
        bounds: `(low, high)` that every value obeys by the format's definition, whoever's the records are; None if
            nobody knows one. Bounds taken from private records are no public bounds.
        image_shape: `(height, width)` or `(height, width, channels)` where a record is an image, else None.
        licence: under which terms the records may be used; "" where it is not known.

    Raises:
        UsageError: the parts do not fit each other, or hold NaN or infinity.

    Examples:
        >>> data = Dataset("two rows", np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1]), feature_names=("a", "b"))
        >>> len(data), data.column("b").tolist(), data.without("b").X.shape
        (2, [2.0, 4.0], (2, 1))
    """

    name: str
    X: Array
    y: Array | None = None
    feature_names: tuple[str, ...] | None = None
    target_names: tuple[str, ...] | None = None
    bounds: tuple[float, float] | None = None
    image_shape: tuple[int, ...] | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        X = _numbers("X", self.X)
        if X.ndim < 2 or len(X) < 1 or math.prod(X.shape[1:]) < 1:
            raise UsageError(f"X has shape {X.shape}, expected (records, features): use reshape(-1, 1) for one feature")
        object.__setattr__(self, "X", X)
        if self.y is not None:
            y = _numbers("y", self.y)
            if y.ndim not in (1, 2) or len(y) != len(X):
                raise UsageError(f"{len(X)} records have targets of shape {y.shape}, expected one for each record")
            object.__setattr__(self, "y", y)
        self._check_names(math.prod(X.shape[1:]))
        if self.bounds is not None:
            low, high = self.bounds
            if not -math.inf < low < high < math.inf:
                raise UsageError(f"bounds are {self.bounds}, expected a lower and a larger upper number")
            if X.min() < low or X.max() > high:
                raise UsageError(f"some values lie outside the bounds {self.bounds}: they are not the format's own")

    def _check_names(self, width: int) -> None:
        for field in ("feature_names", "target_names", "image_shape"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, tuple(value))
        names = self.feature_names
        if names is not None and (len(names) != width or len(set(names)) != width):
            raise UsageError(f"there are {len(names)} feature names for {width} features, expected one each, distinct")
        sides = self.image_shape
        if sides is not None and (len(sides) not in (2, 3) or math.prod(sides) != width):
            raise UsageError(f"image_shape is {sides}, expected two or three sides of {width} values")
        y, classes = self.y, self.target_names
        if y is None or classes is None or y.ndim != 1 or y.dtype.kind not in "iub":
            return
        if y.min() < 0 or y.max() >= len(classes):
            raise UsageError(f"y holds class numbers outside 0 to {len(classes) - 1}: each needs one of target_names")

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        targets = "" if self.y is None else f", targets of shape {self.y.shape}"
        return f"<Dataset {self.name!r}: X of shape {self.X.shape}{targets}>"  # no record in a repr

    @property
    def labels(self) -> IntArray:
        """Class numbers, int64 of shape `(n,)`.

        Raises:
            UsageError: there are no targets, several, or such that are no classes.
        """
        if self.y is None or self.y.ndim != 1:
            raise UsageError(f"{self.name} has no column of class numbers")
        return class_labels(self.y)

    def column(self, name: str) -> Array:
        """Return one feature by its name, shape `(n,)`; for `partition_by_group`, say."""
        return self.X.reshape(len(self), -1)[:, self._position(name)]

    def without(self, *names: str) -> Dataset:
        """Return the data set without these features, flat."""
        gone = [self._position(name) for name in names]
        kept = [name for name in self.feature_names or () if name not in names]
        X = np.delete(self.X.reshape(len(self), -1), gone, axis=1)
        return replace(self, X=X, feature_names=tuple(kept), image_shape=None if names else self.image_shape)

    def _position(self, name: str) -> int:
        if name not in (self.feature_names or ()):
            known = ", ".join(self.feature_names or ()) or "unnamed columns only"
            raise UsageError(f"{self.name} has no feature {name!r}, there are {known}")
        return (self.feature_names or ()).index(name)

    def subset(self, rows: npt.ArrayLike) -> Dataset:
        """Return the records of these numbers, in this order."""
        chosen = np.asarray(rows)
        return replace(self, X=self.X[chosen], y=None if self.y is None else self.y[chosen])

    def split(self, *, held_out: float = 0.2, random_state: RandomState = None) -> tuple[Dataset, Dataset]:
        """Return records to train on and records held out, at random; both keep their order.

        Args:
            held_out: fraction of the second, in (0, 1); each part has at least one record.
            random_state: of the choice.
        """
        train, test = split_rows(len(self), held_out=held_out, random_state=random_state)
        return self.subset(train), self.subset(test)

    def scaled(self) -> Dataset:
        """Return the data set with its public bounds moved to 0 and 1, float64.

        Raises:
            UsageError: there are no public bounds.
        """
        if self.bounds is None:
            raise UsageError(f"{self.name} has no public bounds: give them, or standardise under the budget")
        low, high = self.bounds
        return replace(self, X=(self.X.astype(np.float64) - low) / (high - low), bounds=(0.0, 1.0))

    def images(self) -> Array:
        """Return `X` as images for a convolution, shape `(n, channels, height, width)`.

        Raises:
            UsageError: the records are no images.
        """
        if self.image_shape is None:
            raise UsageError(f"the records of {self.name} are no images: image_shape is None")
        height, width, channels = (*self.image_shape, 1)[:3]
        return np.moveaxis(self.X.reshape(len(self), height, width, channels), 3, 1)


def split_rows(n_records: int, *, held_out: float, random_state: RandomState) -> tuple[IntArray, IntArray]:
    """Return record numbers for training and for testing, ascending; `held_out` is the fraction of the second."""
    n_records = checked_integer("n_records", n_records, least=2)
    if not 0.0 < held_out < 1.0:
        raise UsageError(f"held_out is {held_out!r}, expected a fraction between 0 and 1")
    order = generator(random_state).permutation(n_records).astype(np.int64)
    n_test = min(max(1, round(held_out * n_records)), n_records - 1)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def generator(random_state: RandomState) -> np.random.Generator:
    """Return numpy's generator for `random_state`: None, an integer from 0 on, or a generator. Never used for noise.

    Raises:
        UsageError: it is none of these.
    """
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    return np.random.default_rng(checked_integer("random_state", random_state, least=0))


def class_labels(values: npt.ArrayLike) -> IntArray:
    """Return class numbers as they are, int64 of shape `(n,)`.

    Raises:
        UsageError: not one axis, or values that are not whole numbers.
    """
    labels = np.asarray(values)
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels == np.round(labels)).all()))
    if labels.ndim != 1 or len(labels) < 1 or not whole:
        raise UsageError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}, expected whole numbers, one for each record:"
            " bin continuous targets first (numpy.digitize), number words (numpy.unique with return_inverse)"
        )
    return labels.astype(np.int64)


def targets_of(values: npt.ArrayLike) -> tuple[Array, tuple[str, ...] | None]:
    """Return targets as numbers, and the names of the classes where they were words, in the order of the alphabet."""
    array = np.asarray(values)
    if array.dtype.kind in "USO" and array.ndim == 1:
        names, numbers = np.unique(array.astype(str), return_inverse=True)
        return numbers.astype(np.int64), tuple(names.tolist())
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    return array.astype(np.int64) if array.dtype.kind in "iub" else array, None


def require_names(what: str, names: Sequence[str], wanted: str) -> int:
    """Return the position of `wanted` among `names`.

    Raises:
        UsageError: it is not there; says what is.
    """
    if wanted not in names:
        raise UsageError(f"{what} has no column {wanted!r}, there are {', '.join(names)}")
    return list(names).index(wanted)


def _numbers(what: str, values: Array) -> Array:
    """Return a read-only view of real, finite numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{what} has dtype {array.dtype}, expected real numbers: encode categories as numbers first")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array.reshape(len(array), -1))).any(axis=1).sum())
        raise UsageError(f"{what} holds NaN or infinity in {bad} records: impute or drop those first")
    view = array.view()
    view.setflags(write=False)
    return view
