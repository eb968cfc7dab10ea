"""One plan out of query and terms; every party derives it by this same function and binds its masks to the digest."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from privfed.errors import UsageError
from privfed.plan.coarse import coarse_grid, usable_bits
from privfed.plan.explain import explained
from privfed.plan.fine import ROUNDED_UP, fine_grid
from privfed.plan.grid import Grid
from privfed.plan.terms import Terms, check_terms
from privfed.query import Query
from privfed_accounting import View, fine_grid_charge

__all__ = ["Plan", "honest_shares", "make_plan"]

RING_BITS: Final = 64  # where the plan may choose and nothing speaks for less
LONG: Final = 4096  # coordinates from which half the bytes are worth a coarser grid
CHEAP: Final = 1.001  # of the sensitivity: what half the bytes may cost
SLACK_PART: Final = 1e-6  # of a round's mu^2: what the grid's slack may add before the grid counts as too coarse


@dataclass(frozen=True, kw_only=True)
class Plan(Grid):
    """How one release is done: a grid and the terms it was made for. All lengths are in grid units.

    Attributes:
        terms: what was agreed.
        dimension: coordinates of the query's vector.
        why: the reason of the choice of regime and bits, in words.
        digest: SHA-256 over terms and query.
    """

    terms: Terms
    dimension: int
    why: str
    digest: bytes

    def noise_std(self, survivors: int, *, kept_surplus: int = 0) -> float:
        """Return the standard deviation, on the query's scaled vector, of the noise that a sum carries.

        Args:
            survivors: clients in the sum.
            kept_surplus: drop_outs "exact": survivors whose surplus noise was not taken out.
        """
        variance = self.share_sigma**2
        if self.terms.protection == "central":
            pass  # one share, whoever is in the sum
        elif self.terms.drop_outs == "exact" and survivors > 0:
            # Without the number of clients, not even in the last bit: a hidden sample keeps it secret, and what servers
            # compute of a release hangs on this.
            variance = (self.l2_sensitivity * self.terms.noise_multiplier * ROUNDED_UP) ** 2
            if kept_surplus:
                variance *= 1.0 + kept_surplus * max(0.0, 1.0 / self.terms.guaranteed - 1.0 / survivors)
        else:
            variance *= survivors
        return math.sqrt(variance) / self.scale

    def explain(self) -> tuple[str, ...]:
        """Return sentences on what was chosen, why, and what it costs in accuracy and bytes."""
        return explained(self)

    @property
    def nbytes(self) -> int:
        """Bytes of one client's vector on the wire."""
        return -(-self.length * self.bits // 8)


def make_plan(query: Query, query_digest: bytes, terms: Terms) -> Plan:
    """Derive the plan from the query and the terms; deterministic, the same at every party.

    Guarantees:
        The noise of the fewest survivors alone has `noise_multiplier` times the integer sensitivity as its standard
        deviation, or more.

    Raises:
        UsageError: the terms leave no honest noise, or no grid fits; the message names the remedy.
    """
    check_terms(terms)
    if honest_shares(terms) < 1:
        if terms.protection == "central":
            raise UsageError(
                f"in mode 'central' the operator sees everything, view {terms.view!r} has no privacy:"
                " give the budget view='released' or view='client'"
            )
        raise UsageError(
            f"in the view {terms.view!r}, {terms.guaranteed} guaranteed survivors leave no honest noise share:"
            " more clients are needed, or fewer drop-outs and colluders tolerated"
        )
    grid, why = _choose(query, terms)
    digest = hashlib.sha256(b"privfed plan v2\x00" + query_digest + terms.encode()).digest()
    return Plan(**vars(grid), terms=terms, dimension=query.layout.size, why=why, digest=digest)


def honest_shares(terms: Terms) -> int:
    """Return the noise shares of the guaranteed survivors that the view of the terms does not know."""
    view = View.parse(terms.view)
    if terms.protection == "local":
        return 1
    if terms.protection == "central":
        return terms.guaranteed if view.kind in ("released", "client") or not terms.private else 0
    return view.noise_shares(terms.guaranteed)


def _choose(query: Query, terms: Terms) -> tuple[Grid, str]:
    """Return the grid and why it was chosen."""
    if not terms.private:
        return fine_grid(query, terms, terms.bits or RING_BITS), "there is no noise to hide the grid under"
    if terms.noise == "skellam":
        bits = terms.bits or usable_bits(query, terms)
        return coarse_grid(query, terms, bits), "Skellam noise was asked for"
    if terms.bits == 0:
        return _roomy(query, terms)
    try:
        grid = fine_grid(query, terms, terms.bits)
        problem = None if _slack(grid, terms) <= _slack_limit(grid, terms) else "its slack would eat into the budget"
    except UsageError as error:
        problem = str(error)
    if problem is None:
        return grid, f"the noise fits {terms.bits} bits with thousands of grid steps to spare"
    if terms.noise == "discrete_gaussian":
        raise UsageError(
            f"{terms.bits} bits are too few for a fine grid ({problem.split(':')[0]}): give bits=None, or noise='auto'"
        )
    return coarse_grid(query, terms, terms.bits), f"{terms.bits} bits are too few for a fine grid"


def _roomy(query: Query, terms: Terms) -> tuple[Grid, str]:
    """Return a fine grid of 64 bits, or of 32 where a long vector then costs half the bytes and next to no noise."""
    wide = fine_grid(query, terms, RING_BITS)
    if wide.length < LONG:
        return wide, f"{wide.length} coordinates are too few for fewer bits to matter"
    try:
        narrow = fine_grid(query, terms, RING_BITS // 2)
    except UsageError:
        return wide, "32 bits would leave the noise too few grid steps"
    price = (narrow.l2_sensitivity / narrow.scale) / (wide.l2_sensitivity / wide.scale)
    if price > CHEAP or _slack(narrow, terms) > _slack_limit(narrow, terms):
        return wide, "32 bits would cost more noise than they save bytes"
    return narrow, "32 bits halve the bytes and cost less than a thousandth more noise"


def _slack(grid: Grid, terms: Terms) -> float:
    charge = fine_grid_charge(
        l2_sensitivity=grid.l2_sensitivity,
        dimension=grid.length,
        share_sigma=grid.share_sigma,
        shares=honest_shares(terms),
    )
    return charge.epsilon_slack


def _slack_limit(grid: Grid, terms: Terms) -> float:
    return SLACK_PART / terms.noise_multiplier**2
