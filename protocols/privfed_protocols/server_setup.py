"""What the server computes and checks in set-up: M1 to M2, M3 to M4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import bitmap
from .client_setup import check_keys, ciphertext_bytes
from .errors import BadNeighbour, BadShareMessage, Disputes, UnknownSender, WrongRound
from .graph import CompleteGraph
from .labels import VERSION
from .merkle import leaf_hash, path_of, root_of
from .messages import Advertise, Delivery, Neighbour, Offer, Roster, Shares, check_advertise, encode
from .parameters import GraphParameters
from .primitives import KEY_BYTES, equal


class Advertised:
    """The M1s so far: checked one by one, so that one bad client cannot spoil the roster for all."""

    def __init__(self, offer: Offer, epoch: bytes) -> None:
        self._offer = offer
        self._epoch = epoch
        self._keys: set[bytes] = set()
        self.messages: dict[bytes, tuple[bytes, Advertise]] = {}

    def add(self, sender: bytes, advertise: Advertise, message: bytes) -> None:
        """Take in an M1.

        Raises:
            PeerProtocolError: it would make other clients refuse the roster, or names another sender.
        """
        if not equal(advertise.epoch, self._epoch):
            raise WrongRound("advertise is for another epoch")
        if advertise.identity != sender:
            raise UnknownSender(f"client {sender.hex()} advertises as {advertise.identity.hex()}")
        check_advertise(advertise, rounds=self._offer.rounds)
        check_keys([advertise])
        keys = {advertise.channel_key, *_split(advertise.round_keys)}
        if keys & self._keys:
            raise BadNeighbour(f"a public key of {sender.hex()} was advertised by another client")
        self._keys |= keys
        self.messages[sender] = (bytes(message), advertise)


@dataclass(frozen=True)
class ServerRoster:
    """The roster as the server keeps it.

    Attributes:
        identities: sorted; the place is the index.
        parameters: (k, t).
        root: Merkle root.
        round_keys: per client, its public keys of all rounds.
        commitments: per client, its seed commitments of all rounds.
    """

    identities: tuple[bytes, ...]
    parameters: GraphParameters
    root: bytes
    round_keys: tuple[bytes, ...] = field(repr=False)
    commitments: tuple[bytes, ...] = field(repr=False)

    @property
    def n(self) -> int:
        """Number of clients."""
        return len(self.identities)

    @property
    def graph(self) -> CompleteGraph:
        """Who shares with whom."""
        return CompleteGraph(self.n)

    def named(self, disputes: Iterable[tuple[int, tuple[int, ...]]]) -> Disputes:
        """Disputes by identity instead of by index."""
        return tuple(
            (self.identities[dealer], tuple(self.identities[giver] for giver in givers)) for dealer, givers in disputes
        )

    def round_key(self, index: int, round: int) -> bytes:
        """Public key of a client in a round."""
        return self.round_keys[index][KEY_BYTES * (round - 1) : KEY_BYTES * round]

    def commitment(self, index: int, round: int) -> bytes:
        """Seed commitment of a client in a round."""
        return self.commitments[index][KEY_BYTES * (round - 1) : KEY_BYTES * round]


def make_rosters(
    offer: Offer, epoch: bytes, messages: Mapping[bytes, tuple[bytes, Advertise]]
) -> tuple[ServerRoster, dict[bytes, bytes]]:
    """Sort, hash and cut the roster: the server's own view, and an M2 for each client."""
    identities = tuple(sorted(messages))
    n = len(identities)
    parameters = offer.parameters(n)
    leaves = [messages[identity][0] for identity in identities]
    advertised = [messages[identity][1] for identity in identities]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    entries = [Neighbour(index, leaf) for index, leaf in enumerate(leaves)]
    roster = ServerRoster(
        identities=identities,
        parameters=parameters,
        root=root_of(hashes),
        round_keys=tuple(one.round_keys for one in advertised),
        commitments=tuple(one.commitments for one in advertised),
    )
    return roster, {
        identity: encode(
            Roster(
                version=VERSION,
                epoch=epoch,
                n=n,
                k=parameters.k,
                t=parameters.t,
                root=roster.root,
                index=index,
                path=path_of(hashes, index),
                neighbours=tuple(entries[neighbour] for neighbour in roster.graph.neighbours(index)),
            )
        )
        for index, identity in enumerate(identities)
    }


def check_shares(shares: Shares, *, roster: ServerRoster, offer: Offer, epoch: bytes) -> bytes:
    """Check an M3 for form and roster; what it holds only its receivers can check.

    Raises:
        WrongRound: another epoch or roster.
        BadShareMessage: wrong length.
    """
    if not (equal(shares.epoch, epoch) and equal(shares.root, roster.root)):
        raise WrongRound("shares are for another epoch or roster")
    expected = ciphertext_bytes(offer.rounds) * roster.parameters.k
    if len(shares.ciphertexts) != expected:
        raise BadShareMessage(f"{len(shares.ciphertexts)} bytes of encrypted shares, expected {expected}")
    return bytes(shares.ciphertexts)


def make_deliveries(
    shared: Mapping[int, bytes], *, roster: ServerRoster, offer: Offer, epoch: bytes
) -> dict[bytes, bytes]:
    """Turn the ciphertexts round: an M4 for each client whose M3 arrived."""
    size = ciphertext_bytes(offer.rounds)
    present = bitmap.pack(shared, roster.n)
    pieces: dict[int, list[bytes]] = {receiver: [] for receiver in shared}
    for sender in sorted(shared):
        for place, receiver in enumerate(roster.graph.neighbours(sender)):
            if receiver in pieces:
                pieces[receiver].append(shared[sender][size * place : size * (place + 1)])
    return {
        roster.identities[receiver]: encode(Delivery(VERSION, epoch, present, memoryview(b"".join(addressed))))
        for receiver, addressed in pieces.items()
    }


def _split(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
