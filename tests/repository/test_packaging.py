"""The lock, the project file, the changelog and the packages say the same."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("privfed", "protocols/privfed_protocols", "accounting/privfed_accounting")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> dict[str, Version]:
    """Name and version of every line of the lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("#")[0].strip() for line in lines]
    versions: dict[str, Version] = {}
    for pin in filter(None, pins):
        name, equals, version = pin.partition("==")
        assert equals, f"{pin!r} is not an exact version"
        assert canonicalize_name(name) not in versions, f"{name} is locked twice"
        versions[canonicalize_name(name)] = Version(version)
    return versions


def wanted(extra: str) -> list[Requirement]:
    """What the runtime and an extra ask for, extras of our own resolved."""
    requirements: list[Requirement] = []
    for text in (*project()["dependencies"], *project()["optional-dependencies"].get(extra, ())):
        requirement = Requirement(text)
        if requirement.name == "privfed":
            for inner in requirement.extras:
                requirements += wanted(inner)
        else:
            requirements.append(requirement)
    return requirements


def test_lock_meets_every_bound_of_the_project() -> None:
    versions = locked()
    for requirement in wanted("dev"):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not locked"
        assert versions[name] in requirement.specifier, f"{name} {versions[name]} is outside {requirement.specifier}"


def test_lock_is_closed() -> None:
    """Everything that a locked distribution needs here is locked, too: nothing is resolved on the user's machine."""
    versions = locked()
    for name in versions:
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in versions, f"{name} needs {needed}, which is not locked"


def test_lock_holds_one_deep_learning_library_and_nothing_for_gpus() -> None:
    assert not {"tensorflow", "jax", "triton"}.intersection(locked())
    assert not [name for name in locked() if name.startswith(("nvidia-", "cuda-"))]
    assert str(locked()["torch"]) == "2.13.0"


def test_every_runtime_bound_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    for line in block.splitlines()[1:]:
        if line.strip().startswith('"'):
            assert re.search(r"#\s*\w+", line), f"say why: {line.strip()}"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_version_is_the_newest_in_the_changelog() -> None:
    headings = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    source = (ROOT / "privfed" / "_version.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.+)"', source)
    assert version is not None
    assert headings[0] == version.group(1)
    assert headings == sorted(headings, key=Version, reverse=True)


def test_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["license"] == "Apache-2.0"


def test_ci_runs_the_readmes_test_command_and_every_suite() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert re.search(r'^PYTEST_ADDOPTS=\S+ .*stage "make test" make test$|stage "make test" make test$', script, re.M)
    for target in ("lint", "doctest", "docs", "slow", "browser", "postgres", "wheel"):
        assert re.search(rf"(make --no-print-directory|whole_suite) {target}\b", script), target
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_make_command_in_the_pages_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^\s*(?:\$ )?)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets()


def test_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
