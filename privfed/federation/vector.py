"""From a clipped vector to noised integers in the ring, and from their sum back: the two ends of a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privfed.errors import FederationError
from privfed.mechanism.encode import RingArray, decode, encode, from_ring, to_ring
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.rotation import Rotation
from privfed.mechanism.rounding import conditional_round, rounding_bound
from privfed.mechanism.surplus import (
    ComponentVariances,
    Law,
    client_noise,
    component_variances,
    integer_noise,
    surplus_noise,
)
from privfed.plan import Plan
from privfed.plan.coarse import grid_norm
from privfed.query import FloatArray

__all__ = ["Contribution", "noised_vector", "opened_vector"]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contribution:
    """What one client sends: its vector, and the seed with which its surplus noise can be taken out again.

    Attributes:
        vector: noised integers in the ring, unsigned, shape `(plan.length,)`.
        surplus_seed: drop_outs "exact": 32 bytes, secret until the survivors are agreed on; else None.
    """

    vector: RingArray
    surplus_seed: bytes | None = field(default=None, repr=False)


def noised_vector(vector: FloatArray, plan: Plan, keystream: Keystream) -> Contribution:
    """Encode a client's scaled vector by the plan's regime and add its share of the noise.

    Raises:
        FederationError: an encoded value is beyond the plan's bound.
        UsageError, DataError: the vector is not what the plan was made for.
    """
    integers = _encoded(vector, plan, keystream)
    if np.abs(integers).max(initial=0) > plan.bound:
        raise FederationError(f"an encoded value is beyond the plan's bound {plan.bound:.6g}")
    law, seed = plan.mechanism, None
    if law != "none" and plan.terms.drop_outs == "exact":
        seed = keystream.uint64(4).tobytes()
        integers += client_noise(components_of(plan), seed, plan.length, law=law, keystream=keystream)
    elif law != "none" and plan.terms.protection != "central":
        integers += integer_noise(law, plan.share_sigma**2, plan.length, keystream)
    return Contribution(to_ring(integers, plan.bits), seed)


def opened_vector(
    total: RingArray, plan: Plan, *, survivors: int, surplus: Iterable[bytes], keystream: Keystream
) -> FloatArray:
    """Return the sum on the query's scaled vector, float64 of shape `(plan.dimension,)`.

    Args:
        total: sum in the ring.
        plan: of the release.
        survivors: clients in the sum.
        surplus: drop_outs "exact": first surplus seed of each survivor that gave it back.
        keystream: for mode "central", where the operator adds the noise.

    Guarantees:
        All noise is in the sum before it is read as signed numbers, so that a wrap costs accuracy and never privacy.
    """
    law = plan.mechanism
    if law != "none" and plan.terms.drop_outs == "exact":
        total = total - to_ring(_excess(plan, law, survivors, surplus), plan.bits)
    elif law != "none" and plan.terms.protection == "central":
        # Within the ring, before anything is centred: where a sum wraps, its noisy neighbours then wrap with it.
        total = total + to_ring(integer_noise(law, plan.share_sigma**2, plan.length, keystream), plan.bits)
    values = decode(from_ring(total, plan.bits), scale=plan.scale)
    return values if plan.regime == "fine" else rotation_of(plan).invert(values)


def rotation_of(plan: Plan) -> Rotation:
    """Return the public rotation of a coarse plan."""
    return Rotation(dimension=plan.dimension, seed=plan.terms.rotation_seed)


def _encoded(vector: FloatArray, plan: Plan, keystream: Keystream) -> Integers:
    if plan.regime == "fine":
        return encode(vector, scale=plan.scale)
    rotated = rotation_of(plan).apply(vector)
    if not plan.of_clients:
        return encode(rotated, scale=plan.scale)
    bound = rounding_bound(norm=grid_norm(plan.capacity, plan.scale), dimension=plan.length)
    return conditional_round(rotated * plan.scale, bound, keystream).values


def components_of(plan: Plan) -> ComponentVariances:
    """Return what each client of a plan with exact drop-outs adds."""
    terms = plan.terms
    return component_variances(plan.share_sigma**2 * terms.guaranteed, planned=terms.planned, tolerated=terms.tolerated)


def _excess(plan: Plan, law: Law, survivors: int, surplus: Iterable[bytes]) -> Integers:
    """Return the noise that the survivors gave back: all components beyond the number of those who dropped out."""
    components, first = components_of(plan), plan.terms.planned - survivors + 1
    total = np.zeros(plan.length, dtype=np.int64)
    for seed in surplus:
        total += surplus_noise(components, seed, plan.length, first=first, law=law)
    return total
