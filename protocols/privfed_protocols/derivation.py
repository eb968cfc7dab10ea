"""Every value of the protocol that is derived by hashing: ids, commitments, contexts and keys.

Client and server call the same functions, so that a derivation is written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import labels
from .masks import Mask
from .primitives import Bytes, digest, frame, hkdf_expand, hkdf_extract, number
from .vectors import VectorSpec


def epoch_id(offer: bytes) -> bytes:
    """Id of the epoch of an M0, over the bytes as sent."""
    return digest(labels.EPOCH_ID, offer)


def seed_commitment(seed: Bytes, *, epoch: bytes, identity: bytes, round: int) -> bytes:
    """Commitment of a client to its self-mask seed of one round; the seed is uniform, so nothing else hides it."""
    return digest(labels.SEED_COMMITMENT, epoch, identity, number(round), seed)


def round_context(
    *, epoch: bytes, round: int, root: bytes, participants: bytes, model_digest: bytes, plan_digest: bytes
) -> bytes:
    """Context of a round. All mask keys are bound to it: masks of clients who saw different ones never cancel."""
    return digest(labels.ROUND_CONTEXT, epoch, number(round), root, participants, model_digest, plan_digest)


def share_key(shared_secret: bytes, *, epoch: bytes, root: bytes, sender: int, receiver: int) -> bytes:
    """Single-use AES-256-GCM key for what `sender` encrypts to `receiver` in this epoch under this roster."""
    extracted = hkdf_extract(digest(labels.SHARE_SALT, epoch, root), shared_secret)
    return hkdf_expand(extracted, frame(labels.SHARE_KEY, number(sender), number(receiver)))


def share_associated_data(*, epoch: bytes, root: bytes, sender: int, receiver: int) -> bytes:
    """Associated data of the same ciphertext. The root stands for everything that was said before it."""
    return frame(labels.SHARE_AAD, epoch, root, number(sender), number(receiver))


def coefficient_key(seed: Bytes, *, epoch: bytes, root: bytes) -> bytes:
    """Key of the stream that sharing polynomials are drawn from.

    Bound to the roster: a client that is restored and meets the same roster makes the very same message again, and
    one that meets another shares with fresh polynomials under fresh keys. Neither repeats a nonce on other data.
    """
    return hkdf_expand(hkdf_extract(root, seed), frame(labels.COEFFICIENTS, epoch, root))


def pair_masks(
    shared_secret: bytes, *, context: bytes, index: int, peer: int, vectors: Sequence[VectorSpec]
) -> list[Mask]:
    """Masks of client `index` towards `peer`, one per vector: added by the smaller index, subtracted by the larger."""
    low, high = min(index, peer), max(index, peer)
    extracted = hkdf_extract(context, shared_secret)
    return [
        Mask(hkdf_expand(extracted, frame(labels.PAIR_MASK, number(low), number(high), *_shape(spec))), index > peer)
        for spec in vectors
    ]


def self_masks(
    seed: Bytes, *, context: bytes, index: int, vectors: Sequence[VectorSpec], subtract: bool = False
) -> list[Mask]:
    """Self masks of client `index`, one per vector; the client adds them, the server subtracts them."""
    extracted = hkdf_extract(context, seed)
    return [
        Mask(hkdf_expand(extracted, frame(labels.SELF_MASK, number(index), *_shape(spec))), subtract)
        for spec in vectors
    ]


def _shape(spec: VectorSpec) -> tuple[bytes, bytes, bytes]:
    return spec.name.encode(), number(spec.length), number(spec.bits)
