"""A keystream whose bits the test chooses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from privfed.mechanism.randomness import Keystream
from privfed.mechanism.tables import CumulativeTable


class Planted(Keystream):
    """Answers each request with the next planted array; dtype and length must be what was asked for."""

    def __init__(self, arrays: Iterable[npt.NDArray[Any]]) -> None:
        super().__init__()
        self._arrays = list(arrays)

    def fill(self, array: npt.NDArray[Any]) -> None:
        if not array.size:
            return
        planted = self._arrays.pop(0)
        assert planted.dtype == array.dtype, f"asked for {array.dtype}, planted {planted.dtype}"
        assert planted.shape == array.shape, f"asked for {array.shape}, planted {planted.shape}"
        array[:] = planted

    @property
    def exhausted(self) -> bool:
        return not self._arrays


def table_arrays(uniforms: Iterable[int], table: CumulativeTable) -> list[npt.NDArray[Any]]:
    """What a table asks for when its samples' 128-bit uniforms are these: digits, then words, then each tie."""
    values = list(uniforms)
    high = {int(word) for word in table.high}
    pieces = {word >> 48 for word in high}
    arrays: list[npt.NDArray[Any]] = [np.array([value >> 112 for value in values], dtype=np.uint16)]
    undecided = [value for value in values if value >> 112 in pieces]
    if undecided:
        # The low 16 bits of a refining word are thrown away; what is planted there must not matter.
        words = [(((value >> 64) & (2**48 - 1)) << 16) | 0xBEEF for value in undecided]
        arrays.append(np.array(words, dtype=np.uint64))
        arrays.extend(np.array([value & (2**64 - 1)], dtype=np.uint64) for value in undecided if value >> 64 in high)
    return arrays
