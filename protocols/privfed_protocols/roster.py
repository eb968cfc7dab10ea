"""M2 at the client: everything that a roster has to hold before a client shares a secret under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import (
    BadNeighbour,
    BadOwnLeaf,
    BadRoster,
    BadSignature,
    InfeasibleParameters,
    LocalProtocolError,
    RosterSize,
    UnknownFormat,
    WeakParameters,
    WrongNeighbours,
    WrongRound,
)
from .identities import Directory, verify
from .labels import SUITE
from .merkle import leaf_hash, root_of, verify_path
from .messages import Advertise, Neighbour, Offer, Roster, advertise_limit, check_advertise
from .parameters import GraphParameters, worst_count
from .policy import ClientPolicy
from .primitives import KEY_BYTES, check_public_key, equal
from .signed import SIGNED_OVERHEAD, Proof, check_dress, read_from_client, statement
from .topology import graph_of


@dataclass(frozen=True)
class RosterView:
    """What a client keeps of the roster it accepted.

    Attributes:
        n: number of clients.
        t: threshold.
        fewest: fewest participants and survivors with which secrecy holds.
        index: the client's own place.
        root: Merkle root.
        neighbours: indices, in the order of the graph.
        identities: of the neighbours, in the same order.
        channel_keys: channel public keys of the neighbours, in the same order.
        round_keys: per neighbour, the public keys of all rounds, 32 bytes each.
        signature_keys: per neighbour, its Ed25519 public key; empty in the mode without identities.
    """

    n: int
    t: int
    fewest: int
    index: int
    root: bytes = field(repr=False)
    neighbours: tuple[int, ...]
    identities: tuple[bytes, ...]
    channel_keys: tuple[bytes, ...] = field(repr=False)
    round_keys: tuple[bytes, ...] = field(repr=False)
    signature_keys: tuple[bytes, ...] = field(repr=False)

    def name(self, neighbour: int) -> str:
        """How an error calls a neighbour."""
        return f"client {neighbour} (identity {self.identities[self.neighbours.index(neighbour)].hex()})"

    def round_key(self, position: int, round: int) -> bytes:
        """Public key of a round, of the neighbour at `position` in the list."""
        return self.round_keys[position][KEY_BYTES * (round - 1) : KEY_BYTES * round]


def read_advertise(message: bytes, *, offer: Offer) -> tuple[Advertise, Proof | None]:
    """Decode an M1 as sent, dressed as the mode asks for.

    Raises:
        UnknownFormat: it is none, or holds keys for another number of rounds.
        BadSignature: it is not signed where it has to be.
    """
    read, proof = read_from_client(message, limit=advertise_limit(offer.rounds) + SIGNED_OVERHEAD)
    if not isinstance(read, Advertise):
        raise UnknownFormat(f"{read} in the place of an advertise")
    check_dress(read, proof, mode=offer.mode, missing=BadSignature)
    check_advertise(read, rounds=offer.rounds)
    return read, proof


def check_signer(advertise: Advertise, proof: Proof, *, offer: Offer, directory: Directory) -> bytes:
    """Find the key behind an M1's identity and verify its signature; the key.

    Raises:
        BadNeighbour: no key that is believed.
        BadSignature: not signed by that key.
    """
    key = directory.key_of(advertise.identity, proof.certificate, until=offer.expiry)
    signed = statement(Advertise, proof.fingerprint, epoch=advertise.epoch, suite=offer.suite)
    if not verify(key, proof.signature, signed):
        raise BadSignature(f"advertise of {advertise.identity.hex()} is not signed by its key")
    return key


def check_roster(
    roster: Roster,
    *,
    offer: Offer,
    epoch: bytes,
    identity: bytes,
    advertise: bytes,
    policy: ClientPolicy,
    directory: Directory | None,
) -> RosterView:
    """Check M2 in full: size, parameters, own leaf, graph, identities, root, keys, signatures; refusals 3 and 5 to 10.

    `directory` is given in the modes with identities.
    """
    if roster.epoch != epoch:
        raise WrongRound("roster is for another epoch")
    if not offer.n_min <= roster.n <= offer.n_max:
        raise RosterSize(f"roster of {roster.n} clients, offered {offer.n_min} to {offer.n_max}")
    own = _check_parameters(roster, offer, policy)
    _check_own_leaf(roster, advertise)
    neighbours = _check_graph(roster, own, suite=offer.suite)
    read = [read_advertise(entry.advertise, offer=offer) for entry in roster.neighbours]
    others = [one for one, _ in read]
    if any(other.epoch != epoch for other in others):
        raise WrongRound("roster holds an advertise of another epoch")
    _check_identities([other.identity for other in others], neighbours, identity, roster.index, policy)
    _check_root(roster, advertise)
    check_keys([*others, read_advertise(advertise, offer=offer)[0]])
    return RosterView(
        n=roster.n,
        t=own.t,
        fewest=max(offer.n_min, own.survivors),
        index=roster.index,
        root=roster.root,
        neighbours=neighbours,
        identities=tuple(other.identity for other in others),
        channel_keys=tuple(other.channel_key for other in others),
        round_keys=tuple(other.round_keys for other in others),
        signature_keys=() if directory is None else _signature_keys(read, offer=offer, directory=directory),
    )


def _check_parameters(roster: Roster, offer: Offer, policy: ClientPolicy) -> GraphParameters:
    try:
        own = offer.parameters(roster.n)
    except (InfeasibleParameters, LocalProtocolError) as error:
        raise WeakParameters(f"no parameters fit this roster: {error}") from None
    if (roster.k, roster.t) != (own.k, own.t):
        raise WeakParameters(f"roster says k={roster.k}, t={roster.t}; own selection is k={own.k}, t={own.t}")
    if own.t <= policy.min_colluders:
        raise WeakParameters(f"a threshold of {own.t} does not stand {policy.min_colluders} colluders")
    stood = worst_count(offer.corrupt, offer.n_max)
    # A threshold alone does not stop a server that tells neighbours different things, nor colluders who surround one
    # client on a ring: those need parameters that were selected for so many.
    if stood < policy.min_colluders and (offer.rules.identities or own.k < roster.n - 1):
        raise WeakParameters(
            f"parameters for {stood} corrupt of {offer.n_max} clients do not stand {policy.min_colluders} colluders"
        )
    return own


def _check_own_leaf(roster: Roster, advertise: bytes) -> None:
    leaf = leaf_hash(advertise)
    if not verify_path(leaf, index=roster.index, size=roster.n, path=roster.path, root=roster.root):
        raise BadOwnLeaf(f"own advertise is not at place {roster.index} under the roster's root")


def _check_graph(roster: Roster, own: GraphParameters, *, suite: int = SUITE) -> tuple[int, ...]:
    """Compute the own neighbours and compare; the own place was proven before."""
    graph = graph_of(own, n=roster.n, root=roster.root, suite=suite)
    neighbours = graph.neighbours(roster.index)
    if tuple(entry.index for entry in roster.neighbours) != neighbours:
        raise WrongNeighbours(
            f"roster names {len(roster.neighbours)} neighbours that are not the {graph.k} of the graph"
        )
    return neighbours


def _check_identities(
    others: list[bytes], neighbours: Sequence[int], own: bytes, index: int, policy: ClientPolicy
) -> None:
    if own in others:
        raise BadOwnLeaf("own identity is in the roster twice")
    if len(set(others)) != len(others):
        raise BadNeighbour("an identity is in the roster twice")
    before = sum(neighbour < index for neighbour in neighbours)
    everybody = [*others[:before], own, *others[before:]]
    if everybody != sorted(everybody):
        raise BadRoster("roster is not sorted by identity")
    for identity in others:
        policy.check_identity(identity)


def _check_root(roster: Roster, advertise: bytes) -> None:
    """Hold all leaves against the root: computed anew where the client has all of them, by their paths where not."""
    entries = roster.neighbours
    if len(entries) == roster.n - 1:
        leaves = [entry.advertise for entry in entries]
        leaves.insert(roster.index, advertise)
        proven = not any(entry.path for entry in entries)
        proven = proven and equal(root_of([leaf_hash(leaf) for leaf in leaves]), roster.root)
    else:
        proven = all(_is_under(entry, roster) for entry in entries)
    if not proven:
        raise BadRoster("the advertised keys do not hash to the roster's root")


def _is_under(entry: Neighbour, roster: Roster) -> bool:
    leaf = leaf_hash(entry.advertise)
    return verify_path(leaf, index=entry.index, size=roster.n, path=entry.path, root=roster.root)


def check_keys(advertised: list[Advertise]) -> None:
    """Refuse repeated and low-order public keys, over all clients and rounds.

    Raises:
        BadNeighbour: a public key occurs twice.
        LowOrderPoint: naming the owner.
    """
    seen: set[bytes] = set()
    total = 0
    for advertise in advertised:
        keys = keys_of(advertise)
        for key in keys:
            check_public_key(key, owner=advertise.identity.hex())
        seen.update(keys)
        total += len(keys)
        if len(seen) != total:
            raise BadNeighbour(f"a public key of {advertise.identity.hex()} occurs twice in the roster")


def keys_of(advertise: Advertise) -> list[bytes]:
    """All X25519 public keys of an M1."""
    keys = advertise.round_keys
    return [advertise.channel_key, *(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))]


def _signature_keys(
    read: list[tuple[Advertise, Proof | None]], *, offer: Offer, directory: Directory
) -> tuple[bytes, ...]:
    keys = tuple(
        check_signer(advertise, proof, offer=offer, directory=directory)
        for advertise, proof in read
        if proof is not None
    )
    if len(set(keys)) != len(keys):
        raise BadNeighbour("two identities of the roster sign with one key")
    return keys
