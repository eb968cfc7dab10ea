"""The server's book of its clients: one slot each, moved by the table and by nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from .errors import DuplicateMessage, ExcludedSender, UnexpectedMessage
from .states import SLOT_TRANSITIONS, IllegalTransition, ServerState, SlotState, SlotTrigger, allows, step

_DONE: Final = {
    SlotTrigger.ADVERTISE: SlotState.ADVERTISED,
    SlotTrigger.SHARES: SlotState.SHARED,
    SlotTrigger.MASK: SlotState.MASKED,
    SlotTrigger.SIGN: SlotState.SIGNED,
    SlotTrigger.UNMASK: SlotState.UNMASKED,
}
_AWAITED: Final = {
    ServerState.ADVERTISE: (SlotState.ABSENT,),
    ServerState.SHARES: (SlotState.ADVERTISED,),
    ServerState.INPUTS: (SlotState.INVITED,),
    ServerState.SIGNATURES: (SlotState.MASKED,),
    ServerState.UNMASK: (SlotState.MASKED, SlotState.SIGNED),  # where signatures are asked for, no slot stays masked
}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What the server knows of one client.

    Attributes:
        identity: the client.
        index: its place in the roster, -1 before there is one.
        state: of its set-up, then of the current or last round.
        reason: why it is bad, late or left out, else empty.
    """

    identity: bytes
    index: int = -1
    state: SlotState = SlotState.ABSENT
    reason: str = ""


class SlotBook:
    """All slots, by identity."""

    def __init__(self, invited: Iterable[bytes]) -> None:
        self._slots = {identity: Slot(identity=identity) for identity in sorted(invited)}

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._slots

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots.values()))  # a snapshot: other threads may take messages in

    def __getitem__(self, identity: bytes) -> Slot:
        return self._slots.get(identity, Slot(identity=identity))

    def put(self, slot: Slot) -> None:
        """Replace a slot by what `moved` gave."""
        self._slots[slot.identity] = slot

    def number(self, identities: Iterable[bytes]) -> None:
        """Give each client of the roster its index."""
        for index, identity in enumerate(identities):
            self._slots[identity] = replace(self._slots[identity], index=index)

    def moved(self, identity: bytes, trigger: SlotTrigger) -> Slot:
        """The slot as it would be after a message, or why that message cannot be taken.

        Raises:
            ExcludedSender: the client was found bad in this step, or is left out.
            DuplicateMessage: the same was taken in before.
            UnexpectedMessage: it is not awaited from this client.
        """
        slot = self[identity]
        if slot.state in (SlotState.BAD, SlotState.LEFT_OUT):
            raise ExcludedSender(f"client {identity.hex()} is {slot.state.value}: {slot.reason}")
        try:
            return replace(slot, state=step(SLOT_TRANSITIONS, slot.state, trigger), reason="")
        except IllegalTransition:
            message = f"{trigger.value} of client {identity.hex()}, which is {slot.state.value}"
            if slot.state is _DONE.get(trigger):
                raise DuplicateMessage(f"second {message}") from None
            raise UnexpectedMessage(f"{message}; not awaited from it") from None

    def note(self, identity: bytes, trigger: SlotTrigger, reason: str = "") -> None:
        """Move a slot where the table lets it move; what it does not let go stays as it is."""
        slot = self[identity]
        if allows(SLOT_TRANSITIONS, slot.state, trigger):
            self.put(replace(slot, state=step(SLOT_TRANSITIONS, slot.state, trigger), reason=reason))

    def awaits(self, identity: bytes, trigger: SlotTrigger) -> bool:
        """Whether this is the message that is still missing from this client."""
        return allows(SLOT_TRANSITIONS, self[identity].state, trigger)

    def awaited(self, state: ServerState) -> frozenset[bytes]:
        """Identities that a step still waits for."""
        return frozenset(slot.identity for slot in self if slot.state in _AWAITED.get(state, ()))
