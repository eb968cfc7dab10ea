"""Computations that clients have agreed to run, known to queries by name: code never travels, a name does.

A model's code is installed at every client before a federation begins; a query then says which one, and brings the
numbers. A name ends in a digest of what the program says of itself, so that another architecture is another program.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

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
_INSTALLED: WeakValueDictionary[str, Any] = WeakValueDictionary()


def install(program: Program) -> str:
    """Let queries in this process find `program`, for as long as somebody holds it, and return the name to find it by.

    The name is `kind:digest`, the digest 32 hexadecimal digits of SHA-256 over the description. A program of the same
    name that was there before is replaced.
    """
    if not program.kind.isidentifier():
        raise UsageError(f"the program's kind is {program.kind!r}, expected an identifier")
    digest = hashlib.sha256(f"privfed program v1\x00{program.kind}\x00{program.description}".encode()).hexdigest()
    name = f"{program.kind}:{digest[:DIGEST_DIGITS]}"
    _INSTALLED[name] = program
    return name


def installed(name: str, of: type[_T]) -> _T:
    """Return the installed program of that name.

    Raises:
        UsageError: there is none here, or it is no `of`: this client has not agreed to such a computation.
    """
    program = _INSTALLED.get(name)
    if not isinstance(program, of):
        raise UsageError(
            f"no program {name!r} is installed at this client: install the model that the federation trains"
            " (privfed.statistics.programs.install) before it takes part, and keep hold of it"
        )
    return program
