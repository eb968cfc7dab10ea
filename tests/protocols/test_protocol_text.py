"""The protocol text says what the code does: diagrams, sizes, labels, refusals, messages."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from privfed_protocols import errors, labels, select_parameters, signed, states
from privfed_protocols import messages as sent
from tests.protocols.vector_files import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "protocols" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
KINDS = {
    kind.__struct_config__.tag: kind
    for kind in (sent.Offer, sent.Advertise, sent.Roster, sent.Shares, sent.Delivery, sent.Start, sent.Masked,
                 sent.Survivors, sent.Consistency, sent.Quorum, sent.Unmask, signed.Signed)
}  # fmt: skip


@pytest.mark.slow
def test_diagrams_and_sizes_are_those_of_the_code() -> None:
    script = ROOT / "scripts" / "protocol_text.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["client states", "server states", "slot states"])
def test_the_diagram_is_drawn_from_the_table(name: str) -> None:
    parts = runpy.run_path(str(ROOT / "scripts" / "protocol_text.py"))["PARTS"]
    assert f"<!-- {name}: scripts/protocol_text.py -->\n{parts[name]()}\n<!-- end -->" in TEXT


def test_a_diagram_has_every_transition() -> None:
    parts = runpy.run_path(str(ROOT / "scripts" / "protocol_text.py"))["PARTS"]
    for name, table in (("client states", states.CLIENT_TRANSITIONS), ("slot states", states.SLOT_TRANSITIONS)):
        arrows = re.findall(r"^    (\w+) --> (\w+): (.*)$", parts[name](), re.MULTILINE)
        for state, moves in table.items():
            for trigger, following in moves.items():
                assert any((one, other) == (state.name, following.name) and trigger.value in words
                           for one, other, words in arrows)  # fmt: skip
        assert len(arrows) == len(
            {(state, following) for state, moves in table.items() for following in moves.values()}
        )


def test_every_label_is_listed() -> None:
    listed = dict(re.findall(r"^\| `([a-z0-9 -]+)` \| ([A-Z_]+) \|$", TEXT, re.MULTILINE))
    purposes = [*labels.OF_A_SUITE, *(one.removeprefix(b"privfed/sa1/") for one in labels.OF_NO_SUITE)]
    assert list(listed) == [one.decode() for one in purposes]
    for purpose, constant in listed.items():
        assert getattr(labels, constant).removeprefix(b"privfed/sa1/") == purpose.encode()


def test_every_refusal_is_listed_under_its_number() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*?) \| ", TEXT[TEXT.index("## 6.") : TEXT.index("## 7.")], re.MULTILINE))
    assert set(rows) == {str(number) for number in range(23)}
    assert rows["21"] == "none"
    for name, kind in vars(errors).items():
        number = getattr(kind, "refusal", 0)
        if isinstance(number, int) and number:
            assert f"`{name}`" in rows[str(number)]


def test_the_parameters_of_the_text_are_selected() -> None:
    rows = re.findall(r"^\| ([\d ]+) \| (\d+) % / (\d+) % \| ([a-z-]+) \| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 5
    for n, corrupt, dropout, mode, k, t in rows:
        found = select_parameters(
            int(n.replace(" ", "")), corrupt=int(corrupt) / 100, dropout=int(dropout) / 100, mode=mode
        )
        assert (found.k, found.t) == (int(k), int(t))


@pytest.mark.parametrize("number", sorted(KINDS))
def test_messages_have_the_fields_that_the_text_gives_them(number: int) -> None:
    """The table's row names the message; the byte-by-byte line has as many items as the message has."""
    kind = KINDS[number]
    assert re.search(rf"^\| {number} \| {kind.__name__} \| ", TEXT, re.MULTILINE)
    name = f"M{number} " if number < 11 else "11 "
    (line,) = re.findall(rf"^    {name} *((?:.|\n         )*?)$(?!\n         )", TEXT, re.MULTILINE)
    head = line.split()[0]
    items = int(head[2:], 16) if head.startswith("dc") else int(head, 16) - 0x90
    assert items == len(msgspec.structs.fields(kind)) + 1
    told = line.replace("\n", " ").split(" a3736131 ")
    assert int(told[0].split()[1], 16) == number


def test_the_bytes_of_short_messages_are_as_the_text_draws_them() -> None:
    told = load("epoch-base-malicious")["cases"][0]["outputs"]
    here, first = told["rounds"][0], min(told["m1"])
    epoch = told["epoch_id"]
    assert here["m5"].startswith(f"9805a3736131c420{epoch}01c4011fc420")
    assert here["m8"][first].startswith(f"9508a3736131c420{epoch}01c440")
    assert here["m9"].startswith(f"9609a3736131c420{epoch}01c4011fc50140")
    assert here["m10"][first].startswith(f"960aa3736131c420{epoch}01c490")
    assert here["m7"].startswith("950ba3736131c4")
    assert told["m0"].startswith("950ba3736131c4")
    assert "dc001000a3736131c420" in told["m0"][:40]
