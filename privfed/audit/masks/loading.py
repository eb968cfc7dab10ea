"""Find an adapter by the name that an operator gives: `package.module:Class` or `path/to/file.py:Class`.

Importing a module runs its code, with all that the operator may do. The name comes from the operator's own command
line and from nowhere else: never pass one on that came over a network or out of a data file.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from privfed.audit.masks.adapter import Adapter
from privfed.errors import UsageError

__all__ = ["load_adapter"]


def load_adapter(name: str) -> type[Adapter]:
    """Import the adapter class that `name` names.

    Args:
        name: `package.module:Class` for what can be imported, `path/to/file.py:Class` for a file.

    Raises:
        UsageError: no such module, file or class; importing it failed; or it is no complete subclass of `Adapter`.
    """
    place, colon, attribute = name.rpartition(":")
    if not (colon and place and attribute.isidentifier()):
        raise UsageError(f"{name!r} names no adapter: write package.module:Class or path/to/file.py:Class")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    found = getattr(module, attribute, None)
    if found is None:
        offered = sorted(key for key, value in vars(module).items() if _is_adapter(value))
        raise UsageError(f"{place} has no {attribute}: choose from its adapters, {', '.join(offered) or 'none'}")
    if not _is_adapter(found):
        raise UsageError(f"{name} is no adapter: derive it from privfed.audit.masks.Adapter")
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise UsageError(f"{name} lacks {', '.join(missing)}: write these methods")
    return found  # type: ignore[no-any-return]  # checked to be a class of the right base


def _is_adapter(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Adapter) and value is not Adapter


def _from_name(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:
        hint = "name its file instead, path/to/file.py:Class, or install what it needs"
        raise UsageError(f"cannot import {place}, {type(error).__name__}: {error}: {hint}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}: check the path")
    name = f"privfed_audited_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no module of Python: name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            f"cannot import {path}, {type(error).__name__}: {error}: run it by itself to see why"
        ) from error
    return module
