"""Derivation labels: every hash, key and signature of the protocol starts from one of these constants.

Version and suite are part of each label that `of` gives, so that no value of one version or suite can be taken for
one of another, and no two purposes share a label. What outlives an epoch or has no suite stands behind the version
alone. All are distinct, printable and at least 16 bytes long; a test holds that.
"""

from __future__ import annotations

from functools import cache
from typing import Final

VERSION: Final = "sa1"
SUITE: Final = 1  # the default: X25519, HKDF-SHA256, AES-256-CTR masks, AES-256-GCM shares, SHA-256

EPOCH_ID: Final = b"epoch id"
SEED_COMMITMENT: Final = b"self-mask seed commitment"
ROUND_CONTEXT: Final = b"round context"
GRAPH_SEED: Final = b"graph seed"
SHARE_SALT: Final = b"share encryption salt"
SHARE_KEY: Final = b"share encryption key"
SHARE_AAD: Final = b"share encryption associated data"
COEFFICIENTS: Final = b"sharing polynomial coefficients"
PAIR_MASK: Final = b"pair mask"
SELF_MASK: Final = b"self mask"
SIGNED_OFFER: Final = b"signed offer"
SIGNED_ADVERTISE: Final = b"signed advertise"
SIGNED_MASKED: Final = b"signed masked vectors"
SIGNED_SURVIVORS: Final = b"signed survivors"
CONSISTENCY: Final = b"consistency of survivors"

OF_A_SUITE: Final = (
    EPOCH_ID,
    SEED_COMMITMENT,
    ROUND_CONTEXT,
    GRAPH_SEED,
    SHARE_SALT,
    SHARE_KEY,
    SHARE_AAD,
    COEFFICIENTS,
    PAIR_MASK,
    SELF_MASK,
    SIGNED_OFFER,
    SIGNED_ADVERTISE,
    SIGNED_MASKED,
    SIGNED_SURVIVORS,
    CONSISTENCY,
)

SAVED_CLIENT: Final = b"privfed/sa1/saved client checksum"
CERTIFICATE: Final = b"privfed/sa1/certificate of an identity"
SURPLUS_SEED: Final = b"privfed/sa1/surplus noise seed"

OF_NO_SUITE: Final = (SAVED_CLIENT, CERTIFICATE, SURPLUS_SEED)


@cache
def of(purpose: bytes, suite: int = SUITE) -> bytes:
    """The label of a purpose in a suite."""
    return b"privfed/%s/suite%d/%s" % (VERSION.encode(), suite, purpose)


ALL: Final = (*(of(purpose) for purpose in OF_A_SUITE), *OF_NO_SUITE)
