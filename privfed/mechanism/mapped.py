"""Rows that lie in a memory-mapped file: taken part by part, so that a file larger than memory can be used.

`numpy.load(path, mmap_mode="r")` gives such rows. Pages that were read count as the process's memory until the system
needs them for something else; here they are given back after each part.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["by_parts", "is_mapped", "parts", "slices"]

FloatArray: TypeAlias = npt.NDArray[np.float64]

PART: Final = 2**16  # rows: a multiple of the rows that queries take at a time


def is_mapped(rows: FloatArray) -> bool:
    """Return whether `rows` is a view of a file that is mapped read-only."""
    return _map_of(rows) is not None


def parts(rows: FloatArray) -> Iterator[FloatArray]:
    """Yield `rows` in order: as a whole where they are in memory, in parts of `PART` rows where they are mapped."""
    return slices(rows, PART if is_mapped(rows) else max(len(rows), 1))


def slices(rows: FloatArray, size: int) -> Iterator[FloatArray]:
    """Yield `rows` in order, `size` at a time, wherever they lie; no rows are one empty slice."""
    source, since = _map_of(rows), 0
    for start in range(0, max(len(rows), 1), size):
        yield rows[start : start + size]
        since += size
        if source is not None and (since >= PART or start + size >= len(rows)) and hasattr(source, "madvise"):
            source.madvise(mmap.MADV_DONTNEED)  # read-only, so that no change can be lost
            since = 0


def by_parts(function: Callable[[FloatArray], FloatArray], rows: FloatArray) -> FloatArray:
    """Return `function(rows)`, whose result has an entry per row, without temporaries for more than `PART` rows."""
    if len(rows) <= PART:
        return function(rows)
    return np.concatenate([function(part) for part in slices(rows, PART)])


def _map_of(rows: FloatArray) -> mmap.mmap | None:
    """Return the read-only map that `rows` is a view of, or None."""
    base: object = rows
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        with memoryview(base) as view:
            return base if view.readonly else None
    return None
