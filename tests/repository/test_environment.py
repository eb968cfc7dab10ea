"""The set-up script: it reinstalls when it must, only then, and explains what went wrong."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment_script", ROOT / "scripts" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Installer:
    """Stands in for pip and venv: records what would have been installed."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.made = 0
        self.fails = False

    def install(self, environment: Path, arguments: list[str], *, total: int) -> None:
        if self.fails:
            raise RuntimeError("pip failed")
        self.calls.append(arguments)

    def make(self, environment: Path) -> None:
        self.made += 1
        (environment / "bin").mkdir(parents=True, exist_ok=True)
        python = environment / "bin" / "python"
        python.unlink(missing_ok=True)
        python.symlink_to(sys.executable)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Installer, Path]:
    module, installer, root = load(), Installer(), tmp_path / "tree"
    root.mkdir()
    (root / "requirements.lock").write_text("numpy==2.0\n")
    (root / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "install", installer.install)
    monkeypatch.setattr(module, "make_environment", installer.make)
    return module, installer, root


Script = tuple[ModuleType, Installer, Path]


def test_second_call_does_nothing(script: Script) -> None:
    module, installer, root = script
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert (installer.made, len(installer.calls)) == (1, 2)
    module.bring_up_to_date(root / ".venv", exactly=False)
    module.bring_up_to_date(root / ".venv", exactly=True)
    assert (installer.made, len(installer.calls)) == (1, 2)


def test_new_lock_installs_again(script: Script) -> None:
    module, installer, root = script
    module.bring_up_to_date(root / ".venv", exactly=False)
    (root / "requirements.lock").write_text("numpy==2.1\n")
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert installer.made == 1
    assert installer.calls[2] == ["-r", "requirements.lock"]


def test_new_project_file_installs_only_the_project(script: Script) -> None:
    module, installer, root = script
    module.bring_up_to_date(root / ".venv", exactly=False)
    (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert installer.calls[2:] == [["--no-deps", "--no-build-isolation", "-e", "."]]


def test_interrupted_installation_is_taken_up_again(script: Script) -> None:
    module, installer, root = script
    installer.fails = True
    with pytest.raises(RuntimeError):
        module.bring_up_to_date(root / ".venv", exactly=False)
    assert not (root / ".venv" / module.STAMP).exists()
    installer.fails = False
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert ["-r", "requirements.lock"] in installer.calls


def test_half_an_update_is_not_taken_for_the_old_environment(script: Script) -> None:
    module, installer, root = script
    module.bring_up_to_date(root / ".venv", exactly=False)
    (root / "requirements.lock").write_text("numpy==2.1\n")
    installer.fails = True
    with pytest.raises(RuntimeError):
        module.bring_up_to_date(root / ".venv", exactly=False)
    installer.fails = False
    (root / "requirements.lock").write_text("numpy==2.0\n")  # thought better of it
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert installer.calls[2] == ["-r", "requirements.lock"]


@pytest.mark.parametrize("spoil", ["moved", "interpreter gone"])
def test_environment_that_cannot_run_is_made_anew(script: Script, spoil: str) -> None:
    module, installer, root = script
    module.bring_up_to_date(root / ".venv", exactly=False)
    if spoil == "moved":
        stamp = root / ".venv" / module.STAMP
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "root": "elsewhere"}))
    else:
        (root / ".venv" / "bin" / "python").unlink()
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert installer.made == 2
    assert installer.calls[2][0] == "-r"


def test_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = make("environment", f"VENV={tmp_path}")
    assert result.returncode != 0
    assert "holds other things" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_interpreter_only_matters_when_it_was_named(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    module, installer, root = script
    module.bring_up_to_date(root / ".venv", exactly=False)
    monkeypatch.setattr(module, "interpreter_version", lambda environment: (3, 99))
    module.bring_up_to_date(root / ".venv", exactly=False)
    assert installer.made == 1
    module.bring_up_to_date(root / ".venv", exactly=True)
    assert installer.made == 2


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("Failed to establish a new connection: NewConnectionError('...')", "could not be reached"),
        ("ERROR: No matching distribution found for numpy==2.4.6", "PYTHON=python3.12"),
        ("error: subprocess-exited-with-error", "wheels exist"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "VENV="),
        ("something nobody has seen", "last lines"),
    ],
)
def test_failures_come_with_advice(said: str, advice: str) -> None:
    assert advice in load().remedy(said)


def test_only_the_errors_of_a_long_output_are_shown() -> None:
    text = load().tail("Collecting a\n" * 50 + "ERROR: " + "x" * 500 + "\nCollecting b\n")
    assert text.splitlines() == ["    ERROR: " + "x" * 153]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_old_python_is_refused_in_words(tmp_path: Path) -> None:
    old = tmp_path / "python2.7"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 2.7.18\ncase "$2" in *version_info*) exit 1;; esac\n')
    old.chmod(0o755)
    result = make("demo", f"PYTHON={old}", f"VENV={tmp_path / 'v'}")
    assert result.returncode != 0
    assert "Python 2.7.18, needed is 3.11 or newer" in result.stderr
    assert not (tmp_path / "v").exists()


def test_python_that_does_not_run_is_refused(tmp_path: Path) -> None:
    result = make("demo", f"PYTHON={tmp_path / 'nothing'}", f"VENV={tmp_path / 'v'}")
    assert result.returncode != 0
    assert "does not run" in result.stderr


def test_help_lists_every_target_for_people() -> None:
    text = make("help").stdout
    for target in ("demo", "test", "lint", "bench", "docs", "clean", "slow", "ci"):
        assert re.search(rf"make {target}\s+\w", text), target
