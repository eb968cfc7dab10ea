"""The graphs against their definitions: the ring rebuilt in plain Python, the laws that sharing relies on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols.errors import LocalProtocolError
from privfed_protocols.graph import CompleteGraph, Graph, HararyGraph, ring_order

SEED = hashlib.sha256(b"a public seed").digest()


def slow_order(n: int, seed: bytes) -> list[int]:
    """Whoever draws the smallest word stands first."""
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    while True:
        words = [int.from_bytes(stream.update(bytes(8)), "little") for _ in range(n)]
        if len(set(words)) == n:
            return sorted(range(n), key=words.__getitem__)


def slow_neighbours(n: int, k: int, seed: bytes) -> list[tuple[int, ...]]:
    order = slow_order(n, seed)
    found: list[set[int]] = [set() for _ in range(n)]
    for place, client in enumerate(order):
        for step in range(1, k // 2 + 1):
            other = order[(place + step) % n]
            found[client].add(other)
            found[other].add(client)
    return [tuple(sorted(row)) for row in found]


def check_laws(graph: Graph) -> None:
    """Undirected, without loops, regular, ascending; points are 1 to k and none twice."""
    rows = [graph.neighbours(index) for index in range(graph.n)]
    for index, row in enumerate(rows):
        assert len(row) == graph.k == len(set(row))
        assert index not in row
        assert list(row) == sorted(row)
        assert all(index in rows[other] for other in row)
        assert graph.points(index, row).tolist() == list(range(1, graph.k + 1))
        some = row[::-2]
        assert graph.points(index, some).tolist() == [row.index(other) + 1 for other in some]


@given(st.integers(2, 40))
def test_complete(n: int) -> None:
    graph = CompleteGraph(n)
    check_laws(graph)
    assert graph.k == n - 1


@given(st.integers(3, 60), st.data())
def test_ring(n: int, data: st.DataObject) -> None:
    k = 2 * data.draw(st.integers(1, (n - 1) // 2))
    seed = data.draw(st.binary(min_size=32, max_size=32))
    graph = HararyGraph(n, k, seed)
    check_laws(graph)
    assert [graph.neighbours(index) for index in range(n)] == slow_neighbours(n, k, seed)


def test_a_large_ring_is_that_of_the_definition() -> None:
    graph = HararyGraph(1000, 34, SEED)
    assert [graph.neighbours(index) for index in range(1000)] == slow_neighbours(1000, 34, SEED)


def test_the_widest_ring_is_the_complete_graph() -> None:
    ring, complete = HararyGraph(21, 20, SEED), CompleteGraph(21)
    assert [ring.neighbours(index) for index in range(21)] == [complete.neighbours(index) for index in range(21)]


def test_order_is_a_permutation_and_its_inverse() -> None:
    order, place = ring_order(1000, SEED)
    assert sorted(order.tolist()) == list(range(1000))
    assert np.array_equal(order[place], np.arange(1000))
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 0


def test_another_seed_gives_another_ring() -> None:
    other = hashlib.sha256(b"another public seed").digest()
    mine, theirs = HararyGraph(100, 10, SEED), HararyGraph(100, 10, other)
    assert [mine.neighbours(index) for index in range(100)] != [theirs.neighbours(index) for index in range(100)]


def test_every_order_is_equally_likely() -> None:
    """All 24 orders of 4 clients over 4800 seeds: chi-square with 23 degrees of freedom, both tails."""
    counts: dict[tuple[int, ...], int] = {}
    for number in range(4800):
        order = tuple(ring_order(4, hashlib.sha256(number.to_bytes(4, "big")).digest())[0].tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    statistic = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert 7.5 < statistic < 50


def test_equal_words_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first draw gives two clients the same word: it is thrown away whole."""

    class Repeats:
        draws = iter([[5, 7, 5], [9, 2, 4]])

        def update(self, data: bytes) -> bytes:
            return np.array(next(self.draws), "<u8").tobytes()

    monkeypatch.setattr("privfed_protocols.graph.aes_counter", lambda key: Repeats())
    assert ring_order(3, b"a seed of thirty-two bytes, once")[0].tolist() == [1, 2, 0]


@pytest.mark.parametrize(("n", "k"), [(2, 2), (10, 3), (10, 0), (10, 10), (10, 12), (10, -2)])
def test_impossible_rings_are_refused(n: int, k: int) -> None:
    with pytest.raises(LocalProtocolError, match="expected n >= 3"):
        HararyGraph(n, k, SEED)


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="31 bytes"):
        HararyGraph(10, 2, SEED[1:])


def test_points_of_strangers_are_refused() -> None:
    graph = HararyGraph(100, 10, SEED)
    strangers = sorted(set(range(100)) - set(graph.neighbours(3)))
    for stranger in (strangers[0], strangers[-1], 3):
        with pytest.raises(LocalProtocolError, match="no neighbours"):
            graph.points(3, [graph.neighbours(3)[0], stranger])


@pytest.mark.parametrize("index", [-1, 100])
def test_clients_outside_the_ring_are_refused(index: int) -> None:
    with pytest.raises(LocalProtocolError, match="expected 0 to 99"):
        HararyGraph(100, 10, SEED).neighbours(index)
