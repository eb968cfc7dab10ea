"""Files that somebody else may have written are read whole, up to a limit, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privfed import UsageError
from privfed.files import read_plain, sha256_of

DATA = b"seven more"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "here"
    found.write_bytes(DATA)
    return found


def test_a_file_is_read_whole_up_to_its_last_byte(path: Path) -> None:
    assert read_plain(path, most=len(DATA)) == DATA
    assert read_plain(str(path), most=100, size=len(DATA), sha256=sha256_of(DATA).upper()) == DATA
    with pytest.raises(UsageError, match=f"{path} has more than 9 bytes"):
        read_plain(path, most=len(DATA) - 1)


@pytest.mark.parametrize("promise", [{"size": 9}, {"size": 11}, {"sha256": sha256_of(b"other")}, {"sha256": ""}])
def test_what_is_not_as_it_was_promised_is_refused(path: Path, promise: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{path} is not as it was written"):
        read_plain(path, most=100, **promise)


def test_what_is_no_plain_file_is_refused_by_its_name(path: Path) -> None:
    with pytest.raises(UsageError, match=f"{path.parent} is no plain file"):
        read_plain(path.parent, most=100)
    with pytest.raises(UsageError, match="missing is not there"):
        read_plain(path.parent / "missing", most=100)
    if os.name == "posix":
        os.mkfifo(path.parent / "pipe")
        with pytest.raises(UsageError, match="pipe is no plain file"):
            read_plain(path.parent / "pipe", most=100)
        (path.parent / "link").symlink_to(path)
        with pytest.raises(UsageError, match="link cannot be read: it is a link"):
            read_plain(path.parent / "link", most=100)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file that grows as it is read")
def test_a_file_whose_size_says_nothing_is_bounded_all_the_same() -> None:
    """Its size is said to be 0, and it has more."""
    with pytest.raises(UsageError, match="has more than 10 bytes"):
        read_plain("/proc/self/status", most=10)
