"""What the manual makes of docstrings and of the protocol's tables."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from privfed_protocols.errors import ProtocolError
from privfed_protocols.states import CLIENT_TRANSITIONS, SERVER_TRANSITIONS, ClientState

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_at_the_margin_are_fenced() -> None:
    text = "Add.\n\n>>> 1 + 1\n2\n>>> x = [\n...     3]\n\nMore.\n"
    assert load("manual_docstrings").as_markdown(text) == (
        "Add.\n\n```pycon\n>>> 1 + 1\n2\n>>> x = [\n...     3]\n```\n\nMore.\n"
    )


def test_examples_under_their_heading_are_left_to_the_parser() -> None:
    text = "Add.\n\nExamples:\n    >>> 1 + 1\n    2\n"
    assert load("manual_docstrings").as_markdown(text) == text


def test_ranges_are_not_quotations() -> None:
    assert load("manual_docstrings").as_markdown("Args:\n    n: > 0.\n") == "Args:\n    n: \\> 0.\n"


def test_an_entry_for_two_parameters_is_given_to_both() -> None:
    text = "Args:\n    epsilon, delta: the budget,\n        both or neither.\n    view: whose.\n"
    assert load("manual_docstrings").as_markdown(text) == (
        "Args:\n    epsilon: the budget,\n        both or neither.\n    delta: see `epsilon`.\n    view: whose.\n"
    )


def test_every_transition_has_a_row() -> None:
    tables = load("manual_tables")
    for name, machine in (("client transitions", CLIENT_TRANSITIONS), ("server transitions", SERVER_TRANSITIONS)):
        rows = tables.TABLES[name]().splitlines()[2:]
        assert len(rows) == sum(max(len(following), 1) for following in machine.values())
    assert f"`{ClientState.ABORTED.name}` | *terminal" in tables.client_transitions()


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    """Every exception that derives from `kind`, wherever it is defined."""
    own = {one for one in kind.__subclasses__() if one.__module__.startswith("privfed_protocols.")}
    return own.union(*(subclasses(one) for one in own))


def test_every_numbered_refusal_has_a_row() -> None:
    page = load("manual_tables").on_page_markdown("<!-- table: refusals -->")
    numbered = [kind for kind in subclasses(ProtocolError) if getattr(kind, "refusal", 0)]
    assert {kind.refusal for kind in numbered} >= set(range(1, 23)) - {21}  # 21 cannot be expressed
    for kind in numbered:
        assert f"| {kind.refusal} | `{kind.__name__}` |" in page


def test_an_unknown_table_stops_the_build() -> None:
    with pytest.raises(KeyError):
        load("manual_tables").on_page_markdown("<!-- table: nothing -->")
