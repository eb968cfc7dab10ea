"""Clients' data as users have them: arrays, frames, or callables that load either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from privfed.errors import DataError, UsageError
from privfed.query import LARGEST_VALUE, FloatArray

__all__ = ["Columns", "Source", "named_sources", "needs_detach"]


class Columns:
    """The features that all clients share: how many, and their names where frames brought them."""

    def __init__(self) -> None:
        self.width: int | None = None
        self.names: tuple[str, ...] | None = None
        self._first = {"width": "", "names": ""}

    def agree(self, client: str, width: int, names: tuple[str, ...] | None) -> None:
        """Take the first client's features as everybody's, and refuse others.

        Raises:
            DataError: another number of columns, or other names or another order; names the client.
        """
        if self.width is None:
            self.width, self._first["width"] = width, client
        if width != self.width:
            found = f"client {client!r} has {width} features, {self._first['width']!r} has {self.width}"
            raise DataError(found, client=client)
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


class Source:
    """One client's rows.

    Arrays and frames are checked and copied once, here; a callable is called at each release and checked then. What a
    callable loads may have no rows: whether a client's last record is there is then protected like any other. Who takes
    part in a federation is not.

    Args:
        name: the client's name, for errors.
        data: array-like of shape `(rows, features)`, a frame with `columns` and `to_numpy`, or a callable of no
            arguments that returns either.
        columns: the features that all clients share.
    """

    def __init__(self, name: str, data: Any, columns: Columns) -> None:
        self.name = name
        self._columns = columns
        self._loader: Callable[[], Any] | None = data if callable(data) else None
        self._rows = None if callable(data) else self._checked(data)

    @property
    def in_memory(self) -> bool:
        """Whether the rows are held here, rather than loaded at each release."""
        return self._rows is not None

    def load(self) -> FloatArray:
        """Return the rows, float64 of shape `(rows, features)`, at most 1e100 in absolute value.

        Raises:
            DataError: what was given or loaded cannot be used; names the client, and no value of a row.
        """
        if self._rows is not None:
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
        array = self._as_array(data)
        if array.ndim != 2:
            raise self._error(
                f"the data have shape {array.shape}, expected (rows, features): use reshape(-1, 1) for one"
            )
        if array.shape[1] < 1 or (array.shape[0] < 1 and self._loader is None):
            raise self._error(f"the data have shape {array.shape}: leave an empty client out of the federation")
        if not np.abs(array).max(initial=0.0) <= LARGEST_VALUE:
            bad = int((~(np.abs(array) <= LARGEST_VALUE)).any(axis=1).sum())
            raise self._error(
                f"{bad} row(s) hold NaN, infinity or values beyond 1e100: impute, drop or rescale them first"
            )
        names = tuple(data.columns) if hasattr(data, "columns") else None
        named = names is not None and all(isinstance(column, str) for column in names)
        self._columns.agree(self.name, array.shape[1], names if named else None)
        array.setflags(write=False)
        return array

    def _as_array(self, data: Any) -> FloatArray:
        """Convert without quoting a value: a row must not reach a log through an error."""
        if hasattr(data, "toarray"):
            raise self._error(f"the data are sparse ({type(data).__name__}): use .toarray()")
        if needs_detach(data):
            raise self._error("the data are a tensor that requires grad: use .detach()")
        try:
            found = np.asarray(data.to_numpy() if hasattr(data, "to_numpy") else data)
        except (TypeError, ValueError, RuntimeError):  # the last of tensors
            raise self._error("the data are no rectangle of numbers: give every row the same length") from None
        if found.dtype.kind in "cmMSUV":
            raise self._error(f"the data have dtype {found.dtype}, expected real numbers: encode them as numbers first")
        try:
            return np.array(found, dtype=np.float64, order="C")
        except (TypeError, ValueError):
            mixed = f" (not numeric: {self._not_numeric(data)})" if hasattr(data, "dtypes") else ""
            raise self._error(f"the data are not numbers{mixed}: encode categories as numbers first") from None

    @staticmethod
    def _not_numeric(data: Any) -> str:
        """Return the names of a frame's columns that are not numbers."""
        kinds = zip(data.columns, data.dtypes, strict=True)
        return ", ".join(repr(str(name)) for name, dtype in kinds if getattr(dtype, "kind", "O") not in "biuf")

    def _error(self, what: str) -> DataError:
        return DataError(f"client {self.name!r}: {what}", client=self.name)


def needs_detach(data: object) -> bool:
    """Return whether `data` is a tensor of torch that tracks gradients, or a list of such."""
    rows = data if isinstance(data, list | tuple) else [data]
    return any(getattr(row, "requires_grad", False) is True for row in rows)


def named_sources(clients: Mapping[str, Any] | Sequence[Any]) -> tuple[dict[str, Source], Columns]:
    """Return a source per client, named as in the mapping or `client-00`, `client-01`, ..., and the shared features.

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
    columns = Columns()
    return {name: Source(name, data, columns) for name, data in items}, columns
