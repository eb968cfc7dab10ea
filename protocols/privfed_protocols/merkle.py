"""Merkle tree hashes of RFC 6962, section 2.1, with inclusion paths (section 2.1.1), over SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .primitives import equal

HASH_BYTES = 32


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes; the empty tree has the hash of the empty string."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = _split(len(hashes))
    return node_hash(root_of(hashes[:split]), root_of(hashes[split:]))


def path_of(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Inclusion path of leaf `index`: the siblings from the leaf up to the root."""
    if len(hashes) == 1:
        return ()
    split = _split(len(hashes))
    if index < split:
        return (*path_of(hashes[:split], index), root_of(hashes[split:]))
    return (*path_of(hashes[split:], index - split), root_of(hashes[:split]))


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


def _split(size: int) -> int:
    """Largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)
