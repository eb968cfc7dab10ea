"""What happened, for the caller: one frozen record per message taken in.

Every client event has `reply`, the bytes to send to the server, or None. Replies do not show in a repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import Disputes
from .offer import Offer
from .vectors import Array


@dataclass(frozen=True, kw_only=True)
class ClientEvent:
    """Something a client took in; `reply` goes to the server if it is not None. Save the client before you send it."""

    reply: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Advertise(ClientEvent):
    """The offer was accepted; the reply (M1) makes the client known."""

    offer: Offer


@dataclass(frozen=True, kw_only=True)
class Rostered(ClientEvent):
    """The roster was accepted; the reply (M3) holds the encrypted shares."""

    n: int
    threshold: int


@dataclass(frozen=True, kw_only=True)
class Ready(ClientEvent):
    """Set-up is over; `present` are the indices of the neighbours whose shares arrived."""

    present: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RoundStarted(ClientEvent):
    """A round started; the caller computes on the model and plan of these digests and calls `Client.submit`."""

    round: int
    participants: tuple[int, ...]
    model_digest: bytes
    plan_digest: bytes
    deadline: int


@dataclass(frozen=True, kw_only=True)
class Signing(ClientEvent):
    """The survivors are known and signed; the reply (M8) holds the signature. Malicious mode only."""

    round: int
    survivors: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Unmasking(ClientEvent):
    """The survivors are known; the reply (M10) holds this client's shares. The round is burned."""

    round: int
    survivors: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ServerEvent:
    """The server took in a message: from whom, of which kind, for which round (0 in set-up)."""

    sender: bytes
    kind: str
    round: int


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundResult:
    """The sum of the survivors' vectors, and nothing else.

    Attributes:
        round: number of the round.
        sums: by name, the sum modulo 2^bits over all survivors, unsigned, shape (length,).
        participants: identities that were invited, in order of index.
        survivors: identities whose vectors are in the sums, in order of index.
        disputes: (dealer, givers) for each client of whose secret some shares did not fit the rest, all identities.
            The dealer dealt wrong shares or the givers gave wrong ones, and nothing tells which; with many wrong shares
            it may even have been others. A pointer for the operator; the sum is right all the same.
        surplus: seed of the surplus noise that may be taken out, by identity of the survivors that gave one: seed
            `dropped` + 1 of its chain. The surplus of a survivor that was lost before it answered stays in the sum:
            more noise, never less. Empty if the offer has no `shares`, or all its noise is needed.
        dropped: D, the noise shares that are missing from the sum: `Offer.shares` less the survivors, at least 0.
    """

    round: int
    sums: dict[str, Array] = field(repr=False)
    participants: tuple[bytes, ...]
    survivors: tuple[bytes, ...]
    disputes: Disputes = ()
    surplus: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    dropped: int = 0
