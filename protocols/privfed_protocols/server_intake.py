"""Messages of clients, taken in or refused: late, doubled, strange and malformed ones change no sum."""

from __future__ import annotations

from typing import Final

from . import derivation
from .errors import (
    BadSignature,
    DuplicateMessage,
    ExcludedSender,
    LateMessage,
    PeerProtocolError,
    RosterSize,
    UnexpectedMessage,
    UnknownSender,
    WrongRound,
)
from .events import ServerEvent
from .exclusive import exclusive
from .identities import verify
from .messages import Advertise, Consistency, FromClient, Masked, Shares, Unmask, advertise_limit, payload_limit
from .server_core import ServerCore
from .server_round import ServerRound
from .server_setup import check_shares
from .shamir import SHARE_BYTES
from .signed import SIGNED_OVERHEAD, Proof, check_dress, read_from_client, statement
from .states import SERVER_TRANSITIONS, ServerState, ServerTrigger, SlotState, SlotTrigger, allows
from .surplus import SEED_BYTES, opens_surplus
from .vault import PAIR_BYTES
from .vectors import total_bytes

_MOVES: Final = {  # what a message does to its sender's slot
    ServerTrigger.TAKE_ADVERTISE: SlotTrigger.ADVERTISE,
    ServerTrigger.TAKE_SHARES: SlotTrigger.SHARES,
    ServerTrigger.TAKE_MASKED: SlotTrigger.MASK,
    ServerTrigger.TAKE_SIGNATURE: SlotTrigger.SIGN,
    ServerTrigger.TAKE_UNMASK: SlotTrigger.UNMASK,
}
_OVER: Final = {  # states in which a message of a kind is late; anywhere else it is out of order
    ServerTrigger.TAKE_ADVERTISE: frozenset(ServerState),
    ServerTrigger.TAKE_SHARES: frozenset(ServerState) - {ServerState.ADVERTISE},
    ServerTrigger.TAKE_MASKED: frozenset({ServerState.SIGNATURES, ServerState.UNMASK}),
    ServerTrigger.TAKE_SIGNATURE: frozenset({ServerState.UNMASK}),
    ServerTrigger.TAKE_UNMASK: frozenset(),
}


class ServerIntake(ServerCore):
    """A server that takes messages in. Use `Server`."""

    @exclusive
    def receive(self, sender: bytes, message: bytes) -> ServerEvent:
        """Take in a message.

        Args:
            sender: identity, as authenticated by the transport.
            message: the bytes as they arrived.

        Raises:
            PeerProtocolError: the message is refused. Late and doubled messages change nothing; any other refusal
                marks the slot bad for this step, if the step still waited for that client.
        """
        try:
            decoded, proof = read_from_client(message, limit=self._limit())
            check_dress(decoded, proof, mode=self._offer.mode, missing=BadSignature)
            if self._roster is not None and self._slots[sender].index < 0:
                raise LateMessage(f"{sender.hex()} is not in the roster, which is closed")
            return self._take(sender, decoded, proof, message)
        except (LateMessage, DuplicateMessage, ExcludedSender, RosterSize):
            raise
        except PeerProtocolError as error:
            if self._awaits_from(sender):
                self._slots.note(sender, SlotTrigger.BAD, str(error))
            raise

    def _take(self, sender: bytes, decoded: FromClient, proof: Proof | None, message: bytes) -> ServerEvent:
        match decoded:
            case Advertise():
                self._take_advertise(sender, decoded, proof, message)
            case Shares():
                self._take_shares(sender, decoded)
            case Masked():
                self._take_masked(sender, decoded, proof)
            case Consistency():
                self._take_signature(sender, decoded)
            case Unmask():
                self._take_unmask(sender, decoded)
        number = decoded.round if isinstance(decoded, Masked | Consistency | Unmask) else 0
        return ServerEvent(sender=sender, kind=type(decoded).__name__.lower(), round=number)

    def _take_advertise(self, sender: bytes, advertise: Advertise, proof: Proof | None, message: bytes) -> None:
        self._awaits(ServerTrigger.TAKE_ADVERTISE, sender)
        if self._invited is not None and sender not in self._invited:
            raise UnknownSender(f"{sender.hex()} is not invited")
        moved = self._slots.moved(sender, SlotTrigger.ADVERTISE)
        if len(self._advertised.taken) == self._offer.n_max:
            raise RosterSize(f"roster is full with {self._offer.n_max} clients")
        self._advertised.add(sender, advertise, message, proof)
        self._slots.put(moved)

    def _take_shares(self, sender: bytes, shares: Shares) -> None:
        self._awaits(ServerTrigger.TAKE_SHARES, sender)
        moved = self._slots.moved(sender, SlotTrigger.SHARES)
        roster = self._require_roster()
        self._shares[moved.index] = check_shares(shares, roster=roster, offer=self._offer, epoch=self._epoch)
        self._slots.put(moved)

    def _take_masked(self, sender: bytes, masked: Masked, proof: Proof | None) -> None:
        current = self._check_round(masked, sender, ServerTrigger.TAKE_MASKED)
        moved = self._slots.moved(sender, SlotTrigger.MASK)
        if proof is not None:
            signed = statement(Masked, proof.fingerprint, epoch=self._epoch, suite=self._offer.suite)
            self._check_signature(moved.index, proof.signature, signed)
        current.add(moved.index, masked.payload, self._offer.vectors)
        self._slots.put(moved)

    def _take_signature(self, sender: bytes, consistency: Consistency) -> None:
        current = self._check_round(consistency, sender, ServerTrigger.TAKE_SIGNATURE)
        moved = self._slots.moved(sender, SlotTrigger.SIGN)
        signed = derivation.consistency_statement(
            context=current.context, survivors=current.survivors_bitmap, suite=self._offer.suite
        )
        self._check_signature(moved.index, consistency.signature, signed)
        current.signatures[moved.index] = consistency.signature
        self._slots.put(moved)

    def _take_unmask(self, sender: bytes, unmask: Unmask) -> None:
        current = self._check_round(unmask, sender, ServerTrigger.TAKE_UNMASK)
        moved = self._slots.moved(sender, SlotTrigger.UNMASK)
        offer = self._offer
        opens = opens_surplus(shares=offer.shares, n_min=offer.n_min, survivors=len(current.survivors))
        current.answer(
            moved.index,
            unmask.shares,
            asked=len(self._require_roster().topology.among(moved.index, current.invited)),
            surplus=unmask.surplus,
            surplus_bytes=SEED_BYTES if opens else 0,
        )
        self._slots.put(moved)

    def _check_signature(self, index: int, signature: bytes, signed: bytes) -> None:
        roster = self._require_roster()
        if not verify(roster.signature_keys[index], signature, signed):
            raise BadSignature(f"a message of {roster.identities[index].hex()} is not signed by its key")

    def _check_round(
        self, message: Masked | Consistency | Unmask, sender: bytes, trigger: ServerTrigger
    ) -> ServerRound:
        """Refuse what is not about the round that runs: late if it is over, bad if it never began."""
        if message.epoch != self._epoch:
            raise WrongRound(f"{message} of another epoch")
        if message.round > self._last:
            raise WrongRound(f"{message} for round {message.round}, which did not start")
        if message.round < self._last or self._round is None:
            raise LateMessage(f"{message} for round {message.round}, which is over")
        self._awaits(trigger, sender)
        return self._round

    def _awaits(self, trigger: ServerTrigger, sender: bytes) -> None:
        """Refuse a message that the current step does not take: late if its step is over."""
        if allows(SERVER_TRANSITIONS, self._state, trigger):
            return
        if self._state not in _OVER[trigger]:
            raise UnexpectedMessage(f"{trigger.value!r} does not follow state {self._state.name}")
        if self._slots.awaits(sender, _MOVES[trigger]):  # a copy of what came in time says nothing about its sender
            self._slots.note(sender, SlotTrigger.LATE, f"came after its step, in state {self._state.name}")
        raise LateMessage(f"message of {sender.hex()} came after its step was closed, in state {self._state.name}")

    def _awaits_from(self, sender: bytes) -> bool:
        """Whether the current step waits for this client; what was taken in already stays taken in."""
        stranger = self._state is ServerState.ADVERTISE and self._invited is None and sender not in self._slots
        if stranger:  # no more slots for garbage than for clients; those who advertise well are not kept out by it
            return sum(slot.state is SlotState.BAD for slot in self._slots) < self._offer.n_max
        return sender in self.pending

    def _limit(self) -> int:
        """Most bytes of any message that a client may send now."""
        rounds = self._offer.rounds
        if self._roster is None:
            return advertise_limit(rounds) + SIGNED_OVERHEAD
        shares = self._roster.parameters.k * (PAIR_BYTES * rounds + SHARE_BYTES)
        payload = max(total_bytes(self._offer.vectors), shares, advertise_limit(rounds))
        return payload_limit(payload, self._roster.n) + SIGNED_OVERHEAD
