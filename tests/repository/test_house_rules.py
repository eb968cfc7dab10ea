"""Rules of the house that nobody should have to look for. A comment that silences a linter does not silence them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("privfed", "protocols/privfed_protocols", "accounting/privfed_accounting")
SECRETS_AND_NOISE = ("protocols/privfed_protocols", "privfed/mechanism")
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".lock", ".j2", ".html", ".css", ".js", ".svg", ".txt", ".cfg"}
LEAVE_OUT = {"site", "build", "dist", "node_modules", "htmlcov", "__pycache__"}
LONGEST = 500  # lines; a module beyond that is several things

# Somebody's own folders, whatever the machine; `/tmp` in an example of a command is fine.
PRIVATE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|farm|workspace|mnt|opt)/\w")
INDEX = re.compile(r"--(?:extra-)?index-url|--find-links|^-f |\bfile://|@ (?:https?|file|git\+)", re.MULTILINE)


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def nodes(folders: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
    for path in python_files(*folders):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def text_files() -> list[Path]:
    """The tree's own text files, hidden folders, environments and build outputs left out."""
    return [path for path in ROOT.rglob("*") if is_ours(path.relative_to(ROOT)) and path.is_file()]


def is_ours(path: Path) -> bool:
    hidden = any(part.startswith(".") and part != ".ci" for part in path.parts)
    is_text = path.suffix in TEXT or path.name in ("Makefile", "LICENSE", "run")
    return is_text and not hidden and not LEAVE_OUT.intersection(path.parts)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def test_no_assert_in_the_packages() -> None:
    """`python -O` drops them; what they guard would be open."""
    assert [where for where, node in nodes(PACKAGES) if isinstance(node, ast.Assert)] == []


def test_nothing_is_swallowed() -> None:
    bare = [where for where, node in nodes(PACKAGES) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert bare == []


def test_no_serialiser_that_runs_code() -> None:
    for where, node in nodes((*PACKAGES, "examples", "benchmarks", "scripts")):
        roots = {name.split(".")[0] for name in imported(node)}
        assert not roots & RUNS_CODE, where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile"), where


def test_secrets_and_noise_come_from_the_system() -> None:
    """No seedable generator is even imported where keys, masks and noise are made."""
    for where, node in nodes(SECRETS_AND_NOISE):
        assert not {"random", "numpy.random"}.intersection(imported(node)), where
        if isinstance(node, ast.Attribute) and node.attr == "random":
            assert not (isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy")), where


def test_every_module_postpones_annotations_and_says_what_it_is() -> None:
    for path in python_files(*PACKAGES):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not tree.body:
            continue
        assert ast.get_docstring(tree), f"{path}: no docstring"
        assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body) or not any(
            isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body
        ), path


def test_modules_are_one_thing() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files(*PACKAGES)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert long == {}


def test_type_ignores_name_their_error_and_their_reason() -> None:
    for path in python_files(*PACKAGES, "scripts"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "type: ignore" in line:
                assert re.search(r"type: ignore\[[\w, -]+\]\s+# \w", line), f"{path}:{number}"


def test_no_path_of_anybodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in text_files()
        for match in [PRIVATE_PATH.search(path.read_text(encoding="utf-8", errors="replace"))]
        if match
    ]
    assert found == []


@pytest.mark.parametrize("text", ["see /home/" + "ann/x", "(/root/" + "y)", "'/opt/" + "z'"])
def test_the_path_check_can_fail(text: str) -> None:
    assert PRIVATE_PATH.search(text)


def test_lock_and_project_name_no_index() -> None:
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        assert not INDEX.search((ROOT / name).read_text(encoding="utf-8")), name
