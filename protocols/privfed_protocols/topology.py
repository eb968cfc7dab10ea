"""The graph of a roster as both sides derive it, and its edges as arrays where all of them are needed at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import derivation
from .graph import CompleteGraph, Graph, HararyGraph
from .labels import SUITE
from .parameters import GraphParameters

Indices = npt.NDArray[np.int64]


def graph_of(parameters: GraphParameters, *, n: int, root: bytes, suite: int = SUITE) -> Graph:
    """Who shares with whom under a roster: everybody with everybody, or the ring that the roster's root gives."""
    if parameters.k == n - 1:
        return CompleteGraph(n)
    return HararyGraph(n, parameters.k, derivation.graph_seed(root, suite=suite))


@dataclass(frozen=True)
class Topology:
    """All edges of a graph, for the server.

    Attributes:
        rows: neighbours of each client, ascending, shape (n, k).
        places: place of the client in the list of that neighbour, counted from 0, shape (n, k).
    """

    rows: Indices = field(repr=False)
    places: Indices = field(repr=False)

    @classmethod
    def of(cls, graph: Graph) -> Topology:
        """Lay out a graph."""
        rows = np.array([graph.neighbours(index) for index in range(graph.n)], np.int64)
        edges = rows.ravel()  # sorted by (client, neighbour)
        reverse = np.empty(edges.size, np.int64)
        reverse[np.argsort(edges, kind="stable")] = np.arange(edges.size)  # rank by (neighbour, client)
        return cls(rows, (reverse % graph.k).reshape(rows.shape))

    @property
    def n(self) -> int:
        """Number of clients."""
        return len(self.rows)

    def mask(self, members: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """For each client, whether it is one of these."""
        mask = np.zeros(self.n, np.bool_)
        mask[np.asarray(members, np.int64)] = True
        return mask

    def live(self, members: npt.NDArray[np.bool_]) -> Indices:
        """For each client, how many of its neighbours are members."""
        found: Indices = members[self.rows].sum(axis=1)
        return found

    def among(self, index: int, members: npt.NDArray[np.bool_]) -> list[int]:
        """Neighbours of a client that are members, ascending."""
        row = self.rows[index]
        found: list[int] = row[members[row]].tolist()
        return found

    def viable(self, members: npt.NDArray[np.bool_], threshold: int) -> npt.NDArray[np.bool_]:
        """The largest part of the members in which each has at least `threshold` neighbours of that part."""
        left = members.copy()
        while True:
            weak = left & (self.live(left) < threshold)
            if not weak.any():
                return left
            left &= ~weak
