"""Encodings, hashes, keys and streams of the protocol text: an independent, slow implementation to check against."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305


def pack(value: object) -> bytes:
    match value:
        case int():
            if value < 1 << 7:
                return bytes([value])
            size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size))
            return bytes([{1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}[size]]) + value.to_bytes(size, "big")
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            text = value.encode()
            short = bytes([0xA0 | len(text)]) if len(text) < 32 else b"\xd9" + bytes([len(text)])
            return (short if len(text) < 256 else b"\xda" + len(text).to_bytes(2, "big")) + text
        case bytes():
            size = next(size for size in (1, 2, 4) if len(value) < 1 << (8 * size))
            return bytes([{1: 0xC4, 2: 0xC5, 4: 0xC6}[size]]) + len(value).to_bytes(size, "big") + value
        case list():
            head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
            return head + b"".join(pack(one) for one in value)
    raise TypeError(type(value))


def message(number: int, *fields: object) -> bytes:
    return pack([number, "sa1", *fields])


def num(value: int) -> bytes:
    return value.to_bytes(8, "little")


def frame(purpose: str, suite: int | None, *parts: bytes) -> bytes:
    name = f"privfed/sa1/{'' if suite is None else f'suite{suite}/'}{purpose}".encode()
    return bytes([len(name)]) + name + b"".join(num(len(part)) + part for part in parts)


def sha(purpose: str, suite: int | None, *parts: bytes) -> bytes:
    return hashlib.sha256(frame(purpose, suite, *parts)).digest()


def kdf(salt: bytes, secret: bytes, info: bytes, size: int = 32) -> bytes:
    key, out, block = hmac.digest(salt, secret, "sha256"), b"", b""  # HKDF, RFC 5869
    while len(out) < size:
        block = hmac.digest(key, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:size]


def dh(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(seed: bytes, text: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(text)


def stream(suite: int, key: bytes, size: int) -> bytes:
    if suite == 1:
        block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 -- counter mode by hand
        return b"".join(block.update(at.to_bytes(16, "big")) for at in range(-(-size // 16)))[:size]
    starts = (at.to_bytes(4, "little") + bytes(12) for at in range(-(-size // 64)))
    blocks = (Cipher(algorithms.ChaCha20(key, start), None).encryptor().update(bytes(64)) for start in starts)
    return b"".join(blocks)[:size]


def seal(suite: int, key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    cipher = AESGCM(key) if suite == 1 else ChaCha20Poly1305(key)
    return cipher.encrypt(bytes(12), plaintext, associated)


def tree(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) < 2:  # RFC 6962, section 2.1
        return hashlib.sha256(b"\0" + leaves[0] if leaves else b"").digest()
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    if len(leaves) < 2:
        return []
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < half:
        return [*path(leaves[:half], index), tree(leaves[half:])]
    return [*path(leaves[half:], index - half), tree(leaves[:half])]


def bitmap(members: Sequence[int], n: int) -> bytes:
    return sum(1 << member for member in members).to_bytes(-(-n // 8), "little")
