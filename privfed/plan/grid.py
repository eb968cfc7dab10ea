"""The integer grid of a release: what a regime makes of the terms. All lengths are in grid units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

from privfed.plan.terms import Terms, tolerated_losses
from privfed.query import Query

__all__ = ["Grid", "Mechanism", "Regime", "capacity_of", "framed", "scaled_for", "share_of"]

Regime = Literal["fine", "coarse"]
Mechanism = Literal["discrete_gaussian", "skellam", "none"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Scale, ring, sensitivity and noise of one release, made together.

    Attributes:
        regime: "fine" (noise spans thousands of grid steps, sums cannot wrap) or "coarse" (few bits: rotated, rounded
            at random, wrapping with a small probability).
        mechanism: law of the noise, or "none".
        bits: width of the ring.
        length: coordinates that travel: those of the query, padded where they are rotated.
        scale: grid units per unit of the query's scaled vector.
        capacity: L2 norm that one client's vector may reach, in units of the query's scaled vector.
        unit_bound: how far one unit moves the sum of the query's scaled vectors.
        of_clients: whether one client is bounded as a whole, rather than each of its records.
        bound: largest absolute value that an encoded coordinate may have before noise.
        l2_sensitivity, l1_sensitivity: how far one unit moves the integer sum, rounding and float error included;
            the second is 0.0 where the accountant does not need it.
        share_sigma: standard deviation of one client's share of the noise (in mode "central", of the operator's only
            one); 0.0 without noise.
        wrap_probability: bound on the probability that a coordinate of the sum wraps around; 0.0 where none can.
    """

    regime: Regime
    mechanism: Mechanism
    bits: int
    length: int
    scale: float
    capacity: float
    unit_bound: float
    of_clients: bool
    bound: float
    l2_sensitivity: float
    l1_sensitivity: float
    share_sigma: float
    wrap_probability: float = 0.0


def framed(query: Query, terms: Terms) -> Terms:
    """Return the terms by which the grid is sized: a query of whole clients brings vectors of norm 1, whatever the unit
    that the budget protects and however many rows a client holds.
    """  # fmt: skip
    return msgspec.structs.replace(terms, unit="client", records_per_client=1.0) if query.per_client else terms


def capacity_of(terms: Terms) -> float:
    """Return the L2 norm that one client's vector may reach, in units of the query's scaled vector."""
    return float(terms.max_records) if terms.unit == "record" else terms.records_per_client


def share_of(terms: Terms, sensitivity: float) -> float:
    """Return the standard deviation of one noise share for a sensitivity, in the same units.

    Of one client's share; in mode "central", of the operator's only one.
    """
    total = sensitivity * terms.noise_multiplier
    return total if terms.protection == "central" else total / math.sqrt(terms.guaranteed)


def scaled_for(terms: Terms) -> Terms:
    """Return the terms whose number of clients the scale is chosen for.

    Those of a Poisson sample of clients are scaled for all of them: the released numbers are multiples of the grid's
    step, which must not tell how many were drawn where the sample is to hide who is in it.
    """
    sampling, everybody = terms.sampling, terms.population
    if sampling.kind != "poisson" or sampling.unit != "client" or everybody == 0:
        return terms
    guaranteed = everybody - tolerated_losses(everybody, terms.dropout)
    return msgspec.structs.replace(terms, planned=everybody, guaranteed=guaranteed)
