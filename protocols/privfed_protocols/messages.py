"""The messages, field by field, and their strict codec.

MessagePack arrays: the message number as tag, the version, then the fields in order. Unknown numbers, versions and
suites, missing or surplus fields, wrong types or lengths and trailing bytes are refused by the decoder; oversize is
refused before it runs. Large payloads are decoded as views of the received bytes, not copies. How messages are signed
is in `signed.py`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from .errors import UnknownFormat
from .offer import OFFER_LIMIT, Offer, check_offer, decode_offer
from .parameters import MAX_NEIGHBOURS
from .wire import (
    OVERHEAD,
    Bitmap,
    Count,
    Digest,
    Identity,
    Message,
    Round,
    Signature,
    Time,
    Version,
    decode,
    encode,
)

__all__ = [
    "OFFER_LIMIT",
    "Advertise",
    "Consistency",
    "Delivery",
    "FromClient",
    "FromServer",
    "Masked",
    "Message",
    "Neighbour",
    "Offer",
    "Quorum",
    "Roster",
    "Shares",
    "Start",
    "Survivors",
    "Unmask",
    "advertise_limit",
    "check_advertise",
    "decode_advertise",
    "decode_from_client",
    "decode_from_server",
    "decode_offer",
    "encode",
    "payload_limit",
    "roster_limit",
]


class Advertise(Message, frozen=True, tag=1):
    """M1, client to server: the public half of a client's epoch.

    Attributes:
        version: "sa1".
        epoch: epoch id.
        identity: the client's identity, 1 to 128 bytes.
        channel_key: X25519 public key for share encryption.
        round_keys: X25519 public keys of rounds 1 to R, 32 bytes each.
        commitments: commitments to the self-mask seeds of rounds 1 to R, 32 bytes each.
    """

    version: Version
    epoch: Digest
    identity: Identity
    channel_key: Digest
    round_keys: bytes
    commitments: bytes


class Neighbour(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One neighbour in a roster: its index, its M1 as sent, and the M1's inclusion path.

    The path is empty on the complete graph, where the receiver holds all leaves and computes the root from them.
    """

    index: Count
    advertise: Annotated[bytes, msgspec.Meta(min_length=128)]
    path: tuple[Digest, ...]


class Roster(Message, frozen=True, tag=2):
    """M2, server to client: who is in, and the client's place.

    Attributes:
        version: "sa1".
        epoch: epoch id.
        n: number of clients.
        k: number of neighbours.
        t: threshold.
        root: RFC 6962 root over all M1s as sent, sorted by identity.
        index: the receiver's place in that order.
        path: inclusion path of the receiver's own M1.
        neighbours: the M1s of the receiver's neighbours, in the order of the graph.
    """

    version: Version
    epoch: Digest
    n: Count
    k: Count
    t: Count
    root: Digest
    index: Count
    path: tuple[Digest, ...]
    neighbours: tuple[Neighbour, ...]


class Shares(Message, frozen=True, tag=3):
    """M3, client to server: for every neighbour, in order, the sealed R x (share of e, share of b)."""

    version: Version
    epoch: Digest
    root: Digest
    ciphertexts: memoryview


class Delivery(Message, frozen=True, tag=4):
    """M4, server to client: bitmap of those whose M3 arrived; their ciphertexts for the receiver, in order of index."""

    version: Version
    epoch: Digest
    present: Bitmap
    ciphertexts: memoryview


class Start(Message, frozen=True, tag=5):
    """M5, server to client: a round begins; participants bitmap U, digests, deadline (Unix seconds, 0 for none)."""

    version: Version
    epoch: Digest
    round: Round
    participants: Bitmap
    model_digest: Digest
    plan_digest: Digest
    deadline: Time


class Masked(Message, frozen=True, tag=6):
    """M6, client to server: all masked vectors of the offer, packed, one behind the other."""

    version: Version
    epoch: Digest
    round: Round
    payload: memoryview


class Survivors(Message, frozen=True, tag=7):
    """M7, server to client: bitmap V of those whose M6 arrived whole."""

    version: Version
    epoch: Digest
    round: Round
    survivors: Bitmap


class Consistency(Message, frozen=True, tag=8):
    """M8, client to server, malicious mode: signature over the round's context and the V that this client was told."""

    version: Version
    epoch: Digest
    round: Round
    signature: Signature


class Quorum(Message, frozen=True, tag=9):
    """M9, server to client, malicious mode: who signed, as bitmap, and their signatures of 64 bytes, ascending."""

    version: Version
    epoch: Digest
    round: Round
    signers: Bitmap
    signatures: memoryview


class Unmask(Message, frozen=True, tag=10):
    """M10, client to server: shares, and what the client's surplus noise can be taken out with.

    Attributes:
        version: "sa1".
        epoch: epoch id.
        round: number of the round.
        shares: per neighbour in U, in order, 36 bytes: its share of b if it is in V, of e if not.
        surplus: seed of 32 bytes that the surplus noise from the next drop-out on regenerates from; else empty.
    """

    version: Version
    epoch: Digest
    round: Round
    shares: memoryview
    surplus: Annotated[bytes, msgspec.Meta(max_length=32)]


FromServer = Offer | Roster | Delivery | Start | Survivors | Quorum
FromClient = Advertise | Shares | Masked | Consistency | Unmask

_FROM_SERVER: Final[msgspec.msgpack.Decoder[FromServer]] = msgspec.msgpack.Decoder(FromServer)
_FROM_CLIENT: Final[msgspec.msgpack.Decoder[FromClient]] = msgspec.msgpack.Decoder(FromClient)
_ADVERTISE: Final = msgspec.msgpack.Decoder(Advertise)


def decode_advertise(message: bytes | memoryview, *, rounds: int) -> Advertise:
    """Decode an M1 and check that it holds keys and commitments for exactly `rounds` rounds.

    Raises:
        UnknownFormat: it does not.
    """
    advertise = decode(_ADVERTISE, message, advertise_limit(rounds))
    check_advertise(advertise, rounds=rounds)
    return advertise


def check_advertise(advertise: Advertise, *, rounds: int) -> None:
    """Refuse an M1 with another number of round keys or commitments.

    Raises:
        UnknownFormat: naming the lengths.
    """
    if not len(advertise.round_keys) == len(advertise.commitments) == 32 * rounds:
        raise UnknownFormat(
            f"advertise has {len(advertise.round_keys)} bytes of round keys and {len(advertise.commitments)} of "
            f"commitments, expected {32 * rounds} each for {rounds} rounds"
        )


def decode_from_server(message: bytes | memoryview, *, limit: int) -> FromServer:
    """Decode what a server may send unsigned, refusing more than `limit` bytes unread.

    Raises:
        UnknownFormat: unknown version, suite, type or field, wrong length, trailing bytes, oversize.
    """
    decoded = decode(_FROM_SERVER, message, limit)
    if isinstance(decoded, Offer):
        check_offer(decoded)
    return decoded


def decode_from_client(message: bytes | memoryview, *, limit: int) -> FromClient:
    """Decode what a client may send unsigned, refusing more than `limit` bytes unread.

    Raises:
        UnknownFormat: unknown version, type or field, wrong length, trailing bytes, oversize.
    """
    return decode(_FROM_CLIENT, message, limit)


def advertise_limit(rounds: int) -> int:
    """Most bytes of an M1, without its signature."""
    return 64 * rounds + OVERHEAD


def payload_limit(payload: int, clients: int) -> int:
    """Most bytes of a message with a payload of known size and a bitmap over `clients`."""
    return payload + (clients + 7) // 8 + OVERHEAD


def roster_limit(offer: Offer) -> int:
    """Most bytes of an M2: as many M1s as any graph gives a client, and its own, signed, each with the deepest path."""
    depth = 34 * (offer.n_max - 1).bit_length()
    return min(offer.n_max, MAX_NEIGHBOURS + 1) * (advertise_limit(offer.rounds) + 2 * OVERHEAD + depth) + OVERHEAD
