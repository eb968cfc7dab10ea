"""Checks of what travels beside the masks: nothing that a client sends may depend on what it holds."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from privfed.audit.findings import Outcome
from privfed.audit.masks.adapter import NotExposed, Values
from privfed.audit.masks.probe import SIDES, Probe
from privfed.audit.masks.statistics import homogeneity

__all__ = ["side_values", "transcript_independence"]

RUNS = 20  # of each input: lengths that never overlap come about by chance once in 7e10
LENGTH = 64


def side_values(probe: Probe) -> Outcome:
    """No weight, count, metric or coordinate is sent in the clear beside the masked vector.

    The two runs carry different numbers, and only what is found in both counts: keys hold any four bytes sometimes.
    """
    found: list[set[str]] = []
    for side in SIDES:
        adapter = probe.ready(length=LENGTH)
        values = probe.random_values(adapter.ring, LENGTH)
        adapter.masked(0, 1, values, side)
        sent = b"\0".join(bytes(message) for message in adapter.wire(0))
        found.append({name for name, pattern in _patterns(values, side) if pattern in sent})
    names = sorted(found[0] & found[1])
    if names:
        return Outcome(f"sent in the clear: {', '.join(names)}", problem=True)
    return Outcome("neither counts, losses nor coordinates appear in the messages")


def _patterns(values: Values, side: Mapping[str, float]) -> Iterator[tuple[str, bytes]]:
    """Yield what to look for: side values in every common encoding, and the start of the bare vector."""
    for name, value in side.items():
        for pattern in _encodings(value):
            yield name, pattern
    for kind in ("<i4", "<i8", ">i4", ">i8", "<f4", "<f8"):
        if int(values[:4].max(initial=0)) < 1 << 31 or "8" in kind:
            yield "the vector itself", values[:4].astype(kind).tobytes()


def _encodings(value: float) -> Iterator[bytes]:
    for text in {repr(value), str(value), f"{value:.6f}"}:
        yield text.encode()
    yield from (struct.pack(order + kind, value) for order in "<>" for kind in "fd")
    if value == int(value):
        number = int(value)
        yield from (number.to_bytes(size, order) for size in (4, 8) for order in ("little", "big"))
        yield _varint(number)
        yield _varint(2 * number)  # zigzag, for signed numbers


def _varint(number: int) -> bytes:
    """Return a number as Protocol Buffers and other formats write it."""
    groups = []
    while number >= 128:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def transcript_independence(probe: Probe) -> Outcome:
    """Whatever a client's input is, what it sends looks the same: the vector, the number and lengths of messages, and
    every byte that is not random.
    """  # fmt: skip
    adapter = probe.ready(length=LENGTH)
    ring = adapter.ring
    largest = (1 << 16) - 1 if ring is None else ring.largest
    inputs = (np.zeros(LENGTH, np.int64), np.full(LENGTH, min(largest, (1 << 62) - 1), np.int64))
    vectors: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    transcripts: list[list[list[bytes]]] = []
    exposed = True
    for values, side in zip(inputs, SIDES, strict=True):
        runs, messages = [], []
        for _ in range(RUNS):
            adapter = probe.ready(length=LENGTH)
            runs.append(np.asarray(adapter.masked(0, 1, values, side)).astype(np.float64))
            try:
                messages.append([bytes(message) for message in adapter.wire(0)])
            except NotExposed:
                exposed = False
        vectors.append(np.concatenate(runs))
        transcripts.append(messages)
    p_values = [homogeneity(*vectors)]
    if not exposed:
        return Outcome("masked vectors of two inputs; messages are not exposed", p_values=tuple(p_values))
    problem = _dependence(*transcripts)
    if problem:
        return Outcome(problem, problem=True, p_values=tuple(p_values))
    for first, second in zip(zip(*transcripts[0], strict=True), zip(*transcripts[1], strict=True), strict=True):
        p_values.append(_lengths_p([len(message) for message in first], [len(message) for message in second]))
    told = f"vectors, messages and their lengths of two inputs, {RUNS} runs each"
    return Outcome(told, p_values=tuple(p_values))


def _dependence(first: Sequence[Sequence[bytes]], second: Sequence[Sequence[bytes]]) -> str:
    """Return what differs for certain between the two inputs' transcripts, or nothing."""
    counts = [{len(run) for run in runs} for runs in (first, second)]
    if counts[0] != counts[1] or len(counts[0]) > 1:
        return f"the number of messages is {counts[0]} for one input, {counts[1]} for another"
    for place in range(len(first[0])):
        parts = [[run[place] for run in runs] for runs in (first, second)]
        lengths = [{len(message) for message in messages} for messages in parts]
        if len(lengths[0]) == len(lengths[1]) == 1 and lengths[0] != lengths[1]:
            return f"message {place} has {lengths[0].pop()} bytes for one input, {lengths[1].pop()} for another"
        if len(lengths[0] | lengths[1]) > 1:
            continue  # lengths vary by themselves; they are compared as samples
        arrays = [np.frombuffer(b"".join(messages), np.uint8).reshape(RUNS, -1) for messages in parts]
        fixed = [(array == array[0]).all(axis=0) for array in arrays]
        differs = np.flatnonzero(fixed[0] & fixed[1] & (arrays[0][0] != arrays[1][0]))
        if differs.size:
            return f"byte {differs[0]} of message {place} is fixed by the input ({differs.size} such bytes)"
    return ""


def _lengths_p(first: Sequence[int], second: Sequence[int]) -> float:
    """Return a p-value against lengths of one distribution: 1 unless the two samples do not overlap at all."""
    if max(first) < min(second) or max(second) < min(first):
        return 2.0 / math.comb(len(first) + len(second), len(first))
    return 1.0
