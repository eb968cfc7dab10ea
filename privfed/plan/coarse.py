"""The coarse grid: few bits a coordinate. Rotated, rounded at random, Skellam noise, and sums that hardly ever wrap.

The scale is the finest at which the sum of all clients wraps in any coordinate with probability at most 1e-4 a round
(`privfed.mechanism.bits`). Coarser rounding is paid for in noise, because the sensitivity grows: with few bits, many
clients or many coordinates it would grow beyond use, and the plan refuses and names the bits that would do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from privfed.errors import UsageError
from privfed.mechanism.bits import choose_scale, sum_deviation
from privfed.mechanism.rotation import Rotation
from privfed.mechanism.rounding import MAX_NORM, rounding_bound
from privfed.mechanism.sensitivity import l1_of_integers, record_terms
from privfed.plan.fine import ROUNDED_UP, bounded_row_error
from privfed.plan.grid import Grid, capacity_of, framed, scaled_for, share_of
from privfed.plan.terms import LEAST_BITS, SamplingTerms, Terms
from privfed.query import Query

__all__ = ["MAX_PRICE", "MOST_BITS", "coarse_grid", "grid_norm", "usable_bits"]

MAX_PRICE: Final = 3.0  # sensitivity on the grid over that of the real vector: nine times the variance
CHEAP: Final = 1.01  # of the same: what bits are chosen for if nobody says
MOST_BITS: Final = 32  # beyond, the fine grid is at least as good
LEAST_VARIANCE: Final = 1.0  # of the sum, in grid units: below, no bound on the noise means anything
SCALE_DIGITS: Final = 12  # binary digits of the scale: parties whose floats differ in the last place still agree


def coarse_grid(query: Query, terms: Terms, bits: int) -> Grid:
    """Return the finest grid whose sums wrap in a ring of `bits` with probability at most 1e-4 a round.

    Raises:
        UsageError: the rounding would cost too much; names the bits that would do.
    """
    case = _case(query, terms)
    grid = _grid(case, bits)
    if grid is not None and _price(case, grid) <= MAX_PRICE:
        return grid
    found = "no scale holds it" if grid is None else f"its sensitivity is {_price(case, grid):.3g} times too large"
    needed = _fewest(case, MAX_PRICE)
    raise UsageError(f"{bits} bits for the sum of {terms.planned} clients: {found}; use at least {needed} bits")


def usable_bits(query: Query, terms: Terms) -> int:
    """Return the fewest bits at which rounding costs 1 % of noise at most.

    Raises:
        UsageError: 32 bits do not do it.
    """
    return _fewest(_case(query, terms), CHEAP)


def grid_norm(capacity: float, scale: float) -> float:
    """Return the L2 norm that a client's vector of norm `capacity` may reach on the grid, rotated in floats."""
    return capacity * scale * (1.0 + 2.0**-40)


@dataclass(frozen=True)
class _Case:
    """All that a grid depends on, so that equal cases are worked out once."""

    dimension: int
    unit_bound: float
    row_error: float
    terms: Terms
    whole: Terms


def _case(query: Query, terms: Terms) -> _Case:
    unit_bound = query.sensitivity(terms.unit, records_per_client=terms.records_per_client).l2
    terms = framed(query, terms)
    row_error = bounded_row_error(query, terms) if terms.unit == "record" else 0.0
    return _Case(query.layout.size, unit_bound, row_error, _bare(terms), _bare(scaled_for(terms)))


def _bare(terms: Terms) -> Terms:
    """Return the terms without what changes from release to release and makes no difference to the grid."""
    return msgspec.structs.replace(terms, rotation_seed=bytes(32), sampling=SamplingTerms(), bits=0)


@lru_cache(maxsize=256)
def _fewest(case: _Case, price: float) -> int:
    for bits in range(LEAST_BITS, MOST_BITS + 1):
        grid = _grid(case, bits)
        if grid is not None and _price(case, grid) <= price:
            return bits
    raise UsageError(
        f"no ring of up to {MOST_BITS} bits holds the sum of {case.terms.planned} clients of up to"
        f" {capacity_of(case.terms):g} each on a grid worth its noise: use noise='discrete_gaussian', lower max_records"
    )


@lru_cache(maxsize=256)
def _grid(case: _Case, bits: int) -> Grid | None:
    """Return the finest grid of a ring, whatever it costs; None if there is none, or too little noise to account."""
    terms, whole = case.terms, case.whole
    rotation = Rotation(dimension=case.dimension, seed=terms.rotation_seed)
    shares_drawn = whole.planned if terms.protection == "central" else 1

    def deviation(scale: float) -> float:
        return sum_deviation(
            norm=grid_norm(capacity_of(terms), scale),
            clients=whole.planned,
            block=rotation.block,
            share_variance=share_of(whole, _sensitivity(case, scale, rotation)[0]) ** 2 / shares_drawn,
        )

    finest = (MAX_NORM / 2.0 - math.sqrt(rotation.length)) / capacity_of(terms)
    try:
        chosen = choose_scale(deviation, bits=bits, dimension=rotation.length, finest=finest)
    except UsageError:
        return None
    mantissa, exponent = math.frexp(chosen.scale)
    scale = math.ldexp(math.floor(math.ldexp(mantissa, SCALE_DIGITS)), exponent - SCALE_DIGITS)
    l2, l1 = _sensitivity(case, scale, rotation)
    share_sigma = share_of(terms, l2) * ROUNDED_UP
    shares = terms.guaranteed if terms.protection in ("secure_aggregation", "trusted") else 1
    if shares * share_sigma**2 < LEAST_VARIANCE:
        return None
    return Grid(
        regime="coarse",
        mechanism="skellam",
        bits=bits,
        length=rotation.length,
        scale=scale,
        capacity=capacity_of(terms),
        unit_bound=case.unit_bound,
        of_clients=terms.unit == "client",
        bound=grid_norm(capacity_of(terms), scale) + math.sqrt(rotation.length) + 1,
        l2_sensitivity=l2,
        l1_sensitivity=l1,
        share_sigma=share_sigma,
        wrap_probability=chosen.wraps,
    )


def _sensitivity(case: _Case, scale: float, rotation: Rotation) -> tuple[float, float]:
    """Return D2 and D1 on the grid.

    One client's vector, unit "client", is rounded under a bound that holds with certainty; a record that changes it
    (`ClientQuery`) moves it from one such vector to another, by twice as much at most. The sum of a client's
    records, unit "record", is rounded to nearest; two such sums also differ by the float error of two rotations.
    """
    terms = case.terms
    if terms.unit == "client":
        bound = rounding_bound(norm=grid_norm(capacity_of(terms), scale), dimension=rotation.length)
        vectors = case.unit_bound / capacity_of(terms)
        return vectors * bound.l2, vectors * bound.l1
    rounded = record_terms(
        bound=case.unit_bound,
        scale=scale,
        dimension=rotation.length,
        max_records=terms.max_records,
        row_error=case.row_error,
    )
    l2 = (rounded.l2 + 2.0 * rotation.error * terms.max_records * scale) * (1.0 + 2.0**-50)
    return l2, l1_of_integers(l2, rotation.length)


def _price(case: _Case, grid: Grid) -> float:
    return grid.l2_sensitivity / (case.unit_bound * grid.scale)
