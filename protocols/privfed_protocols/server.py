"""The server of one epoch: bytes in, events and bytes out.

It decides when a step is over (`close_*`), never what a client may do twice; that is in `states.py`. It holds one
accumulator per vector whatever the number of clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from . import bitmap, derivation
from .errors import (
    DuplicateMessage,
    EpochFailed,
    ExcludedSender,
    InfeasibleParameters,
    LateMessage,
    LocalProtocolError,
    PeerProtocolError,
    RosterSize,
    RoundFailed,
    UnexpectedMessage,
    UnknownFormat,
    UnknownSender,
    WrongRound,
)
from .events import RoundResult, ServerEvent
from .labels import VERSION
from .messages import (
    Advertise,
    FromClient,
    Masked,
    Offer,
    Shares,
    Start,
    Survivors,
    Unmask,
    advertise_limit,
    decode_from_client,
    encode,
    payload_limit,
)
from .server_round import ServerRound, Unopenable, asked_of, open_secrets, remove_masks
from .server_setup import Advertised, ServerRoster, check_shares, make_deliveries, make_rosters
from .shamir import SHARE_BYTES
from .slots import Slot, SlotBook
from .states import (
    SERVER_TRANSITIONS,
    IllegalTransition,
    ServerState,
    ServerTrigger,
    SlotState,
    SlotTrigger,
    allows,
    step,
)
from .uncopied import Uncopied
from .vault import PAIR_BYTES
from .vectors import total_bytes

_UNOPENED: Final = "its shares did not open; left out of later rounds"
_MOVES: Final = {  # what a message does to its sender's slot
    ServerTrigger.TAKE_ADVERTISE: SlotTrigger.ADVERTISE,
    ServerTrigger.TAKE_SHARES: SlotTrigger.SHARES,
    ServerTrigger.TAKE_MASKED: SlotTrigger.MASK,
    ServerTrigger.TAKE_UNMASK: SlotTrigger.UNMASK,
}


class Server(Uncopied):
    """Runs one epoch: set-up once, then up to R rounds.

    The driver carries bytes and watches the time: it broadcasts `offer`, feeds messages to `receive`, and closes a
    step when `pending` is empty or its deadline is over.

    Args:
        offer: what the epoch is.
        invited: the identities that may take part; None takes whoever the transport lets through. Only with a list
            can `pending` tell who has not advertised yet.

    Guarantees:
        A round's result is the sum modulo 2^bits of exactly the survivors' vectors, or `RoundFailed`.
        Whatever arrives late, twice or malformed is refused and changes no sum.
        Memory is O(d) for vectors of d elements: no masked vector is kept.
    """

    def __init__(self, offer: Offer, *, invited: Iterable[bytes] | None = None) -> None:
        self._offer = offer
        self._offer_bytes = encode(offer)
        self._epoch = derivation.epoch_id(self._offer_bytes)
        self._invited = None if invited is None else frozenset(invited)
        self._state = ServerState.ADVERTISE
        self._slots = SlotBook(self._invited or ())
        self._advertised = Advertised(offer, self._epoch)
        self._roster: ServerRoster | None = None
        self._shares: dict[int, bytes] = {}
        self._present: frozenset[int] = frozenset()
        self._last = 0
        self._round: ServerRound | None = None

    @property
    def offer(self) -> bytes:
        """M0, for every client."""
        return self._offer_bytes

    @property
    def state(self) -> ServerState:
        """Where the server stands."""
        return self._state

    @property
    def round(self) -> int:
        """Number of the round that runs or ran last; 0 before the first."""
        return self._last

    @property
    def rounds_left(self) -> int:
        """Rounds that the epoch still has."""
        return 0 if self._state is ServerState.FAILED else self._offer.rounds - self._last

    @property
    def slots(self) -> Mapping[bytes, Slot]:
        """What is known of each client, by identity."""
        return {slot.identity: slot for slot in self._slots}

    @property
    def pending(self) -> frozenset[bytes]:
        """Identities that the current step still waits for; empty when it can be closed."""
        return self._slots.awaited(self._state)

    def __repr__(self) -> str:
        return f"<Server {self._state.name} round {self._last} of {self._offer.rounds}>"

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
            decoded = decode_from_client(message, limit=self._limit())
            if self._roster is not None and self._slots[sender].index < 0:
                raise LateMessage(f"{sender.hex()} is not in the roster, which is closed")
            return self._take(sender, decoded, message)
        except (LateMessage, DuplicateMessage, ExcludedSender, RosterSize):
            raise
        except PeerProtocolError as error:
            if self._awaits_from(sender):
                self._slots.note(sender, SlotTrigger.BAD, str(error))
            raise

    def close_advertise(self) -> dict[bytes, bytes]:
        """Close the first step; the M2 for each client that advertised.

        Raises:
            EpochFailed: fewer clients than n_min, or no parameters for so many.
        """
        following = self._may(ServerTrigger.CLOSE_ADVERTISE)
        messages = self._advertised.messages
        if len(messages) < self._offer.n_min:
            raise self._fail_epoch(f"{len(messages)} clients advertised, offered at least {self._offer.n_min}")
        try:
            roster, rosters = make_rosters(self._offer, self._epoch, messages)
        except InfeasibleParameters as error:
            raise self._fail_epoch(str(error)) from None
        self._slots.number(roster.identities)
        self._roster, self._state = roster, following
        self._advertised = Advertised(self._offer, self._epoch)
        return rosters

    def close_shares(self) -> dict[bytes, bytes]:
        """Close the second step; the M4 for each client whose shares arrived.

        Raises:
            EpochFailed: fewer clients than a round needs.
        """
        following = self._may(ServerTrigger.CLOSE_SHARES)
        roster = self._require_roster()
        problem = self._shortage(self._shares)
        if problem is not None:
            raise self._fail_epoch(f"set-up: {problem}")
        deliveries = make_deliveries(self._shares, roster=roster, offer=self._offer, epoch=self._epoch)
        self._present, self._shares, self._state = frozenset(self._shares), {}, following
        return deliveries

    def start_round(
        self,
        *,
        model_digest: bytes,
        plan_digest: bytes,
        participants: Iterable[bytes] | None = None,
        deadline: int = 0,
    ) -> dict[bytes, bytes]:
        """Start the next round; the M5 for each participant.

        Args:
            model_digest: 32 bytes, digest of the model that clients compute on.
            plan_digest: 32 bytes, digest of the plan that clients compute by.
            participants: identities to invite; None invites everybody whose set-up is complete, but for those who
                are left out (`slots`).
            deadline: Unix seconds after which clients refuse the start and the survivors; 0 for none.

        Raises:
            LocalProtocolError: no rounds left, a participant that cannot take part, or too few of them.
            EpochFailed: too few clients are left for any round.
        """
        following = self._may(ServerTrigger.START)
        roster = self._require_roster()
        if self.rounds_left == 0:
            raise LocalProtocolError(f"all {self._offer.rounds} rounds of the epoch were used; start a new epoch")
        if len(model_digest) != 32 or len(plan_digest) != 32:
            raise LocalProtocolError("model and plan digests have 32 bytes each")
        members = self._participants(participants)
        number, invited = self._last + 1, bitmap.pack(members, roster.n)
        context = derivation.round_context(
            epoch=self._epoch,
            round=number,
            root=roster.root,
            participants=invited,
            model_digest=model_digest,
            plan_digest=plan_digest,
        )
        sums = {spec.name: np.zeros(spec.length, spec.dtype) for spec in self._offer.vectors}
        start = encode(Start(VERSION, self._epoch, number, invited, bytes(model_digest), bytes(plan_digest), deadline))
        self._round, self._last, self._state = ServerRound(number, members, context, sums), number, following
        for index in self._present:
            self._slots.note(roster.identities[index], SlotTrigger.INVITE if index in members else SlotTrigger.REST)
        return {roster.identities[index]: start for index in members}

    def close_inputs(self) -> dict[bytes, bytes]:
        """Close the inputs; the M7 for each survivor.

        Raises:
            RoundFailed: fewer survivors than n_min or than the threshold needs. Nothing was or will be opened.
        """
        following = self._may(ServerTrigger.CLOSE_INPUTS)
        roster, current = self._require_roster(), self._require_round()
        problem = self._shortage(current.masked) if current.intact else "an addition was interrupted"
        if problem is not None:
            raise self._fail_round(RoundFailed(f"round {current.number}: {problem}", round=current.number))
        current.survivors, self._state = tuple(sorted(current.masked)), following
        survivors = encode(Survivors(VERSION, self._epoch, current.number, bitmap.pack(current.survivors, roster.n)))
        return {roster.identities[index]: survivors for index in current.survivors}

    def close_unmask(self) -> RoundResult:
        """Open the sum.

        Raises:
            RoundFailed: too few shares, or a client whose secret does not open from enough of them. The accumulators
                are dropped. That client is left out of the rounds that follow, lest each of them fail the same way;
                this is no verdict on it, since its shares may have been altered by those who gave them.
        """
        following = self._may(ServerTrigger.CLOSE_UNMASK)
        roster, current = self._require_roster(), self._require_round()
        try:
            opened = open_secrets(current, roster=roster, epoch=self._epoch)
        except Unopenable as error:
            if error.dealer >= 0:
                self._slots.note(roster.identities[error.dealer], SlotTrigger.LEAVE_OUT, _UNOPENED)
            disputes = roster.named(error.found)
            message = f"round {current.number}: {error}"
            raise self._fail_round(RoundFailed(message, round=current.number, disputes=disputes)) from None
        self._round, self._state = None, following  # first, so that an interrupted removal cannot be repeated
        remove_masks(current, opened, roster=roster, vectors=self._offer.vectors)
        return RoundResult(
            round=current.number,
            sums=current.sums,
            participants=tuple(roster.identities[index] for index in current.participants),
            survivors=tuple(roster.identities[index] for index in current.survivors),
            disputes=roster.named(opened.disputes),
        )

    def _take(self, sender: bytes, decoded: FromClient, message: bytes) -> ServerEvent:
        match decoded:
            case Advertise():
                self._take_advertise(sender, decoded, message)
            case Shares():
                self._take_shares(sender, decoded)
            case Masked():
                self._take_masked(sender, decoded)
            case Unmask():
                self._take_unmask(sender, decoded)
        number = decoded.round if isinstance(decoded, Masked | Unmask) else 0
        return ServerEvent(sender=sender, kind=type(decoded).__name__.lower(), round=number)

    def _take_advertise(self, sender: bytes, advertise: Advertise, message: bytes) -> None:
        self._awaits(ServerTrigger.TAKE_ADVERTISE, sender)
        if self._invited is not None and sender not in self._invited:
            raise UnknownSender(f"{sender.hex()} is not invited")
        moved = self._slots.moved(sender, SlotTrigger.ADVERTISE)
        if len(self._advertised.messages) == self._offer.n_max:
            raise RosterSize(f"roster is full with {self._offer.n_max} clients")
        self._advertised.add(sender, advertise, message)
        self._slots.put(moved)

    def _take_shares(self, sender: bytes, shares: Shares) -> None:
        self._awaits(ServerTrigger.TAKE_SHARES, sender)
        moved = self._slots.moved(sender, SlotTrigger.SHARES)
        roster = self._require_roster()
        self._shares[moved.index] = check_shares(shares, roster=roster, offer=self._offer, epoch=self._epoch)
        self._slots.put(moved)

    def _take_masked(self, sender: bytes, masked: Masked) -> None:
        current = self._check_round(masked, sender, ServerTrigger.TAKE_MASKED)
        moved = self._slots.moved(sender, SlotTrigger.MASK)
        expected = total_bytes(self._offer.vectors)
        if len(masked.payload) != expected:
            raise UnknownFormat(f"masked vectors have {len(masked.payload)} bytes, expected {expected}")
        current.add(moved.index, masked.payload, self._offer.vectors)
        self._slots.put(moved)

    def _take_unmask(self, sender: bytes, unmask: Unmask) -> None:
        current = self._check_round(unmask, sender, ServerTrigger.TAKE_UNMASK)
        moved = self._slots.moved(sender, SlotTrigger.UNMASK)
        current.answer(moved.index, unmask.shares, self._require_roster().graph)
        self._slots.put(moved)

    def _check_round(self, message: Masked | Unmask, sender: bytes, trigger: ServerTrigger) -> ServerRound:
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
        over = {
            ServerTrigger.TAKE_ADVERTISE: True,
            ServerTrigger.TAKE_SHARES: self._state is not ServerState.ADVERTISE,
            ServerTrigger.TAKE_MASKED: self._state is ServerState.UNMASK,
        }.get(trigger, False)
        if not over:
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

    def _participants(self, wanted: Iterable[bytes] | None) -> tuple[int, ...]:
        roster = self._require_roster()
        present = {roster.identities[index]: index for index in self._present}
        able = {one: index for one, index in present.items() if self._slots[one].state is not SlotState.LEFT_OUT}
        if wanted is None:
            members = tuple(sorted(able.values()))
            problem = self._shortage(members)
            if problem is not None:
                raise self._fail_epoch(f"too few clients are left: {problem}")
            return members
        chosen = frozenset(wanted)
        unable = sorted(identity.hex() for identity in chosen - able.keys())
        if unable:
            raise LocalProtocolError(
                f"clients {unable} did not finish set-up or are left out of the epoch; name others"
            )
        members = tuple(sorted(able[identity] for identity in chosen))
        problem = self._shortage(members)
        if problem is not None:
            raise LocalProtocolError(f"too few participants: {problem}")
        return members

    def _shortage(self, members: Iterable[int]) -> str | None:
        """Why a round cannot go on with these clients only, or None."""
        roster, alive = self._require_roster(), frozenset(members)
        if len(alive) < self._offer.n_min:
            return f"{len(alive)} clients, offered at least {self._offer.n_min}"
        fewest = min(len(asked_of(index, alive, roster.graph)) for index in alive)
        if fewest < roster.parameters.t:
            return f"{len(alive)} clients; one has {fewest} live neighbours, threshold is {roster.parameters.t}"
        return None

    def _limit(self) -> int:
        """Most bytes of any message that a client may send now."""
        if self._roster is None:
            return advertise_limit(self._offer.rounds)
        n, rounds = self._roster.n, self._offer.rounds
        shares = n * (PAIR_BYTES * rounds + SHARE_BYTES)
        return payload_limit(max(total_bytes(self._offer.vectors), shares, advertise_limit(rounds)), n)

    def _may(self, trigger: ServerTrigger) -> ServerState:
        try:
            return step(SERVER_TRANSITIONS, self._state, trigger)
        except IllegalTransition as error:
            raise LocalProtocolError(str(error)) from None

    def _fail_epoch(self, reason: str) -> EpochFailed:
        self._state = step(SERVER_TRANSITIONS, self._state, ServerTrigger.FAIL_EPOCH)
        self._shares = {}
        return EpochFailed(reason)

    def _fail_round(self, error: RoundFailed) -> RoundFailed:
        self._state = step(SERVER_TRANSITIONS, self._state, ServerTrigger.FAIL_ROUND)
        self._round = None
        return error

    def _require_roster(self) -> ServerRoster:
        if self._roster is None:
            raise LocalProtocolError("no roster yet; close the advertise step first")
        return self._roster

    def _require_round(self) -> ServerRound:
        if self._round is None:
            raise LocalProtocolError("no round runs; start one first")
        return self._round
