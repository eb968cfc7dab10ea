"""What the server computes and checks in set-up: M1 to M2, M3 to M4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import bitmap
from .client_setup import ciphertext_bytes
from .errors import BadNeighbour, BadShareMessage, Disputes, UnknownSender, WrongRound
from .graph import Graph
from .identities import Directory
from .labels import VERSION
from .mail import Mail
from .merkle import Tree, leaf_hash
from .messages import Advertise, Delivery, Neighbour, Offer, Roster, Shares, check_advertise, encode
from .parameters import GraphParameters
from .primitives import KEY_BYTES, equal
from .roster import check_keys, check_signer, keys_of
from .signed import Proof
from .topology import Topology, graph_of


@dataclass(frozen=True)
class Advertisement:
    """One M1 that was taken in: the bytes as sent, what the server needs of it, and the sender's signature key."""

    message: bytes = field(repr=False)
    round_keys: bytes = field(repr=False)
    commitments: bytes = field(repr=False)
    signature_key: bytes = field(repr=False)


class Advertised:
    """The M1s so far: checked one by one, so that one bad client cannot spoil the roster for all."""

    def __init__(self, offer: Offer, epoch: bytes, directory: Directory | None = None) -> None:
        self._offer = offer
        self._epoch = epoch
        self._directory = directory
        self._keys: set[bytes] = set()
        self.taken: dict[bytes, Advertisement] = {}

    def add(self, sender: bytes, advertise: Advertise, message: bytes, proof: Proof | None = None) -> None:
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
        keys, signature_key = {*keys_of(advertise)}, b""
        if proof is not None and self._directory is not None:
            signature_key = check_signer(advertise, proof, offer=self._offer, directory=self._directory)
            keys.add(b"Ed25519" + signature_key)
        if keys & self._keys:
            raise BadNeighbour(f"a public key of {sender.hex()} was advertised by another client")
        self._keys |= keys
        self.taken[sender] = Advertisement(bytes(message), advertise.round_keys, advertise.commitments, signature_key)


@dataclass(frozen=True)
class ServerRoster:
    """The roster as the server keeps it.

    Attributes:
        identities: sorted; the place is the index.
        parameters: (k, t).
        root: Merkle root.
        round_keys: per client, its public keys of all rounds.
        commitments: per client, its seed commitments of all rounds.
        signature_keys: per client, its Ed25519 public key; empty in the mode without identities.
        graph: who shares with whom.
        topology: its edges.
    """

    identities: tuple[bytes, ...]
    parameters: GraphParameters
    root: bytes
    round_keys: tuple[bytes, ...] = field(repr=False)
    commitments: tuple[bytes, ...] = field(repr=False)
    signature_keys: tuple[bytes, ...] = field(repr=False)
    graph: Graph = field(repr=False)
    topology: Topology = field(repr=False)

    @property
    def n(self) -> int:
        """Number of clients."""
        return len(self.identities)

    def mail(self, indices: Iterable[int]) -> dict[bytes, int]:
        """Indices by identity, for a `Mail`."""
        return {self.identities[index]: index for index in indices}

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


def make_rosters(offer: Offer, epoch: bytes, taken: Mapping[bytes, Advertisement]) -> tuple[ServerRoster, Mail]:
    """Sort, hash and cut the roster: the server's own view, and an M2 for each client."""
    identities = tuple(sorted(taken))
    n = len(identities)
    parameters = offer.parameters(n)
    advertised = [taken[identity] for identity in identities]
    leaves = [one.message for one in advertised]
    tree = Tree([leaf_hash(leaf) for leaf in leaves])
    graph = graph_of(parameters, n=n, root=tree.root, suite=offer.suite)
    complete = parameters.k == n - 1
    roster = ServerRoster(
        identities=identities,
        parameters=parameters,
        root=tree.root,
        round_keys=tuple(one.round_keys for one in advertised),
        commitments=tuple(one.commitments for one in advertised),
        signature_keys=tuple(one.signature_key for one in advertised),
        graph=graph,
        topology=Topology.of(graph),
    )

    def entry(index: int) -> Neighbour:
        return Neighbour(index, leaves[index], () if complete else tree.path(index))

    def make(index: int) -> bytes:
        return encode(
            Roster(
                version=VERSION,
                epoch=epoch,
                n=n,
                k=parameters.k,
                t=parameters.t,
                root=tree.root,
                index=index,
                path=tree.path(index),
                neighbours=tuple(entry(neighbour) for neighbour in graph.neighbours(index)),
            )
        )

    return roster, Mail(roster.mail(range(n)), make)


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
    shared: Mapping[int, bytes], receivers: Iterable[int], *, roster: ServerRoster, offer: Offer, epoch: bytes
) -> Mail:
    """Turn the ciphertexts round: an M4 for each receiver. They are held once, and freed with the mail."""
    size = ciphertext_bytes(offer.rounds)
    present = bitmap.pack(shared, roster.n)
    rows, places = roster.topology.rows, roster.topology.places

    def make(receiver: int) -> bytes:
        ends = zip(rows[receiver].tolist(), places[receiver].tolist(), strict=True)
        addressed = [
            memoryview(shared[sender])[size * place : size * (place + 1)] for sender, place in ends if sender in shared
        ]
        return encode(Delivery(VERSION, epoch, present, memoryview(b"".join(addressed))))

    return Mail(roster.mail(receivers), make)
