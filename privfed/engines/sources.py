"""Clients' data as users have them: arrays, frames, or callables that load either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from privfed.errors import DataError, UsageError
from privfed.query import LARGEST_VALUE, FloatArray

__all__ = ["Source", "named_sources"]


class Source:
    """One client's rows.

    Arrays and frames are checked and copied once, here; a callable is called at each release and checked then. What a
    callable loads may have no rows: whether a client's last record is there is then protected like any other. Who takes
    part in a federation is not.

    Args:
        name: the client's name, for errors.
        data: array-like of shape `(rows, features)`, a frame with `columns` and `to_numpy`, or a callable of no
            arguments that returns either.
    """

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self._loader: Callable[[], Any] | None = data if callable(data) else None
        self._rows: FloatArray | None = None
        self.feature_names: tuple[str, ...] | None = None
        if self._loader is None:
            self._rows, self.feature_names = self._checked(data)

    @property
    def in_memory(self) -> bool:
        """Whether the rows are held here, rather than loaded at each release."""
        return self._rows is not None

    @property
    def n_features(self) -> int:
        """Number of columns; loads the rows if nothing else tells."""
        return int(self.load().shape[1])

    def load(self) -> FloatArray:
        """Return the rows, float64 of shape `(rows, features)`, at most 1e100 in absolute value.

        Raises:
            DataError: what was given or loaded cannot be used; names the client.
        """
        if self._rows is not None:
            return self._rows
        if self._loader is None:
            raise DataError(f"client {self.name!r} has no data", client=self.name)
        try:
            data = self._loader()
        except Exception as error:
            raise DataError(f"client {self.name!r}: loading failed: {error}", client=self.name) from error
        rows, names = self._checked(data)
        if self.feature_names is None:
            self.feature_names = names
        return rows

    def _checked(self, data: Any) -> tuple[FloatArray, tuple[str, ...] | None]:
        names = tuple(str(column) for column in data.columns) if hasattr(data, "columns") else None
        try:
            rows = np.array(data.to_numpy() if hasattr(data, "to_numpy") else data, dtype=np.float64, order="C")
        except (TypeError, ValueError) as error:
            raise self._error(f"the data are not numbers ({error}): encode categories as numbers first") from error
        if rows.ndim != 2:
            raise self._error(
                f"the data have shape {rows.shape}, expected (rows, features): use reshape(-1, 1) for one feature"
            )
        if rows.shape[1] < 1 or (rows.shape[0] < 1 and self._loader is None):
            raise self._error(f"the data have shape {rows.shape}: leave an empty client out of the federation")
        if not np.abs(rows).max(initial=0.0) <= LARGEST_VALUE:
            bad = int((~(np.abs(rows) <= LARGEST_VALUE)).any(axis=1).sum())
            raise self._error(
                f"{bad} row(s) hold NaN, infinity or values beyond 1e100: impute, drop or rescale them first"
            )
        rows.setflags(write=False)
        return rows, names

    def _error(self, what: str) -> DataError:
        return DataError(f"client {self.name!r}: {what}", client=self.name)


def named_sources(clients: Mapping[str, Any] | Sequence[Any]) -> dict[str, Source]:
    """Return a source per client, named as in the mapping, or `client-00`, `client-01`, ... for a sequence.

    Raises:
        UsageError: not a mapping or sequence, or the clients' features differ.
        DataError: a client's data cannot be used.
    """
    if isinstance(clients, Mapping):
        items = [(str(name), data) for name, data in clients.items()]
    elif isinstance(clients, Sequence) and not isinstance(clients, str | bytes):
        width = max(2, len(str(len(clients) - 1)))
        items = [(f"client-{index:0{width}d}", data) for index, data in enumerate(clients)]
    else:
        raise UsageError(f"clients is a {type(clients).__name__}, expected a list of arrays or a dict of name to array")
    if len({name for name, _ in items}) != len(items):
        raise UsageError("two clients have the same name")
    sources = {name: Source(name, data) for name, data in items}
    _check_features([source for source in sources.values() if source.in_memory])
    return sources


def _check_features(sources: list[Source]) -> None:
    """Compare widths and names of the clients whose rows are at hand."""
    if not sources:
        return
    first = sources[0]
    for source in sources[1:]:
        if source.n_features != first.n_features:
            raise DataError(
                f"client {source.name!r} has {source.n_features} features, {first.name!r} has {first.n_features}",
                client=source.name,
            )
        if source.feature_names != first.feature_names and None not in (source.feature_names, first.feature_names):
            raise DataError(
                f"client {source.name!r} has columns {source.feature_names}, client {first.name!r} has"
                f" {first.feature_names}: bring them into one order",
                client=source.name,
            )
