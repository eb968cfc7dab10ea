"""Set up the virtual environment that every `make` target runs in.

    python scripts/environment.py .venv [--exactly]

Installs the exact versions of requirements.lock and then privfed itself, in place. A stamp in the environment
records what it was made from, so that a second call only compares a few values. Standard library only: nothing is
installed yet when this runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
STAMP: Final = "privfed-stamp.json"
LOG: Final = "install.log"
ANNOUNCE_EVERY: Final = 25  # packages: four or five lines for the whole lock, also where there is no terminal

# What pip says when it fails, and what a reader can do about it. The first pattern that matches wins.
REMEDIES: Final = (
    (r"No space left on device|Errno 28", "the disk is full: the environment takes about 1 GB; free some space"),
    (r"Permission denied|Errno 13", "no permission to write here: use a folder of your own, or VENV=/other/folder"),
    (
        r"NameResolution|name resolution|NewConnection|ConnectTimeout|Read timed out|ProxyError|SSLError|SSLCert|"
        r"Connection (refused|reset|aborted|broken)|Network is unreachable|RemoteDisconnected",
        "the package index could not be reached: check the network, or set HTTPS_PROXY or PIP_INDEX_URL for yours",
    ),
    (r"does not match the hash|HASHES", "a download was damaged: empty pip's cache with `pip cache purge`"),
    (
        r"No matching distribution|Could not find a version|requires a different Python",
        "a locked version does not exist for this Python or platform: try PYTHON=python3.12 (3.11 to 3.13 are tested)",
    ),
    (
        r"Failed building wheel|failed to build|error: command|subprocess-exited-with-error",
        "a package had to be compiled and could not be: wheels exist for CPython 3.11 to 3.13 on glibc Linux",
    ),
)


class SetupError(Exception):
    """The environment could not be made; the text says why and what to do."""


def say(text: str) -> None:
    """Print one line of progress, at once."""
    print(f"privfed: {text}", flush=True)


def wanted_state() -> dict[str, str]:
    """Describe what an up-to-date environment is made from."""
    return {
        "root": str(ROOT),
        "lock": hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest(),
        "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
    }


def recorded_state(environment: Path) -> dict[str, str]:
    """Return what the environment was made from; empty when it was never finished."""
    try:
        state = json.loads((environment / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def interpreter_version(environment: Path) -> tuple[int, ...] | None:
    """Return the version of the environment's own Python, or None when there is none that runs."""
    command = [str(environment / "bin" / "python"), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(int(part) for part in result.stdout.split())


def must_be_made_anew(environment: Path, *, exactly: bool) -> bool:
    """Say whether the folder cannot be reused: no Python that runs, too old, another version asked for, or moved."""
    version = interpreter_version(environment)
    if version is None or version < (3, 11):
        return True
    if exactly and version != sys.version_info[:2]:
        return True
    # The scripts in bin/ carry absolute paths: a copied or moved tree needs its own.
    return recorded_state(environment).get("root", str(ROOT)) != str(ROOT)


def make_environment(environment: Path) -> None:
    """Create an empty environment with the running interpreter, never in a folder that holds something else."""
    if environment.exists() and any(environment.iterdir()) and not (environment / "pyvenv.cfg").exists():
        raise SetupError(
            f"{display(environment)} holds other things than an environment: name another folder, VENV=..."
        )
    say(f"making {display(environment)} with Python {sys.version_info[0]}.{sys.version_info[1]}")
    command = [sys.executable, "-m", "venv", "--clear", str(environment)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    said = result.stdout + result.stderr
    if "ensurepip" in said or "No module named venv" in said:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(f"this Python has no venv module: install it (Debian, Ubuntu: apt install {package})")
    raise SetupError(f"could not make {display(environment)}: {remedy(said)}\n{tail(said)}")


def install(environment: Path, arguments: list[str], *, total: int) -> None:
    """Run pip, its output going to a log file, and tell in words how far it is."""
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--no-color", "--progress-bar=off", *arguments]
    collected = 0
    with (
        (environment / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        for line in pip.stdout or ():
            log.write(line)
            if line.startswith(("Collecting ", "Processing ")):  # from an index, or from a folder of wheels
                collected += 1
                if total and collected % ANNOUNCE_EVERY == 0:
                    say(f"  {collected} of {total} packages fetched")
            elif total and line.startswith("Installing collected packages"):
                say("  all fetched; unpacking")
    if pip.returncode:
        said = (environment / LOG).read_text(encoding="utf-8")
        raise SetupError(f"pip failed: {remedy(said)}\n{tail(said)}\n(everything it said: {environment / LOG})")


def remedy(said: str) -> str:
    """Find what a reader can do about a failure that pip or venv reported."""
    for pattern, advice in REMEDIES:
        if re.search(pattern, said, re.IGNORECASE):
            return advice
    return "see the last lines below"


def tail(said: str, lines: int = 8, width: int = 160) -> str:
    """Return the last lines of some output, indented; only the errors among them where it names any."""
    everything = said.rstrip().splitlines()
    chosen = [line for line in everything if line.lstrip().lower().startswith("error")] or everything
    return "\n".join("    " + line[:width] for line in chosen[-lines:])


def display(path: Path) -> str:
    """Return the path as the reader knows it: relative where it lies in the project."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def bring_up_to_date(environment: Path, *, exactly: bool) -> None:
    """Make, complete or leave alone the environment, whichever it needs."""
    wanted = wanted_state()
    anew = must_be_made_anew(environment, exactly=exactly)
    if not anew and recorded_state(environment) == wanted:
        return
    started = time.monotonic()
    recorded = {} if anew else recorded_state(environment)
    if anew:
        make_environment(environment)
    (environment / STAMP).unlink(missing_ok=True)  # from here to the end the environment is unfinished, and says so
    (environment / LOG).unlink(missing_ok=True)
    if recorded.get("lock") != wanted["lock"]:
        pins = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        total = sum("==" in line for line in pins.splitlines())
        say(f"installing {total} packages at the versions of requirements.lock (once; one to three minutes)")
        install(environment, ["-r", "requirements.lock"], total=total)
    install(environment, ["--no-deps", "--no-build-isolation", "-e", "."], total=0)
    (environment / STAMP).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    say(f"environment ready after {time.monotonic() - started:.0f} s")


def fail(text: str) -> NoReturn:
    """End with a message on standard error and the exit status of a failure."""
    print(f"privfed: error: {text}", file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    """Parse the command line and bring the environment up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("environment", type=Path, help="folder of the virtual environment")
    parser.add_argument("--exactly", action="store_true", help="make it anew unless it has this very Python")
    arguments = parser.parse_args()
    try:
        bring_up_to_date(arguments.environment.absolute(), exactly=arguments.exactly)
    except SetupError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or arguments.environment}")


if __name__ == "__main__":
    main()
