"""Rows that lie in a memory-mapped file: taken part by part, so that a file larger than memory can be fitted.

`numpy.load(path, mmap_mode="r")` gives such rows. Pages that were read count as the process's memory until the system
needs them for something else; here they are given back after each part.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from privfed.query import FloatArray

__all__ = ["by_parts", "is_mapped", "parts"]

PART: Final = 2**16  # rows: a multiple of every chunk size, so that sums come out the same


def is_mapped(rows: FloatArray) -> bool:
    """Return whether `rows` is a view of a file that is mapped read-only."""
    return _map_of(rows) is not None


def parts(rows: FloatArray) -> Iterator[FloatArray]:
    """Yield `rows` in order: as a whole where they are in memory, in parts of `PART` rows where they are mapped."""
    source = _map_of(rows)
    if source is None:
        yield rows
        return
    for start in range(0, len(rows), PART):
        yield rows[start : start + PART]
        if hasattr(source, "madvise"):
            source.madvise(mmap.MADV_DONTNEED)  # read-only, so that no change can be lost


def by_parts(function: Callable[[FloatArray], FloatArray], rows: FloatArray) -> FloatArray:
    """Return `function(rows)`, whose result has an entry per row, without temporaries for more than `PART` rows."""
    if len(rows) <= PART:
        return function(rows)
    found = []
    for part in parts(rows):
        found += [function(part[start : start + PART]) for start in range(0, len(part), PART)]
    return np.concatenate(found)


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
