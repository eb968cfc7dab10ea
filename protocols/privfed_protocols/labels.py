"""Derivation labels: every hash and every key of the protocol starts from one of these constants.

Version and suite are part of each label, so that no value of one version or suite can be taken for one of another,
and no two purposes share a label. All are distinct, printable and at least 16 bytes long; a test holds that.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "sa1"
SUITE: Final = 1  # X25519, HKDF-SHA256, AES-256-CTR masks, AES-256-GCM shares, SHA-256

_PREFIX: Final = b"privfed/sa1/suite1/"

EPOCH_ID: Final = _PREFIX + b"epoch id"
SEED_COMMITMENT: Final = _PREFIX + b"self-mask seed commitment"
ROUND_CONTEXT: Final = _PREFIX + b"round context"
SHARE_SALT: Final = _PREFIX + b"share encryption salt"
SHARE_KEY: Final = _PREFIX + b"share encryption key"
SHARE_AAD: Final = _PREFIX + b"share encryption associated data"
COEFFICIENTS: Final = _PREFIX + b"sharing polynomial coefficients"
PAIR_MASK: Final = _PREFIX + b"pair mask"
SELF_MASK: Final = _PREFIX + b"self mask"
SAVED_CLIENT: Final = _PREFIX + b"saved client checksum"

ALL: Final = (
    EPOCH_ID,
    SEED_COMMITMENT,
    ROUND_CONTEXT,
    SHARE_SALT,
    SHARE_KEY,
    SHARE_AAD,
    COEFFICIENTS,
    PAIR_MASK,
    SELF_MASK,
    SAVED_CLIENT,
)
