"""Mask streams against a word-by-word reference, across all chunk borders."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privfed_protocols.masks import CHUNK_BYTES, STREAMS_AT_ONCE, Mask, mask_into
from privfed_protocols.vectors import Array

KEYS = [bytes([number]) * 32 for number in range(3)]


def reference(source: Array, masks: list[Mask]) -> list[int]:
    """The same in Python integers over block numbers."""
    size = source.itemsize
    total = [int(value) for value in source]
    for mask in masks:
        blocks = b"".join(number.to_bytes(16, "big") for number in range(-(-source.nbytes // 16)))
        stream = Cipher(algorithms.AES256(mask.key), modes.ECB()).encryptor().update(blocks)  # noqa: S305 -- reference
        for place in range(len(total)):
            word = int.from_bytes(stream[size * place : size * (place + 1)], "little")
            total[place] += -word if mask.subtract else word
    return [value % (1 << (8 * size)) for value in total]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("length", [1, 2, 15, 17, 1000])
def test_small_vectors(bits: int, length: int) -> None:
    source = np.arange(length).astype(f"<u{bits // 8}")
    before = source.copy()
    target = np.empty_like(source)
    masks = [Mask(KEYS[0]), Mask(KEYS[1], subtract=True), Mask(KEYS[2])]
    mask_into(source, target, masks)
    assert target.tolist() == reference(source, masks)
    assert np.array_equal(source, before)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("around", [-1, 0, 1])
@pytest.mark.parametrize("offset", [0, 1])
def test_chunk_borders_and_unaligned_targets(bits: int, around: int, offset: int) -> None:
    dtype = np.dtype(f"<u{bits // 8}")
    length = 2 * CHUNK_BYTES // dtype.itemsize + around
    source = np.frombuffer(np.random.default_rng(bits).bytes(length * dtype.itemsize), dtype)
    memory = np.zeros(offset + source.nbytes, np.uint8)
    target = np.frombuffer(memory.data, dtype, count=length, offset=offset)
    mask_into(source, target, [Mask(KEYS[0]), Mask(KEYS[1], subtract=True)])
    streams = [
        np.frombuffer(
            Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(source.nbytes)), dtype
        )
        for key in KEYS[:2]
    ]
    assert np.array_equal(target, source + streams[0] - streams[1])
    assert not memory[:offset].any()


def test_masks_cancel_in_place_and_beyond_one_batch() -> None:
    keys = [number.to_bytes(32, "big") for number in range(STREAMS_AT_ONCE + 5)]
    vector = np.arange(100, dtype=np.uint32)
    mask_into(vector, vector, [Mask(key) for key in keys])
    assert not np.array_equal(vector, np.arange(100))
    mask_into(vector, vector, [Mask(key, subtract=True) for key in reversed(keys)])
    assert np.array_equal(vector, np.arange(100))


def test_no_masks_copy() -> None:
    target = np.zeros(3, np.uint8)
    mask_into(np.array([1, 2, 255], np.uint8), target, [])
    assert target.tolist() == [1, 2, 255]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_masks_reach_the_whole_range(bits: int) -> None:
    """Every byte lane takes all 256 values about equally often: no missing top bit, no missing top value."""
    target = np.zeros(200_000, f"<u{bits // 8}")
    mask_into(target, target, [Mask(KEYS[1])])
    lanes = target.view(np.uint8).reshape(len(target), -1)
    for lane in lanes.T:
        counts = np.bincount(lane, minlength=256)
        expected = len(lane) / 256
        assert 170 < float(((counts - expected) ** 2 / expected).sum()) < 360


def test_mask_keys_do_not_show() -> None:
    assert KEYS[1].hex() not in repr(Mask(KEYS[1]))
    assert repr(KEYS[1]) not in repr(Mask(KEYS[1]))
