"""Checks of the masked vectors and of the masks themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from privfed.audit.findings import Outcome
from privfed.audit.masks.adapter import Adapter, NotExposed, Refused, Ring
from privfed.audit.masks.probe import (
    LENGTH,
    SIDES,
    Probe,
    expanded,
    in_ring,
    masked_zeros,
    pair_mask,
    reduced,
    refuses,
    require_ring,
)
from privfed.audit.masks.statistics import (
    RingVector,
    byte_lanes,
    coincidences,
    linear_complexity,
    linear_complexity_p,
    repetitions,
    subtract,
)

__all__ = [
    "byte_lane_check",
    "distinct_masks",
    "float_masks",
    "full_range",
    "generator",
    "mask_reuse",
    "pair_cancellation",
    "scalar_mask",
    "seed_collisions",
]

# Parts of names, in lower case: generators of simulations, whose authors never claimed that they hide anything.
WEAK_GENERATORS = (
    "mersenne",
    "mt19937",
    "randomstate",
    "pcg",
    "philox",
    "sfc64",
    "threefry",
    "xorshift",
    "xoshiro",
    "lcg",
)


def float_masks(probe: Probe) -> Outcome:
    """Masks have to be uniform over a finite ring: a float, or an integer without a modulus, hides only a part."""
    adapter = probe.ready()
    ring = adapter.ring
    vector = np.asarray(adapter.masked(0, 1, probe.zeros(8), SIDES[0]))
    if vector.dtype.kind not in "iu":
        return Outcome(
            f"masked vectors have dtype {vector.dtype}: real masks of a bounded size hide no real number", problem=True
        )
    if ring is None:
        return Outcome(
            "masked vectors are integers without a modulus: sums outside of the mask's range tell", problem=True
        )
    return Outcome(f"masked vectors are integers modulo {_number(ring.modulus)}")


def byte_lane_check(probe: Probe) -> Outcome:
    """Every byte of a masked vector, a pair's mask and an expanded seed is uniform; neighbours are independent."""
    adapter, p_values, seen = _with_length(probe), [], []
    ring = require_ring(adapter)
    for what, vector in _masks_of(adapter, ring, probe):
        p_values += byte_lanes(vector, ring.modulus)
        seen.append(what)
    return Outcome(
        f"bytes of {', '.join(seen)} against uniform ones, {LENGTH} coordinates each", p_values=tuple(p_values)
    )


def scalar_mask(probe: Probe) -> Outcome:
    """A mask differs from coordinate to coordinate: one number for all, or a short mask repeated, is no mask."""
    adapter = _with_length(probe)
    if adapter.ring is None:
        vector = np.asarray(adapter.masked(0, 1, probe.zeros(), SIDES[0]))
        if len(np.unique(vector)) == 1:
            return Outcome(f"a mask is one number, {vector.size} times", problem=True)
    ring = require_ring(adapter)
    p_values: list[float] = []
    for what, mask in _masks_of(adapter, ring, probe):
        if len(np.unique(mask)) == 1:
            return Outcome(f"{what} is one number, {len(mask)} times", problem=True)
        p_values += repetitions(mask, ring.modulus)
    return Outcome("equal values and equal steps, some coordinates apart", p_values=tuple(p_values))


def generator(probe: Probe) -> Outcome:
    """Masks come from a cryptographic generator: none that is known not to be, and none that is linear over GF(2).

    The lowest bit of a sum is the exclusive or of the lowest bits, so that a masked vector shows a linear generator
    through any number of masks: a Mersenne Twister has a linear complexity of 19937, xorshift generators less.
    """
    adapter = _with_length(probe)
    weak = [name for name in WEAK_GENERATORS if name in adapter.generator.lower()]
    if weak:
        return Outcome(f"masks come from {adapter.generator}: its state follows from its output", problem=True)
    p_values, least = [], LENGTH
    for vector in _streams(adapter, probe):
        for bit in (vector & np.uint64(1), vector >> np.uint64(7) & np.uint64(1)):
            complexity = linear_complexity(bit.astype(np.uint8))
            p_values.append(linear_complexity_p(complexity, len(bit)))
            least = min(least, complexity)
    told = f"; declared as {adapter.generator}" if adapter.generator else "; not declared"
    return Outcome(
        f"least linear complexity of a bit is {least}, {LENGTH // 2} is expected{told}", p_values=tuple(p_values)
    )


def full_range(probe: Probe) -> Outcome:
    """A mask takes every value of the ring, the top one included; else some values of the sum tell about an input.

    Of 256 values, 40 960 uniform draws miss one with a chance of 1e-67."""
    adapter, modulus = probe.make(), 256
    missing: set[int] = set()
    for _ in range(2):
        vector = expanded(adapter, probe.rng.bytes(adapter.seed_bytes), LENGTH, modulus)
        missing |= set(range(modulus)) - set(vector.tolist())
    if missing:
        told = ", ".join(map(str, sorted(missing)[-5:]))
        return Outcome(f"masks modulo {modulus} never take {len(missing)} value(s), among them {told}", problem=True)
    return Outcome(f"masks modulo {modulus} take every value")


def pair_cancellation(probe: Probe) -> Outcome:
    """What one of a pair adds the other takes away, and the opened sum is the sum of the inputs."""
    notes = []
    adapter = probe.ready()
    ring = require_ring(adapter)
    if _exposes(lambda: adapter.pair_mask(0, 1, 1)):
        for client, peer in itertools.combinations(range(probe.clients), 2):
            there, back = pair_mask(adapter, client, peer, 1, ring), pair_mask(adapter, peer, client, 1, ring)
            if not there.any():
                return Outcome(f"the mask of clients {client} and {peer} is zero", problem=True)
            if subtract(np.zeros_like(back), back, ring.modulus).tolist() != there.tolist():
                return Outcome(f"the masks of clients {client} and {peer} do not cancel", problem=True)
        notes.append("every pair's masks cancel")
    inputs = [probe.random_values(ring, 8) // (2 * probe.clients) for _ in range(probe.clients)]
    for client, values in enumerate(inputs):
        adapter.masked(client, 1, values, SIDES[0])
    expected = [sum(column) % ring.modulus for column in zip(*(values.tolist() for values in inputs), strict=True)]
    try:
        opened = [int(value) for value in adapter.total(1)]
    except NotExposed:
        if not notes:
            raise
        return Outcome(", ".join(notes))
    if opened != expected:
        return Outcome("the opened sum is not the sum of the inputs", problem=True)
    return Outcome(", ".join([*notes, "the opened sum is exact"]))


def distinct_masks(probe: Probe) -> Outcome:
    """In one round, no two clients and no two pairs use one mask."""
    adapter = _with_length(probe)
    ring = require_ring(adapter)
    p_values: list[float] = []
    pairs = list(itertools.combinations(range(probe.clients), 2))
    if _exposes(lambda: adapter.pair_mask(0, 1, 1)):
        vectors = [pair_mask(adapter, client, peer, 1, ring) for client, peer in pairs]
        for first, second in itertools.combinations(vectors, 2):
            negative = subtract(np.zeros_like(second), second, ring.modulus)
            p_values += [coincidences(first, second, ring.modulus), coincidences(first, negative, ring.modulus)]
    masks = [masked_zeros(adapter, client, 1, ring, probe) for client in range(probe.clients)]
    p_values += [coincidences(first, second, ring.modulus) for first, second in itertools.combinations(masks, 2)]
    return Outcome(
        f"coordinates that two of {probe.clients} clients or {len(pairs)} pairs share", p_values=tuple(p_values)
    )


def mask_reuse(probe: Probe) -> Outcome:
    """A mask is used once: not for a second vector of the round, nor in another round, nor after another set-up.

    Two vectors under one mask give their difference away.
    """
    adapter = _with_length(probe)
    ring = require_ring(adapter)
    first = masked_zeros(adapter, 0, 1, ring, probe)
    again: list[RingVector] = []
    other = probe.random_values(ring, LENGTH)
    refused = refuses(
        lambda: again.append(in_ring(adapter.masked(0, 1, other, SIDES[0]), ring.modulus, what="a masked vector"))
    )
    p_values = []
    for second in again:
        bare = subtract(second, reduced(other, ring.modulus), ring.modulus)
        p_values.append(coincidences(first, bare, ring.modulus))
    p_values.append(coincidences(first, masked_zeros(adapter, 0, 2, ring, probe), ring.modulus))
    fresh = _with_length(probe)
    p_values.append(coincidences(first, masked_zeros(fresh, 0, 1, ring, probe), ring.modulus))
    told = "a second vector for the same round is refused" if refused else "a second vector for the same round is taken"
    return Outcome(f"{told}; masks compared over rounds and set-ups", p_values=tuple(p_values))


def seed_collisions(probe: Probe) -> Outcome | None:
    """Different seeds give different masks; None where seeds cannot be expanded.

    Tried are one seed with each bit flipped and with each two bits flipped, which finds every seed that is folded into
    fewer bits by exclusive or, and random ones, which find any space of at most about the square of their number.
    """
    adapter = probe.make()
    if not _exposes(lambda: adapter.expand(bytes(adapter.seed_bytes), 8, 1 << 32)):
        return None
    bits = 8 * adapter.seed_bytes
    base = int.from_bytes(probe.rng.bytes(adapter.seed_bytes), "little")
    flips = [0, *(1 << i for i in range(bits)), *(1 << i | 1 << j for i, j in itertools.combinations(range(bits), 2))]
    seen: dict[bytes, int] = {}
    for flip in flips:
        mask = _fingerprint(adapter, (base ^ flip).to_bytes(adapter.seed_bytes, "little"))
        if mask in seen:
            return Outcome(
                f"seeds that differ in {(flip ^ seen[mask]).bit_count()} of {bits} bits give one mask", problem=True
            )
        seen[mask] = flip
    drawn: set[bytes] = set()
    for number in range(probe.seeds):
        mask = _fingerprint(adapter, probe.rng.bytes(adapter.seed_bytes))
        if mask in drawn:
            return Outcome(f"two of {number + 1} random seeds give one mask: they are cut to few bits", problem=True)
        drawn.add(mask)
    return Outcome(f"{len(flips) + probe.seeds} seeds of {bits} bits gave as many masks")


def _fingerprint(adapter: Adapter, seed: bytes) -> bytes:
    return np.ascontiguousarray(adapter.expand(seed, 8, 1 << 32)).tobytes()


def _with_length(probe: Probe) -> Adapter:
    return probe.ready(length=LENGTH)


def _masks_of(adapter: Adapter, ring: Ring, probe: Probe) -> list[tuple[str, RingVector]]:
    """Return masks of every sort that the adapter shows."""
    found = []
    if _exposes(lambda: adapter.pair_mask(0, 1, 1)):
        found.append(("a pair's mask", pair_mask(adapter, 0, 1, 1, ring)))
    if _exposes(lambda: adapter.expand(bytes(adapter.seed_bytes), 8, 1 << 32)) and ring.modulus <= 1 << 32:
        found.append(("an expanded seed", expanded(adapter, probe.rng.bytes(adapter.seed_bytes), LENGTH, ring.modulus)))
    found += [("a masked vector", masked_zeros(adapter, client, 1, ring, probe)) for client in (0, probe.clients - 1)]
    return found


def _streams(adapter: Adapter, probe: Probe) -> list[RingVector]:
    """Return vectors whose low bits are exclusive ors of generators' bits."""
    streams = []
    if _exposes(lambda: adapter.expand(bytes(adapter.seed_bytes), 8, 1 << 16)):
        streams.append(expanded(adapter, probe.rng.bytes(adapter.seed_bytes), LENGTH, 1 << 16))
    ring = adapter.ring
    if ring is not None and ring.modulus & (ring.modulus - 1) == 0 and ring.modulus >= 256:
        streams.append(masked_zeros(adapter, 0, 1, ring, probe))
    if not streams and not adapter.generator:
        raise NotExposed("expand, or a modulus that is a power of two, or generator")
    return streams


def _exposes(action: Callable[[], object]) -> bool:
    try:
        action()
    except NotExposed:
        return False
    except Refused:
        return True
    return True


def _number(value: int) -> str:
    return f"2^{value.bit_length() - 1}" if value & (value - 1) == 0 else str(value)
