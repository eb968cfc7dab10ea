"""Arrays in files: safetensors, written whole or not at all. Nothing that is read is executed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, needs_extra

__all__ = [
    "LARGEST_FILE",
    "OWNER_FILE",
    "decoded_arrays",
    "encoded_arrays",
    "no_step",
    "require_safetensors",
    "write_whole",
]

LARGEST_FILE: Final = 2**34  # bytes that are read into memory
MARK: Final = "array:"  # before every name: safetensors keeps some to itself
KINDS: Final = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
UNFINISHED: Final = ".unfinished"
OWNER_FILE: Final = 0o600


def no_step(name: str) -> None:
    """Do nothing between two steps of a write; tests put faults here."""


def encoded_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return arrays of real numbers as a safetensors file.

    Raises:
        UsageError: safetensors is missing, or an array is of another kind.
    """
    save, _, _ = _safetensors()
    plain = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.str[1:] not in KINDS:
            raise UsageError(f"array {name!r} has dtype {array.dtype}, expected real numbers of up to 64 bits")
        plain[MARK + name] = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    encoded: bytes = save(plain)
    return encoded


def decoded_arrays(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Undo `encoded_arrays`: read-only arrays.

    Raises:
        UsageError: safetensors is missing, or the bytes are no such file.
    """
    _, load, broken = _safetensors()
    try:
        found: dict[str, npt.NDArray[Any]] = load(data)
    except (broken, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"the arrays cannot be read, they are no whole safetensors file: {error}") from None
    if not all(name.startswith(MARK) for name in found):
        raise UsageError("the arrays were not written by privfed: expected a file that it wrote")
    arrays = {name.removeprefix(MARK): np.array(value) for name, value in found.items()}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def require_safetensors() -> None:
    """Refuse to go on without safetensors.

    Raises:
        UsageError: naming the extra that brings it.
    """
    _safetensors()


def write_whole(path: Path, data: bytes, on_step: Callable[[str], None] = no_step, *, owner_only: bool = False) -> None:
    """Write a file so that after a crash, or a cut of the power, it is there whole or as it was before.

    Args:
        path: of the file; its folder is there.
        data: what it is to hold.
        on_step: called between steps.
        owner_only: whether nobody but the owner may read it, whatever the umask says; from before the first byte.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    if owner_only:
        unfinished.unlink(missing_ok=True)  # of a crash: its mode may be another
    with open(unfinished, "wb", opener=_for_owner if owner_only else None) as file:
        file.write(data)
        on_step(f"{path.suffix}:written")
        file.flush()
        os.fsync(file.fileno())
    on_step(f"{path.suffix}:synced")
    unfinished.replace(path)
    sync_directory(path.parent)
    on_step(f"{path.suffix}:renamed")


def _for_owner(path: str, flags: int) -> int:
    """Open a new file that its owner alone may read and write; a link in its place is not followed."""
    return os.open(path, flags | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), OWNER_FILE)


def sync_directory(path: Path) -> None:
    """Have the names in a directory written down; where the system cannot, they are sooner or later."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safetensors() -> tuple[Callable[[dict[str, Any]], bytes], Callable[[bytes], dict[str, Any]], type[Exception]]:
    """Return what writes, what reads, and what reading raises."""
    with needs_extra("torch", "arrays are kept with safetensors"):
        from safetensors import SafetensorError
        from safetensors.numpy import load, save
    return save, load, SafetensorError
