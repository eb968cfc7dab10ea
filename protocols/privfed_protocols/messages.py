"""The messages, field by field, and their strict codec.

MessagePack arrays: the message number as tag, the version, then the fields in order. Unknown numbers, versions and
suites, missing or surplus fields, wrong types or lengths and trailing bytes are refused by the decoder; oversize is
refused before it runs. Large payloads are decoded as views of the received bytes, not copies.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import numpy as np

from .errors import InfeasibleParameters, LocalProtocolError, UnknownFormat
from .labels import SUITE, VERSION
from .parameters import MAX_COMPLETE, GraphParameters, select_parameters
from .vectors import VectorSpec, check_layout

Version = Literal["sa1"]
Suite = Literal[1]
ModeName = Literal["semi-honest"]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Identity = Annotated[bytes, msgspec.Meta(min_length=1, max_length=128)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Round = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]  # not a number is neither, and refused
Bitmap = Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**16)]
Keys = Annotated[bytes, msgspec.Meta(min_length=32)]

OFFER_LIMIT: Final = 32 << 10  # 64 vectors with names of 64 characters of four bytes, and room
_OVERHEAD: Final = 512  # tag, version, digests and headers of any message, generously


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: shows its kind and nothing else."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Offer(Message, frozen=True, tag=0):
    """M0, server to clients: what the epoch would be. Made by `Offer.new`.

    Attributes:
        version: "sa1".
        nonce: 32 fresh bytes that make the epoch unique.
        suite: 1, X25519 + HKDF-SHA256 + AES-256-CTR + AES-256-GCM.
        mode: "semi-honest".
        n_min: fewest clients, in the roster, of a round's participants and of its survivors.
        n_max: most clients in the roster.
        corrupt: share of clients that may pool what they see with the server.
        dropout: share of clients that may be gone in a round that still has to succeed.
        sigma: statistical security in bits.
        eta: bits of the chance that allowed drop-outs fail a round.
        rounds: rounds in the epoch.
        expiry: Unix time in seconds after which clients refuse the epoch; 0 for none.
        vectors: what every client hands in, every round.
        plan_digest: SHA-256 of the plan that this epoch serves.
    """

    version: Version
    nonce: Digest
    suite: Suite
    mode: ModeName
    n_min: Annotated[int, msgspec.Meta(ge=2, le=2**31 - 1)]
    n_max: Annotated[int, msgspec.Meta(ge=2, le=2**31 - 1)]
    corrupt: Fraction
    dropout: Fraction
    sigma: Count
    eta: Count
    rounds: Round
    expiry: Time
    vectors: tuple[VectorSpec, ...]
    plan_digest: Digest

    def parameters(self, n: int) -> GraphParameters:
        """Neighbours and threshold for a roster of `n` clients; the same at every party. See `select_parameters`."""
        return select_parameters(
            n,
            corrupt=self.corrupt,
            dropout=self.dropout,
            n_min=self.n_min,
            n_max=self.n_max,
            sigma=self.sigma,
            eta=self.eta,
            mode=self.mode,
        )

    @classmethod
    def new(
        cls,
        *,
        vectors: Sequence[VectorSpec],
        n_min: int,
        n_max: int,
        rounds: int,
        plan_digest: bytes,
        corrupt: float = 0.0,
        dropout: float = 0.0,
        sigma: int = 40,
        eta: int = 20,
        expiry: int = 0,
        nonce: bytes | None = None,
    ) -> Offer:
        """Make a checked offer with a fresh nonce.

        Args:
            vectors: layout of a round, 1 to 64 uniquely named vectors.
            n_min: fewest clients, at least 2.
            n_max: most clients, at least `n_min`.
            rounds: rounds in the epoch, at least 1.
            plan_digest: 32 bytes.
            corrupt: in [0, 1).
            dropout: in [0, 1).
            sigma: bits.
            eta: bits.
            expiry: Unix seconds, 0 for none.
            nonce: 32 bytes, from the operating system if not given; give it only in tests.

        Raises:
            LocalProtocolError: an argument out of range.
            InfeasibleParameters: no allowed number of clients stands these fractions.
        """
        nonce = os.urandom(32) if nonce is None else nonce
        offer = cls(
            VERSION, nonce, SUITE, "semi-honest", n_min, n_max, float(corrupt), float(dropout), sigma, eta, rounds,
            expiry, tuple(vectors), plan_digest,
        )  # fmt: skip
        try:
            decode_offer(encode(offer))
        except (UnknownFormat, TypeError, OverflowError) as error:
            raise LocalProtocolError(f"offer is not valid: {error}") from None
        _check_feasible(offer)
        return offer


def _check_feasible(offer: Offer) -> None:
    """Refuse an offer whose fractions leave a threshold for no allowed number of clients, naming the nearest."""
    problem: InfeasibleParameters | None = None
    for n in range(offer.n_min, min(offer.n_max, MAX_COMPLETE) + 1):
        try:
            offer.parameters(n)
        except InfeasibleParameters as error:
            problem = error
        else:
            return
    raise problem or InfeasibleParameters(f"n_min={offer.n_min}, at most {MAX_COMPLETE} clients are supported")


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
    round_keys: Keys
    commitments: Keys


class Neighbour(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One neighbour in a roster: its index and its M1 as sent."""

    index: Count
    advertise: Annotated[bytes, msgspec.Meta(min_length=128)]


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
    """M3, client to server: for every neighbour, in order, AES-256-GCM of R x (share of e, share of b)."""

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
    """M6, client to server: all masked vectors of the offer, one behind the other, little endian."""

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


class Unmask(Message, frozen=True, tag=10):
    """M10, client to server: per neighbour in U, in order, 36 bytes: its share of b if it is in V, of e if not."""

    version: Version
    epoch: Digest
    round: Round
    shares: memoryview


FromServer = Offer | Roster | Delivery | Start | Survivors
FromClient = Advertise | Shares | Masked | Unmask
Decoded = TypeVar("Decoded")

_FROM_SERVER: Final[msgspec.msgpack.Decoder[FromServer]] = msgspec.msgpack.Decoder(FromServer)
_FROM_CLIENT: Final[msgspec.msgpack.Decoder[FromClient]] = msgspec.msgpack.Decoder(FromClient)
_OFFER: Final = msgspec.msgpack.Decoder(Offer)
_ADVERTISE: Final = msgspec.msgpack.Decoder(Advertise)


def encode(message: Message) -> bytes:
    """Encode a message."""
    return msgspec.msgpack.encode(message)


def decode_offer(message: bytes) -> Offer:
    """Decode and check an M0 on its own terms.

    Raises:
        UnknownFormat: it is no valid offer of this version.
    """
    offer = _decode(_OFFER, message, OFFER_LIMIT)
    problem = check_layout(offer.vectors)
    if offer.n_min > offer.n_max:
        problem = f"n_min={offer.n_min} exceeds n_max={offer.n_max}"
    if problem is not None:
        raise UnknownFormat(f"offer refused: {problem}")
    return offer


def decode_advertise(message: bytes, *, rounds: int) -> Advertise:
    """Decode an M1 and check that it holds keys and commitments for exactly `rounds` rounds.

    Raises:
        UnknownFormat: it does not.
    """
    advertise = _decode(_ADVERTISE, message, advertise_limit(rounds))
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


def decode_from_server(message: bytes, *, limit: int) -> FromServer:
    """Decode what a server may send, refusing more than `limit` bytes unread.

    Raises:
        UnknownFormat: unknown version, suite, type or field, wrong length, trailing bytes, oversize.
    """
    return _decode(_FROM_SERVER, message, limit)


def decode_from_client(message: bytes, *, limit: int) -> FromClient:
    """Decode what a client may send, refusing more than `limit` bytes unread.

    Raises:
        UnknownFormat: unknown version, type or field, wrong length, trailing bytes, oversize.
    """
    return _decode(_FROM_CLIENT, message, limit)


def _decode(decoder: msgspec.msgpack.Decoder[Decoded], message: bytes, limit: int) -> Decoded:
    if len(message) > limit:
        raise UnknownFormat(f"message has {len(message)} bytes, expected at most {limit}")
    try:
        return decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownFormat(f"message cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def advertise_limit(rounds: int) -> int:
    """Most bytes of an M1."""
    return 64 * rounds + _OVERHEAD


def roster_limit(offer: Offer) -> int:
    """Most bytes of an M2."""
    return offer.n_max * (advertise_limit(offer.rounds) + 64) + _OVERHEAD


def payload_limit(payload: int, clients: int) -> int:
    """Most bytes of a message with a payload of known size and a bitmap over `clients`."""
    return payload + (clients + 7) // 8 + _OVERHEAD


class MaskedWriter:
    """An M6 under construction: the payload is written in place, behind a header that fits it.

    The bytes of the finished message are handed over without a copy where the interpreter can (CPython's `BytesIO`),
    so a vector of 400 MB costs 400 MB beside the caller's, not 800.
    """

    def __init__(self, *, epoch: bytes, round: int, payload_bytes: int) -> None:
        empty = encode(Masked(VERSION, epoch, round, memoryview(b"")))
        self._header = empty[:-2] + _binary_header(payload_bytes)  # the empty payload is the two bytes C4 00
        self._buffer = io.BytesIO()
        self._buffer.write(self._header)
        self._buffer.seek(payload_bytes - 1, io.SEEK_CUR)
        self._buffer.write(b"\x00")

    def array(self, spec: VectorSpec, *, offset: int) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        """Writable view of the elements of one vector, `offset` bytes into the payload. Drop it before `finish`."""
        start = len(self._header) + offset
        return np.frombuffer(self._buffer.getbuffer(), spec.dtype, count=spec.length, offset=start)

    def finish(self) -> bytes:
        """Take the message."""
        return self._buffer.getvalue()


def _binary_header(length: int) -> bytes:
    """Header of MessagePack's bin family, the shortest that fits, as the encoder chooses it."""
    if length < 1 << 8:
        return b"\xc4" + length.to_bytes(1, "big")
    if length < 1 << 16:
        return b"\xc5" + length.to_bytes(2, "big")
    return b"\xc6" + length.to_bytes(4, "big")
