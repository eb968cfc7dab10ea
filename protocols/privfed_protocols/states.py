"""All states and transitions of both sides. Nothing outside this file decides what may follow what.

A side asks `step(table, state, trigger)` before it does anything; a pair that is not in the table raises
`IllegalTransition`, which the caller turns into its own or the peer's mistake. Terminal states lead nowhere.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar


class ClientState(enum.Enum):
    """Where a client stands. A round that is over, however it ended, leaves READY with that round burned."""

    NEW = "new"
    OFFERED = "offered"
    ADVERTISED = "advertised"
    ROSTERED = "rostered"
    SHARED = "shared"
    READY = "ready"
    STARTED = "started"
    MASKED = "masked"
    SIGNED = "signed"
    ABORTED = "aborted"


class ClientTrigger(enum.Enum):
    """What moves a client."""

    OFFER = "offer accepted"
    ADVERTISE = "advertise made"
    ROSTER = "roster accepted"
    SHARES = "shares made"
    DELIVERY = "delivery accepted"
    START = "later round started"
    MASK = "masked vector made"
    SURVIVORS = "survivors answered"
    SIGN = "survivors signed"
    QUORUM = "quorum answered"
    BURN = "refusal in a round, or given up"
    ABORT = "refusal in set-up"


class ServerState(enum.Enum):
    """Where a server stands."""

    ADVERTISE = "advertise"
    SHARES = "shares"
    READY = "ready"
    INPUTS = "inputs"
    SIGNATURES = "signatures"
    UNMASK = "unmask"
    FAILED = "failed"


class ServerTrigger(enum.Enum):
    """What moves a server: messages that it may take in, and steps that its driver closes."""

    TAKE_ADVERTISE = "advertise taken"
    CLOSE_ADVERTISE = "advertise closed"
    TAKE_SHARES = "shares taken"
    CLOSE_SHARES = "shares closed"
    START = "round started"
    TAKE_MASKED = "masked vector taken"
    CLOSE_INPUTS = "inputs closed"
    ASK_SIGNATURES = "inputs closed, survivors to be signed"
    TAKE_SIGNATURE = "signature taken"
    CLOSE_SIGNATURES = "signatures closed"
    TAKE_UNMASK = "unmask answer taken"
    CLOSE_UNMASK = "sum opened"
    FAIL_ROUND = "round failed"
    FAIL_EPOCH = "set-up failed, or too few clients left"


class SlotState(enum.Enum):
    """What the server knows of one client: of its set-up until READY, then of its current round."""

    ABSENT = "absent"
    ADVERTISED = "advertised"
    SHARED = "shared"
    INVITED = "invited"
    MASKED = "masked"
    SIGNED = "signed"
    UNMASKED = "unmasked"
    LATE = "late"
    BAD = "bad"
    LEFT_OUT = "left out"


class SlotTrigger(enum.Enum):
    """What moves a slot."""

    ADVERTISE = "advertise"
    SHARES = "shares"
    INVITE = "round start"
    REST = "round start without it"
    MASK = "masked vector"
    SIGN = "signature on the survivors"
    UNMASK = "unmask answer"
    LATE = "message after its step was closed"
    BAD = "refused message"
    LEAVE_OUT = "shares that did not open"


_C, _CT = ClientState, ClientTrigger
_S, _ST = ServerState, ServerTrigger
_L, _LT = SlotState, SlotTrigger

CLIENT_TRANSITIONS: Final[Mapping[ClientState, Mapping[ClientTrigger, ClientState]]] = MappingProxyType(
    {
        _C.NEW: {_CT.OFFER: _C.OFFERED, _CT.ABORT: _C.ABORTED},
        _C.OFFERED: {_CT.ADVERTISE: _C.ADVERTISED, _CT.ABORT: _C.ABORTED},
        _C.ADVERTISED: {_CT.ROSTER: _C.ROSTERED, _CT.ABORT: _C.ABORTED},
        _C.ROSTERED: {_CT.SHARES: _C.SHARED, _CT.ABORT: _C.ABORTED},
        _C.SHARED: {_CT.DELIVERY: _C.READY, _CT.ABORT: _C.ABORTED},
        _C.READY: {_CT.START: _C.STARTED, _CT.BURN: _C.READY},
        _C.STARTED: {_CT.MASK: _C.MASKED, _CT.START: _C.STARTED, _CT.BURN: _C.READY},
        _C.MASKED: {
            _CT.SURVIVORS: _C.READY,
            _CT.SIGN: _C.SIGNED,
            _CT.START: _C.STARTED,
            _CT.BURN: _C.READY,
        },
        _C.SIGNED: {_CT.QUORUM: _C.READY, _CT.START: _C.STARTED, _CT.BURN: _C.READY},
        _C.ABORTED: {},
    }
)

SERVER_TRANSITIONS: Final[Mapping[ServerState, Mapping[ServerTrigger, ServerState]]] = MappingProxyType(
    {
        _S.ADVERTISE: {
            _ST.TAKE_ADVERTISE: _S.ADVERTISE,
            _ST.CLOSE_ADVERTISE: _S.SHARES,
            _ST.FAIL_EPOCH: _S.FAILED,
        },
        _S.SHARES: {_ST.TAKE_SHARES: _S.SHARES, _ST.CLOSE_SHARES: _S.READY, _ST.FAIL_EPOCH: _S.FAILED},
        _S.READY: {_ST.START: _S.INPUTS, _ST.FAIL_EPOCH: _S.FAILED},
        _S.INPUTS: {
            _ST.TAKE_MASKED: _S.INPUTS,
            _ST.CLOSE_INPUTS: _S.UNMASK,
            _ST.ASK_SIGNATURES: _S.SIGNATURES,
            _ST.FAIL_ROUND: _S.READY,
        },
        _S.SIGNATURES: {
            _ST.TAKE_SIGNATURE: _S.SIGNATURES,
            _ST.CLOSE_SIGNATURES: _S.UNMASK,
            _ST.FAIL_ROUND: _S.READY,
        },
        _S.UNMASK: {_ST.TAKE_UNMASK: _S.UNMASK, _ST.CLOSE_UNMASK: _S.READY, _ST.FAIL_ROUND: _S.READY},
        _S.FAILED: {},
    }
)

_NEXT_ROUND: Final = {_LT.INVITE: _L.INVITED, _LT.REST: _L.SHARED}
_OVER: Final = {_LT.LEAVE_OUT: _L.LEFT_OUT, **_NEXT_ROUND}  # what may follow when a round is over

SLOT_TRANSITIONS: Final[Mapping[SlotState, Mapping[SlotTrigger, SlotState]]] = MappingProxyType(
    {
        _L.ABSENT: {_LT.ADVERTISE: _L.ADVERTISED, _LT.BAD: _L.BAD},
        _L.ADVERTISED: {_LT.SHARES: _L.SHARED, _LT.BAD: _L.BAD, _LT.LATE: _L.LATE},
        _L.SHARED: _NEXT_ROUND,
        _L.INVITED: {_LT.MASK: _L.MASKED, _LT.LATE: _L.LATE, _LT.BAD: _L.BAD, **_OVER},
        _L.MASKED: {_LT.UNMASK: _L.UNMASKED, _LT.SIGN: _L.SIGNED, _LT.LATE: _L.LATE, _LT.BAD: _L.BAD, **_OVER},
        _L.SIGNED: {_LT.UNMASK: _L.UNMASKED, _LT.BAD: _L.BAD, **_OVER},
        _L.UNMASKED: _OVER,
        _L.LATE: _OVER,
        _L.BAD: _OVER,
        _L.LEFT_OUT: {},
    }
)

SET_UP: Final = frozenset({_C.NEW, _C.OFFERED, _C.ADVERTISED, _C.ROSTERED, _C.SHARED})  # a refusal aborts these

State = TypeVar("State", bound=enum.Enum)
Trigger = TypeVar("Trigger", bound=enum.Enum)


class IllegalTransition(Exception):  # noqa: N818 -- never leaves the package: both sides turn it into their own error
    """The table has no such transition."""


def step(table: Mapping[State, Mapping[Trigger, State]], state: State, trigger: Trigger) -> State:
    """Next state, or IllegalTransition."""
    following = table[state].get(trigger)
    if following is None:
        raise IllegalTransition(f"{trigger.value!r} does not follow state {state.name}")
    return following


def allows(table: Mapping[State, Mapping[Trigger, State]], state: State, trigger: Trigger) -> bool:
    """Whether the table has this transition."""
    return trigger in table[state]
