"""Write a report so that a reader finds the old file or the new one, never half of it."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from privfed.errors import UsageError

__all__ = ["json_text", "write_json", "write_text"]


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> Path:
    """Write `data` as strict JSON (RFC 8259: no NaN, no infinity), atomically; return the path.

    Raises:
        UsageError: a value that JSON cannot hold, named by its place; or the file cannot be written.
    """
    return write_text(path, json_text(data))


def json_text(data: Mapping[str, Any]) -> str:
    """Return `data` as indented, strict JSON with a newline at the end.

    Raises:
        UsageError: a value that JSON cannot hold, named by its place.

    Examples:
        >>> json_text({"rounds": [{"epsilon": float("nan")}]})
        Traceback (most recent call last):
        ...
        privfed.errors.UsageError: rounds.0.epsilon is nan, which JSON cannot hold: write None and say why
    """
    for place, value in _leaves(data):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{place} is {value}, which JSON cannot hold: write None and say why")
    try:
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError(f"the data are not plain JSON values: {error}") from None


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 in one step: into a file beside it, to the disk, then renamed over `path`.

    Raises:
        UsageError: the file cannot be written; what stood there before still stands there.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{target} is a directory, expected a file: add a file name")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        # Not tempfile: its mode 0600 is for secrets; a report is to be read by whom the umask lets read.
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
            raise UsageError(f"cannot write {target}: {reason}: choose a place that exists and is writable") from error
        raise
    return target


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}.{index}")
    else:
        yield place, value
