"""Signed messages: an envelope around the bytes of a message, an Ed25519 signature over exactly these bytes.

Which messages wear it depends on the mode alone, so nobody can strip a signature or add one. What is signed is a
frame of the message's label, the epoch id (empty for the offer, whose hash it is) and the SHA-256 of the body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Final

import msgspec

from . import labels
from .errors import PeerProtocolError, UnknownFormat
from .messages import (
    Advertise,
    FromClient,
    FromServer,
    Masked,
    Offer,
    Survivors,
    decode_from_client,
    decode_from_server,
)
from .modes import MODES
from .offer import check_offer
from .primitives import frame
from .wire import Message, Signature, Version, binary_header, decode, encode

CERTIFICATE_LIMIT: Final = 512
SIGNED_OVERHEAD: Final = CERTIFICATE_LIMIT + 128

_PURPOSES: Final[Mapping[type[Message], bytes]] = MappingProxyType(
    {
        Offer: labels.SIGNED_OFFER,
        Advertise: labels.SIGNED_ADVERTISE,
        Masked: labels.SIGNED_MASKED,
        Survivors: labels.SIGNED_SURVIVORS,
    }
)
_IN_SET_UP: Final = frozenset({Offer, Advertise})


class Signed(Message, frozen=True, tag=11):
    """A message with its signature.

    Attributes:
        version: "sa1".
        body: the message, as encoded.
        certificate: of the signer, in an M1 whose signer is not on a pinned list; else empty.
        signature: Ed25519, 64 bytes.
    """

    version: Version
    body: memoryview
    certificate: Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_LIMIT)]
    signature: Signature


@dataclass(frozen=True)
class Proof:
    """What came with a signed message, to be checked when the signer's key is known."""

    fingerprint: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    signature: bytes = field(repr=False)


_FROM_SERVER: Final[msgspec.msgpack.Decoder[FromServer | Signed]] = msgspec.msgpack.Decoder(FromServer | Signed)
_FROM_CLIENT: Final[msgspec.msgpack.Decoder[FromClient | Signed]] = msgspec.msgpack.Decoder(FromClient | Signed)


def is_signed(kind: type[Message], mode: str) -> bool:
    """Whether messages of a kind are signed in a mode."""
    rules = MODES[mode]
    return kind in _PURPOSES and (rules.identities if kind in _IN_SET_UP else rules.consistency)


def statement(kind: type[Message], fingerprint: bytes, *, epoch: bytes, suite: int) -> bytes:
    """What is signed for a message of a kind whose body has this SHA-256; `epoch` is empty for an offer."""
    return frame(labels.of(_PURPOSES[kind], suite), epoch, fingerprint)


def wrap(body: bytes, signature: bytes, *, certificate: bytes = b"") -> bytes:
    """Put a message and its signature into the envelope."""
    return encode(Signed(labels.VERSION, memoryview(body), certificate, signature))


def fingerprint_of(body: bytes | memoryview) -> bytes:
    """SHA-256 of the bytes of a message."""
    return hashlib.sha256(body).digest()


def read_from_server(message: bytes, *, limit: int) -> tuple[FromServer, Proof | None]:
    """Decode what a server may send, and the proof that came with it; nothing is verified yet.

    Raises:
        UnknownFormat: unknown version, suite, type or field, wrong length, trailing bytes, oversize.
    """
    outer = decode(_FROM_SERVER, message, limit)
    if isinstance(outer, Signed):
        return decode_from_server(outer.body, limit=limit), _proof(outer)
    if isinstance(outer, Offer):
        check_offer(outer)
    return outer, None


def read_from_client(message: bytes, *, limit: int) -> tuple[FromClient, Proof | None]:
    """Decode what a client may send, and the proof that came with it; nothing is verified yet.

    Raises:
        UnknownFormat: unknown version, type or field, wrong length, trailing bytes, oversize.
    """
    outer = decode(_FROM_CLIENT, message, limit)
    if not isinstance(outer, Signed):
        return outer, None
    return decode_from_client(outer.body, limit=limit), _proof(outer)


def check_dress(message: Message, proof: Proof | None, *, mode: str, missing: type[PeerProtocolError]) -> None:
    """Refuse a message without the signature that its mode asks for, and one with a signature too many.

    Raises:
        PeerProtocolError: of the class `missing`, if the signature is missing.
        UnknownFormat: the mode knows no signature on such a message, or it carries a certificate and is no M1.
    """
    expected = is_signed(type(message), mode)
    if expected and proof is None:
        raise missing(f"{message} carries no signature, which {mode} mode requires")
    if not expected and proof is not None:
        raise UnknownFormat(f"{message} carries a signature, which {mode} mode does not know")
    if proof is not None and proof.certificate and not isinstance(message, Advertise):
        raise UnknownFormat(f"{message} carries a certificate, which only an advertise may")


def _proof(outer: Signed) -> Proof:
    return Proof(fingerprint_of(outer.body), outer.certificate, outer.signature)


def envelope_header(body_bytes: int) -> bytes:
    """The envelope's bytes before a body of this size, as the encoder writes them."""
    empty = encode(Signed(labels.VERSION, memoryview(b""), b"", bytes(64)))
    return empty[: -len(envelope_trailer(bytes(64))) - 2] + binary_header(body_bytes)


def envelope_trailer(signature: bytes) -> bytes:
    """The envelope's bytes after the body: no certificate, and the signature."""
    return b"\xc4\x00" + binary_header(len(signature)) + signature
