"""What a client keeps at home, in a directory: control variates, personal layers, what compression left over."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from privfed.errors import UsageError, checked_integer
from privfed.files import read_plain
from privfed.learners.neural.checkpoints.array_files import (
    LARGEST_FILE,
    OWNER_FILE,
    decoded_arrays,
    encoded_arrays,
    no_step,
    write_whole,
)

__all__ = ["StoredMemory"]

FILE: Final = "memory.safetensors"
OWNER_FOLDER: Final = 0o700
TAG: Final = re.compile(r"[0-9a-zA-Z_-]{1,64}")
Array = npt.NDArray[Any]


class StoredMemory(MutableMapping[str, Array]):
    """A client's memory that outlives the process, for `LocalFederation(memories={name: StoredMemory(path)})`.

    All arrays lie in one file, which is replaced as a whole: after a crash it holds what one release left, never parts
    of two. One process at a time.

    Args:
        directory: the client's own; made if missing. It and the files in it are for their owner alone: modes 0700 and
            0600, to which what an earlier version left wider is narrowed.
        keep: marks to keep, see `mark`.
        on_step: called with a name between any two steps of a write, for tests.

    Raises:
        UsageError: the file there is damaged, the directory or a file in it is open to others and belongs to somebody
            else, or safetensors is missing.

    Examples:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as home:
        ...     memory = StoredMemory(home)
        ...     memory["head"] = np.ones(2)
        ...     StoredMemory(home)["head"].tolist()
        [1.0, 1.0]
    """

    def __init__(self, directory: str | Path, *, keep: int = 3, on_step: Callable[[str], None] = no_step) -> None:
        self._directory = Path(directory).expanduser()
        self._directory.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
        self._close_to_others()
        self._keep = checked_integer("keep", keep, least=1)
        self._on_step = on_step
        path = self._directory / FILE
        self._arrays = self._read(path) if path.exists() else {}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, value: Array) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        if name not in self._arrays:
            raise KeyError(name)
        self._write({kept: value for kept, value in self._arrays.items() if kept != name})

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._arrays))

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<StoredMemory of {len(self)} arrays>"

    def update(self, *others: Any, **named: Any) -> None:
        """Write several arrays at once: all of them or, after a crash, none."""
        new: dict[str, Array] = {}
        for other in others:
            items: Iterable[tuple[str, Array]] = other.items() if isinstance(other, Mapping) else other
            new.update(items)
        self._write({**self._arrays, **new, **named})

    def mark(self, run: str, round: int) -> None:
        """Remember all arrays as they are now, after this round of this run; marks of other runs are let go."""
        name = _mark_name(run, round)
        write_whole(self._directory / name, encoded_arrays(self._arrays), self._on_step, owner_only=True)
        marks = self._marks()
        own = sorted(number for tag, number in marks if tag == run)
        for (tag, number), path in marks.items():
            if tag != run or number in own[: -self._keep]:
                path.unlink(missing_ok=True)

    def rewind(self, run: str, round: int) -> None:
        """Go back to what `mark` remembered.

        Raises:
            UsageError: there is no such mark, or it is damaged; nothing has changed.
        """
        path = self._directory / _mark_name(run, round)
        if not path.exists():
            raise UsageError(f"nothing was marked after round {round} of run {run}: resume from another checkpoint")
        self._write(self._read(path))

    def _close_to_others(self) -> None:
        """Leave the directory and this class's files in it to their owner alone."""
        if os.name != "posix":
            return
        for path in (self._directory, *self._directory.glob("*.safetensors*")):
            wanted = OWNER_FOLDER if path == self._directory else OWNER_FILE
            if stat.S_IMODE(path.stat().st_mode) & ~wanted:
                try:
                    path.chmod(stat.S_IMODE(path.stat().st_mode) & wanted)
                except OSError as error:
                    raise UsageError(
                        f"{path} is open to others than its owner and cannot be closed to them ({error.strerror}): give"
                        " each client's memory a directory of its own"
                    ) from None

    def _marks(self) -> dict[tuple[str, int], Path]:
        found = {}
        for path in self._directory.glob("mark-*.safetensors"):
            tag, _, number = path.stem.removeprefix("mark-").rpartition("-")
            if number.isdigit():
                found[tag, int(number)] = path
        return found

    def _read(self, path: Path) -> dict[str, Array]:
        try:
            return decoded_arrays(read_plain(path, most=LARGEST_FILE))
        except UsageError as error:
            raise UsageError(f"a client's memory at {path}: {error}") from error

    def _write(self, arrays: dict[str, Array]) -> None:
        for name in arrays:
            if not isinstance(name, str):
                raise UsageError(f"a client remembers arrays under names, not {name!r}")
        encoded = encoded_arrays(arrays)
        write_whole(self._directory / FILE, encoded, self._on_step, owner_only=True)
        self._arrays = decoded_arrays(encoded)


def _mark_name(run: str, round: int) -> str:
    if TAG.fullmatch(run) is None:
        raise UsageError(f"run is {run!r}, expected up to 64 letters, digits, - and _")
    return f"mark-{run}-{checked_integer('round', round, least=0):06d}.safetensors"
