"""Who shares with whom. Every party derives the graph itself; the server does not choose it.

Two graphs: the complete one, and a ring on which each client knows the k/2 next on either side, in an order that a
public seed shuffles (Bell, Bonawitz, Gascon, Lepoint, Raykova, "Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020; the ring is the Harary graph of their section 3.5). Since the seed comes from
the roster's root, and the roster is fixed before it is known, nobody chooses their neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import LocalProtocolError
from .suites import aes_counter

Indices: TypeAlias = npt.NDArray[np.int64]

SEED_BYTES: Final = 32


class Graph(Protocol):
    """What the state machines ask of a graph: an undirected one on clients 0 to n - 1, all of degree k."""

    n: int
    k: int

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Neighbours of client `index`, ascending: the order that fixes the points of its shares."""

    def points(self, owner: int, neighbours: Sequence[int]) -> npt.NDArray[np.uint64]:
        """Where the sharing polynomials of `owner` are evaluated for some of its neighbours.

        A point is the position in the neighbour list, counted from 1: never 0, where the secret is.
        """


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


class HararyGraph:
    """A ring in seeded order: client i is a neighbour of those at most k/2 places from it.

    Args:
        n: number of clients, at least 3.
        k: number of neighbours, even, 2 to n - 1.
        seed: 32 public bytes that nobody could choose.

    Raises:
        LocalProtocolError: an argument out of range.
    """

    def __init__(self, n: int, k: int, seed: bytes) -> None:
        if n < 3 or not 2 <= k < n or k % 2:
            raise LocalProtocolError(f"a ring of {n} clients with {k} neighbours, expected n >= 3 and k even, 2 to n-1")
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"seed of a graph has {len(seed)} bytes, expected {SEED_BYTES}")
        self.n = n
        self.k = k
        self._order, self._place = ring_order(n, bytes(seed))
        reach = np.arange(1, k // 2 + 1)
        self._reach = np.concatenate([-reach, reach])

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Neighbours of client `index`, ascending: the order that fixes the points of its shares."""
        found: tuple[int, ...] = tuple(self._row(index).tolist())
        return found

    def points(self, owner: int, neighbours: Sequence[int]) -> npt.NDArray[np.uint64]:
        """Where the sharing polynomials of `owner` are evaluated for some of its neighbours.

        A point is the position in the neighbour list, counted from 1: never 0, where the secret is.

        Raises:
            LocalProtocolError: one of them is no neighbour.
        """
        row, wanted = self._row(owner), np.asarray(neighbours, np.int64)
        places = np.searchsorted(row, wanted)
        if (row[np.minimum(places, self.k - 1)] != wanted).any():
            raise LocalProtocolError(f"some of {len(wanted)} clients are no neighbours of client {owner}")
        return (places + 1).astype(np.uint64)

    def _row(self, index: int) -> Indices:
        if not 0 <= index < self.n:
            raise LocalProtocolError(f"client {index}, expected 0 to {self.n - 1}")
        return np.sort(self._order[(self._place[index] + self._reach) % self.n])


@lru_cache(maxsize=4)
def ring_order(n: int, seed: bytes) -> tuple[Indices, Indices]:
    """A uniformly random order of `n` clients from a seed, and its inverse: who stands where, where each stands.

    The AES-256-CTR stream of the seed as little-endian words of 64 bits gives each client one, in order of index; the
    clients stand in ascending order of their words. If two words are equal, the next n words are drawn instead.
    """
    context = aes_counter(seed)
    while True:
        words = np.frombuffer(context.update(bytes(8 * n)), "<u8")
        order = np.argsort(words, kind="stable").astype(np.int64)
        drawn = words[order]
        if not (drawn[1:] == drawn[:-1]).any():
            break
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    order.flags.writeable = place.flags.writeable = False
    return order, place
