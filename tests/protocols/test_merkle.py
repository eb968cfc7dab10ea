"""RFC 6962 trees: published roots and paths, the definition itself, and paths that must fail."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols.merkle import leaf_hash, path_of, root_from_path, root_of, verify_path

# The reference tree of the certificate transparency project (merkle_tree_test of the C++ log server).
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert root_of([leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == ROOTS[size]


def test_published_path() -> None:
    """Leaf 5 of 8 (counted from 0), from the same source."""
    path = path_of([leaf_hash(leaf) for leaf in LEAVES], 5)
    assert [node.hex() for node in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word by word."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70), st.data())
def test_paths_prove_their_leaf_and_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    root = root_of(hashes)
    assert root == by_definition(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = path_of(hashes, index)
    place = {"index": index, "size": len(leaves), "root": root}
    assert verify_path(hashes[index], path=path, **place)
    assert not verify_path(leaf_hash(b"stranger"), path=path, **place)
    assert not verify_path(hashes[index], path=(*path, root), **place)
    assert not verify_path(hashes[index], path=path, **(place | {"root": leaf_hash(b"another root")}))
    if path:
        assert not verify_path(hashes[index], path=path[:-1], **place)
        flipped = data.draw(st.integers(0, len(path) - 1))
        altered = [*path]
        altered[flipped] = bytes([altered[flipped][0] ^ 1]) + altered[flipped][1:]
        assert not verify_path(hashes[index], path=altered, **place)
    for other, stranger in enumerate(hashes):
        if stranger != hashes[index]:
            assert not verify_path(stranger, path=path, **(place | {"index": other}))


@pytest.mark.parametrize("index", [-1, 5, 99])
def test_places_outside_the_tree_have_no_root(index: int) -> None:
    assert root_from_path(bytes(32), index=index, size=5, path=()) is None


def test_an_inner_node_is_no_leaf() -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES[:2]]
    assert leaf_hash(hashes[0] + hashes[1]) != root_of(hashes)
