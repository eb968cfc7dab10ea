"""Mask streams against a word-by-word reference, across all chunk borders, suites and ways to divide the work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privfed_protocols import masks as masks_module
from privfed_protocols.errors import LocalProtocolError
from privfed_protocols.masks import CHUNK_BYTES, STREAMS_AT_ONCE, Mask, mask_into
from privfed_protocols.packing import Array
from privfed_protocols.suites import AES, CHACHA, SUITES, Suite
from privfed_protocols.workers import deal, hands

KEYS = [bytes([number]) * 32 for number in range(3)]


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Elsewhere(Executor):
    """Runs tasks at once, as another process would: it is no pool of threads."""

    def __init__(self) -> None:
        self.tasks = 0

    def submit(
        self, work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        self.tasks += 1
        done: Future[Result] = Future()
        done.set_result(work(*args, **kwargs))
        return done


def keystream_of(suite: Suite, key: bytes, length: int) -> bytes:
    """The stream without our code: block numbers through AES, or the cipher over zeros."""
    if suite is CHACHA:
        return Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(length))
    blocks = b"".join(number.to_bytes(16, "big") for number in range(-(-length // 16)))
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(blocks)  # noqa: S305 -- reference


def reference(source: Array, masks: list[Mask], suite: Suite = AES) -> list[int]:
    """The same in Python integers."""
    size = source.itemsize
    total = [int(value) for value in source]
    for mask in masks:
        stream = keystream_of(suite, mask.key, source.nbytes)
        for place in range(len(total)):
            word = int.from_bytes(stream[size * place : size * (place + 1)], "little")
            total[place] += -word if mask.subtract else word
    return [value % (1 << (8 * size)) for value in total]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("length", [1, 2, 15, 17, 1000])
@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: str(suite.id))
def test_small_vectors(bits: int, length: int, suite: Suite) -> None:
    source = np.arange(length).astype(f"<u{bits // 8}")
    before = source.copy()
    target = np.empty_like(source)
    masks = [Mask(KEYS[0]), Mask(KEYS[1], subtract=True), Mask(KEYS[2])]
    mask_into(source, target, masks, suite=suite)
    assert target.tolist() == reference(source, masks, suite)
    assert np.array_equal(source, before)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("around", [-1, 0, 1])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: str(suite.id))
def test_chunk_borders_and_unaligned_targets(bits: int, around: int, offset: int, suite: Suite) -> None:
    dtype = np.dtype(f"<u{bits // 8}")
    length = 2 * CHUNK_BYTES // dtype.itemsize + around
    source = np.frombuffer(np.random.default_rng(bits).bytes(length * dtype.itemsize), dtype)
    memory = np.zeros(offset + source.nbytes, np.uint8)
    target = np.frombuffer(memory.data, dtype, count=length, offset=offset)
    mask_into(source, target, [Mask(KEYS[0]), Mask(KEYS[1], subtract=True)], suite=suite)
    streams = [np.frombuffer(keystream_of(suite, key, source.nbytes), dtype, count=length) for key in KEYS[:2]]
    assert np.array_equal(target, source + streams[0] - streams[1])
    assert not memory[:offset].any()


def test_masks_cancel_in_place_and_beyond_one_batch() -> None:
    keys = [number.to_bytes(32, "big") for number in range(STREAMS_AT_ONCE + 5)]
    vector = np.arange(100, dtype=np.uint32)
    mask_into(vector, vector, [Mask(key) for key in keys])
    assert not np.array_equal(vector, np.arange(100))
    mask_into(vector, vector, [Mask(key, subtract=True) for key in reversed(keys)])
    assert np.array_equal(vector, np.arange(100))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every border of the division of work within a few thousand elements."""
    monkeypatch.setattr(masks_module, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(masks_module, "PIECE_BYTES", 4096)
    monkeypatch.setattr(masks_module, "SENT_BYTES", 8192)


def many(count: int) -> list[Mask]:
    return [Mask(number.to_bytes(32, "big"), subtract=number % 3 == 0) for number in range(count)]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: str(suite.id))
def test_the_result_is_the_same_whoever_does_the_work(bits: int, count: int, suite: Suite) -> None:
    dtype = np.dtype(f"<u{bits // 8}")
    length = 3 * 4096 // dtype.itemsize + 5
    source = np.frombuffer(np.random.default_rng(bits).bytes(length * dtype.itemsize), dtype)
    alone = np.empty_like(source)
    mask_into(source, alone, many(count), suite=suite)
    memory = bytearray(source.nbytes + 1)
    elsewhere = Elsewhere()
    with ThreadPoolExecutor(3) as threads:
        for workers in (1, 2, 3, 16, threads, elsewhere):
            together = np.frombuffer(memory, dtype, count=length, offset=1)  # unaligned, too
            mask_into(source, together, many(count), suite=suite, workers=workers)
            assert np.array_equal(together, alone), workers
            together[:] = 0
    assert elsewhere.tasks == (0 if count == 1 else 2 * min(count, hands(elsewhere)))


def test_other_processes_give_the_same() -> None:
    """Nothing but plain values goes out, and nothing but sums comes back."""
    source = np.arange((PARALLEL := masks_module.PARALLEL_BYTES) // 8 + 3, dtype=np.uint32)
    alone, together = np.empty_like(source), np.empty_like(source)
    assert 3 * source.nbytes > PARALLEL
    mask_into(source, alone, many(3))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        mask_into(source, together, many(3), workers=processes)
    assert np.array_equal(together, alone)


@pytest.mark.usefixtures("small_pieces")
def test_more_streams_than_are_alive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks_module, "STREAMS_AT_ONCE", 3)
    source = np.arange(3000, dtype=np.uint32)
    expected = np.array(reference(source, many(17)), np.uint32)
    for workers in (None, 2, 4, Elsewhere()):
        target = np.empty_like(source)
        mask_into(source, target, many(17), workers=workers)
        assert np.array_equal(target, expected)


def test_little_work_is_not_divided() -> None:
    elsewhere = Elsewhere()
    mask_into(np.zeros(1000, np.uint32), np.zeros(1000, np.uint32), many(50), workers=elsewhere)
    assert elsewhere.tasks == 0


@pytest.mark.usefixtures("small_pieces")
def test_an_error_in_a_thread_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(part: Array, streams: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(masks_module, "_fill", fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        mask_into(np.zeros(3000, np.uint32), np.zeros(3000, np.uint32), many(4), workers=2)


def test_there_is_at_least_one_worker() -> None:
    with pytest.raises(LocalProtocolError, match="0 workers"):
        mask_into(np.zeros(3, np.uint32), np.zeros(3, np.uint32), many(2), workers=0)


@pytest.mark.parametrize(("items", "parts", "expected"), [(0, 3, []), (2, 3, [1, 1]), (7, 3, [2, 2, 3]), (4, 1, [4])])
def test_dealing_leaves_nothing_and_nobody_empty(items: int, parts: int, expected: list[int]) -> None:
    dealt = deal(range(items), parts)
    assert [len(part) for part in dealt] == expected
    assert [item for part in dealt for item in part] == list(range(items))


def test_no_masks_copy() -> None:
    target = np.zeros(3, np.uint8)
    mask_into(np.array([1, 2, 255], np.uint8), target, [])
    assert target.tolist() == [1, 2, 255]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: str(suite.id))
def test_masks_reach_the_whole_range(bits: int, suite: Suite) -> None:
    """Every byte lane takes all 256 values about equally often: no missing top bit, no missing top value."""
    target = np.zeros(200_000, f"<u{bits // 8}")
    mask_into(target, target, [Mask(KEYS[1])], suite=suite)
    lanes = target.view(np.uint8).reshape(len(target), -1)
    for lane in lanes.T:
        counts = np.bincount(lane, minlength=256)
        expected = len(lane) / 256
        assert 170 < float(((counts - expected) ** 2 / expected).sum()) < 360


def test_mask_keys_do_not_show() -> None:
    assert KEYS[1].hex() not in repr(Mask(KEYS[1]))
    assert repr(KEYS[1]) not in repr(Mask(KEYS[1]))
