"""What a client keeps at home between releases: arrays under names, changed only by releases that completed."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError

__all__ = ["StagedMemory"]

Arrays = MutableMapping[str, npt.NDArray[Any]]
_GONE = np.empty(0)
_GONE.setflags(write=False)


class StagedMemory(MutableMapping[str, npt.NDArray[Any]]):
    """Arrays under names; what is written counts at once for the reader, and for good only once it is committed.

    A release can fail, or go on without this client, after the client has computed its part. A control variate that
    had moved all the same would no longer fit the model that everybody else has.

    Args:
        kept: where the arrays lie for good; any mutable mapping, such as one that writes files. All that a release
            wrote reaches it in one call of its `update`, what a release deleted in one `pop` each.

    Guarantees:
        Arrays that are read cannot be written in place.
    """

    def __init__(self, kept: Arrays) -> None:
        self._kept = kept
        self._staged: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        found = self._staged.get(name)
        if found is _GONE:
            raise KeyError(name)
        array = np.asarray(self._kept[name] if found is None else found).view()
        array.setflags(write=False)  # written in place it would move at once, whatever becomes of the release
        return array

    def __setitem__(self, name: str, value: npt.NDArray[Any]) -> None:
        numbers = isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf"
        if not (isinstance(name, str) and numbers):
            raise UsageError(f"a client remembers arrays of numbers under names, not {name!r}: {type(value).__name__}")
        array = np.array(value)
        array.setflags(write=False)
        self._staged[name] = array

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._staged[name] = _GONE

    def __contains__(self, name: object) -> bool:
        found = self._staged.get(name) if isinstance(name, str) else None
        return found is not _GONE if found is not None else name in self._kept

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys([*self._kept, *self._staged])
        return (name for name in names if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<StagedMemory of {len(self)} arrays>"  # names only the client's own operator should see

    def commit(self) -> None:
        """Make what was written last."""
        staged, self._staged = self._staged, {}
        written = {name: value for name, value in staged.items() if value is not _GONE}
        if written:
            self._kept.update(written)
        for name in staged.keys() - written.keys():
            self._kept.pop(name, None)

    def discard(self) -> None:
        """Forget what was written since the last commit."""
        self._staged = {}
