"""Merkle tree hashes of RFC 6962, section 2.1, with inclusion paths (section 2.1.1), over SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .primitives import equal


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree over leaf hashes, level by level: a lone right-most node climbs as it is.

    Args:
        hashes: of the leaves, in order; the empty tree has the hash of the empty string as its root.
    """

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._levels = [list(hashes)]
        self._paths: dict[int, tuple[bytes, ...]] = {}
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            level = [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
            self._levels.append(level + below[len(level) * 2 :])

    @property
    def root(self) -> bytes:
        """The root."""
        return self._levels[-1][0] if self._levels[-1] else hashlib.sha256(b"").digest()

    def path(self, index: int) -> tuple[bytes, ...]:
        """Inclusion path of leaf `index`: the siblings from the leaf up to the root."""
        found = self._paths.get(index)  # every neighbour of a client is sent the same one
        if found is None:
            siblings = [(level, (index >> height) ^ 1) for height, level in enumerate(self._levels)]
            found = self._paths[index] = tuple(level[place] for level, place in siblings if place < len(level))
        return found


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes."""
    return Tree(hashes).root


def path_of(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Inclusion path of leaf `index`. Take a `Tree` where more than one is needed."""
    return Tree(hashes).path(index)


def root_from_path(leaf: bytes, *, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Root that a leaf hash and its path give, or None if the path has the wrong length (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return None
    node, position, last, current = 0, index, size - 1, leaf
    while last > 0:
        if position % 2 == 1 or position < last:  # a lone right-most node climbs without a sibling
            if node == len(path):
                return None
            sibling = path[node]
            current = node_hash(sibling, current) if position % 2 == 1 else node_hash(current, sibling)
            node += 1
        position, last = position // 2, last // 2
    return current if node == len(path) else None


def verify_path(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves that the leaf hash stands at `index` in a tree of `size` leaves with this root."""
    found = root_from_path(leaf, index=index, size=size, path=path)
    return found is not None and equal(found, root)
