"""The command line inside this process: what it does around commands that go wrong."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privfed.cli import main


@dataclasses.dataclass(frozen=True)
class Options:
    data: Path | None
    epsilon: float
    delta: float
    clients: int
    components: int
    dropout: float
    seed: int
    out: Path
    progress: bool


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options], dict[str, Any]]], None]:
    """Put another demo into the place of the real one."""

    def play(body: Callable[[Options], dict[str, Any]]) -> None:
        demo = types.ModuleType("privfed.demo")
        demo.DemoOptions = Options  # type: ignore[attr-defined]
        demo.run_demo = lambda options, console: body(options)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "privfed.demo", demo)

    return play


def fail_with(error: BaseException) -> Callable[[Options], dict[str, Any]]:
    def body(options: Options) -> dict[str, Any]:
        raise error

    return body


def test_every_option_reaches_the_demo(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Options] = []
    play(lambda options: seen.append(options) or {})
    words = "demo --data a.csv --epsilon 2 --delta 1e-6 --clients 7 --components 3 --dropout 0.1 --seed 5 --out b"
    assert main([*words.split(), "--no-progress", "--json"]) == 0
    assert seen == [Options(Path("a.csv"), 2.0, 1e-6, 7, 3, 0.1, 5, Path("b"), False)]
    assert capsys.readouterr().out == "{}\n"


def test_the_defaults_are_the_demo_s_own(play: Any) -> None:
    from privfed.demo import DemoOptions

    own = DemoOptions()
    seen: list[Options] = []
    play(lambda options: seen.append(options) or {})
    assert main(["demo"]) == 0
    assert dataclasses.asdict(seen[0]) == dataclasses.asdict(own)


def test_a_quiet_demo_names_its_files(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    play(lambda options: {"files": {"report.html": "a/report.html"}})
    assert main(["demo", "--no-progress"]) == 0
    assert capsys.readouterr().out == "a/report.html\n"


def test_an_interrupt_names_the_newest_ledger(play: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def body(options: Options) -> dict[str, Any]:
        (options.out / "run-2").mkdir()
        (options.out / "run-2" / "ledger.db").write_text("a ledger")
        raise KeyboardInterrupt

    play(body)
    assert main(["demo", "--out", str(tmp_path)]) == 130
    assert f"privfed verify {tmp_path}/run-2/ledger.db" in capsys.readouterr().err


def test_a_file_without_content_is_no_ledger(play: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def body(options: Options) -> dict[str, Any]:
        (options.out / "ledger.db").touch()
        raise KeyboardInterrupt

    play(body)
    assert main(["demo", "--out", str(tmp_path)]) == 130
    assert "no ledger was begun, nothing was spent" in capsys.readouterr().err


def test_an_interrupt_anywhere_has_its_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("privfed.cli.ledgers.expect_file", interrupted)
    assert main(["verify", str(tmp_path / "ledger.db")]) == 130
    assert capsys.readouterr().err == "privfed: error: interrupted\n"


def test_a_fault_of_our_own_is_not_hidden(play: Any) -> None:
    play(fail_with(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        main(["demo"])


def test_a_system_error_without_a_file_is_a_fault(play: Any) -> None:
    play(fail_with(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        main(["demo"])


def test_names_cannot_drive_the_terminal(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from privfed.errors import UsageError

    play(fail_with(UsageError("client \x1b[2Jevil\u202e\nname: drop it")))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "privfed: error: client \ufffd[2Jevil\ufffd name\nprivfed: hint: drop it\n"


def test_acronyms_keep_their_capitals(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from privfed.errors import UsageError

    play(fail_with(UsageError("NaN in the rows.")))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "privfed: error: NaN in the rows\n"


PLAN = "plan --epsilon 2 --delta 1e-6 --rounds 100 --clients 50 --dropout 0.2 --colluders 5"


def test_a_plan_shows_every_adversary_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PLAN.split()) == 0
    text = capsys.readouterr().out
    for words in ("released", "server", "client", "unmasked", "colluders(5)", "of which 40 have to survive", "KiB"):
        assert words in text


def test_a_plan_as_json_spends_the_budget_in_the_guarded_view(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN.split(), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    epsilons = planned["epsilons"]
    assert 1.99 < epsilons["server"] <= 2.0 < epsilons["client"] < epsilons["colluders(5)"] < epsilons["unmasked"]
    assert planned["epsilons_if_nobody_is_lost"]["server"] < epsilons["server"]


def test_sampled_records_need_less_noise(capsys: pytest.CaptureFixture[str]) -> None:
    noise = []
    for words in ("", "--sample-records 0.01"):
        assert main(f"plan --unit record --max-records 1000 --rounds 50 --json {words}".split()) == 0
        noise.append(json.loads(capsys.readouterr().out)["noise_multiplier"])
    assert noise[1] < noise[0] / 2


@pytest.mark.parametrize(
    "words",
    [
        "--noise loud",
        "--protection hope",
        "--drop-outs never",
        "--unit family",
        "--view nobody",
        "--dropout 1",
        "--clients 1",
        "--rounds 0",
        "--bits 8 --clients 5 --epsilon 0.1",
        "--sample-records 0.1 --sample-clients 0.1",
        "--sample-records 2",
    ],
)
def test_a_plan_of_nonsense_is_refused_with_a_reason(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("privfed: error: ")
