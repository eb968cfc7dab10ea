"""The plan of a release: scale, bits, noise and sensitivity made together, so that they cannot disagree.

The coordinator sends `Terms`; each client derives the `Plan` from terms and query by the same function and binds
its masks to the digest. A coordinator that tells two clients different terms gets masks that do not cancel.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import msgspec

from privfed.errors import UsageError
from privfed.mechanism.sensitivity import client_sensitivity, record_sensitivity
from privfed.query import Query, Unit
from privfed_accounting import View

__all__ = ["Plan", "Terms", "decode_terms", "make_plan", "tolerated_losses"]

RING_BITS: Literal[64] = 64
RING_HEADROOM = 2.0**62  # the ring holds +-2^63; one bit is left for what rounding adds
NOISE_TAIL = 14.0  # standard deviations that must fit: beyond lie 1e-44 of a Gaussian's mass
MAX_SCALE = 2.0**40  # below float64's 2^-53 of a unit sum nothing is gained
MIN_SHARE_SIGMA = 2.0**16  # coarser noise than any ordinary setting gives; the ledger charges the true slack anyway
MAX_SHARE_SIGMA = 2.0**50  # what the sampler draws
MAX_GRID_PRICE = 1.5  # sensitivity on the grid over that of the real vector; in ordinary settings it is below 1.0001
REMEDY = "lower max_records to what a client really holds, or choose an epsilon between 0.001 and 1000"
ROUNDED_UP = 1.0 + 2.0**-44  # more than the accountant adds to be on the safe side


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parties agree on before a release; travels to every client.

    Attributes:
        unit: "record" or "client".
        view: the adversary against whom the noise suffices, as `str(View)`.
        mu2: squared GDP parameter that the release may cost in that view; 0.0 means no noise at all.
        planned: clients that are expected.
        guaranteed: fewest survivors for which the round completes; their noise suffices.
        max_records: most rows that a client may hold.
        records_per_client: unit "client": most records whose weight one client may carry.
        trusted: whether the sum is formed in the clear.
    """

    unit: Unit
    view: str
    mu2: float
    planned: int
    guaranteed: int
    max_records: int
    records_per_client: float
    trusted: bool

    def encode(self) -> bytes:
        """Return the terms as MessagePack."""
        return msgspec.msgpack.encode(self)


def decode_terms(data: bytes) -> Terms:
    """Parse terms strictly.

    Raises:
        UsageError: malformed or unknown fields.
    """
    try:
        return msgspec.msgpack.decode(data, type=Terms)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the terms of the release are malformed: {error}") from None


@dataclass(frozen=True)
class Plan:
    """How one release is done. All lengths are in units of the integer grid.

    Attributes:
        terms: what was agreed.
        dimension: coordinates of the vector.
        scale: grid units per unit of the query's scaled vector; a power of two.
        bits: width of the ring.
        bound: largest absolute value that an encoded coordinate may have before noise.
        l2_sensitivity: how far one unit moves the integer sum, rounding and float summation included.
        share_sigma: standard deviation of one client's discrete Gaussian share; 0.0 without noise.
        mechanism: "discrete_gaussian" or "none".
        digest: SHA-256 over terms and query.
    """

    terms: Terms
    dimension: int
    scale: float
    bits: int
    bound: float
    l2_sensitivity: float
    share_sigma: float
    mechanism: Literal["discrete_gaussian", "none"]
    digest: bytes

    def noise_std(self, shares: int) -> float:
        """Return the standard deviation, on the query's scaled vector, of the noise that `shares` clients add up to."""
        return self.share_sigma * math.sqrt(shares) / self.scale


def make_plan(query: Query, query_digest: bytes, terms: Terms) -> Plan:
    """Derive the plan from the query and the terms; deterministic, the same at every party.

    The scale is the largest power of two for which no sum can wrap: `planned` clients, each with its largest encoded
    value and `NOISE_TAIL` standard deviations of noise, stay within the ring.

    Guarantees:
        The noise of any `view.noise_shares(guaranteed)` shares alone makes the release mu-GDP with
        mu^2 <= `terms.mu2`, up to the fine-grid terms that `privfed_accounting.fine_grid_charge` adds.

    Raises:
        UsageError: the terms leave no honest noise, or no scale fits; the message names the remedy.
    """
    _check(terms)
    dimension = query.layout.size
    unit_bound = query.sensitivity(terms.unit, records_per_client=terms.records_per_client).l2
    capacity = float(terms.max_records) if terms.unit == "record" else terms.records_per_client
    honest = View.parse(terms.view).noise_shares(terms.guaranteed)
    if honest < 1:
        raise UsageError(
            f"in the view {terms.view!r}, {terms.guaranteed} guaranteed survivors leave {honest} honest noise shares:"
            " more clients are needed, or fewer drop-outs and colluders tolerated"
        )
    relative = unit_bound / math.sqrt(terms.mu2 * honest) if terms.mu2 > 0 else 0.0
    scale = _scale(terms.planned * (capacity + NOISE_TAIL * relative), relative)
    if terms.unit == "record":
        row_error = query.row_error
        if not row_error < 1.0:
            if terms.mu2 > 0:
                raise UsageError(
                    f"query {query.kind!r} does not bound how rounding moves a row, no budget for records admits it:"
                    " use its clipped counterpart"
                )
            row_error = 0.0
        sensitivity = record_sensitivity(
            bound=unit_bound,
            scale=scale,
            dimension=dimension,
            max_records=terms.max_records,
            row_error=row_error,
        )
    else:
        sensitivity = client_sensitivity(bound=unit_bound, scale=scale, dimension=dimension)
    if sensitivity > MAX_GRID_PRICE * unit_bound * scale:
        found = f"sensitivity {sensitivity / scale:.3g} on the grid for one of {unit_bound:.3g}"
        raise UsageError(f"rounding costs more than the data, {found}: {REMEDY}")
    share_sigma = 0.0
    if terms.mu2 > 0:
        share_sigma = sensitivity / math.sqrt(terms.mu2 * honest) * ROUNDED_UP
        if not MIN_SHARE_SIGMA <= share_sigma <= MAX_SHARE_SIGMA:
            expected = f"expected {MIN_SHARE_SIGMA:.0f} to {MAX_SHARE_SIGMA:.2g}"
            raise UsageError(f"a noise share spans {share_sigma:.3g} grid units, {expected}: {REMEDY}")
    digest = hashlib.sha256(b"privfed plan v1\x00" + query_digest + terms.encode()).digest()
    return Plan(
        terms=terms,
        dimension=dimension,
        scale=scale,
        bits=RING_BITS,
        bound=math.ceil(capacity * scale * (1 + 1e-6)) + 1,
        l2_sensitivity=sensitivity,
        share_sigma=share_sigma,
        mechanism="discrete_gaussian" if terms.mu2 > 0 else "none",
        digest=digest,
    )


def tolerated_losses(clients: int, dropout: float) -> int:
    """Return how many of `clients` the fraction `dropout` lets go; 0.29 of 100 are 29, whatever floats say."""
    return math.floor(dropout * clients + 1e-9)


def _scale(load: float, share_std: float) -> float:
    """Return the largest power of two for which sums of `load` fit the ring and a share of `share_std` the sampler."""
    if not (math.isfinite(load) and load > 0):
        raise UsageError(f"the plan's sums reach {load!r}: lower max_records, or choose a larger epsilon")
    largest = RING_HEADROOM / load
    if share_std > 0:
        largest = min(largest, MAX_SHARE_SIGMA / (2.0 * share_std))
    return min(2.0 ** math.floor(math.log2(largest)), MAX_SCALE)


def _check(terms: Terms) -> None:
    if not (math.isfinite(terms.mu2) and terms.mu2 >= 0):
        raise UsageError(f"mu2 is {terms.mu2!r}, expected a finite number, 0 for no noise")
    if not 1 <= terms.guaranteed <= terms.planned:
        raise UsageError(
            f"{terms.guaranteed} guaranteed survivors of {terms.planned} clients: expected 1 to {terms.planned}"
        )
    if terms.max_records < 1:
        raise UsageError(f"max_records is {terms.max_records}, expected at least 1")
    if not (math.isfinite(terms.records_per_client) and terms.records_per_client > 0):
        raise UsageError(f"records_per_client is {terms.records_per_client!r}, expected a finite number above 0")
