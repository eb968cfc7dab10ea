"""Computations that clients have agreed to run, known to queries by name: code never travels, a name does.

A model's code is installed at every client before a federation begins; a query then says which one, and brings the
numbers. A name ends in a digest of what the program says of itself, so that another architecture is another program.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, Protocol, TypeVar

from privfed.errors import UsageError

__all__ = ["Program", "install", "installed"]

DIGEST_DIGITS = 32


class Program(Protocol):
    """Something that a client computes on its rows.

    Attributes:
        kind: identifier, such as "torch_model".
        description: all that makes two programs the same one: architecture, loss, shapes. Public, and canonical.
    """

    @property
    def kind(self) -> str:
        """Identifier of the sort of program."""
        ...

    @property
    def description(self) -> str:
        """What makes two programs the same."""
        ...


_T = TypeVar("_T")
_INSTALLED: dict[str, list[weakref.ref[Any]]] = {}  # the one installed last is found first


def install(program: Program) -> str:
    """Let queries in this process find `program`, for as long as somebody holds it, and return the name to find it by.

    The name is `kind:digest`, the digest 32 hexadecimal digits of SHA-256 over the description. Of several programs of
    one name the one installed last is found, and when nobody holds it any more the one before it.
    """
    if not program.kind.isidentifier():
        raise UsageError(f"the program's kind is {program.kind!r}, expected an identifier")
    digest = hashlib.sha256(f"privfed program v1\x00{program.kind}\x00{program.description}".encode()).hexdigest()
    name = f"{program.kind}:{digest[:DIGEST_DIGITS]}"
    for known in list(_INSTALLED):
        _INSTALLED[known] = [reference for reference in _INSTALLED[known] if reference() is not None]
        if not _INSTALLED[known]:
            del _INSTALLED[known]
    others = [reference for reference in _INSTALLED.get(name, []) if reference() is not program]
    _INSTALLED[name] = [*others, weakref.ref(program)]
    return name


def installed(name: str, of: type[_T]) -> _T:
    """Return the installed program of that name.

    Raises:
        UsageError: there is none here, or it is no `of`: this client has not agreed to such a computation.
    """
    found = [program for reference in _INSTALLED.get(name, []) if (program := reference()) is not None]
    program = found[-1] if found else None
    if not isinstance(program, of):
        raise UsageError(
            f"no program {name!r} is installed at this client: install the model that the federation trains"
            " (privfed.statistics.programs.install) before it takes part, and keep hold of it"
        )
    return program
