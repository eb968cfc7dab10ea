"""What a client computes and checks in set-up: M0 to M1, M2 to M3, M4. No state is changed here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import bitmap, derivation
from .errors import (
    BadNeighbour,
    BadOwnLeaf,
    BadRoster,
    BadShareMessage,
    DeliveryBelowThreshold,
    InfeasibleParameters,
    LocalProtocolError,
    OwnBitOff,
    RosterSize,
    WeakParameters,
    WrongNeighbours,
    WrongRound,
)
from .graph import CompleteGraph
from .labels import VERSION
from .merkle import leaf_hash, root_of, verify_path
from .messages import Advertise, Delivery, Offer, Roster, Shares, decode_advertise, encode
from .policy import ClientPolicy
from .primitives import KEY_BYTES, TAG_BYTES, Agreement, check_public_key, equal, public_key, seal, unseal
from .shamir import PRIME, FieldStream, share, to_limbs
from .vault import PAIR_BYTES, Vault


@dataclass(frozen=True)
class RosterView:
    """What a client keeps of the roster it accepted.

    Attributes:
        n: number of clients.
        t: threshold.
        index: the client's own place.
        root: Merkle root.
        neighbours: indices, in the order of the graph.
        identities: of the neighbours, in the same order.
        channel_keys: channel public keys of the neighbours, in the same order.
        round_keys: per neighbour, the public keys of all rounds, 32 bytes each.
    """

    n: int
    t: int
    index: int
    root: bytes = field(repr=False)
    neighbours: tuple[int, ...]
    identities: tuple[bytes, ...]
    channel_keys: tuple[bytes, ...] = field(repr=False)
    round_keys: tuple[bytes, ...] = field(repr=False)

    def name(self, neighbour: int) -> str:
        """How an error calls a neighbour."""
        return f"client {neighbour} (identity {self.identities[self.neighbours.index(neighbour)].hex()})"

    def round_key(self, position: int, round: int) -> bytes:
        """Public key of a round, of the neighbour at `position` in the list."""
        return self.round_keys[position][KEY_BYTES * (round - 1) : KEY_BYTES * round]


def make_advertise(identity: bytes, *, epoch: bytes, vault: Vault) -> bytes:
    """Make M1 from fresh secrets."""
    rounds = range(1, vault.rounds + 1)
    commitments = (
        derivation.seed_commitment(vault.seed(round), epoch=epoch, identity=identity, round=round) for round in rounds
    )
    return encode(
        Advertise(
            version=VERSION,
            epoch=epoch,
            identity=identity,
            channel_key=public_key(vault.channel),
            round_keys=b"".join(public_key(vault.key(round)) for round in rounds),
            commitments=b"".join(commitments),
        )
    )


def check_roster(
    roster: Roster, *, offer: Offer, epoch: bytes, identity: bytes, advertise: bytes, policy: ClientPolicy
) -> RosterView:
    """Check M2 in full: size, parameters, own leaf, graph, identities, root, keys; refusals 3 and 5 to 10.

    On the complete graph a client holds every leaf, so it recomputes the root instead of following paths.
    """
    if roster.epoch != epoch:
        raise WrongRound("roster is for another epoch")
    if not offer.n_min <= roster.n <= offer.n_max:
        raise RosterSize(f"roster of {roster.n} clients, offered {offer.n_min} to {offer.n_max}")
    threshold = _check_parameters(roster, offer, policy)
    _check_own_leaf(roster, advertise)
    graph = CompleteGraph(roster.n)
    neighbours = graph.neighbours(roster.index) if roster.index < roster.n else ()
    if tuple(entry.index for entry in roster.neighbours) != neighbours:
        raise WrongNeighbours(
            f"roster names {len(roster.neighbours)} neighbours that are not the {graph.k} of the graph"
        )
    others = [decode_advertise(entry.advertise, rounds=offer.rounds) for entry in roster.neighbours]
    if any(other.epoch != epoch for other in others):
        raise WrongRound("roster holds an advertise of another epoch")
    _check_identities([other.identity for other in others], identity, roster.index, policy)
    leaves = [entry.advertise for entry in roster.neighbours]
    leaves.insert(roster.index, advertise)
    if not equal(root_of([leaf_hash(leaf) for leaf in leaves]), roster.root):
        raise BadRoster("the advertised keys do not hash to the roster's root")
    check_keys([*others, decode_advertise(advertise, rounds=offer.rounds)])
    return RosterView(
        n=roster.n,
        t=threshold,
        index=roster.index,
        root=roster.root,
        neighbours=neighbours,
        identities=tuple(other.identity for other in others),
        channel_keys=tuple(other.channel_key for other in others),
        round_keys=tuple(other.round_keys for other in others),
    )


def _check_parameters(roster: Roster, offer: Offer, policy: ClientPolicy) -> int:
    try:
        own = offer.parameters(roster.n)
    except (InfeasibleParameters, LocalProtocolError) as error:
        raise WeakParameters(f"no parameters fit this roster: {error}") from None
    if (roster.k, roster.t) != (own.k, own.t):
        raise WeakParameters(f"roster says k={roster.k}, t={roster.t}; own selection is k={own.k}, t={own.t}")
    if own.t <= policy.min_colluders:
        raise WeakParameters(f"a threshold of {own.t} does not stand {policy.min_colluders} colluders")
    return own.t


def _check_own_leaf(roster: Roster, advertise: bytes) -> None:
    leaf = leaf_hash(advertise)
    if not verify_path(leaf, index=roster.index, size=roster.n, path=roster.path, root=roster.root):
        raise BadOwnLeaf(f"own advertise is not at place {roster.index} under the roster's root")


def _check_identities(others: list[bytes], own: bytes, index: int, policy: ClientPolicy) -> None:
    if own in others:
        raise BadOwnLeaf("own identity is in the roster twice")
    if len(set(others)) != len(others):
        raise BadNeighbour("an identity is in the roster twice")
    everybody = [*others[:index], own, *others[index:]]
    if everybody != sorted(everybody):
        raise BadRoster("roster is not sorted by identity")
    for identity in others:
        policy.check_identity(identity)


def check_keys(advertised: list[Advertise]) -> None:
    """Refuse repeated and low-order public keys, over all clients and rounds.

    Raises:
        BadNeighbour: a public key occurs twice.
        LowOrderPoint: naming the owner.
    """
    seen: set[bytes] = set()
    total = 0
    for advertise in advertised:
        keys = [advertise.channel_key]
        keys += [advertise.round_keys[at : at + KEY_BYTES] for at in range(0, len(advertise.round_keys), KEY_BYTES)]
        for key in keys:
            check_public_key(key, owner=advertise.identity.hex())
        seen.update(keys)
        total += len(keys)
        if len(seen) != total:
            raise BadNeighbour(f"a public key of {advertise.identity.hex()} occurs twice in the roster")


def make_shares(view: RosterView, *, epoch: bytes, vault: Vault) -> bytes:
    """Make M3: share e and b of every round, and encrypt each neighbour's shares under a key of its own.

    The arrays of limbs and shares are overwritten; the plaintexts that the cipher takes are only dropped.
    """
    stream = FieldStream(derivation.coefficient_key(vault.sharing_seed, epoch=epoch, root=view.root))
    points = CompleteGraph(view.n).points(view.index, view.neighbours)
    keys, seeds = to_limbs(vault.keys), to_limbs(vault.seeds)
    limbs = np.stack([keys, seeds], axis=1)  # [round, e or b, limb]
    shares = share(limbs.reshape(-1, limbs.shape[-1]), points=points, threshold=view.t, stream=stream)
    channel = Agreement(vault.channel)
    sealed = [
        _seal_to(neighbour, own.astype("<u4", copy=False).tobytes(), channel.shared_secret(key), epoch=epoch, view=view)
        for neighbour, own, key in zip(view.neighbours, shares, view.channel_keys, strict=True)
    ]
    for secret in (keys, seeds, limbs, shares):
        secret.fill(0)
    return encode(Shares(VERSION, epoch, view.root, memoryview(b"".join(sealed))))


def _seal_to(receiver: int, plaintext: bytes, secret: bytes, *, epoch: bytes, view: RosterView) -> bytes:
    ends = {"epoch": epoch, "root": view.root}
    key = derivation.share_key(secret, **ends, sender=view.index, receiver=receiver)
    return seal(key, plaintext, derivation.share_associated_data(**ends, sender=view.index, receiver=receiver))


def ciphertext_bytes(rounds: int) -> int:
    """Bytes that one neighbour's encrypted shares of an epoch take."""
    return PAIR_BYTES * rounds + TAG_BYTES


def open_delivery(
    delivery: Delivery, *, view: RosterView, epoch: bytes, vault: Vault
) -> tuple[tuple[int, ...], npt.NDArray[np.uint8]]:
    """Check and open M4; refusals 11 to 14.

    Shares that do not authenticate refuse the whole delivery, and the error names who sent them: the server may have
    altered them, or the sender may have sealed something else.

    Returns:
        The neighbours who delivered, and their shares, shape (rounds, neighbours, 72), zeros for who did not.
    """
    if delivery.epoch != epoch:
        raise WrongRound("delivery is for another epoch")
    senders = bitmap.unpack(delivery.present, view.n)
    if view.index not in senders:
        raise OwnBitOff("delivery says that own shares never arrived")
    present = tuple(sorted(set(view.neighbours) & set(senders)))
    if len(present) < view.t:
        raise DeliveryBelowThreshold(f"{len(present)} neighbours delivered shares, threshold is {view.t}")
    size = ciphertext_bytes(vault.rounds)
    found, expected = len(delivery.ciphertexts), size * len(present)
    if found != expected:
        raise BadShareMessage(f"delivery has {found} bytes of ciphertexts, expected {expected}")
    held = np.zeros((vault.rounds, len(view.neighbours), PAIR_BYTES), np.uint8)
    channel = Agreement(vault.channel)
    places = {neighbour: place for place, neighbour in enumerate(view.neighbours)}
    for number, sender in enumerate(present):
        secret = channel.shared_secret(view.channel_keys[places[sender]])
        sealed = delivery.ciphertexts[size * number : size * (number + 1)]
        held[:, places[sender]] = _open_from(sender, sealed, secret, epoch=epoch, view=view)
    return present, held


def _open_from(
    sender: int, sealed: memoryview, secret: bytes, *, epoch: bytes, view: RosterView
) -> npt.NDArray[np.uint8]:
    ends = {"epoch": epoch, "root": view.root}
    key = derivation.share_key(secret, **ends, sender=sender, receiver=view.index)
    associated = derivation.share_associated_data(**ends, sender=sender, receiver=view.index)
    plaintext = unseal(key, sealed, associated, sender=view.name(sender))
    if (np.frombuffer(plaintext, "<u4") >= PRIME).any():
        raise BadShareMessage(f"a share from {view.name(sender)} has a limb outside the field")
    return np.frombuffer(plaintext, np.uint8).reshape(-1, PAIR_BYTES)
