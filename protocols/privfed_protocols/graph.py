"""Who shares with whom. Every party derives the graph itself; the server does not choose it.

Only the complete graph so far. Client and server use nothing but `neighbours` and `points`, so that a sparse graph
takes its place without a change to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class CompleteGraph:
    """Every client is a neighbour of every other."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.k = n - 1

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Neighbours of client `index` in the order that fixes the points of its shares."""
        return (*range(index), *range(index + 1, self.n))

    def points(self, owner: int, neighbours: Sequence[int]) -> npt.NDArray[np.uint64]:
        """Where the sharing polynomials of `owner` are evaluated for some of its neighbours.

        A point is the position in the neighbour list, counted from 1: never 0, where the secret is.
        """
        indices = np.asarray(neighbours, np.int64)
        return (indices + (indices < owner)).astype(np.uint64)
