"""The command line as a process of its own: streams, statuses, signals, and how fast it answers."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

import privfed
from tests.report.ledgers import make

ROOT = Path(__file__).resolve().parents[2]
SOURCES = os.pathsep.join(str(ROOT / part) for part in (".", "protocols", "accounting"))
HELP_SECONDS = 0.5

# A demo of our own making: what the command line does around it is what is tested here.
STAND_IN = """
import dataclasses, os, pathlib, signal, sys, types
demo = types.ModuleType("privfed.demo")
@dataclasses.dataclass(frozen=True)
class DemoOptions:
    data: object; epsilon: float; delta: float; clients: int; components: int
    dropout: float; seed: int; out: pathlib.Path; progress: bool
def run_demo(options, console):
    console.print("progress of the demo")
    {body}
demo.DemoOptions, demo.run_demo = DemoOptions, run_demo
sys.modules["privfed.demo"] = demo
from privfed.cli import main
sys.exit(main())
"""


def obedient() -> None:
    """Let a process obey an interrupt even where the tests run in the background, which makes shells ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*arguments: str, code: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code is not None else ["-m", "privfed.cli"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        env={**os.environ, "PYTHONPATH": SOURCES, "COLUMNS": "200"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=obedient,
    )


def stand_in(body: str) -> str:
    return STAND_IN.replace("{body}", body)


def test_the_version_is_the_package_s() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"privfed {privfed.__version__}\n", "")


def test_help_answers_at_once() -> None:
    def cpu() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu() for _ in range(3)) < HELP_SECONDS


def test_help_loads_nothing_it_does_not_need() -> None:
    code = "import sys\nfrom privfed.cli import main\nmain(['--help'])\nprint(sorted(sys.modules), file=sys.stderr)"
    loaded = run(code=code).stderr
    for module in ("'numpy'", "'scipy'", "'sqlalchemy'", "'rich'", "'jinja2'", "'privfed_accounting'", "'msgspec'"):
        assert module not in loaded


def test_results_and_complaints_take_different_ways(tmp_path: Path) -> None:
    make(tmp_path / "ledger.db", 2).close()
    good = run("verify", "ledger.db", "--json", cwd=tmp_path)
    verdict = json.loads(good.stdout)
    assert (good.returncode, good.stderr) == (0, "")
    assert verdict["ok"] is True
    assert [view["view"] for view in verdict["views"]][:3] == ["released", "server", "client"]
    assert not any(view["guaranteed"]["infinite"] for view in verdict["views"])
    bad = run("verify", "missing.db", "--json", cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines() == [
        "privfed: error: there is no file missing.db",
        "privfed: hint: check the path",
    ]


def test_the_json_report_fits_its_schema(tmp_path: Path) -> None:
    make(tmp_path / "ledger.db", 2).close()
    result = run("report", "ledger.db", "-o", "report.html", "--json", "report.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    schema = json.loads((ROOT / "accounting" / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")), schema)
    assert "Within the budget" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_reader_that_has_seen_enough_hears_no_complaint(tmp_path: Path) -> None:
    make(tmp_path / "ledger.db", 12).close()
    command = (
        f'"{sys.executable}" -m privfed.cli report ledger.db -o - --json big.json --title {"x" * 100_000} | head -c 10'
    )
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONPATH": SOURCES},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (141, "<!doctype ", "")


def test_a_full_disk_behind_standard_output_is_named(tmp_path: Path) -> None:
    make(tmp_path / "ledger.db", 2).close()
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "privfed.cli", "verify", str(tmp_path / "ledger.db")],
            env={**os.environ, "PYTHONPATH": SOURCES},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "privfed: error: cannot write to standard output: No space left on device"


def test_the_demo_s_summary_is_json_and_its_progress_is_not(tmp_path: Path) -> None:
    code = stand_in("return {'epsilon': options.epsilon, 'out': str(options.out), 'progress': options.progress}")
    result = run("demo", "--json", "--epsilon", "2", "--out", "here", "--no-progress", code=code, cwd=tmp_path)
    assert json.loads(result.stdout) == {"epsilon": 2.0, "out": "here", "progress": False}
    assert result.stderr == "progress of the demo\n"


def test_a_quiet_demo_names_its_files(tmp_path: Path) -> None:
    code = stand_in("return {'files': {'report.html': 'a/report.html', 'ledger.db': 'a/ledger.db'}}")
    result = run("demo", "--no-progress", code=code, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "a/report.html\na/ledger.db\n")


def test_an_interrupted_demo_says_what_is_left(tmp_path: Path) -> None:
    body = "(options.out / 'run-2').mkdir(parents=True); (options.out / 'run-2' / 'ledger.db').write_text('a ledger'); "
    code = stand_in(body + "os.kill(os.getpid(), signal.SIGINT)")
    result = run("demo", "--out", "here", code=code, cwd=tmp_path)
    assert result.returncode == 130
    assert result.stdout == ""
    assert result.stderr.splitlines()[1:] == [
        "privfed: error: interrupted",
        "privfed: hint: what was charged stays charged, and is on record: privfed verify here/run-2/ledger.db",
    ]


def test_a_demo_interrupted_before_it_began_left_nothing(tmp_path: Path) -> None:
    result = run("demo", "--out", "here", code=stand_in("os.kill(os.getpid(), signal.SIGINT)"), cwd=tmp_path)
    assert result.returncode == 130
    assert "no ledger was begun, nothing was spent" in result.stderr


def entries(ledger: Path) -> int:
    """Number of entries so far, or 0 while there is no readable ledger."""
    try:
        connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        return int(count)
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_the_real_demo_can_be_interrupted_and_its_ledger_verifies(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the demo's digits and peers come with the sklearn extra")
    process = subprocess.Popen(
        [sys.executable, "-m", "privfed.cli", "demo", "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": SOURCES, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=obedient,
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # the demo introduces itself, then rounds begin
    ledger = tmp_path / "out" / "ledger.db"
    deadline = time.monotonic() + 60
    while entries(ledger) < 4 and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "20 silos" in first
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-2:] == [
        "privfed: error: interrupted",
        f"privfed: hint: what was charged stays charged, and is on record: privfed verify {ledger}",
    ]
    verdict = run("verify", str(ledger))
    assert verdict.returncode == 0, verdict.stdout


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (
            "from privfed.errors import DataError as E; raise E('client 3 holds NaN: impute or drop those rows')",
            ["client 3 holds NaN", "impute or drop those rows"],
        ),
        (
            "from privfed_protocols.errors import RoundFailed as E; raise E('round 3: too few are left', round=3)",
            ["round 3: too few are left"],
        ),
        (
            "from privfed_accounting.errors import LedgerFull as E; raise E('The disk is full; free some space.')",
            ["the disk is full", "free some space"],
        ),
        (
            "raise PermissionError(13, 'Permission denied', 'here')",
            ["cannot use here: Permission denied", "name a place that exists and is accessible"],
        ),
    ],
    ids=["privfed", "protocols", "accounting", "system"],
)
def test_errors_a_user_can_act_on_are_lines(tmp_path: Path, error: str, complaint: list[str]) -> None:
    result = run("demo", code=stand_in(error), cwd=tmp_path)
    kinds = ("error", "hint")
    expected = [f"privfed: {kind}: {text}" for kind, text in zip(kinds, complaint, strict=False)]
    assert result.stderr.splitlines()[1:] == expected
    assert (result.returncode, result.stdout) == (2, "")


def test_a_fault_of_our_own_shows_where_it_is(tmp_path: Path) -> None:
    result = run("demo", code=stand_in("raise RuntimeError('a fault')"), cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("RuntimeError: a fault\n")
