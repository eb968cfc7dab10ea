"""A client as bytes: strict, versioned, with a checksum against accidents.

The checksum finds storage faults, not forgery: whoever can write a client's state can read its secrets already.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .client_round import Round
from .errors import CorruptState
from .labels import SAVED_CLIENT
from .offer import Offer
from .primitives import digest, equal
from .roster import RosterView
from .states import ClientState
from .vault import SavedVault
from .wire import Identity, Version

_CHECKSUM_BYTES: Final = 32


class SavedClient(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All of a client but its policy and its source of randomness. Its repr shows nothing."""

    version: Version
    state: ClientState
    identity: Identity
    offer: Offer | None
    epoch: bytes
    advertise: bytes
    vault: SavedVault | None
    view: RosterView | None
    present: tuple[int, ...]
    last: int
    answered: int
    round: Round | None
    accepted: bytes = b""  # states of before there was one have none: a repeat burns then

    def __repr__(self) -> str:
        return "<SavedClient>"


_DECODER: Final = msgspec.msgpack.Decoder(SavedClient)


def pack(saved: SavedClient) -> bytes:
    """Encode, checksum first."""
    body = msgspec.msgpack.encode(saved)
    return digest(SAVED_CLIENT, body) + body


def unpack(data: bytes) -> SavedClient:
    """Inverse of `pack`.

    Raises:
        CorruptState: checksum, version or structure do not fit.
    """
    checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if not equal(checksum, digest(SAVED_CLIENT, body)):
        raise CorruptState("saved client state is damaged; this client cannot go on in this epoch")
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"saved client state is of another version ({type(error).__name__})") from None
