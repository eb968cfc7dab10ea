"""What a client computes and checks in set-up, but for the roster: M0 to M1, M2 to M3, M4. No state is changed here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import bitmap, derivation
from .errors import BadShareMessage, DeliveryBelowThreshold, OwnBitOff, WrongRound
from .identities import Credentials
from .labels import VERSION
from .messages import Advertise, Delivery, Offer, Shares, encode
from .primitives import TAG_BYTES, Bytes, public_key, seal, unseal
from .roster import RosterView
from .shamir import PRIME, FieldStream, share, to_limbs
from .signed import fingerprint_of, statement, wrap
from .suites import Suite, suite
from .vault import PAIR_BYTES, Vault


def make_advertise(
    identity: bytes, *, offer: Offer, epoch: bytes, vault: Vault, credentials: Credentials | None
) -> bytes:
    """Make M1 from fresh secrets, signed in the modes with identities."""
    rounds = range(1, vault.rounds + 1)
    commitments = (
        derivation.seed_commitment(vault.seed(round), epoch=epoch, identity=identity, round=round, suite=offer.suite)
        for round in rounds
    )
    body = encode(
        Advertise(
            version=VERSION,
            epoch=epoch,
            identity=identity,
            channel_key=public_key(vault.channel),
            round_keys=b"".join(public_key(vault.key(round)) for round in rounds),
            commitments=b"".join(commitments),
        )
    )
    if credentials is None:
        return body
    signed = statement(Advertise, fingerprint_of(body), epoch=epoch, suite=offer.suite)
    return wrap(body, credentials.signer.sign(signed), certificate=credentials.signer.certificate)


def make_shares(view: RosterView, *, offer: Offer, epoch: bytes, vault: Vault) -> bytes:
    """Make M3: share e and b of every round, and encrypt each neighbour's shares under a key of its own.

    The arrays of limbs and shares are overwritten; the plaintexts that the cipher takes are only dropped.
    """
    ciphers = suite(offer.suite)
    key = derivation.coefficient_key(vault.sharing_seed, epoch=epoch, root=view.root, n=view.n, suite=offer.suite)
    points = np.arange(1, len(view.neighbours) + 1, dtype=np.uint64)  # place in the own list
    keys, seeds = to_limbs(vault.keys), to_limbs(vault.seeds)
    limbs = np.stack([keys, seeds], axis=1)  # [round, e or b, limb]
    stream = FieldStream(key, suite=ciphers)
    shares = share(limbs.reshape(-1, limbs.shape[-1]), points=points, threshold=view.t, stream=stream)
    sealed = [
        _seal_to(
            neighbour,
            own.astype("<u4", copy=False).tobytes(),
            vault.agree(peer),
            epoch=epoch,
            view=view,
            ciphers=ciphers,
        )
        for neighbour, own, peer in zip(view.neighbours, shares, view.channel_keys, strict=True)
    ]
    for secret in (keys, seeds, limbs, shares):
        secret.fill(0)
    return encode(Shares(VERSION, epoch, view.root, memoryview(b"".join(sealed))))


def _seal_to(
    receiver: int, plaintext: bytes, secret: Bytes, *, epoch: bytes, view: RosterView, ciphers: Suite
) -> bytes:
    key, associated = _ends(secret, epoch=epoch, view=view, sender=view.index, receiver=receiver, ciphers=ciphers)
    return seal(key, plaintext, associated, suite=ciphers)


def _ends(
    secret: Bytes, *, epoch: bytes, view: RosterView, sender: int, receiver: int, ciphers: Suite
) -> tuple[bytes, bytes]:
    """Key and associated data of what one client encrypts to another."""
    key = derivation.share_key(
        secret, epoch=epoch, root=view.root, n=view.n, sender=sender, receiver=receiver, suite=ciphers.id
    )
    associated = derivation.share_associated_data(
        epoch=epoch, root=view.root, sender=sender, receiver=receiver, suite=ciphers.id
    )
    return key, associated


def ciphertext_bytes(rounds: int) -> int:
    """Size of what one client encrypts to one neighbour."""
    return PAIR_BYTES * rounds + TAG_BYTES


def open_delivery(
    delivery: Delivery, *, offer: Offer, view: RosterView, epoch: bytes, vault: Vault
) -> tuple[tuple[int, ...], npt.NDArray[np.uint8]]:
    """Check and open M4; refusals 11, 12 and 14.

    Returns:
        The neighbours that delivered, and their shares, shape (rounds, neighbours, 72), zeros for who did not.
    """
    if delivery.epoch != epoch:
        raise WrongRound("delivery is for another epoch")
    bitmap.check(delivery.present, view.n)
    if not bitmap.has(delivery.present, view.index):
        raise OwnBitOff("delivery says that own shares never arrived")
    places = np.flatnonzero(bitmap.on(delivery.present, view.neighbours)).tolist()
    if len(places) < view.t:
        raise DeliveryBelowThreshold(f"{len(places)} neighbours delivered shares, threshold is {view.t}")
    size = ciphertext_bytes(vault.rounds)
    found, expected = len(delivery.ciphertexts), size * len(places)
    if found != expected:
        raise BadShareMessage(f"delivery has {found} bytes of ciphertexts, expected {expected}")
    held = np.zeros((vault.rounds, len(view.neighbours), PAIR_BYTES), np.uint8)
    ciphers = suite(offer.suite)
    for number, place in enumerate(places):
        secret = vault.agree(view.channel_keys[place])
        sealed = delivery.ciphertexts[size * number : size * (number + 1)]
        held[:, place] = _open_from(view.neighbours[place], sealed, secret, epoch=epoch, view=view, ciphers=ciphers)
    return tuple(view.neighbours[place] for place in places), held


def _open_from(
    sender: int, sealed: memoryview, secret: Bytes, *, epoch: bytes, view: RosterView, ciphers: Suite
) -> npt.NDArray[np.uint8]:
    key, associated = _ends(secret, epoch=epoch, view=view, sender=sender, receiver=view.index, ciphers=ciphers)
    plaintext = unseal(key, sealed, associated, sender=view.name(sender), suite=ciphers)
    if (np.frombuffer(plaintext, "<u4") >= PRIME).any():
        raise BadShareMessage(f"a share from {view.name(sender)} has a limb outside the field")
    return np.frombuffer(plaintext, np.uint8).reshape(-1, PAIR_BYTES)
