"""The main job end to end, through the command that a stranger types, on a small file and on the digits."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import privfed.demo.run as run_module
from privfed.demo import DemoOptions, run_demo
from privfed.engines import LocalFederation
from privfed_accounting import verify

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from privfed.cli import main; sys.exit(main())", "demo", *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "protocols", "accounting"))
    return os.environ | {"PYTHONPATH": path}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[dict, Path, str]:
    out = tmp_path_factory.mktemp("demo") / "files"
    done = subprocess.run(
        command("--json", "--out", str(out)),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out, done.stderr


def test_the_silos_together_beat_each_alone_and_come_near_pooled_training(digits) -> None:
    held_out = digits[0]["held_out"]
    private = held_out["federated"]
    assert private["log_likelihood"] > held_out["silos_alone_median"]["log_likelihood"] + 1.0
    assert private["log_likelihood"] > held_out["pooled_not_private"]["log_likelihood"] - 1.0
    assert private["adjusted_rand"] > held_out["silos_alone_median"]["adjusted_rand"]


def test_silos_are_lost_in_set_up_and_in_mid_round(digits) -> None:
    rounds = digits[0]["rounds"]
    assert rounds[0]["lost"] == ["silo-01"]
    assert rounds[-1]["lost"] == ["silo-01", "silo-02", "silo-19"]
    assert [row["survivors"] for row in rounds][-1] == 17


def test_the_budget_holds_in_the_guarded_view_and_is_nearly_spent(digits) -> None:
    summary, out, _ = digits
    verdict = verify(out / "ledger.db")
    assert verdict.ok
    assert verdict.head == summary["ledger_head"]
    spent = summary["rounds"][-1]["epsilon"]
    assert spent["server"] < spent["client"] < spent["unmasked"]
    assert spent["server"] <= 4.0
    report = json.loads((out / "report.json").read_text())
    assert report["verification"]["ok"]


def test_the_page_has_its_figures(digits) -> None:
    page = (digits[1] / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert page.count("data:image/png;base64,") == 10
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(page) < 2**20
    assert "Log-likelihood per round" in page


def test_results_go_to_stdout_and_progress_to_stderr(digits) -> None:
    assert "every release of the federation" in digits[2]
    assert re.search(r"verified: chain whole", digits[2])


def own_file(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 200)
    rows = rng.standard_normal((600, 3)) + 8.0 * labels[:, None]
    table = np.column_stack([rows, labels])
    np.savetxt(folder / "own.csv", table, delimiter=",", header="a,b,c,label", comments="")
    return folder / "own.csv"


def test_a_file_of_ones_own(tmp_path, monkeypatch) -> None:
    """Three clusters in a row, each of which is found; the noise is seeded, for it is the figures that are tested."""
    monkeypatch.setattr(run_module, "LocalFederation", functools.partial(LocalFederation, noise_seed=1))
    options = DemoOptions(
        data=own_file(tmp_path), clients=5, components=3, epsilon=8.0, out=tmp_path / "out", progress=False
    )
    summary = run_demo(options)
    assert summary["verified"]
    assert summary["silos"] == 5
    held_out = summary["held_out"]
    assert held_out["federated"]["log_likelihood"] > held_out["pooled_not_private"]["log_likelihood"] - 0.3
    assert held_out["federated"]["adjusted_rand"] > 0.95
    again = run_demo(options)  # a second run never writes over a ledger
    assert "run-2" in again["files"]["ledger.db"]
    assert verify(summary["files"]["ledger.db"]).ok


def test_an_interrupted_run_leaves_a_ledger_that_verifies(tmp_path) -> None:
    ledger = tmp_path / "out" / "ledger.db"
    running = subprocess.Popen(
        command("--out", str(tmp_path / "out")), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < deadline:
        if ledger.exists() and _size(ledger) + _size(ledger.with_name("ledger.db-wal")) > 60_000:
            break  # some rounds are in
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert verify(ledger).ok


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--data", "absent.npz"], "no file"),
        (["--epsilon", "0"], "epsilon"),
        (["--clients", "1"], "clients"),
        (["--clients", "400"], "too few for 400"),
        (["--dropout", "0.9"], "dropout"),
        (["--epsilon", "nonsense"], "--epsilon"),
        (["--out", "/dev/null/x"], "/dev/null"),
    ],
)
def test_nonsense_gets_a_clear_error(arguments, match, tmp_path) -> None:
    done = subprocess.run(
        command("--out", str(tmp_path / "o"), *arguments),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert re.search(match, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_budget_too_small_says_so_and_still_ends_well(tmp_path) -> None:
    done = subprocess.run(
        command("--json", "--epsilon", "0.05", "--out", str(tmp_path / "o")),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"single Gaussian instead.*raise epsilon", done.stderr, re.DOTALL)
    assert np.isfinite(json.loads(done.stdout)["held_out"]["federated"]["log_likelihood"])
    assert verify(tmp_path / "o" / "ledger.db").ok


@pytest.mark.parametrize("ok", [True, False])
def test_the_verdict_on_screen_is_that_of_the_ledger(ok, tmp_path, monkeypatch) -> None:
    """The clause on what was recomputed stands only under a verdict that holds."""
    real = run_module.verify
    monkeypatch.setattr(run_module, "verify", lambda path: dataclasses.replace(real(path), ok=ok, problems=["entry 3"]))
    screen = io.StringIO()
    rows = np.random.default_rng(0).standard_normal((200, 2))
    np.savez(tmp_path / "own.npz", X=rows)
    options = DemoOptions(data=tmp_path / "own.npz", clients=4, components=2, epsilon=8.0, out=tmp_path / "o")
    run_demo(options, Console(file=screen, width=200))
    assert ("verified: chain whole" in screen.getvalue()) is ok
    assert ("NOT verified" in screen.getvalue()) is not ok
