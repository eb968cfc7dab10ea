from __future__ import annotations

import os
import shlex
import sqlite3
from pathlib import Path

import pytest

from privfed.cli import main
from privfed_accounting import Ledger
from tests.cli.transcripts import Step, matches, read
from tests.report.ledgers import BUDGET, break_guarantee, clock, fill, make

FOLDER = Path(__file__).parent / "transcripts"
STEPS = [
    pytest.param(step, id=f"{path.stem}-{step.line}") for path in sorted(FOLDER.glob("*.txt")) for step in read(path)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the transcripts speak of."""
    folder = tmp_path_factory.mktemp("shell")
    make(folder / "ledger.db", 3).close()
    make(folder / "rehearsal.db", 2, noise_source="seeded", protection="trusted").close()
    make(folder / "edited.db", 3).close()
    edit(folder / "edited.db")
    with Ledger.open(folder / "overspent.db", budget=BUDGET, clock=clock()) as ledger:
        break_guarantee(ledger, of=1, survivors=4)
    with Ledger.open(folder / "plain.db", budget=None, clock=clock()) as ledger:
        fill(ledger, 1, mechanism="none", share_sigma=0.0)
    make(folder / "truncated.db", 40).close()
    os.truncate(folder / "truncated.db", 30_000)
    (folder / "empty.db").touch()
    (folder / "letter.txt").write_text("Dear ledger,\n" * 100)
    (folder / "folder").mkdir()
    (folder / "link.db").symlink_to(folder / "ledger.db")
    with sqlite3.connect(folder / "foreign.db") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    return folder


def edit(path: Path) -> None:
    """Change one digit of one entry, as somebody with write access to the file could."""
    connection = sqlite3.connect(path)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f'DROP TRIGGER "{name}"')
    (table,) = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%digest%'"
    ).fetchone()
    changed = connection.execute(f"UPDATE {table} SET entry = replace(entry, '127', '128') WHERE seq = 4")  # noqa: S608
    assert changed.rowcount == 1
    connection.commit()
    connection.close()


@pytest.mark.parametrize("step", STEPS)
def test_the_shell_answers_as_written(
    step: Step, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    name, *arguments = shlex.split(step.command)
    assert name == "privfed"
    status = main(arguments)
    output = capsys.readouterr()
    assert matches(step.stdout, output.out), output.out
    assert matches(step.stderr, output.err), output.err
    assert status == step.status


def test_nothing_was_changed_on_the_way(folder: Path) -> None:
    """Reading a ledger, however often and however wrongly, leaves it as it was and makes no file beside it."""
    with Ledger.open(folder / "ledger.db", budget=BUDGET, clock=clock()) as ledger:
        assert len(ledger.rounds()) == 3
    assert not (folder / "nothing.db").exists()
    assert (folder / "empty.db").stat().st_size == 0
    assert not list(folder.glob(".*.part"))


def test_a_transcript_can_fail() -> None:
    assert matches(["a [..] b", "[...]", "c"], "a x b\n1\n2\nc\n")
    assert matches(["[...]"], "")
    assert not matches([], "x\n")
    assert not matches(["a"], "a")
    assert not matches(["a"], "a\nb\n")
    assert not matches(["a.b"], "axb\n")


def test_every_command_has_a_transcript() -> None:
    commands = {step.values[0].command.split()[1] for step in STEPS if len(step.values[0].command.split()) > 1}  # type: ignore[union-attr]
    assert {"demo", "report", "verify", "--version", "--help"} <= commands


def test_a_ledger_can_be_read_while_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(tmp_path / "ledger.db", budget=BUDGET, clock=clock()) as ledger:
        fill(ledger, 2)
        assert main(["verify", str(tmp_path / "ledger.db")]) == 0
        assert main(["report", str(tmp_path / "ledger.db"), "-o", str(tmp_path / "out.html")]) == 0
    assert "verdict  ok" in capsys.readouterr().out
