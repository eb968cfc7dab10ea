"""What all messages have in common: field types with their bounds, the base class, and the strict decoder."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from .errors import UnknownFormat

Version = Literal["sa1"]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Identity = Annotated[bytes, msgspec.Meta(min_length=1, max_length=128)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Round = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]  # not a number is neither, and refused
Bitmap = Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**18)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Decoded = TypeVar("Decoded")

OVERHEAD: Final = 512  # tag, version, digests and headers of any message, generously


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: shows its kind and nothing else."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def encode(message: Message) -> bytes:
    """Encode a message."""
    return msgspec.msgpack.encode(message)


def decode(decoder: msgspec.msgpack.Decoder[Decoded], message: bytes | memoryview, limit: int) -> Decoded:
    """Decode, refusing more than `limit` bytes unread.

    Raises:
        UnknownFormat: oversize, or not exactly what the decoder's types allow.
    """
    if len(message) > limit:
        raise UnknownFormat(f"message has {len(message)} bytes, expected at most {limit}")
    try:
        return decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownFormat(f"message cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def binary_header(length: int) -> bytes:
    """Header of MessagePack's bin family, the shortest that fits, as the encoder chooses it."""
    if length < 1 << 8:
        return b"\xc4" + length.to_bytes(1, "big")
    if length < 1 << 16:
        return b"\xc5" + length.to_bytes(2, "big")
    return b"\xc6" + length.to_bytes(4, "big")
