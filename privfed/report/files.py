"""Write a report so that a reader finds the old file or the new one, never half of it."""

from __future__ import annotations

import json
import math
import os
import tempfile
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
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the data are not plain JSON values: {error}") from None


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 in one step: into a file beside it, to the disk, then renamed over `path`.

    Raises:
        UsageError: the file cannot be written; what stood there before still stands there.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{target} is a directory, expected a file: add a file name")
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets; a report is to be read
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot write {target}: {reason}: choose a place that exists and is writable") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot write {target}: the text is not Unicode: {error.reason}") from error
    else:
        temporary = None
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
    return target


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}.{index}")
    else:
        yield place, value
