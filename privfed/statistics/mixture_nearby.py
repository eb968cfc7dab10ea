"""Moments of rows that few components are near to: pairs of a row and a component, without the pairs that do not count.

In many features, rows lie near one component or two, and the responsibilities of the others are zero to any digit. A
matrix product over all of them is then mostly zeros.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from privfed.query import FloatArray

__all__ = ["FEWEST_FEATURES", "FEWEST_ROWS", "NearMoments", "few_are_near"]

NEGLIGIBLE: Final = 1e-25  # responsibility: of ten million rows together it changes no digit of what one row adds
WORTH: Final = 5  # a pair by itself costs about as much as five in a matrix product
FEWEST_FEATURES: Final = 32  # below, gathering rows costs more than it saves
FEWEST_ROWS: Final = 1_024  # likewise
HELD: Final = 2_048  # rows


def few_are_near(responsibilities: FloatArray) -> bool:
    """Return whether so few entries count that `NearMoments` is faster than a matrix product over all of them."""
    return bool(WORTH * np.count_nonzero(responsibilities > NEGLIGIBLE) < responsibilities.size)


class NearMoments:
    """Each component's sum of g [1, x] [1, x]' over rows x; responsibilities g up to `NEGLIGIBLE` count as zero.

    Rows are held until there are enough of them: every component then takes those that are near to it.
    """

    def __init__(self, n_components: int, n_features: int) -> None:
        side = 1 + n_features
        self._totals = np.zeros((n_components, side, side))
        self._responsibilities = np.empty((n_components, HELD))
        self._rows, self._near, self._moments = np.empty((HELD, side)), np.empty((HELD, side)), np.empty((side, side))
        self._rows[:, 0] = 1.0
        self._held = 0

    def add(self, rows: FloatArray, densities: FloatArray, scale: FloatArray) -> None:
        """Take in rows, shape (n, d) with n <= `HELD`, whose responsibilities are densities, (K, n), times scale."""
        if self._held + len(rows) > HELD:
            self._sum()
        held = slice(self._held, self._held + len(rows))
        self._rows[held, 1:] = rows
        np.multiply(densities, scale, out=self._responsibilities[:, held])
        self._held += len(rows)

    def totals(self) -> FloatArray:
        """Return the sums, shape (K, 1 + d, 1 + d)."""
        self._sum()
        return self._totals

    def _sum(self) -> None:
        for total, g in zip(self._totals, self._responsibilities[:, : self._held], strict=True):
            which = np.flatnonzero(g > NEGLIGIBLE)
            near = np.take(self._rows, which, axis=0, out=self._near[: len(which)], mode="clip")
            near *= np.sqrt(g[which])[:, None]
            total += np.matmul(near.T, near, out=self._moments)  # of one array with itself: BLAS computes half of it
        self._held = 0
