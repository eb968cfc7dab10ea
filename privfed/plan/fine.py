"""The fine grid: noise spans so many steps that integers are accounted as reals, and no sum can wrap."""

from __future__ import annotations

import math
from typing import Final

from privfed.errors import UsageError
from privfed.mechanism.sensitivity import client_sensitivity, record_sensitivity
from privfed.plan.grid import Grid, capacity_of, framed, scaled_for, share_of
from privfed.plan.terms import Terms
from privfed.query import Query

__all__ = ["MAX_GRID_PRICE", "MAX_SCALE", "NOISE_TAIL", "bounded_row_error", "fine_grid"]

NOISE_TAIL: Final = 14.0  # standard deviations that must fit: beyond lie 1e-44 of a Gaussian's mass
MAX_SCALE: Final = 2.0**40  # below float64's 2^-53 of a unit sum nothing is gained
MIN_SHARE_SIGMA: Final = 2.0**16  # coarser noise is the coarse regime's
MAX_SHARE_SIGMA: Final = 2.0**50  # what the sampler draws
MAX_GRID_PRICE: Final = 1.5  # sensitivity on the grid over that of the real vector; ordinarily it is below 1.0001
REMEDY: Final = "lower max_records to what a client really holds, or choose an epsilon between 0.001 and 1000"
ROUNDED_UP: Final = 1.0 + 2.0**-44  # more than the accountant adds to be on the safe side


def fine_grid(query: Query, terms: Terms, bits: int) -> Grid:
    """Return the finest grid for which no sum of a ring of `bits` can wrap.

    The scale is the largest power of two for which `planned` clients, each with its largest encoded value and
    `NOISE_TAIL` standard deviations of noise, stay within the ring with one bit to spare for what rounding adds.

    Raises:
        UsageError: no scale fits; the message names the remedy.
    """
    unit_bound = query.sensitivity(terms.unit, records_per_client=terms.records_per_client).l2
    terms = framed(query, terms)
    capacity = capacity_of(terms)
    whole = scaled_for(terms)
    relative = share_of(whole, unit_bound)
    shares = 1 if terms.protection == "central" else whole.planned
    scale = _scale(whole.planned * capacity + shares * NOISE_TAIL * relative, relative, bits)
    sensitivity = _sensitivity(query, terms, unit_bound, scale)
    if sensitivity > MAX_GRID_PRICE * unit_bound * scale:
        found = f"sensitivity {sensitivity / scale:.3g} on the grid for one of {unit_bound:.3g}"
        raise UsageError(f"rounding costs more than the data, {found}: {REMEDY}")
    share_sigma = 0.0
    if terms.private:
        share_sigma = share_of(terms, sensitivity) * ROUNDED_UP
        if not MIN_SHARE_SIGMA <= share_sigma <= MAX_SHARE_SIGMA:
            expected = f"expected {MIN_SHARE_SIGMA:.0f} to {MAX_SHARE_SIGMA:.2g}"
            raise UsageError(f"a noise share spans {share_sigma:.3g} grid units, {expected}: {REMEDY}")
    return Grid(
        regime="fine",
        mechanism="discrete_gaussian" if terms.private else "none",
        bits=bits,
        length=query.layout.size,
        scale=scale,
        capacity=capacity,
        unit_bound=unit_bound,
        of_clients=terms.unit == "client",
        bound=math.ceil(capacity * scale * (1 + 1e-6)) + 1,
        l2_sensitivity=sensitivity,
        l1_sensitivity=0.0,
        share_sigma=share_sigma,
    )


def bounded_row_error(query: Query, terms: Terms) -> float:
    """Return how far rounding may move a row's contribution, relative to its bound.

    Raises:
        UsageError: the query does not bound it, and there is a budget for records.
    """
    if query.row_error < 1.0:
        return query.row_error
    if terms.private:
        raise UsageError(
            f"query {query.kind!r} does not bound how rounding moves a row, no budget for records admits it:"
            ' protect whole clients instead, with Budget(..., unit="client"), or use its clipped counterpart'
        )
    return 0.0


def _sensitivity(query: Query, terms: Terms, unit_bound: float, scale: float) -> float:
    """Return D2 on the grid; a record that changes a whole client moves it from one rounded vector to another."""
    dimension = query.layout.size
    if terms.unit == "client":
        capacity = capacity_of(terms)
        return unit_bound / capacity * client_sensitivity(bound=capacity, scale=scale, dimension=dimension)
    return record_sensitivity(
        bound=unit_bound,
        scale=scale,
        dimension=dimension,
        max_records=terms.max_records,
        row_error=bounded_row_error(query, terms),
    )


def _scale(load: float, share_std: float, bits: int) -> float:
    """Return the largest power of two for which sums of `load` fit the ring and a share of `share_std` the sampler."""
    if not (math.isfinite(load) and load > 0):
        raise UsageError(f"the plan's sums reach {load!r}: lower max_records, or choose a larger epsilon")
    largest = 2.0 ** (bits - 2) / load
    if share_std > 0:
        largest = min(largest, MAX_SHARE_SIGMA / (2.0 * share_std))
    return min(2.0 ** math.floor(math.log2(largest)), MAX_SCALE)
