"""The keystream: right bytes, never the same bytes twice, and nothing that leaks the key."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import PrivfedError, UsageError
from privfed.mechanism import randomness
from privfed.mechanism.randomness import Keystream, RandomnessError


def aes_counter_bytes(key: bytes, nbytes: int) -> bytes:
    """Counter mode written out over single-block encryptions: the independent route."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  (single blocks, to test CTR against)
    count = -(-nbytes // 16)
    return b"".join(block.update(i.to_bytes(16, "big")) for i in range(count))[:nbytes]


def take(stream: Keystream, nbytes: int) -> bytes:
    array = np.empty(nbytes, dtype=np.uint8)
    stream.fill(array)
    return array.tobytes()


def test_seeded_stream_is_aes_256_in_counter_mode() -> None:
    key = hashlib.sha256(b"privfed seeded keystream v1" + b"seed").digest()
    assert take(Keystream.seeded(b"seed"), 200_000) == aes_counter_bytes(key, 200_000)


def test_derived_stream_is_keyed_by_purpose_and_seed() -> None:
    seed = bytes(range(32))
    key = hashlib.sha256(b"privfed derived keystream v1" + bytes([0, 0, 0, 5]) + b"noise" + seed).digest()
    stream = Keystream.derived(seed, purpose=b"noise")
    assert take(stream, 1000) == aes_counter_bytes(key, 1000)
    assert stream.source == "derived"
    assert seed.hex() not in repr(stream)


def test_derived_streams_of_other_purposes_or_seeds_are_unrelated() -> None:
    seeds, purposes = [bytes(32), bytes(31) + b"\x01"], [b"a", b"b", b"", b"a\x00"]
    streams = {take(Keystream.derived(seed, purpose=purpose), 32) for seed in seeds for purpose in purposes}
    assert len(streams | {take(Keystream.seeded(seed), 32) for seed in seeds}) == 10


def test_os_stream_is_keyed_with_32_bytes_of_os_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness.os, "urandom", lambda n: bytes(range(n)))
    assert take(Keystream(), 100) == aes_counter_bytes(bytes(range(32)), 100)


@given(sizes=st.lists(st.integers(0, 70_000), max_size=8))
def test_reads_continue_one_stream_whatever_their_sizes(sizes: list[int]) -> None:
    stream = Keystream.seeded(b"pieces")
    pieces = b"".join(take(stream, size) for size in sizes)
    assert pieces == take(Keystream.seeded(b"pieces"), sum(sizes))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_integers_are_the_stream_in_native_order(width: int) -> None:
    array = np.empty(1001, dtype=np.dtype(f"uint{width}"))
    Keystream.seeded(b"words").fill(array)
    assert array.tobytes() == take(Keystream.seeded(b"words"), 1001 * width // 8)


def test_fill_takes_any_shape_and_reaches_every_byte() -> None:
    array = np.zeros((7, 11), dtype=np.int32)
    Keystream.seeded(b"shape").fill(array)
    assert array.tobytes() == take(Keystream.seeded(b"shape"), 7 * 11 * 4)
    Keystream().fill(np.empty((3, 0), dtype=np.uint8))


def test_sources_are_marked_and_streams_differ() -> None:
    assert (Keystream().source, Keystream.seeded(b"").source) == ("os", "seeded")
    streams = [Keystream(), Keystream(), Keystream.seeded(b"a"), Keystream.seeded(b"b")]
    assert len({take(stream, 32) for stream in streams}) == 4


def test_key_is_nowhere_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32, 64))
    monkeypatch.setattr(randomness.os, "urandom", lambda _: key)
    stream = Keystream()
    assert repr(stream) == str(stream) == "<Keystream source='os'>"
    held = [getattr(stream, name) for name in Keystream.__slots__]
    assert key not in held
    assert not any(key.hex() in repr(value) or repr(key) in repr(value) for value in held)
    assert "seed" not in repr(Keystream.seeded(b"secret words")).replace("seeded", "")


@pytest.mark.parametrize("leave", [ForkingPickler.dumps, copy.copy, copy.deepcopy])
def test_stream_can_be_neither_copied_nor_pickled(leave: object) -> None:
    with pytest.raises(RandomnessError, match="keystream cannot"):
        leave(Keystream())  # type: ignore[operator]
    assert issubclass(RandomnessError, PrivfedError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Keystream.derived(bytes(31), purpose=b"x"), "31 bytes, expected 32"),
        (lambda: Keystream.derived("x" * 32, purpose=b"x"), "is str, expected 32"),  # type: ignore[arg-type]
        (lambda: Keystream().uint64(-3), "size is -3"),
        (lambda: Keystream.seeded("text"), "seed is a str, expected bytes"),  # type: ignore[arg-type]
        (lambda: Keystream().fill(np.empty(3)), "float64"),
        (lambda: Keystream().fill(np.empty((4, 4), dtype=np.uint8)[:, ::2]), "C-contiguous: False"),
        (lambda: Keystream().fill(np.frombuffer(b"abcd", dtype=np.uint8)), "writable: False"),
    ],
)
def test_misuse_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def test_threads_never_get_the_same_bytes() -> None:
    # Longer than a piece of the cipher's, so that reads would interleave without the lock.
    size, pieces = 200_000, list[bytes]()
    stream = Keystream.seeded(b"threads")

    def work() -> None:
        pieces.extend(take(stream, size) for _ in range(40))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = take(Keystream.seeded(b"threads"), 4 * 40 * size)
    assert sorted(pieces) == sorted(whole[i : i + size] for i in range(0, len(whole), size))


def test_what_a_fork_does_to_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    # The counter's step without the fork; the real thing is below, in processes that this one cannot look into.
    monkeypatch.setattr(randomness, "_forks", randomness._forks)
    keys = iter([bytes(32), bytes([1]) * 32])
    monkeypatch.setattr(randomness.os, "urandom", lambda _: next(keys))
    stream, seeded, derived = Keystream(), Keystream.seeded(b"x"), Keystream.derived(bytes(32), purpose=b"x")
    assert take(stream, 40) == aes_counter_bytes(bytes(32), 40)
    randomness._count_fork()
    assert take(stream, 40) == aes_counter_bytes(bytes([1]) * 32, 40)
    for _ in range(2):
        for kind in (seeded, derived):
            with pytest.raises(RandomnessError, match=f"a {kind.source} keystream was made before fork"):
                take(kind, 1)


def run_script(script: str) -> str:
    """Forks happen in a process of their own: the test's has threads."""
    root = str(Path(randomness.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_children_get_streams_of_their_own() -> None:
    out = run_script(
        """
        import os
        from privfed.mechanism.randomness import Keystream
        stream = Keystream()
        stream.uint64(7)
        def child(depth):
            read, write = os.pipe()
            if os.fork() == 0:
                below = child(depth - 1) if depth else b""
                os.write(write, stream.uint64(8).tobytes() + below)
                os._exit(0)
            os.wait()
            return os.read(read, 4096)
        streams = child(2) + child(0) + stream.uint64(8).tobytes()
        pieces = [streams[i:i + 64] for i in range(0, len(streams), 64)]
        print(len(pieces), len(set(pieces)))
        """
    )
    assert out.split() == ["5", "5"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_is_seen_by_either_of_two_signs() -> None:
    out = run_script(
        """
        import os
        from privfed.mechanism import randomness
        stream = randomness.Keystream()
        def differs(spoof):
            read, write = os.pipe()
            if os.fork() == 0:
                spoof()
                os.write(write, stream.uint64(4).tobytes())
                os._exit(0)
            os.wait()
            return os.read(read, 32)
        pid, forks = os.getpid(), randomness._forks
        def same_pid(): randomness.os.getpid = lambda: pid
        def uncounted(): randomness._forks = forks
        print(len({differs(same_pid), differs(uncounted), stream.uint64(4).tobytes()}))
        """
    )
    assert out.split() == ["3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_seeded_stream_refuses_to_work_in_a_child() -> None:
    out = run_script(
        """
        import os
        from privfed.mechanism.randomness import Keystream, RandomnessError
        stream = Keystream.seeded(b"x")
        if os.fork() == 0:
            try:
                stream.uint64(1)
            except RandomnessError as error:
                os.write(1, b"refused: " + str(error).encode())
            os._exit(0)
        os.wait()
        stream.uint64(1)
        """
    )
    assert out.startswith("refused: a seeded keystream was made before fork()")
