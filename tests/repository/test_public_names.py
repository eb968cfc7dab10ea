"""Public names are re-exported on purpose, listed, documented, and reachable."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
PACKAGES = ("privfed", "privfed_protocols", "privfed_accounting")


def modules() -> list[str]:
    """Every module of the three packages, except those that are run rather than imported."""
    found = []
    for package in PACKAGES:
        found.append(package)
        root = importlib.import_module(package)
        found += [info.name for info in pkgutil.walk_packages(root.__path__, prefix=f"{package}.")]
    return [name for name in found if not name.endswith("__main__")]


def public_objects() -> Iterator[tuple[str, Any]]:
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            yield f"{package}.{name}", getattr(module, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_lists_its_names(package: str) -> None:
    module = importlib.import_module(package)
    names = list(module.__all__)
    assert names == sorted(set(names)), "sorted, each once"
    for name in names:
        assert getattr(module, name) is not None
        assert name in dir(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_public_is_unlisted(package: str) -> None:
    """A name that leaks out of `__init__` by an import is a promise nobody meant to make."""
    module = importlib.import_module(package)
    for name in module.__all__:
        getattr(module, name)  # lazy names settle in the namespace
    stray = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name not in module.__all__
    }
    assert stray <= {"annotations", "TYPE_CHECKING", "Any", "importlib", "Final", "Mapping"}


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_name_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(package).no_such_name  # noqa: B018  # the access is the test


def test_every_module_imports_and_keeps_its_promises() -> None:
    names = modules()
    assert len(names) > 30
    for name in names:
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        for listed in getattr(module, "__all__", ()):
            assert hasattr(module, listed), f"{name}.__all__ lists {listed}, which does not exist"


def undocumented() -> list[str]:
    """Names of public objects, and of their public methods and properties, that say nothing about themselves."""
    found = []
    for name, thing in public_objects():
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not own_docstring(thing):
            found.append(name)
        if inspect.isclass(thing):
            found += [f"{name}.{method}" for method, value in members(thing) if not inspect.getdoc(value)]
    return found


def members(thing: type) -> Iterator[tuple[str, Any]]:
    for name, value in inspect.getmembers(thing):
        ours = getattr(value, "__module__", "") or ""
        if not name.startswith("_") and (isinstance(value, property) or inspect.isroutine(value)):
            defined_by_us = isinstance(value, property) or ours.split(".")[0] in PACKAGES
            if defined_by_us:
                yield name, value


def own_docstring(thing: Any) -> str | None:
    """The docstring that the object itself carries: not inherited, and not the one a dataclass makes up."""
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    made_up = inspect.isclass(thing) and isinstance(text, str) and text.startswith(f"{thing.__name__}(")
    return None if made_up else text


def test_every_public_object_is_documented() -> None:
    assert undocumented() == []


def test_first_docstring_line_is_a_sentence() -> None:
    for name, thing in public_objects():
        if inspect.isclass(thing) or inspect.isfunction(thing):
            first = (inspect.getdoc(thing) or "").split("\n\n")[0].strip()
            assert first.endswith((".", ":")), f"{name}: {first!r}"


def test_every_public_name_is_in_the_reference() -> None:
    """A lower package's name counts where it is at home: the page of `privfed` only points there."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    shown = {identifier.rsplit(".", 1)[-1] for identifier in re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE)}
    listed = public_objects()
    names = {name.rsplit(".", 1)[-1] for name, thing in listed if not inspect.ismodule(thing)} - {"__version__"}
    assert names - shown == set()
