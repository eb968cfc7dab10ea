"""The two files of a checkpoint: JSON that says where a run stood, and safetensors with its arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from privfed.errors import UsageError
from privfed.files import read_plain, sha256_of
from privfed.learners.neural.checkpoints.array_files import LARGEST_FILE, decoded_arrays
from privfed.learners.neural.state import HistoryRow, TrainingState
from privfed.query import FloatArray
from privfed_accounting import Head

__all__ = [
    "CheckpointError",
    "CheckpointFile",
    "Kept",
    "SavedRun",
    "checkpoints_in",
    "described",
    "load_checkpoint",
    "plain_row",
    "run_name",
]

FORMAT: Final = "privfed-checkpoint"
VERSION: Final = 1
LARGEST_JSON: Final = 256 * 2**20
NAME: Final = re.compile(r"round-(\d{6,9})\.json")
PARAMETERS: Final = "parameters"
CALLBACK: Final = re.compile(r"callback(\d{1,4}):(.*)", re.DOTALL)

Value = bool | float | int | str | None


class CheckpointError(UsageError):
    """A checkpoint is damaged, of another run, or of another ledger; nothing was asked of anybody."""


class _Ledger(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    identifier: str
    entries: int
    head: str
    budget: dict[str, Any] | None


class Kept(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one callback saved, but for its arrays."""

    kind: str
    figures: dict[str, Value]


class CheckpointFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The JSON file of a checkpoint."""

    format: str
    version: int
    learner: str
    program: str
    seed: int
    round: int
    rounds: int
    settings: dict[str, Value]
    history: list[dict[str, Value]]
    shapes: dict[str, list[int]]
    arrays_bytes: int
    arrays_sha256: str
    ledger: _Ledger
    callbacks: list[Kept]
    marked: bool
    digest: str

    def own_digest(self) -> str:
        """Return the digest that the file should have."""
        bare = msgspec.structs.replace(self, digest="")
        return sha256_of(msgspec.json.encode(bare, order="deterministic"))


class SavedRun(msgspec.Struct, frozen=True):
    """A checkpoint as it was read.

    Attributes:
        state: where the run stood; without model and federation.
        ledger: head of the ledger when it was written.
        budget: of that ledger, as `Budget.as_dict()`; None without one.
        digest: of the checkpoint.
        callbacks: (class name, arrays, figures) of the callbacks that had something to save, in order.
        marked: whether the clients' memories were marked.
    """

    state: TrainingState
    ledger: Head
    budget: dict[str, Any] | None
    digest: str
    callbacks: tuple[tuple[str, dict[str, FloatArray], dict[str, Any]], ...]
    marked: bool

    @property
    def run(self) -> str:
        """Name under which clients' memories were marked."""
        return run_name(self.state)


def load_checkpoint(path: str | Path) -> SavedRun:
    """Read a checkpoint: a JSON file, or a directory for the last one in it. Nothing in it is executed.

    Raises:
        CheckpointError: there is none, or it is damaged or of another version.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = checkpoints_in(path)
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint: begin a run with callbacks=Checkpoint({str(path)!r})")
        path = found[-1]
    try:
        file = msgspec.json.decode(read_plain(path, most=LARGEST_JSON), type=CheckpointFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, UsageError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from None
    if (file.format, file.version) != (FORMAT, VERSION):
        raise CheckpointError(
            f"checkpoint {path} is {file.format!r} version {file.version}, expected {FORMAT!r} version {VERSION}"
        )
    if file.own_digest() != file.digest or path.name != f"round-{file.round:06d}.json":
        raise CheckpointError(f"checkpoint {path} is not as it was written: use another one")
    arrays = _arrays_of(path, file)
    own: list[dict[str, FloatArray]] = [{} for _ in file.callbacks]
    for name, value in arrays.items():
        of_callback = CALLBACK.fullmatch(name)
        if of_callback is not None and int(of_callback[1]) < len(own):
            own[int(of_callback[1])][of_callback[2]] = value
    state = TrainingState(
        learner=file.learner,
        settings=file.settings,
        program=file.program,
        seed=file.seed,
        round=file.round,
        rounds=file.rounds,
        parameters=arrays[PARAMETERS],
        arrays={name.removeprefix("state:"): value for name, value in arrays.items() if name.startswith("state:")},
        history=tuple(file.history),
    )
    kept = tuple((one.kind, found, one.figures) for one, found in zip(file.callbacks, own, strict=True))
    head = Head(file.ledger.identifier, file.ledger.entries, file.ledger.head)
    return SavedRun(state, head, file.ledger.budget, file.digest, kept, file.marked)


def checkpoints_in(directory: Path) -> list[Path]:
    """Return the checkpoints of a directory, by round."""
    found = [path for path in directory.glob("round-*.json") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("round-")))


def described(
    state: TrainingState, arrays: Mapping[str, FloatArray], encoded: bytes, callbacks: list[Kept], *, marked: bool
) -> CheckpointFile:
    """Return the JSON file of a state whose arrays were encoded.

    Raises:
        UsageError: the state names no federation, or holds what JSON does not.
    """
    if state.federation is None:
        raise UsageError("the state names no federation, whose ledger the checkpoint needs")
    ledger, budget = state.federation.ledger, state.federation.budget
    point = ledger.point
    file = CheckpointFile(
        format=FORMAT,
        version=VERSION,
        learner=state.learner,
        program=state.program,
        seed=state.seed,
        round=state.round,
        rounds=state.rounds,
        settings=plain_row(state.settings),
        history=[plain_row(row) for row in state.history],
        shapes={name: list(np.shape(value)) for name, value in arrays.items()},
        arrays_bytes=len(encoded),
        arrays_sha256=sha256_of(encoded),
        ledger=_Ledger(point.ledger, point.seq, point.digest, None if budget is None else budget.as_dict()),
        callbacks=callbacks,
        marked=marked,
        digest="",
    )
    return msgspec.structs.replace(file, digest=file.own_digest())


def plain_row(row: HistoryRow) -> dict[str, Value]:
    """Return a row of numbers, words and None as JSON has them: NaN and infinity become None."""
    plain: dict[str, Value] = {}
    for name, value in row.items():
        item = value.item() if isinstance(value, np.generic) else value
        if not (item is None or isinstance(item, str | int | float)):
            raise UsageError(f"{name} is a {type(value).__name__}, expected a number, words or None in a checkpoint")
        plain[name] = None if isinstance(item, float) and not math.isfinite(item) else item
    return plain


def _arrays_of(path: Path, file: CheckpointFile) -> dict[str, FloatArray]:
    where = path.with_suffix(".safetensors")
    try:
        most = min(max(file.arrays_bytes, 0), LARGEST_FILE)
        data = read_plain(where, most=most, size=file.arrays_bytes, sha256=file.arrays_sha256)
        arrays = decoded_arrays(data)
    except UsageError as error:
        raise CheckpointError(f"the arrays of checkpoint {path}: {error}") from None
    found = {name: (value.dtype.str, list(value.shape)) for name, value in arrays.items()}
    if found != {name: ("<f8", shape) for name, shape in file.shapes.items()} or PARAMETERS not in arrays:
        raise CheckpointError(f"the arrays of checkpoint {path} are not those that it names: use another one")
    return arrays


def run_name(state: TrainingState) -> str:
    """Return a name that a run keeps from its first round to its last."""
    own = f"{state.learner}\x00{state.program}\x00{state.seed}\x00{state.settings.get('run')}"
    return sha256_of(own.encode())[:16]
