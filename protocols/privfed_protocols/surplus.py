"""Seeds of surplus noise: a chain of hashes, so that one seed opens all that follow it and none before it.

Each client adds noise in components, one for each drop-out that the plan tolerates, each from its own seed. When D
clients are lost, components 1 to D are needed, and seed D + 1 lets the server take out the rest.
"""

from __future__ import annotations

from typing import Final

from . import labels
from .errors import LocalProtocolError
from .primitives import Bytes, digest

SEED_BYTES: Final = 32


def surplus_seed(seed_1: Bytes, index: int) -> bytes:
    """Seed `index` of the chain that starts at 1 with `seed_1`: each is the labelled SHA-256 of the one before.

    Guarantees:
        Whoever knows seed i knows those after it, and learns nothing about those before it that it could not guess.

    Args:
        seed_1: 32 secret bytes.
        index: at least 1.

    Raises:
        LocalProtocolError: an argument out of range.
    """
    if len(seed_1) != SEED_BYTES or index < 1:
        raise LocalProtocolError(f"seed of {len(seed_1)} bytes at index {index}, expected {SEED_BYTES} and at least 1")
    seed = bytes(seed_1)
    for _ in range(index - 1):
        seed = digest(labels.SURPLUS_SEED, seed)
    return seed


def lost_shares(*, shares: int, survivors: int) -> int:
    """D: how many of the noise shares that the plan is sized for are missing from the sum."""
    return max(0, shares - survivors)


def opens_surplus(*, shares: int, n_min: int, survivors: int) -> bool:
    """Whether survivors hand out a seed: the plan has surplus noise, and not all of it is needed."""
    return shares > 0 and lost_shares(shares=shares, survivors=survivors) < shares - n_min
