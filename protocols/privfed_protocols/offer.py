"""M0, the offer: what an epoch would be, checked on its own terms at both ends."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec

from .errors import InfeasibleParameters, LocalProtocolError, UnknownFormat
from .labels import SUITE, VERSION
from .modes import MODES, ModeName, ModeRules
from .parameters import MAX_COMPLETE, GraphParameters, select_parameters
from .suites import suite as suite_of
from .vectors import VectorSpec, check_layout
from .wire import Count, Digest, Fraction, Message, Round, Time, Version, decode, encode

OFFER_LIMIT: Final = 32 << 10  # 64 vectors with names of 64 characters of four bytes, and room
_Clients = Annotated[int, msgspec.Meta(ge=2, le=2**31 - 1)]


class Offer(Message, frozen=True, tag=0):
    """M0, server to clients: what the epoch would be. Made by `Offer.new`.

    Attributes:
        version: "sa1".
        nonce: 32 fresh bytes that make the epoch unique.
        suite: 1, AES-256-CTR masks and AES-256-GCM shares; 2, ChaCha20 and ChaCha20-Poly1305.
        mode: "semi-honest", "semi-malicious" or "malicious".
        n_min: fewest clients, in the roster, of a round's participants and of its survivors.
        n_max: most clients in the roster.
        corrupt: share of clients that may pool what they see with the server.
        dropout: share of clients that may be gone in a round that still has to succeed.
        sigma: statistical security in bits.
        eta: bits of the chance that allowed drop-outs fail a round.
        rounds: rounds in the epoch.
        expiry: Unix time in seconds after which clients refuse the epoch; 0 for none.
        vectors: what every client hands in, every round.
        plan_digest: SHA-256 of the plan that this epoch serves.
        shares: number of noise shares that the plan's surplus noise is sized for, `n_min` to `n_max`; 0 for none.
    """

    version: Version
    nonce: Digest
    suite: Annotated[int, msgspec.Meta(ge=0, le=255)]
    mode: ModeName
    n_min: _Clients
    n_max: _Clients
    corrupt: Fraction
    dropout: Fraction
    sigma: Count
    eta: Count
    rounds: Round
    expiry: Time
    vectors: tuple[VectorSpec, ...]
    plan_digest: Digest
    shares: Count

    @property
    def rules(self) -> ModeRules:
        """What the mode asks for."""
        return MODES[self.mode]

    def parameters(self, n: int) -> GraphParameters:
        """Neighbours and threshold for a roster of `n` clients; the same at every party. See `select_parameters`."""
        return select_parameters(
            n,
            corrupt=self.corrupt,
            dropout=self.dropout,
            n_min=self.n_min,
            n_max=self.n_max,
            sigma=self.sigma,
            eta=self.eta,
            mode=self.mode,
        )

    @classmethod
    def new(
        cls,
        *,
        vectors: Sequence[VectorSpec],
        n_min: int,
        n_max: int,
        rounds: int,
        plan_digest: bytes,
        corrupt: float = 0.0,
        dropout: float = 0.0,
        sigma: int = 40,
        eta: int = 20,
        expiry: int = 0,
        nonce: bytes | None = None,
        mode: ModeName = "semi-honest",
        suite: int = SUITE,
        shares: int = 0,
    ) -> Offer:
        """Make a checked offer with a fresh nonce.

        Args:
            vectors: layout of a round, 1 to 64 uniquely named vectors.
            n_min: fewest clients, at least 2.
            n_max: most clients, at least `n_min`.
            rounds: rounds in the epoch, at least 1.
            plan_digest: 32 bytes.
            corrupt: in [0, 1).
            dropout: in [0, 1).
            sigma: bits.
            eta: bits.
            expiry: Unix seconds, 0 for none.
            nonce: 32 bytes, from the operating system if not given; give it only in tests.
            mode: what the server is trusted with; all but "semi-honest" need credentials at both ends.
            suite: number of the cipher suite.
            shares: noise shares that the surplus noise is sized for, `n_min` to `n_max`; 0 for no surplus noise.

        Raises:
            LocalProtocolError: an argument out of range.
            InfeasibleParameters: no allowed number of clients stands these fractions.
        """
        nonce = os.urandom(32) if nonce is None else nonce
        offer = cls(
            VERSION, nonce, suite, mode, n_min, n_max, float(corrupt), float(dropout), sigma, eta, rounds, expiry,
            tuple(vectors), plan_digest, shares,
        )  # fmt: skip
        try:
            decode_offer(encode(offer))
        except (UnknownFormat, TypeError, OverflowError) as error:
            raise LocalProtocolError(f"offer is not valid: {error}") from None
        _check_feasible(offer)
        return offer


_DECODER: Final = msgspec.msgpack.Decoder(Offer)


def decode_offer(message: bytes | memoryview) -> Offer:
    """Decode and check an M0 on its own terms.

    Raises:
        UnknownFormat: it is no valid offer of this version.
        UnknownSuite: its suite is not one that this version has.
    """
    offer = decode(_DECODER, message, OFFER_LIMIT)
    check_offer(offer)
    return offer


def check_offer(offer: Offer) -> None:
    """Refuse an offer whose fields do not fit each other.

    Raises:
        UnknownFormat: naming the fields.
        UnknownSuite: its suite is not one that this version has.
    """
    suite_of(offer.suite)
    problem = check_layout(offer.vectors)
    if offer.n_min > offer.n_max:
        problem = f"n_min={offer.n_min} exceeds n_max={offer.n_max}"
    elif offer.shares and not offer.n_min <= offer.shares <= offer.n_max:
        problem = f"shares={offer.shares}, expected 0 or n_min={offer.n_min} to n_max={offer.n_max}"
    if problem is not None:
        raise UnknownFormat(f"offer refused: {problem}")


def _check_feasible(offer: Offer) -> None:
    """Refuse an offer whose fractions leave a threshold for no allowed number of clients, naming the nearest."""
    problem: InfeasibleParameters | None = None
    for n in _sizes(offer):
        try:
            offer.parameters(n)
        except InfeasibleParameters as error:
            problem = error
        else:
            return
    raise problem or InfeasibleParameters(f"no number of clients from {offer.n_min} to {offer.n_max} is supported")


def _sizes(offer: Offer) -> Iterator[int]:
    """Roster sizes to try: all on the complete graph, and the ends of the range beyond it."""
    yield from range(offer.n_min, min(offer.n_max, MAX_COMPLETE) + 1)
    yield from sorted({max(offer.n_min, MAX_COMPLETE + 1), offer.n_max} if offer.n_max > MAX_COMPLETE else ())
