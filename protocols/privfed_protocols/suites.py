"""Cipher suites: which streams mask vectors and which ciphers seal shares, by the number that goes over the wire.

All suites agree on X25519, HKDF-SHA256, SHA-256 and Ed25519. They differ in the symmetric half:

    1  AES-256-CTR masks, AES-256-GCM shares: the fastest wherever the processor has AES instructions.
    2  ChaCha20 masks (RFC 8439), ChaCha20-Poly1305 shares: constant time without such instructions.
    3  reserved for X25519 together with ML-KEM-768; not built, and refused by that name.

Each mask stream has a key of its own, so it starts at block zero with an all-zero nonce.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Protocol, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from .errors import UnknownFormat

Buffer: TypeAlias = bytes | bytearray | memoryview

KEY_BYTES: Final = 32
SEEK_BYTES: Final = 64  # streams can be entered at multiples of this: a block of ChaCha20, four of AES
LONG_STREAM_BYTES: Final = 512 << 10  # from here on a second context pays for itself
_GCM_START: Final = 32  # GCM's counter starts at block 2 of the counter mode with the same zero nonce
_TRIAL_BYTES: Final = 64 << 10


class UnknownSuite(UnknownFormat):
    """Refusal 2: a suite that this version does not have."""


class Stream(Protocol):
    """A keystream, read from front to back."""

    def update_into(self, data: Buffer, buffer: Buffer) -> int:
        """Write `data` XOR the next `len(data)` bytes of the keystream to `buffer`; the number of bytes written."""


class Sealer(Protocol):
    """An authenticated cipher under one key."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Ciphertext with its 16-byte tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Plaintext; raises `cryptography.exceptions.InvalidTag`."""


@dataclass(frozen=True)
class Suite:
    """One cipher suite.

    Attributes:
        id: its number on the wire.
        name: what it consists of.
    """

    id: int
    name: str
    _seekable: Callable[[bytes, int], Stream] = field(repr=False)
    _long: Callable[[bytes], Stream] = field(repr=False)
    _sealer: Callable[[bytes], Sealer] = field(repr=False)

    def keystream(self, key: bytes, *, offset: int = 0, length: int = 0) -> Stream:
        """Start the mask stream of a key.

        Args:
            key: 32 bytes, never used for anything else.
            offset: where to start, in bytes; a multiple of 64.
            length: how many bytes will be read, 0 if unknown. It may change how the bytes are computed, never a byte.
        """
        if offset % SEEK_BYTES or offset < 0:
            raise ValueError(f"offset is {offset}, expected a multiple of {SEEK_BYTES}")
        if offset == 0 and length >= LONG_STREAM_BYTES:
            return self._long(key)
        return self._seekable(key, offset)

    def sealer(self, key: bytes) -> Sealer:
        """The authenticated cipher for shares under a 32-byte key; nonces have 12 bytes, tags 16."""
        return self._sealer(key)


def suite(id: int) -> Suite:
    """Look a suite up by its number.

    Raises:
        UnknownSuite: this version does not have it.
    """
    found = SUITES.get(id)
    if found is None:
        told = f"reserved for {RESERVED[id]}, which this version does not have" if id in RESERVED else "unknown"
        raise UnknownSuite(f"suite {id} is {told}; expected one of {sorted(SUITES)}")
    return found


def aes_counter(key: bytes, offset: int = 0) -> CipherContext:
    """AES-256-CTR from a byte offset on, whose block 0 is the encryption of the zero block."""
    return Cipher(algorithms.AES256(key), modes.CTR((offset // 16).to_bytes(16, "big"))).encryptor()


def chacha_counter(key: bytes, offset: int = 0) -> CipherContext:
    """ChaCha20 from a byte offset on, zero nonce; the counter leads the sixteen bytes, little endian."""
    return Cipher(algorithms.ChaCha20(key, (offset // 64).to_bytes(16, "little")), None).encryptor()


class AesGcmStream:
    """The bytes of `aes_counter(key)`, computed by GCM, whose encryption is counter mode from block 2 on.

    OpenSSL has wide-vector code for GCM (VAES, AVX-512) and none for plain counter mode, so that where a processor has
    both, GCM yields the same keystream faster although it also computes a tag, which nobody asks for. Up to 64 GiB.
    """

    __slots__ = ("_context", "_key", "_started")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._context = Cipher(algorithms.AES256(key), modes.GCM(bytes(12))).encryptor()
        self._started = False

    def update_into(self, data: Buffer, buffer: Buffer) -> int:
        """As `CipherContext.update_into`; the first call takes at least 32 bytes."""
        if self._started:
            return self._context.update_into(data, buffer)
        if len(data) < _GCM_START:
            raise ValueError(f"first read is {len(data)} bytes, expected at least {_GCM_START}")
        self._started = True
        source, target = memoryview(data), memoryview(buffer)
        head = aes_counter(self._key).update_into(source[:_GCM_START], target[:_GCM_START])
        return head + self._context.update_into(source[_GCM_START:], target[_GCM_START:])


def aes_long(key: bytes) -> Stream:
    """The fastest way to a long AES-256-CTR stream on this machine."""
    return AesGcmStream(key) if gcm_is_faster() else aes_counter(key)


@cache
def gcm_is_faster() -> bool:
    """Whether GCM yields the counter-mode keystream faster here: tried once, in well under a millisecond.

    What it decides is how, never what: both ways give the same bytes.
    """
    zeros, buffer = bytes(_TRIAL_BYTES), bytearray(_TRIAL_BYTES)
    plain, gcm = aes_counter(bytes(KEY_BYTES)), AesGcmStream(bytes(KEY_BYTES))
    times = {False: _fastest(plain, zeros, buffer), True: _fastest(gcm, zeros, buffer)}
    return times[True] < times[False]


def _fastest(stream: Stream, zeros: bytes, buffer: bytearray) -> int:
    """Nanoseconds of the fastest of some reads, the first not counted."""
    found = []
    for _ in range(9):
        started = time.perf_counter_ns()
        stream.update_into(zeros, buffer)
        found.append(time.perf_counter_ns() - started)
    return min(found[1:])


AES: Final = Suite(1, "X25519, HKDF-SHA256, AES-256-CTR, AES-256-GCM", aes_counter, aes_long, AESGCM)
CHACHA: Final = Suite(
    2, "X25519, HKDF-SHA256, ChaCha20, ChaCha20-Poly1305", chacha_counter, chacha_counter, ChaCha20Poly1305
)
SUITES: Final = {AES.id: AES, CHACHA.id: CHACHA}
RESERVED: Final = {3: "X25519 with ML-KEM-768"}
