"""The terms of a release: what the coordinator sends and every client checks against what it agreed to."""

from __future__ import annotations

import math
from typing import Final, Literal, Self, get_args

import msgspec

from privfed.errors import UsageError
from privfed.query import Unit
from privfed_accounting import ParameterError, Sampling

__all__ = [
    "TERMS_VERSION",
    "DropOuts",
    "Noise",
    "Protection",
    "SamplingTerms",
    "Terms",
    "check_terms",
    "decode_terms",
    "tolerated_losses",
]

TERMS_VERSION: Final = 2
SEED_BYTES: Final = 32
LEAST_BITS, MOST_BITS = 8, 64

Protection = Literal["secure_aggregation", "trusted", "local", "central"]
Noise = Literal["auto", "discrete_gaussian", "skellam"]
DropOuts = Literal["provision", "exact"]
SamplingKind = Literal["none", "poisson", "fixed_size", "round_robin"]


class SamplingTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who or what a release is computed on: the fields of `privfed_accounting.Sampling`, for the wire."""

    kind: SamplingKind = "none"
    unit: Unit = "record"
    rate: float = 1.0
    size: int = 0
    population: int = 0
    turn: int = 0

    @classmethod
    def of(cls, sampling: Sampling) -> Self:
        """Return the wire form of `sampling`."""
        return cls(**sampling.as_dict())

    def sampling(self) -> Sampling:
        """Return what the accountant charges.

        Raises:
            UsageError: no sampler has these numbers.
        """
        try:
            return Sampling.from_dict(msgspec.structs.asdict(self))
        except ParameterError as error:
            raise UsageError(str(error)) from error


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the parties agree on before a release; travels to every client.

    Attributes:
        version: of this structure; other versions are refused.
        unit: "record" or "client".
        view: the adversary against whom the noise is meant to suffice, as `str(View)`.
        noise_multiplier: standard deviation of the noise of the sum of the fewest survivors, over the sensitivity; 0.0
            means no noise at all.
        noise: "discrete_gaussian", "skellam", or "auto" for the plan's own choice.
        bits: width of the ring, 8 to 64; 0 for the plan's own choice.
        planned: clients that are expected.
        guaranteed: fewest survivors for which the round completes; their noise suffices.
        drop_outs: "provision" (shares sized for the fewest survivors) or "exact" (surplus noise is taken out again).
        population: clients in the federation, of whom `planned` are asked; 0 where all are.
        dropout: fraction of those asked that may be lost: it makes `guaranteed` of `planned`, for any number.
        max_records: most rows that a client may hold.
        records_per_client: unit "client": most records whose weight one client may carry.
        protection: how the vectors come together: "secure_aggregation", or one of the comparison modes.
        sampling: which clients or records take part.
        rotation_seed: 32 public bytes for the rotation of a coarse grid.
    """

    version: int = TERMS_VERSION
    unit: Unit
    view: str
    noise_multiplier: float
    noise: Noise = "auto"
    bits: int = 0
    planned: int
    guaranteed: int
    drop_outs: DropOuts = "provision"
    population: int = 0
    dropout: float = 0.0
    max_records: int
    records_per_client: float
    protection: Protection
    sampling: SamplingTerms = SamplingTerms()
    rotation_seed: bytes = bytes(SEED_BYTES)

    @property
    def private(self) -> bool:
        """Whether there is noise."""
        return self.noise_multiplier > 0

    @property
    def tolerated(self) -> int:
        """Losses that the round bears."""
        return self.planned - self.guaranteed

    @property
    def expected(self) -> float:
        """Clients that the sampling takes on average: public, unlike `planned` where the sample is to stay hidden."""
        if self.sampling.unit != "client" or self.sampling.kind == "none":
            return float(self.planned)
        return self.sampling.rate * (self.population or self.planned)

    def encode(self) -> bytes:
        """Return the terms as MessagePack."""
        return msgspec.msgpack.encode(self)


def decode_terms(data: bytes) -> Terms:
    """Parse terms strictly.

    Raises:
        UsageError: malformed, unknown fields, or of another version.
    """
    try:
        terms = msgspec.msgpack.decode(data, type=Terms)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the terms of the release are malformed: {error}") from None
    if terms.version != TERMS_VERSION:
        raise UsageError(
            f"the terms have version {terms.version}, expected {TERMS_VERSION}: bring all parties to one release"
        )
    return terms


def tolerated_losses(clients: int, dropout: float) -> int:
    """Return how many of `clients` the fraction `dropout` lets go; 0.29 of 100 are 29, whatever floats say."""
    return math.floor(dropout * clients + 1e-9)


def check_terms(terms: Terms) -> None:
    """Refuse terms that no plan can be made of.

    Raises:
        UsageError: naming what was found and expected.
    """
    if not (math.isfinite(terms.noise_multiplier) and terms.noise_multiplier >= 0):
        raise UsageError(f"noise_multiplier is {terms.noise_multiplier!r}, expected a finite number, 0 for no noise")
    if not 1 <= terms.guaranteed <= terms.planned:
        raise UsageError(
            f"{terms.guaranteed} guaranteed survivors of {terms.planned} clients: expected 1 to {terms.planned}"
        )
    if (terms.population != 0 and terms.population < terms.planned) or not 0.0 <= terms.dropout < 1.0:
        raise UsageError(
            f"{terms.planned} of {terms.population} clients, dropout {terms.dropout!r}:"
            " expected at most the population, and a fraction in [0, 1)"
        )
    if terms.max_records < 1:
        raise UsageError(f"max_records is {terms.max_records}, expected at least 1")
    if not (math.isfinite(terms.records_per_client) and terms.records_per_client > 0):
        raise UsageError(f"records_per_client is {terms.records_per_client!r}, expected a finite number above 0")
    if terms.bits != 0 and not LEAST_BITS <= terms.bits <= MOST_BITS:
        raise UsageError(f"bits is {terms.bits}, expected {LEAST_BITS} to {MOST_BITS}, or None for the plan's choice")
    if len(terms.rotation_seed) != SEED_BYTES:
        raise UsageError(f"the rotation's seed has {len(terms.rotation_seed)} bytes, expected {SEED_BYTES}")
    if terms.drop_outs == "exact" and terms.protection not in ("secure_aggregation", "trusted"):
        raise UsageError(f"drop_outs='exact' has no meaning in mode {terms.protection!r}: use drop_outs='provision'")


def require_choice(name: str, value: object, choices: object) -> None:
    """Refuse a value that is not one of a literal type's.

    Raises:
        UsageError: listing them.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}, expected {' or '.join(repr(choice) for choice in allowed)}")
