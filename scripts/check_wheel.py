"""Build the sdist and the wheel, look into them, and test the installed wheel where the sources cannot be imported.

    python scripts/check_wheel.py [pytest arguments]

Runs inside the environment of the lock. The wheel goes into an environment of its own, with the locked versions of its
dependencies and of the test tools, and the tests run from a copy that has neither privfed nor its two halves beside it.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = {
    "privfed": ROOT / "privfed",
    "privfed_protocols": ROOT / "protocols" / "privfed_protocols",
    "privfed_accounting": ROOT / "accounting" / "privfed_accounting",
}
TEST_TOOLS: Final = (
    *("hypothesis", "jsonschema", "mpmath", "prv-accountant"),
    *("pytest", "pytest-timeout", "pytest-xdist"),
)
# What the tests read besides the packages: text, values and benchmarks, never a package itself.
DATA_OF_TESTS: Final = ("accounting", "benchmarks", "examples", "protocols", "pyproject.toml", "scripts")
# Printed by the clean environment's Python: the folder that each package is imported from.
WHERE: Final = "import importlib\n" + "\n".join(
    f"print(importlib.import_module({package!r}).__path__[0])" for package in SOURCES
)
# Tests of the tree rather than of the packages stay at home.
TESTS_OF_THE_TREE: Final = ("repository", "examples", "test_mutation_refusals.py")


def fail(text: str) -> NoReturn:
    """End with a message and a failing status."""
    print(f"privfed: error: {text}", file=sys.stderr)
    raise SystemExit(1)


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command quietly; show what it said only when it failed."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        fail(f"{' '.join(map(str, command))}\n{result.stdout}")


def build(target: Path) -> Path:
    """Build the sdist and, from it, the wheel, so that a file missing from the sdist is missing from the wheel."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, ROOT, cwd=target)
    wheels, sdists = list(target.glob("*.whl")), list(target.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        fail(f"expected one wheel and one sdist, found {wheels + sdists}")
    return wheels[0]


def expected_files() -> set[str]:
    """List what the wheel should hold of the three packages, under the names it has there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    added = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    return set(added) | {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def inspect(wheel: Path) -> None:
    """Compare the wheel's contents with the three packages, and read its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        dist_info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
        problems = [f"not in the wheel: {name}" for name in sorted(expected_files() - names)]
        problems += [f"should not be in the wheel: {name}" for name in sorted(names - dist_info - expected_files())]
        problems += [f"no py.typed in {package}" for package in SOURCES if f"{package}/py.typed" not in names]
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in dist_info):
            problems.append("no LICENSE in the metadata")
        metadata = next((name for name in dist_info if name.endswith("/METADATA")), None)
        fields = email.message_from_bytes(archive.read(metadata) if metadata else b"")
        problems += [
            f"metadata: {field} is {fields[field]!r}, expected {expected!r}"
            for field, expected in {"License-Expression": "Apache-2.0", "Requires-Python": ">=3.11"}.items()
            if fields[field] != expected
        ]
        if not any(name.endswith("/entry_points.txt") for name in dist_info):
            problems.append("no entry point: the command privfed would not be installed")
    if problems:
        fail(f"{wheel.name}\n" + "\n".join(f"  {problem}" for problem in problems))
    print(f"privfed: {wheel.name}: {len(names)} files, {wheel.stat().st_size // 1024} KiB, as expected")


def copy_tests(target: Path) -> None:
    """Copy the tests and the data they read to a folder without any sources."""
    leave_out = shutil.ignore_patterns("__pycache__", *SOURCES)
    shutil.copytree(ROOT / "tests", target / "tests", ignore=shutil.ignore_patterns("__pycache__", *TESTS_OF_THE_TREE))
    for name in DATA_OF_TESTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=leave_out)
        else:
            shutil.copy2(source, target / name)


def test_installed(wheel: Path, workplace: Path, arguments: list[str]) -> int:
    """Install the wheel in a clean environment and run the fast tests against it; return pytest's status."""
    environment, tests = workplace / "environment", workplace / "elsewhere"
    tests.mkdir()
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    constraint = ROOT / "requirements.lock"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-c", constraint)
    run(*pip, f"{wheel}[sklearn,pandas,plot,torch,verify,postgres]", *TEST_TOOLS, cwd=tests)
    run(environment / "bin" / "privfed", "--help", cwd=tests)
    copy_tests(tests)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    homes = subprocess.run([str(python), "-c", WHERE], cwd=tests, env=clean, check=True, capture_output=True, text=True)
    strays = [home for home in homes.stdout.splitlines() if not Path(home).is_relative_to(environment)]
    if strays:
        fail(f"the sources are still importable: {strays}")
    command = [str(python), "-m", "pytest", "-o", "pythonpath=.", "-p", "no:cacheprovider", "-q", "-n", "auto"]
    command += ["--maxprocesses=4", "-m", "not slow and not browser and not postgres", *arguments]
    return subprocess.run(command, cwd=tests, env=clean, check=False).returncode


def main() -> None:
    """Build, inspect, install, test."""
    with tempfile.TemporaryDirectory(prefix="privfed-wheel-") as folder:
        workplace = Path(folder).resolve()
        (workplace / "dist").mkdir()
        wheel = build(workplace / "dist")
        inspect(wheel)
        raise SystemExit(test_installed(wheel, workplace, sys.argv[1:]))


if __name__ == "__main__":
    main()
