"""Files that somebody else may have written: read whole, up to a limit, and never through a link."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

from privfed.errors import UsageError

__all__ = ["read_plain", "sha256_of"]


def read_plain(path: str | Path, *, most: int, size: int | None = None, sha256: str | None = None) -> bytes:
    """Return a plain file's bytes, if they are what was promised.

    Args:
        path: of the file itself: a link as its last part is refused, and so is what is no plain file.
        most: bytes that are read.
        size: that it has to have; None for any.
        sha256: that it has to have, in hexadecimal digits; None for any.

    Raises:
        UsageError: naming the path: there is no such file, it cannot be read, is a link or no plain file, is longer
            than `most`, or not what was promised.
    """
    path = Path(path)
    try:
        data = _bytes_of(path, most)
    except FileNotFoundError:
        raise UsageError(f"{path} is not there: check the path") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {_reason(path, error)}") from None
    whole = size is None or len(data) == size
    if not whole or (sha256 is not None and not secrets.compare_digest(sha256_of(data), sha256.lower())):
        raise UsageError(f"{path} is not as it was written: its size or digest differs. Fetch it again")
    return data


def sha256_of(data: bytes) -> str:
    """Return the digest in hexadecimal digits.

    >>> sha256_of(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path, most: int) -> bytes:
    """Return the bytes of a plain file that has no more than `most`."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{path} is no plain file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(most + 1) if facts.st_size <= most else None
    finally:
        os.close(handle)
    if data is None or len(data) > most:
        raise UsageError(f"{path} has more than {most} bytes, and no more are read: check the path")
    return data


def _reason(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return "it is a link, and links are not followed"
    return error.strerror or type(error).__name__
