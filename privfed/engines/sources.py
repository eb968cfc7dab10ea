"""Clients' data as users have them: arrays, frames, or callables that load either."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from privfed.errors import DataError, UsageError
from privfed.mechanism.mapped import is_mapped, parts
from privfed.query import LARGEST_VALUE, FloatArray

__all__ = ["Columns", "Source", "named_sources", "needs_detach"]


class Columns:
    """The features that all clients share: how many, of which shape, and their names where frames brought them.

    Attributes:
        width: columns of the rows, targets included; None before the first client is read.
        shape: shape of one row's features; `(width,)` where clients brought plain rows.
        n_targets: columns behind the features that hold targets; 0 where clients brought none.
        names: column names, or None.
    """

    def __init__(self) -> None:
        self.width: int | None = None
        self.shape: tuple[int, ...] = ()
        self.n_targets = 0
        self.names: tuple[str, ...] | None = None
        self._first = {"width": "", "names": ""}

    def agree(
        self, client: str, shape: tuple[int, ...], names: tuple[str, ...] | None = None, *, n_targets: int = 0
    ) -> None:
        """Take the first client's features as everybody's, and refuse others.

        Raises:
            DataError: another shape, other targets, or other names or another order; names the client.
        """
        if self.width is None:
            self.width, self._first["width"] = math.prod(shape) + n_targets, client
            self.shape, self.n_targets = shape, n_targets
        if (shape, n_targets) != (self.shape, self.n_targets):
            found = f"client {client!r} has {_described(shape, n_targets)}, {self._first['width']!r} has"
            raise DataError(f"{found} {_described(self.shape, self.n_targets)}", client=client)
        if names is None:
            return
        if self.names is None:
            self.names, self._first["names"] = names, client
        if names != self.names:
            raise DataError(
                f"client {client!r} has columns {names}, {self._first['names']!r} has {self.names}:"
                " bring them into one order",
                client=client,
            )

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Keep what is learned of the columns inside the block only if it ends well."""
        before = vars(self) | {"_first": dict(self._first)}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise


def _described(shape: tuple[int, ...], n_targets: int) -> str:
    features = f"{shape[0]} features" if len(shape) == 1 else f"features of shape {shape}"
    return features + (f" and {n_targets} target column(s)" if n_targets else "")


class Source:
    """One client's rows.

    Arrays and frames are checked and copied once, here; a callable is called at each release and checked then. What a
    callable loads may have no rows: whether a client's last record is there is then protected like any other. Who takes
    part in a federation is not.

    Float64 rows in C order of a file that is mapped read-only (`numpy.load(path, mmap_mode="r")`) stay in the file, and
    are checked at each release: leave the file alone during one.

    Args:
        name: the client's name, for errors.
        data: array-like of shape `(rows, features)`; a frame with `columns` and `to_numpy`; a pair `(X, y)` of features
            of any shape `(rows, ...)` and targets of shape `(rows,)` or `(rows, targets)`, which become the last
            columns of flat rows; or a callable of no arguments that returns any of these.
        columns: the features that all clients share.
    """

    def __init__(self, name: str, data: Any, columns: Columns) -> None:
        self.name = name
        self._columns = columns
        self._loader: Callable[[], Any] | None = data if callable(data) else None
        self._rows = None if callable(data) else self._checked(data)

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None of a callable, which may load others at each release."""
        return None if self._rows is None else len(self._rows)

    def load(self) -> FloatArray:
        """Return the rows, float64 of shape `(rows, features)`, at most 1e100 in absolute value.

        Raises:
            DataError: what was given or loaded cannot be used; names the client, and no value of a row.
        """
        if self._rows is not None:
            if is_mapped(self._rows):
                self._check_values(self._rows)  # others may have written to the file
            return self._rows
        if self._loader is None:
            raise self._error("there are no data")
        try:
            data = self._loader()
        except Exception as error:
            raise self._error(
                f"loading failed with {type(error).__name__}: call the loader by itself to see why"
            ) from error
        return self._checked(data)

    def _checked(self, data: Any) -> FloatArray:
        if isinstance(data, tuple) and len(data) == 2:
            axes = [_axes(part) for part in data]
            if axes == [1, 1] and all(hasattr(part, "ndim") for part in data):
                raise self._error(
                    "a pair with one axis each may be (X, y) or two rows: use X.reshape(-1, 1), or a list of rows"
                )
            if axes[0] >= 2:
                return self._labelled(*data)
        array = self._as_array(data)
        if array.ndim != 2:
            raise self._error(
                f"the data have shape {array.shape}, expected (rows, features): use reshape(-1, 1) for one"
            )
        if array.shape[1] < 1 or (array.shape[0] < 1 and self._loader is None):
            raise self._error(f"the data have shape {array.shape}: leave an empty client out of the federation")
        self._check_values(array)
        self._columns.agree(self.name, array.shape[1:], _names(data))
        array.setflags(write=False)
        return array

    def _labelled(self, features: Any, targets: Any) -> FloatArray:
        """Return flat rows with the targets as their last columns."""
        X, y = self._as_array(features), self._as_array(targets)
        y = y[:, None] if y.ndim == 1 else y
        empty = len(X) < 1 and self._loader is None
        if y.ndim != 2 or len(X) != len(y) or math.prod(X.shape[1:]) < 1 or y.shape[1] < 1 or empty:
            raise self._error(
                f"the pair (X, y) has shapes {X.shape} and {y.shape}, expected (rows, ...) and (rows,), rows >= 1"
            )
        rows = np.concatenate([X.reshape(len(X), math.prod(X.shape[1:])), y], axis=1)
        self._check_values(rows)
        self._columns.agree(self.name, X.shape[1:], _names(features, y.shape[1]), n_targets=y.shape[1])
        rows.setflags(write=False)
        return rows

    def _check_values(self, array: FloatArray) -> None:
        if not all(np.abs(part).max(initial=0.0) <= LARGEST_VALUE for part in parts(array)):
            bad = sum(int((~(np.abs(part) <= LARGEST_VALUE)).any(axis=1).sum()) for part in parts(array))
            raise self._error(
                f"{bad} row(s) hold NaN, infinity or values beyond 1e100: impute, drop or rescale them first"
            )

    def _as_array(self, data: Any) -> FloatArray:
        """Convert without quoting a value: a row must not reach a log through an error."""
        if hasattr(data, "toarray"):
            raise self._error(f"the data are sparse ({type(data).__name__}): use .toarray()")
        if needs_detach(data):
            raise self._error("the data are a tensor that requires grad: use .detach()")
        if _holds_records(data):
            raise self._error(
                f"the data are a {type(data).__name__}, expected rows or a pair (X, y): privfed.datasets.from_torch"
                " reads a data set of torch, and partition.clients(dataset) shares one out"
            )
        try:
            found = np.asarray(data.to_numpy() if hasattr(data, "to_numpy") else data)
        except (TypeError, ValueError, RuntimeError):  # the last of tensors
            pair = isinstance(data, list) and len(data) == 2 and _axes(data[0]) >= 2
            remedy = "write the pair (X, y) as a tuple" if pair else "give every row the same length"
            raise self._error(f"the data are no rectangle of numbers: {remedy}") from None
        if found.dtype.kind in "cmMSUV":
            raise self._error(f"the data have dtype {found.dtype}, expected real numbers: encode them as numbers first")
        if found.dtype == np.float64 and found.flags.c_contiguous and found.flags.aligned and is_mapped(found):
            return found
        try:
            return np.array(found, dtype=np.float64, order="C")
        except (TypeError, ValueError):
            others = self._not_numeric(data) if hasattr(data, "dtypes") else ""
            if hasattr(data, "dtypes") and not others:  # columns of a nullable type, with values that are missing
                raise self._error("values are missing: impute or drop them first") from None
            mixed = f" (not numeric: {others})" if others else ""
            raise self._error(f"the data are not numbers{mixed}: encode categories as numbers first") from None

    @staticmethod
    def _not_numeric(data: Any) -> str:
        """Return the names of a frame's columns that are not numbers."""
        kinds = zip(data.columns, data.dtypes, strict=True)
        return ", ".join(repr(str(name)) for name, dtype in kinds if getattr(dtype, "kind", "O") not in "biuf")

    def _error(self, what: str) -> DataError:
        return DataError(f"client {self.name!r}: {what}", client=self.name)


def _axes(part: Any) -> int:
    """Return the number of axes of an array-like; 0 of what is no array, such as lists of different lengths."""
    try:
        return int(np.ndim(part))
    except (TypeError, ValueError, RuntimeError):
        return 0


def _holds_records(data: Any) -> bool:
    """Return whether `data` hands its records out in a way of its own: a mapping, a data set, a loader of batches."""
    as_numbers = isinstance(data, Sequence) or any(hasattr(data, name) for name in ("__array__", "to_numpy"))
    return not as_numbers and any(hasattr(data, name) for name in ("__getitem__", "__iter__"))


def _names(data: Any, n_targets: int = 0) -> tuple[str, ...] | None:
    """Return the columns of a frame, targets behind them under names of ours; None unless all are words."""
    columns = tuple(getattr(data, "columns", ()))
    if not columns or not all(isinstance(column, str) for column in columns):
        return None
    return columns + (("target",) if n_targets == 1 else tuple(f"target_{index}" for index in range(n_targets)))


def needs_detach(data: object) -> bool:
    """Return whether `data` is a tensor of torch that tracks gradients, or a list of such."""
    rows = data if isinstance(data, list | tuple) else [data]
    return any(getattr(row, "requires_grad", False) is True for row in rows)


def named_sources(
    clients: Mapping[str, Any] | Sequence[Any], columns: Columns | None = None
) -> tuple[dict[str, Source], Columns]:
    """Return a source per client, named as in the mapping or `client-00`, `client-01`, ..., and the shared features.

    Args:
        clients: the clients' data.
        columns: features that clients share already, if others are there.

    Raises:
        UsageError: not a mapping or sequence, or names that cannot be used.
        DataError: a client's data cannot be used, or the clients' features differ.
    """
    if isinstance(clients, Mapping):
        items = [(str(name), data) for name, data in clients.items()]
    elif isinstance(clients, Sequence) and not isinstance(clients, str | bytes):
        width = max(2, len(str(len(clients) - 1)))
        items = [(f"client-{index:0{width}d}", data) for index, data in enumerate(clients)]
    else:
        raise UsageError(f"clients is a {type(clients).__name__}, expected a list of arrays or a dict of name to array")
    names = [name for name, _ in items]
    if len(set(names)) != len(names):
        raise UsageError("two clients have the same name")
    if any(not 1 <= len(name.encode()) <= 128 for name in names):
        raise UsageError("a client's name is empty or longer than 128 bytes: choose another")
    columns = Columns() if columns is None else columns
    return {name: Source(name, data, columns) for name, data in items}, columns
