"""The transition tables: complete, terminal where they must be, and the only thing that moves either side."""

from __future__ import annotations

import ast
import enum
import inspect
from collections.abc import Mapping
from pathlib import Path

import pytest

from privfed_protocols import client, client_core, server, server_core, server_intake
from privfed_protocols.states import (
    CLIENT_TRANSITIONS,
    SERVER_TRANSITIONS,
    SLOT_TRANSITIONS,
    ClientState,
    ClientTrigger,
    IllegalTransition,
    ServerState,
    ServerTrigger,
    SlotState,
    SlotTrigger,
    allows,
    step,
)

README = Path(__file__).parents[2] / "protocols" / "README.md"
TABLES = [
    (CLIENT_TRANSITIONS, ClientState, ClientTrigger, ClientState.NEW),
    (SERVER_TRANSITIONS, ServerState, ServerTrigger, ServerState.ADVERTISE),
    (SLOT_TRANSITIONS, SlotState, SlotTrigger, SlotState.ABSENT),
]
Table = Mapping[enum.Enum, Mapping[enum.Enum, enum.Enum]]


def reachable(table: Table, start: enum.Enum) -> set[enum.Enum]:
    seen, todo = set(), [start]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += table[state].values()
    return seen


def rendered(table: Table) -> str:
    """The table as the protocol text prints it."""
    rows = ["| from | on | to |", "|---|---|---|"]
    rows += [
        f"| {state.name} | {trigger.value} | {following.name} |"
        for state, moves in table.items()
        for trigger, following in moves.items()
    ]
    return "\n".join(rows)


@pytest.mark.parametrize(("table", "states", "triggers", "start"), TABLES)
class TestEveryTable:
    def test_names_every_state_and_reaches_it(self, table, states, triggers, start) -> None:
        assert set(table) == set(states)
        assert reachable(table, start) == set(states)

    def test_uses_every_trigger(self, table, states, triggers, start) -> None:
        assert {trigger for moves in table.values() for trigger in moves} == set(triggers)

    def test_decides_every_pair(self, table, states, triggers, start) -> None:
        for state in states:
            for trigger in triggers:
                if trigger in table[state]:
                    assert step(table, state, trigger) is table[state][trigger]
                    assert allows(table, state, trigger)
                else:
                    assert not allows(table, state, trigger)
                    with pytest.raises(IllegalTransition):
                        step(table, state, trigger)

    def test_cannot_be_changed(self, table, states, triggers, start) -> None:
        with pytest.raises(TypeError):
            table[start] = {}

    def test_is_printed_in_the_protocol_text(self, table, states, triggers, start) -> None:
        assert rendered(table) in README.read_text(encoding="utf-8")


def test_nothing_leads_out_of_terminal_states() -> None:
    assert not CLIENT_TRANSITIONS[ClientState.ABORTED]
    assert not SERVER_TRANSITIONS[ServerState.FAILED]
    assert not SLOT_TRANSITIONS[SlotState.LEFT_OUT]


def test_rounds_never_lead_back_to_set_up() -> None:
    in_rounds = {ClientState.READY, ClientState.STARTED, ClientState.MASKED, ClientState.SIGNED}
    assert reachable(CLIENT_TRANSITIONS, ClientState.READY) == in_rounds
    assert ServerState.SHARES not in reachable(SERVER_TRANSITIONS, ServerState.READY)


def test_a_refusal_is_possible_in_every_living_state() -> None:
    for state, moves in CLIENT_TRANSITIONS.items():
        if state is not ClientState.ABORTED:
            assert (ClientTrigger.BURN in moves) != (ClientTrigger.ABORT in moves)


@pytest.mark.parametrize(
    ("module", "state_name"),
    [
        (client, "ClientState"),
        (client_core, "ClientState"),
        (server, "ServerState"),
        (server_core, "ServerState"),
        (server_intake, "ServerState"),
    ],
)
def test_nothing_but_the_table_sets_a_state(module, state_name: str) -> None:
    """Every assignment to `_state` takes a value that `step` gave, but for the first and for a restored one."""
    allowed = {f"{state_name}.{'NEW' if state_name == 'ClientState' else 'ADVERTISE'}", "saved.state"}
    from_table = {"following", "ready", "started"}  # names bound to a result of _awaits or _may in the same function
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            targets = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple) else None
            for place, one in enumerate(targets):
                if isinstance(one, ast.Attribute) and one.attr == "_state":
                    source = ast.unparse(values[place] if values else node.value)
                    assert source in allowed | from_table or source.startswith("step("), source


def test_names_that_carry_a_state_come_from_the_table() -> None:
    for module in (client, client_core, server, server_core, server_intake):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"following", "ready", "started"}:
                assert ast.unparse(node.value).startswith(("self._may(", "self._awaits(", "step("))
