"""k-means as a sum of bounded rows: what one step of Lloyd's algorithm asks of the clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from privfed.errors import UsageError
from privfed.mechanism.clip import MAX_BOUND, MIN_BOUND, clip_rows
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate

__all__ = ["ClusterSums"]

COUNTS, SHIFTS, SQUARES = 0.3, 0.6, 0.1  # shares: a count is one number for a centre, a shift has d


@dataclass(frozen=True, eq=False)
class ClusterSums(Query):
    """Rows by nearest centre: blocks `counts` (K,), `shifts` (K, d) and `squares`.

    With z = (clip(x, low, high) - centre) / scale, a row counts for its nearest centre c. `shifts` sums z - c, cut to
    length `radius`; `squares` sums the squared lengths of these, over all clusters.

    Args:
        centres: current centres in units of `scale`, float64 of shape (K, d); public.
        low, high: public bounds of the rows, shape (d,), in units of the data; infinite ones leave a side open.
        centre: origin, shape (d,), in units of the data; public.
        scale: units of the features, shape (d,), > 0; public.
        radius: > 0, in units of `scale`; public.

    Guarantees:
        A row has one count, one shift of at most `radius` and one square of at most its square. Which centre is nearest
        is worked out feature by feature, so it is the same wherever the row stands.
    """

    kind: ClassVar[str] = "cluster_sums"
    centres: FloatArray
    low: FloatArray
    high: FloatArray
    centre: FloatArray
    scale: FloatArray
    radius: float

    def __post_init__(self) -> None:
        for name in ("centres", "low", "high", "centre", "scale"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        d = self.centres.shape[-1]
        shapes = [getattr(self, name).shape for name in ("low", "high", "centre", "scale")]
        if self.centres.ndim != 2 or self.centres.size == 0 or shapes != [(d,)] * 4:
            raise UsageError(
                f"centres {self.centres.shape} and low, high, centre, scale {shapes} do not fit: (K, d), (d,)"
            )
        if np.isnan(self.low).any() or np.isnan(self.high).any() or (self.low > self.high).any():
            raise UsageError("low and high need low <= high in every feature")
        for name in ("centres", "centre", "scale"):
            require_moderate(name, getattr(self, name))
        if not (self.scale >= 1e-100).all():
            raise UsageError("scale needs numbers of at least 1e-100")
        if not (MIN_BOUND <= self.radius <= MAX_BOUND):
            raise UsageError(f"radius is {self.radius!r}, expected a finite number above 0")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Three blocks, see the class."""
        K, d = self.centres.shape
        return (
            Block("counts", (K,), 1.0, COUNTS),
            Block("shifts", (K, d), self.radius, SHIFTS),
            Block("squares", (), max(self.radius**2, 1e-300), SQUARES),
        )

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.centres.shape[1])

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d)."""
        return chunked_sum(self._chunk, data)

    def _chunk(self, rows: FloatArray) -> dict[str, FloatArray]:
        K, d = self.centres.shape
        z = (np.clip(rows, self.low, self.high) - self.centre) / self.scale
        distances = np.zeros((len(rows), K))
        for j in range(d):  # one feature after the other: no matrix product, which rounds by the place of the row
            distances += (z[:, j, None] - self.centres[:, j]) ** 2
        labels = distances.argmin(axis=1)
        shifts = clip_rows(z - self.centres[labels], self.radius)
        sums = np.stack([np.bincount(labels, weights=column, minlength=K) for column in shifts.T], axis=1)
        return {
            "counts": np.bincount(labels, minlength=K).astype(np.float64),
            "shifts": sums,
            "squares": np.array(min(math.fsum((shifts**2).sum(axis=1)), len(rows) * self.radius**2)),
        }
