"""The audits from a shell, and adapters named on the command line."""

from __future__ import annotations

import io
import json
import os
import runpy
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from privfed.audit.masks import Sa1
from privfed.audit.masks.loading import load_adapter
from privfed.audit.privacy import CAVEAT
from privfed.cli import main
from privfed.errors import UsageError
from tests.audit.planted_faults import with_plan, without_noise

EXAMPLE = Path(__file__).parents[2] / "examples" / "audit_foreign_masks.py"
ADAPTER = f"{EXAMPLE}:PairwiseAdapter"
FEW = ("--check", "generator", "--check", "silent_wrap", "--check", "both_shares")
QUICK = ("--canaries", "200", "--clients", "8", "--dimension", "300")


def run(*arguments: str, status: int = 0) -> str:
    with mock.patch.dict(os.environ, COLUMNS="160"), redirect_stdout(io.StringIO()) as out:
        assert main(["audit", *arguments]) == status
    return out.getvalue()


def test_the_protocol_passes_and_the_table_says_so() -> None:
    out = run("masks", *FEW)
    assert "Masks of privfed sa1" in out
    assert out.count("passed") == 3
    assert "nothing found. Sound code is reported with a chance of at most 1e-06." in out


def test_foreign_code_from_a_file_is_found_out_as_json_with_status_1() -> None:
    data = json.loads(run("masks", ADAPTER, *FEW, "--json", status=1))
    assert data["implementation"] == "a pairwise-mask example"
    assert data["failed"] == ["generator"]
    assert data["not_examined"] == ["both_shares", "silent_wrap"]
    table = run("masks", ADAPTER, *FEW, status=1)
    assert "found: generator; not examined: both_shares, silent_wrap" in table
    assert "the adapter does not expose ring_for" in table


def test_what_is_not_examined_counts_if_it_is_asked_to() -> None:
    run("masks", ADAPTER, "--check", "silent_wrap")
    run("masks", ADAPTER, "--check", "silent_wrap", "--require-all", status=1)


def test_what_foreign_code_says_is_neither_style_nor_control(tmp_path: Path) -> None:
    file = tmp_path / "hostile.py"
    file.write_text(
        "from privfed.audit.masks import Adapter, Ring\n"
        "class Hostile(Adapter):\n"
        "    name = 'hostile'\n"
        "    def set_up(self, setting): raise ValueError('[red]\\x1b[2J[/red]')\n"
        "    ring = Ring(256, 1)\n"
        "    def masked(self, client, round, values, side): ...\n"
    )
    out = run("masks", f"{file}:Hostile", "--check", "byte_lanes", status=1)
    assert "[red]\ufffd[2J[/red]" in out
    assert "\x1b" not in out


def test_the_privacy_audit_shows_the_claim_the_bound_and_the_caveat() -> None:
    out = run("privacy", "--epsilon", "4", *QUICK)
    words = " ".join(out.split())
    assert "lower bound at 95.0% confidence" in words
    assert "within two standard errors; 8 canary clients" in words
    assert CAVEAT in words
    assert "nothing found" in words


def test_the_privacy_audit_as_json_and_its_status_when_noise_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(run("privacy", *QUICK, "--json"))["ok"] is True
    with_plan(without_noise)(monkeypatch)
    data = json.loads(run("privacy", *QUICK, "--json", status=1))
    assert "noise" in data["failed"]
    assert "found: " in run("privacy", *QUICK, status=1)


def test_help_names_both_commands() -> None:
    out = run("--help")
    assert "masks" in out
    assert "privacy" in out


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nothing", "names no adapter: write package.module:Class"),
        (":Class", "names no adapter"),
        ("os:", "names no adapter"),
        ("os:path.join()", "names no adapter"),
        ("no_such_module_anywhere:Class", "cannot import no_such_module_anywhere, ModuleNotFoundError"),
        ("os:path", "os:path is no adapter: derive it"),
        ("privfed.audit.masks:Adapter", "is no adapter: derive it"),
        ("privfed.audit.masks:Sa2", "has no Sa2: choose from its adapters, Sa1"),
        ("math:Class", "choose from its adapters, none"),
        ("missing.py:Class", "there is no file missing.py"),
    ],
)
def test_a_name_that_names_no_adapter_is_refused_with_a_remedy(name: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_adapter(name)
    assert complaint in str(caught.value)


def test_a_file_that_does_not_import_and_a_class_that_is_not_complete_are_refused(tmp_path: Path) -> None:
    broken, partial = tmp_path / "broken.py", tmp_path / "partial.py"
    broken.write_text("1 / 0\n")
    partial.write_text("from privfed.audit.masks import Adapter\nclass Half(Adapter):\n    name = 'half'\n")
    with pytest.raises(UsageError, match="ZeroDivisionError: division by zero: run it by itself"):
        load_adapter(f"{broken}:Half")
    with pytest.raises(UsageError, match="lacks masked, ring, set_up: write these methods"):
        load_adapter(f"{partial}:Half")


def test_adapters_are_found_by_module_and_by_file() -> None:
    assert load_adapter("privfed.audit.masks:Sa1") is Sa1
    assert load_adapter(ADAPTER).name == "a pairwise-mask example"


def test_the_example_finds_the_weak_seed_and_generator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), "--seeds", "2"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    assert "found: generator, seed_entropy, mask_reuse" in out
    assert "failed  seed_entropy" in out
