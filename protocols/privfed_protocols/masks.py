"""Mask streams added to or taken from a vector without a whole-vector temporary, on one thread or several.

One key, one stream (`suites`), whose bytes are read as little-endian ring elements. The vector is walked in chunks
that stay in the second-level cache together with the stream and the zeros it is made from, and all streams are applied
to one chunk before the next is touched. 256 KiB: measured flat from 128 to 256, slower on both sides.

Several workers divide the streams among themselves, not the vector: each adds its own up over a piece of at least a
megabyte, and the pieces are added. Addition modulo 2^bits does not care for order, so the result is the same to the
bit whatever the workers, and a stream is still read from front to back, which the fastest kinds need.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from .packing import Array
from .suites import AES, Stream, Suite, aes_counter
from .suites import suite as suite_by_id
from .workers import Workers, deal, hands, pool, shares_memory

CHUNK_BYTES: Final = 256 << 10
PIECE_BYTES: Final = 1 << 20  # what a thread does between two meetings, for each of its streams
SENT_BYTES: Final = 8 << 20  # the same for workers in other processes, to whom results are sent
PARALLEL_BYTES: Final = 4 << 20  # less stream than this is not worth a meeting
STREAMS_AT_ONCE: Final = 256  # cipher contexts alive together: about half a megabyte
_ZEROS: Final = bytes(CHUNK_BYTES)

keystream = aes_counter

_Signed: TypeAlias = tuple[Stream, Any]


@dataclass(frozen=True)
class Mask:
    """One mask stream: its 32-byte key, and whether it is subtracted instead of added."""

    key: bytes = field(repr=False)
    subtract: bool = False


def mask_into(
    source: Array, target: Array, masks: Sequence[Mask], *, suite: Suite = AES, workers: Workers = None
) -> None:
    """Write `source` plus all masks, modulo 2^bits of the dtype, to `target`.

    Args:
        source: ring elements, shape (d,), little-endian unsigned; not changed unless it is `target`.
        target: same shape and dtype, may be unaligned, may be `source` itself.
        masks: streams to apply; the result does not depend on their order.
        suite: whose streams.
        workers: how many threads, or an executor; see `workers.pool`. Executors of other processes are sent the keys.
            The result does not depend on it.
    """
    np.copyto(target, source)
    step = STREAMS_AT_ONCE * hands(workers)
    with pool(workers) as executor:
        for start in range(0, len(masks), step):
            batch = masks[start : start + step]
            if executor is None or len(batch) < 2 or len(batch) * target.nbytes < PARALLEL_BYTES:
                for part in deal(batch, -(-len(batch) // STREAMS_AT_ONCE)):
                    _apply(target, _start(part, suite, target.nbytes))
            elif shares_memory(executor):
                _apply_in_threads(target, deal(batch, hands(workers)), suite, executor)
            else:
                _apply_elsewhere(target, deal(batch, hands(workers)), suite, executor)


def _start(masks: Sequence[Mask], suite: Suite, length: int, *, offset: int = 0) -> list[_Signed]:
    return [
        (suite.keystream(mask.key, offset=offset, length=length), np.subtract if mask.subtract else np.add)
        for mask in masks
    ]


def _apply_in_threads(target: Array, groups: Sequence[Sequence[Mask]], suite: Suite, executor: Executor) -> None:
    """Each group of streams by a thread of its own, the first by this one, which adds up; piece by piece."""
    mine, *others = [_start(group, suite, target.nbytes) for group in groups]
    size = PIECE_BYTES // target.itemsize
    parts = [np.empty(min(size, len(target)), target.dtype) for _ in others]
    for start in range(0, len(target), size):
        piece = target[start : start + size]
        tasks = [
            executor.submit(_fill, part[: len(piece)], streams) for part, streams in zip(parts, others, strict=True)
        ]
        _apply(piece, mine)
        for task, part in zip(tasks, parts, strict=True):
            task.result()
            np.add(piece, part[: len(piece)], out=piece)


def _fill(part: Array, streams: Sequence[_Signed]) -> None:
    part.fill(0)
    _apply(part, streams)


def _apply_elsewhere(target: Array, groups: Sequence[Sequence[Mask]], suite: Suite, executor: Executor) -> None:
    """The same for workers that do not see this memory: keys go out, sums of streams come back."""
    size = SENT_BYTES // target.itemsize
    for start in range(0, len(target), size):
        piece = target[start : start + size]
        tasks = [
            executor.submit(
                _sum_of_streams,
                [(mask.key, mask.subtract) for mask in group],
                suite.id,
                target.dtype.str,
                len(piece),
                start * target.itemsize,
            )
            for group in groups
        ]
        for task in tasks:
            np.add(piece, task.result(), out=piece)


def _sum_of_streams(keys: Sequence[tuple[bytes, bool]], suite_id: int, dtype: str, length: int, offset: int) -> Array:
    total: Array = np.zeros(length, dtype)
    for part in deal([Mask(*key) for key in keys], -(-len(keys) // STREAMS_AT_ONCE)):
        _apply(total, _start(part, suite_by_id(suite_id), total.nbytes, offset=offset))
    return total


def _apply(target: Array, streams: Sequence[_Signed]) -> None:
    """Apply the next bytes of some streams in place, chunk by chunk."""
    step = min(CHUNK_BYTES // target.itemsize, len(target))
    stream = np.empty(step, target.dtype)
    work = None if target.flags.aligned else np.empty(step, target.dtype)
    for start in range(0, len(target), step):
        piece = target[start : start + step]
        if work is None:
            _apply_chunk(piece, stream[: len(piece)], streams)
        else:
            aligned = work[: len(piece)]
            np.copyto(aligned, piece)
            _apply_chunk(aligned, stream[: len(piece)], streams)
            np.copyto(piece, aligned)
    stream.fill(0)


def _apply_chunk(chunk: Array, stream: Array, streams: Sequence[_Signed]) -> None:
    zeros = memoryview(_ZEROS)[: chunk.nbytes]
    buffer = stream.view(np.uint8).data
    for context, operation in streams:
        context.update_into(zeros, buffer)
        operation(chunk, stream, out=chunk)
