"""What a client agrees to, whatever the server says."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import BadNeighbour, NoiseBelowFloor, OverBound, RosterSize, WeakParameters
from .modes import MODES
from .offer import Offer
from .vectors import total_bytes


@dataclass(frozen=True)
class ClientPolicy:
    """Bounds on offers and rosters. Privacy settings first, then bounds on work and memory.

    Attributes:
        n_min: fewest clients that the client hides among; offers with a smaller `n_min` are refused.
        min_corrupt: least share of corrupt clients that the threshold has to stand, in [0, 1).
        min_colluders: least number of clients that may work with the server without opening any single vector, whatever
            the roster. The threshold must exceed it; in the modes with identities, where the server may tell clients
            different things, and on a ring, the offer's `corrupt` must also count as many, since only then is the
            threshold selected against it.
        max_dropout: largest tolerated drop-out that an offer may ask for; more tolerance means a lower threshold.
        min_sigma: least statistical security in bits.
        modes: the modes to take part in; None for the strongest that the client can: "malicious" if it has
            credentials, so that a server cannot talk it out of the signatures on survivors, else "semi-honest". A
            client with credentials never takes part without identities, whatever stands here; one without them cannot
            take part with them.
        identities: the only identities allowed in a roster; None allows all. Without a list (and without signatures)
            a server that lies can fill the roster with clients of its own.
        noise_shares: the number of noise shares that this client's noise is sized for; None allows any. A server that
            understates it would have seeds handed out that take too much noise out of the sum.
        plan_digests: the only plans to serve; None allows all.
        n_max: most clients in a roster.
        max_rounds: most rounds in an epoch.
        max_vector_bytes: most bytes of all vectors of one round.
        require_expiry: refuse offers without an expiry.
        max_lifetime: most seconds between now and the expiry of an offer, which then must have one; None for no bound.
    """

    n_min: int = 2
    min_corrupt: float = 0.0
    min_colluders: int = 0
    max_dropout: float = 1.0
    min_sigma: int = 40
    modes: frozenset[str] | None = None
    identities: frozenset[bytes] | None = field(default=None, repr=False)
    noise_shares: int | None = None
    plan_digests: frozenset[bytes] | None = field(default=None, repr=False)
    n_max: int = 300
    max_rounds: int = 1024
    max_vector_bytes: int = 1 << 30
    require_expiry: bool = False
    max_lifetime: int | None = None

    def check_offer(self, offer: Offer, *, now: int, identified: bool) -> None:
        """Refuse an offer that is weaker, larger or older than this policy allows.

        Args:
            offer: as the server made it.
            now: Unix seconds.
            identified: whether the client has credentials.

        Raises:
            WeakParameters: fewer clients, less corruption or more drop-out than agreed to, another mode or plan.
            NoiseBelowFloor: other noise shares than this client's noise is sized for.
            OverBound: expired, or too many rounds or bytes.
            RosterSize: more clients than allowed.
        """
        modes = (frozenset({"malicious"}) if identified else frozenset(MODES)) if self.modes is None else self.modes
        weak = {
            f"mode {offer.mode}, policy allows {sorted(modes)}": offer.mode not in modes,
            f"n_min={offer.n_min}, policy asks for at least {self.n_min}": offer.n_min < self.n_min,
            f"corrupt={offer.corrupt}, policy asks for at least {self.min_corrupt}": offer.corrupt < self.min_corrupt,
            f"dropout={offer.dropout}, policy allows at most {self.max_dropout}": offer.dropout > self.max_dropout,
            f"sigma={offer.sigma}, policy asks for at least {self.min_sigma}": offer.sigma < self.min_sigma,
            "a plan that the policy does not list": (
                self.plan_digests is not None and offer.plan_digest not in self.plan_digests
            ),
        }
        _refuse(WeakParameters, "offer with", weak)
        if self.noise_shares is not None and offer.shares != self.noise_shares:
            raise NoiseBelowFloor(f"offer for {offer.shares} noise shares, own noise is sized for {self.noise_shares}")
        size = total_bytes(offer.vectors)
        over = {
            f"{offer.rounds} rounds, policy allows {self.max_rounds}": offer.rounds > self.max_rounds,
            f"{size} bytes of vectors a round, policy allows {self.max_vector_bytes}": size > self.max_vector_bytes,
            "no expiry, policy requires one": self.require_expiry and offer.expiry == 0,
            f"no expiry, or one more than {self.max_lifetime} s away": (
                self.max_lifetime is not None and not 0 < offer.expiry <= now + self.max_lifetime
            ),
        }
        _refuse(OverBound, "offer with", over)
        check_not_expired(offer, now=now)
        if offer.n_max > self.n_max:
            raise RosterSize(f"offer for up to {offer.n_max} clients, policy allows {self.n_max}")

    def check_identity(self, identity: bytes) -> None:
        """Refuse a neighbour that is not on the list.

        Raises:
            BadNeighbour: naming the identity.
        """
        if self.identities is not None and identity not in self.identities:
            raise BadNeighbour(f"identity {identity.hex()} is not on the policy's list")


def check_not_expired(offer: Offer, *, now: int) -> None:
    """Refuse an epoch after its expiry.

    Raises:
        OverBound: naming both times.
    """
    if offer.expiry and now > offer.expiry:
        raise OverBound(f"epoch expired at {offer.expiry}, it is {now}")


def _refuse(error: type[WeakParameters] | type[OverBound], subject: str, findings: dict[str, bool]) -> None:
    found = [text for text, holds in findings.items() if holds]
    if found:
        raise error(f"{subject} {'; '.join(found)}")
