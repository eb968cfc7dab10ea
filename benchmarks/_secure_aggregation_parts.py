"""The parts of secure aggregation on their own: mask streams beside `openssl speed`, Shamir, packing, agreements."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import numpy as np

from privfed_protocols.masks import CHUNK_BYTES, Mask, mask_into
from privfed_protocols.packing import native_dtype, pack, unpack
from privfed_protocols.primitives import Agreement, public_key
from privfed_protocols.shamir import FieldStream, combine, lagrange_at_zero, share, to_limbs
from privfed_protocols.suites import AES, SUITES, Suite, gcm_is_faster

STREAMS = 101  # a client's own and those of 100 neighbours


def least(work: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU seconds of some calls; the first, which warms up, not counted."""
    work()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def mask_ms(bits: int, *, dim: int = 1_000_000, suite: Suite = AES, repeats: int = 7) -> float:
    """Milliseconds that one of many mask streams takes on a vector."""
    source = np.zeros(dim, native_dtype(bits))
    masks = [Mask(os.urandom(32), subtract=number % 2 == 0) for number in range(STREAMS)]
    target = np.empty_like(source)
    return least(lambda: mask_into(source, target, masks, suite=suite), repeats) / STREAMS * 1e3


def keystream_gigabytes(suite: Suite) -> float:
    """The stream itself as we read it, without the additions, in GB a second."""
    size = CHUNK_BYTES
    zeros, buffer, times = bytes(size), bytearray(size), 100
    stream = suite.keystream(os.urandom(32), length=size * times)

    def read() -> None:
        for _ in range(times):
            stream.update_into(zeros, buffer)

    return size * times / least(read) / 1e9


def openssl_gigabytes(cipher: str) -> float | None:
    """What `openssl speed` says of a cipher with blocks as large as ours, in GB a CPU second; None without openssl."""
    command = ["openssl", "speed", "-seconds", "2", "-bytes", str(CHUNK_BYTES), "-evp", cipher]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return float(done.stdout.strip().splitlines()[-1].split()[-1].rstrip("k")) * 1e3 / 1e9


def streams() -> dict[str, float | bool | None]:
    """Mask streams beside the raw keystream of the command-line tool, in GB a second."""
    found: dict[str, float | bool | None] = {"gcm_is_faster": gcm_is_faster()}
    for suite, cipher in zip(SUITES.values(), ("aes-256-ctr", "chacha20"), strict=True):
        raw = openssl_gigabytes(cipher)
        masked = 4.0 / mask_ms(32, suite=suite)
        found |= {
            f"{cipher} openssl speed": raw,
            f"{cipher} our stream alone": keystream_gigabytes(suite),
            f"{cipher} masks": masked,
            f"{cipher} masks / openssl speed": None if raw is None else masked / raw,
        }
    return found


def share_ms(clients: int, threshold: int) -> float:
    """Milliseconds to share both secrets of one client."""
    secrets, points = to_limbs(os.urandom(64)), np.arange(1, clients + 1, dtype=np.uint64)
    stream = FieldStream(os.urandom(32))
    return least(lambda: share(secrets, points=points, threshold=threshold, stream=stream), 15) * 1e3


def open_us(threshold: int, clients: int = 500) -> float:
    """Microseconds a client to open one secret each, with other givers for everybody; all at once."""
    rng = np.random.default_rng(0)
    points = np.stack([rng.permutation(100)[:threshold] + 1 for _ in range(clients)]).astype(np.uint64)
    return least(lambda: lagrange_at_zero(points)) / clients * 1e6


def combine_us(threshold: int, clients: int = 500) -> float:
    """Microseconds a client to add up the weighted shares."""
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 2**31 - 1, (clients, threshold)).astype(np.uint64)
    shares = rng.integers(0, 2**31 - 1, (clients, threshold, 9)).astype(np.uint64)
    return least(lambda: combine(weights, shares)) / clients * 1e6


def agreement_us() -> float:
    """Microseconds for one shared secret from a loaded key."""
    mine, theirs = Agreement(os.urandom(32)), public_key(os.urandom(32))

    def agree() -> None:
        for _ in range(200):
            mine.shared_secret(theirs)

    return least(agree) / 200 * 1e6


def packing_gigabytes(bits: int, dim: int = 1_000_000) -> tuple[float, float]:
    """GB a second of elements in memory, packed and unpacked."""
    ring = np.frombuffer(os.urandom(dim * native_dtype(bits).itemsize), native_dtype(bits))
    packed = pack(ring, bits)
    return (
        ring.nbytes / least(lambda: pack(ring, bits)) / 1e9,
        ring.nbytes / least(lambda: unpack(packed, length=dim, bits=bits)) / 1e9,
    )
