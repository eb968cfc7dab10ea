"""What the checks share: fresh adapters, made-up inputs, and vectors brought into the ring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfed.audit.masks.adapter import Adapter, NotExposed, Refused, Ring, Setting, Values
from privfed.audit.masks.statistics import RingVector

__all__ = ["SIDES", "Probe", "Unusable"]

# Twice the 19 937 bits of a Mersenne Twister's state, and a thousand to tell it from chance.
LENGTH: Final = 40_960

# Two clients' worth of side information. Long numbers, so that their bytes do not turn up in keys by chance.
SIDES: Final[tuple[Mapping[str, float], Mapping[str, float]]] = (
    {"examples": 1_518_114_529, "loss": 0.731_058_578_630_005},
    {"examples": 1_936_287_413, "loss": 0.268_941_421_369_995},
)


class Unusable(Exception):  # noqa: N818 - not an error of ours
    """What the adapter returned is not what its interface promises."""


@dataclass(frozen=True)
class Probe:
    """Access to the audited code for one check.

    Attributes:
        make: makes a fresh adapter.
        rng: for made-up inputs and seeds; deterministic.
        seeds: how many random seeds to expand in search of a collision.
        clients: in the settings that are run.
    """

    make: Callable[[], Adapter]
    rng: np.random.Generator
    seeds: int
    clients: int

    def ready(self, **changes: Any) -> Adapter:
        """Return an adapter that is set up."""
        adapter = self.make()
        adapter.set_up(self.setting(**changes))
        return adapter

    def setting(self, **changes: Any) -> Setting:
        """Return the usual setting with `changes`."""
        usual = {"clients": self.clients, "threshold": max(2, (2 * self.clients) // 3), "rounds": 2, "length": 8}
        return Setting(**{**usual, **changes})

    def zeros(self, length: int = LENGTH) -> Values:
        """Return the input that shows the bare mask."""
        return np.zeros(length, dtype=np.int64)

    def random_values(self, ring: Ring | None, length: int) -> Values:
        """Return inputs over the whole allowed range, or over 16 bits where there is no ring."""
        largest = (1 << 16) - 1 if ring is None else min(ring.largest, (1 << 62) - 1)
        return self.rng.integers(0, largest, size=length, endpoint=True, dtype=np.int64)


def require_ring(adapter: Adapter) -> Ring:
    """Return the ring, checked.

    Raises:
        NotExposed: there is none; `float_masks` says so.
        Unusable: it makes no sense.
    """
    ring = adapter.ring
    if ring is None:
        raise NotExposed("a modulus")
    if not 2 <= ring.modulus <= 1 << 64 or ring.largest < 0:
        raise Unusable(f"{ring}: expected a modulus from 2 to 2^64 and a largest value of at least 0")
    return ring


def in_ring(vector: npt.NDArray[Any], modulus: int, *, what: str) -> RingVector:
    """Return `vector` as uint64, checked to be of integers in [0, modulus).

    Raises:
        Unusable: it is not.
    """
    array = np.asarray(vector)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise Unusable(f"{what} has dtype {array.dtype} and shape {array.shape}, expected a vector of integers")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= modulus):
        raise Unusable(f"{what} reaches outside of 0 to {modulus - 1}: reduce it modulo {modulus}")
    return array.astype(np.uint64)


def reduced(values: Values, modulus: int) -> RingVector:
    """Return `values`, all >= 0, modulo `modulus`."""
    unsigned = values.astype(np.uint64)
    return unsigned if modulus == 1 << 64 else unsigned % np.uint64(modulus)


def masked_zeros(adapter: Adapter, client: int, round: int, ring: Ring, probe: Probe) -> RingVector:
    """Return the bare mask of a client and round."""
    return in_ring(adapter.masked(client, round, probe.zeros(), SIDES[0]), ring.modulus, what="a masked vector")


def pair_mask(adapter: Adapter, client: int, peer: int, round: int, ring: Ring) -> RingVector:
    """Return one pair's mask as the client adds it."""
    return in_ring(adapter.pair_mask(client, peer, round), ring.modulus, what="a pair mask")


def expanded(adapter: Adapter, seed: bytes, length: int, modulus: int) -> RingVector:
    """Return the mask of a seed."""
    return in_ring(adapter.expand(seed, length, modulus), modulus, what="an expanded seed")


def refuses(action: Callable[[], object]) -> bool:
    """Do it; say whether the audited code refused."""
    try:
        action()
    except Refused:
        return True
    return False
