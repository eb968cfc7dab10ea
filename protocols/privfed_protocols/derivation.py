"""Every value of the protocol that is derived by hashing: ids, commitments, contexts and keys.

Client and server call the same functions, so that a derivation is written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import labels
from .labels import SUITE, of
from .masks import Mask
from .primitives import Bytes, digest, frame, hkdf_expand, hkdf_extract, number
from .vectors import VectorSpec


def epoch_id(offer: bytes, *, suite: int = SUITE) -> bytes:
    """Id of the epoch of an M0, over the bytes as sent, signature included."""
    return digest(of(labels.EPOCH_ID, suite), offer)


def seed_commitment(seed: Bytes, *, epoch: bytes, identity: bytes, round: int, suite: int = SUITE) -> bytes:
    """Commitment of a client to its self-mask seed of one round; the seed is uniform, so nothing else hides it."""
    return digest(of(labels.SEED_COMMITMENT, suite), epoch, identity, number(round), seed)


def round_context(
    *,
    epoch: bytes,
    round: int,
    root: bytes,
    participants: bytes,
    model_digest: bytes,
    plan_digest: bytes,
    suite: int = SUITE,
) -> bytes:
    """Context of a round. All mask keys are bound to it: masks of clients who saw different ones never cancel."""
    label = of(labels.ROUND_CONTEXT, suite)
    return digest(label, epoch, number(round), root, participants, model_digest, plan_digest)


def graph_seed(root: bytes, *, beacon: bytes = bytes(32), suite: int = SUITE) -> bytes:
    """Seed of the order in which the clients of a roster stand on the ring."""
    return digest(of(labels.GRAPH_SEED, suite), root, beacon)


def consistency_statement(*, context: bytes, survivors: bytes, suite: int = SUITE) -> bytes:
    """What M8 signs: the round's context, which binds epoch, roster, U, model and plan, and the survivors V."""
    return frame(of(labels.CONSISTENCY, suite), context, survivors)


def share_key(
    shared_secret: Bytes, *, epoch: bytes, root: bytes, n: int, sender: int, receiver: int, suite: int = SUITE
) -> bytes:
    """Single-use key for what `sender` encrypts to `receiver` in this epoch under this roster of `n` clients.

    Inclusion paths say little about the size of a tree, so `n` is bound here: two clients that were told different
    sizes, and so would stand on different rings, cannot read each other's shares.
    """
    extracted = hkdf_extract(digest(of(labels.SHARE_SALT, suite), epoch, root, number(n)), shared_secret)
    return hkdf_expand(extracted, frame(of(labels.SHARE_KEY, suite), number(sender), number(receiver)))


def share_associated_data(*, epoch: bytes, root: bytes, sender: int, receiver: int, suite: int = SUITE) -> bytes:
    """Associated data of the same ciphertext. The root stands for everything that was said before it."""
    return frame(of(labels.SHARE_AAD, suite), epoch, root, number(sender), number(receiver))


def coefficient_key(seed: Bytes, *, epoch: bytes, root: bytes, n: int, suite: int = SUITE) -> bytes:
    """Key of the stream that sharing polynomials are drawn from.

    Bound to the roster and its size, on which the threshold depends: a client that is restored and meets the same
    roster makes the very same message again, and one that meets another shares with fresh polynomials under fresh keys.
    Neither repeats a nonce on other data.
    """
    return hkdf_expand(hkdf_extract(root, seed), frame(of(labels.COEFFICIENTS, suite), epoch, root, number(n)))


def pair_masks(
    shared_secret: bytes,
    *,
    context: bytes,
    index: int,
    peer: int,
    vectors: Sequence[VectorSpec],
    suite: int = SUITE,
) -> list[Mask]:
    """Masks of client `index` towards `peer`, one per vector: added by the smaller index, subtracted by the larger."""
    low, high = min(index, peer), max(index, peer)
    extracted, label = hkdf_extract(context, shared_secret), of(labels.PAIR_MASK, suite)
    return [
        Mask(hkdf_expand(extracted, frame(label, number(low), number(high), *_shape(spec))), index > peer)
        for spec in vectors
    ]


def self_masks(
    seed: Bytes,
    *,
    context: bytes,
    index: int,
    vectors: Sequence[VectorSpec],
    subtract: bool = False,
    suite: int = SUITE,
) -> list[Mask]:
    """Self masks of client `index`, one per vector; the client adds them, the server subtracts them."""
    extracted = hkdf_extract(context, seed)
    return [
        Mask(hkdf_expand(extracted, frame(of(labels.SELF_MASK, suite), number(index), *_shape(spec))), subtract)
        for spec in vectors
    ]


def _shape(spec: VectorSpec) -> tuple[bytes, bytes, bytes]:
    return spec.name.encode(), number(spec.length), number(spec.bits)
