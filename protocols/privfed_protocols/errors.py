"""Errors, by what the reader can do: his own mistake, the peer's mistake, a round lost, an epoch lost.

Every refusal of the protocol text is a class of its own, so that a test (and an operator) can tell which check fired.
No message ever holds a secret: lengths, indices, round numbers and identities only.
"""

# ruff: noqa: N818 -- the names say what happened, as in "raise RoundFailed"; all end in the tree of ProtocolError
from __future__ import annotations

from typing import ClassVar, TypeAlias

Disputes: TypeAlias = tuple[tuple[bytes, tuple[bytes, ...]], ...]


class ProtocolError(Exception):
    """Base of everything this package raises on purpose."""


class LocalProtocolError(ProtocolError):
    """The caller's mistake: wrong order of calls, wrong vector, wrong argument. Nothing was changed."""


class CorruptState(LocalProtocolError):
    """Saved client state that cannot be read: altered, cut short, or written by another version."""


class ValueOutOfRange(LocalProtocolError):
    """Refusal 18: an element of a vector that does not fit into the bits that were offered for it.

    Attributes:
        refusal: 18.
    """

    refusal: ClassVar[int] = 18


class InfeasibleParameters(LocalProtocolError):
    """No threshold satisfies these fractions of corrupt and dropped clients; the nearest that works is named."""


class RoundFailed(ProtocolError):
    """The round failed closed: no sum is opened, the round cannot be run again, and the epoch may go on.

    If it failed before the survivors were sent out (`close_inputs`), nothing of it is or becomes known. If it failed
    afterwards (`close_unmask`), clients have answered: whoever holds the answers and the masked vectors may still learn
    the sum of the survivors, never more, so count it as released.

    Attributes:
        round: number of the failed round.
        disputes: as in `RoundResult`, as far as the opening came; for the client whose secret did not open, all who
            gave shares of it.
    """

    def __init__(self, message: str, *, round: int, disputes: Disputes = ()) -> None:
        super().__init__(message)
        self.round = round
        self.disputes = disputes


class EpochFailed(ProtocolError):
    """Set-up failed closed, or too few clients are left for any round: start a new epoch with a new offer."""


class PeerProtocolError(ProtocolError):
    """The peer's message is refused.

    Attributes:
        refusal: number of the refusal in section 6 of the protocol text; 0 for the order-of-messages and
            bookkeeping errors that have no number there.
    """

    refusal: ClassVar[int] = 0


class UnexpectedMessage(PeerProtocolError):
    """A well-formed message that the current state does not await."""


class UnknownSender(PeerProtocolError):
    """A message from an identity that is not in the roster, or a message that names another sender."""


class DuplicateMessage(PeerProtocolError):
    """A second message of a kind that was already accepted; the first one stands."""


class LateMessage(PeerProtocolError):
    """A message for a step that the server has already closed; it is thrown away unread."""


class ExcludedSender(PeerProtocolError):
    """A message from a client that was found bad in this step or is left out of the epoch."""


class BadServerSignature(PeerProtocolError):
    """Refusal 1: a message of the server whose signature is missing or not one of the pinned server key."""

    refusal = 1


class UnknownFormat(PeerProtocolError):
    """Refusal 2: unknown version, suite, mode, type or field; wrong length, trailing bytes, oversize."""

    refusal = 2


class WeakParameters(PeerProtocolError):
    """Refusal 3: parameters weaker than the local policy, or not equal to the client's own `select_parameters`."""

    refusal = 3


class OverBound(PeerProtocolError):
    """Refusal 4: expired, or rounds or sizes over the local bounds."""

    refusal = 4


class RosterSize(PeerProtocolError):
    """Refusal 5: number of clients outside [n_min, n_max]."""

    refusal = 5


class BadOwnLeaf(PeerProtocolError):
    """Refusal 6: the client's own leaf is missing from the roster, altered, or doubled."""

    refusal = 6


class BadRoster(PeerProtocolError):
    """Refusal 7: the roster does not hash to its root, or is not sorted by identity."""

    refusal = 7


class WrongNeighbours(PeerProtocolError):
    """Refusal 8: a neighbour that the graph does not give, or not exactly as many as it gives."""

    refusal = 8


class BadNeighbour(PeerProtocolError):
    """Refusal 9: a doubled or disallowed identity, one without a believed key, or a public key that occurs twice."""

    refusal = 9


class BadSignature(PeerProtocolError):
    """Refusal 9: a message of a client whose signature is missing or not one of its key."""

    refusal = 9


class LowOrderPoint(PeerProtocolError):
    """Refusal 10: an X25519 public key of low order, or not in canonical form."""

    refusal = 10


class BadShareMessage(PeerProtocolError):
    """Refusal 11: an encrypted share that does not authenticate, has a limb outside the field, or a wrong length."""

    refusal = 11


class DeliveryBelowThreshold(PeerProtocolError):
    """Refusal 12: fewer neighbours delivered shares than the threshold."""

    refusal = 12


class WrongRound(PeerProtocolError):
    """Refusal 13: a round that is not later than the last one, beyond the epoch's last, or of another epoch."""

    refusal = 13


class OwnBitOff(PeerProtocolError):
    """Refusal 14: the client's own bit is off in a bitmap that was sent to it."""

    refusal = 14


class BadBitmap(PeerProtocolError):
    """Refusal 15: fewer than n_min bits, survivors outside the participants, or participants who never shared."""

    refusal = 15


class NeighboursBelowThreshold(PeerProtocolError):
    """Refusal 16: fewer live neighbours in a bitmap than the threshold."""

    refusal = 16


class DigestMismatch(PeerProtocolError):
    """Refusal 17: the server started the round on another model or plan than the client computed on."""

    refusal = 17


class NoiseBelowFloor(PeerProtocolError):
    """Refusal 18: an offer for other noise shares than the client's noise is sized for; it could get too low."""

    refusal = 18


class SecondSurvivors(PeerProtocolError):
    """Refusal 19: a second survivors bitmap for a round that was answered."""

    refusal = 19


class NoQuorum(PeerProtocolError):
    """Refusal 20: fewer than t neighbours signed the survivors that this client was told, or one of them did not."""

    refusal = 20


class AfterBurned(PeerProtocolError):
    """Refusal 22: a message about a burned round, or any message after set-up was aborted."""

    refusal = 22
