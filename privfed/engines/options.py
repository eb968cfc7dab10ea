"""What users hand to a federation beside the data, checked before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from privfed.engines.keys import Security
from privfed.errors import UsageError
from privfed.federation.client import Guard
from privfed.plan.terms import require_choice

__all__ = ["check_guards", "check_memories", "check_security", "ledger_location"]


def check_security(security: Security, mode: str) -> None:
    """Refuse a mode of the protocol that is not offered here, or that could not matter.

    The protocol has a mode in between, which signs the set-up, but lets a server tell survivors different things.

    Raises:
        UsageError: naming the remedy.
    """
    if security == "semi-malicious":  # type: ignore[comparison-overlap]  # what users may ask for all the same
        raise UsageError(
            "security is 'semi-malicious', expected 'semi-honest' or 'malicious': the mode between the two is not"
            " offered, for it does not protect from a server that tells clients different things. Use 'malicious'"
        )
    require_choice("security", security, Security)
    if security != "semi-honest" and mode != "secure":
        raise UsageError(f"security={security!r} has no meaning in mode {mode!r}: use mode='secure', or leave it out")


def check_guards(guards: Mapping[str, Guard] | None, clients: Collection[str]) -> dict[str, Guard]:
    """Return client -> its guard, having checked that each names a client and can refuse.

    Raises:
        UsageError: naming what was found.
    """
    if guards is not None and not isinstance(guards, Mapping):
        raise UsageError(f"guards is a {type(guards).__name__}, expected a dict of a client's name to its ClientGuard")
    unknown = sorted(set(map(str, guards or {})) - set(clients))
    if unknown:
        raise UsageError(f"guards name clients {unknown}, expected some of {sorted(clients)}")
    given = {str(name): guard for name, guard in (guards or {}).items()}
    for name, guard in given.items():
        if not callable(getattr(guard, "admit", None)):
            raise UsageError(
                f"the guard of client {name!r} is a {type(guard).__name__}, expected a privfed.ClientGuard"
            )
    return given


def check_memories(
    memories: Mapping[str, MutableMapping[str, npt.NDArray[Any]]] | None, clients: Collection[str]
) -> dict[str, MutableMapping[str, npt.NDArray[Any]]]:
    """Return client -> where it keeps arrays, having checked that each names a client, can be written and is its own.

    Raises:
        UsageError: naming what was found.
    """
    if memories is not None and not isinstance(memories, Mapping):
        raise UsageError(f"memories is a {type(memories).__name__}, expected a dict of a client's name to a mapping")
    given = {str(name): memory for name, memory in (memories or {}).items()}
    unknown = sorted(given.keys() - set(clients))
    if unknown:
        raise UsageError(f"memories name clients {unknown}, expected some of {sorted(clients)}")
    for name, memory in given.items():
        if not isinstance(memory, MutableMapping):
            raise UsageError(f"the memory of client {name!r} is a {type(memory).__name__}, expected a mutable mapping")
    if len({id(memory) for memory in given.values()}) < len(given):
        raise UsageError("two clients share one memory: what a client keeps at home is its own, give each a mapping")
    return given


def ledger_location(ledger: str | Path | None) -> str | Path | None:
    """Return the URL of a ledger as it is, or its path with `~` filled in.

    Raises:
        UsageError: neither, with the remedy.
    """
    if ledger is None:
        return None
    if not isinstance(ledger, str | Path) or not str(ledger):
        raise UsageError(
            f"ledger is {ledger!r}, expected a path, a database's URL, an open Ledger, or None for one in memory"
        )
    if str(ledger) == ":memory:":
        raise UsageError("ledger is ':memory:', which would be a file of that name: use ledger=None for one in memory")
    return ledger if isinstance(ledger, str) and "://" in ledger else Path(ledger).expanduser()
