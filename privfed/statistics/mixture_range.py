"""How large each feature is, in powers of two: what scales a federation's rows when nobody knows bounds in public."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Release
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate

__all__ = ["FeatureMagnitudes", "scales_of"]

BINS = 256
OFFSET = BINS // 2


@dataclass(frozen=True, eq=False)
class FeatureMagnitudes(Query):
    """How many rows have which size in which feature: block `counts` of shape `(d, 256)`.

    An entry x falls into bin e + 128 where 2^e is the least power of two above |x - centre|, e from -127 to 127;
    bin 0 holds what is smaller, zero included.

    Args:
        centre: public reference point, float64 of shape `(d,)`.

    Guarantees:
        A row has one count in each feature: its norm is sqrt(d), always.
    """

    kind: ClassVar[str] = "feature_magnitudes"
    centre: FloatArray

    def __post_init__(self) -> None:
        centre = frozen_array(self.centre)
        require_moderate("centre", centre)
        if centre.ndim != 1 or centre.size < 1:
            raise UsageError(f"centre has shape {centre.shape}, expected a vector (d,)")
        object.__setattr__(self, "centre", centre)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The counts."""
        d = self.centre.size
        return (Block("counts", (d, BINS), math.sqrt(d)),)

    @property
    def n_features(self) -> int:
        """The length of `centre`."""
        return int(self.centre.size)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the counts."""
        return chunked_sum(self._chunk, data)

    def _chunk(self, rows: FloatArray) -> dict[str, FloatArray]:
        sizes = np.abs(rows - self.centre)
        _, exponents = np.frexp(sizes)
        index = np.where(sizes > 0, np.clip(exponents + OFFSET, 0, BINS - 1), 0)
        counts = [np.bincount(column, minlength=BINS) for column in index.T]
        return {"counts": np.array(counts, dtype=np.float64).reshape(self.centre.size, BINS)}


def scales_of(release: Release) -> FloatArray:
    """Return, for each feature, a power of two above the size of every entry that a noiseless release counted.

    A feature that never leaves the centre gets 1.0.
    """
    taken = release["counts"] > 0.5
    top = np.where(taken.any(axis=1), BINS - 1 - np.argmax(taken[:, ::-1], axis=1), 0)
    return np.where(top > 0, 2.0 ** (top - OFFSET), 1.0)
