"""The primitives as this protocol calls them: framing, SHA-256, HKDF-SHA256, X25519, authenticated encryption.

Nothing here is a construction of our own; the module fixes encodings and refuses what must never be accepted.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from .errors import BadShareMessage, LowOrderPoint
from .suites import AES, Suite

Bytes: TypeAlias = bytes | bytearray | memoryview

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
_ZERO_NONCE: Final = bytes(12)
_FIELD_25519: Final = 2**255 - 19

# The x-coordinates of order 1, 2, 4 and 8 on Curve25519 and its twist, in canonical form.
# Source: D. J. Bernstein, "Curve25519: new Diffie-Hellman speed records", and https://cr.yp.to/ecdh.html#validate.
_LOW_ORDER: Final = frozenset(
    value.to_bytes(KEY_BYTES, "little")
    for value in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _FIELD_25519 - 1,
    )
)


def frame(label: bytes, *parts: Bytes) -> bytes:
    """Join a label and any parts so that no other label and parts give the same bytes.

    One byte for the length of the label, the label, then each part behind its length as 8 bytes, little endian.
    """
    pieces: list[Bytes] = [bytes([len(label)]), label]
    for part in parts:
        pieces.append(len(part).to_bytes(8, "little"))
        pieces.append(part)
    return b"".join(pieces)


def number(value: int) -> bytes:
    """Encode an index, a round or a length as 8 bytes, little endian."""
    return value.to_bytes(8, "little")


def digest(label: bytes, *parts: Bytes) -> bytes:
    """SHA-256 over `frame(label, *parts)`, 32 bytes.

    The first byte is the length of the label, at least 16, so this never meets the 0 and 1 that start the hashes of
    RFC 6962 trees.
    """
    return hashlib.sha256(frame(label, *parts)).digest()


def equal(left: Bytes, right: Bytes) -> bool:
    """Compare in time that does not depend on where the difference lies."""
    return hmac.compare_digest(left, right)


def hkdf_extract(salt: Bytes, key_material: Bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2)."""
    return hmac.digest(salt, key_material, "sha256")


def hkdf_expand(pseudorandom_key: Bytes, info: bytes) -> bytes:
    """Expand to 32 bytes: HKDF-Expand with SHA-256 (RFC 5869, section 2.3), where one block is the whole output."""
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")


def public_key(private: Bytes) -> bytes:
    """X25519 public key of 32 private bytes; clamping is part of X25519 (RFC 7748, section 5)."""
    return X25519PrivateKey.from_private_bytes(bytes(private)).public_key().public_bytes_raw()


def check_public_key(public: bytes, *, owner: str) -> None:
    """Refuse a public key of low order or in another than its canonical form.

    X25519 ignores bit 255 and reduces modulo 2^255 - 19. Without the check on the form, one key could be sent under
    several encodings and pass for distinct keys. Distinct strings are no proof of distinct keys, though: a public key
    plus a point of low order is another canonical string with the same shared secrets.

    Raises:
        LowOrderPoint: naming the owner, never the key.
    """
    if public in _LOW_ORDER:
        raise LowOrderPoint(f"public key of {owner} has low order; it would make the shared secret known to everybody")
    if int.from_bytes(public, "little") >= _FIELD_25519:
        raise LowOrderPoint(f"public key of {owner} is not in canonical form")


class Agreement:
    """One X25519 private key, loaded once to agree with many peers. Its repr shows nothing."""

    __slots__ = ("_private",)

    def __init__(self, private: Bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(bytes(private))

    def shared_secret(self, public: bytes) -> bytes:
        """X25519 of this key and a peer's public key, 32 bytes, never all zeros.

        Raises:
            LowOrderPoint: if the result is all zeros (RFC 7748, section 6.1).
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise LowOrderPoint("X25519 with a peer's public key gave the all-zero value") from None


def seal(key: bytes, plaintext: Bytes, associated: bytes, *, suite: Suite = AES) -> bytes:
    """Encrypt under a key that encrypts once: zero nonce, the tag (16 bytes) at the end."""
    return suite.sealer(key).encrypt(_ZERO_NONCE, bytes(plaintext), associated)


def unseal(key: bytes, ciphertext: Bytes, associated: bytes, *, sender: str, suite: Suite = AES) -> bytes:
    """Open what `seal` made.

    Raises:
        BadShareMessage: naming the sender, if the ciphertext does not authenticate.
    """
    try:
        return suite.sealer(key).decrypt(_ZERO_NONCE, bytes(ciphertext), associated)
    except InvalidTag:
        raise BadShareMessage(f"shares from {sender} do not authenticate under this roster") from None
