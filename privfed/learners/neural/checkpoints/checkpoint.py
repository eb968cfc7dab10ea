"""Checkpoints from which a run goes on without spending twice: safetensors and JSON, tied to the ledger.

A checkpoint names the ledger and its head. Its digest is noted in the ledger before the checkpoint counts, so that a
run goes on only from a checkpoint that was written by it, on the ledger that paid for it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np

from privfed.errors import UsageError, checked_integer, warn_caller
from privfed.federation.release import Federation
from privfed.learners.neural.checkpoints.array_files import encoded_arrays, no_step, require_safetensors, write_whole
from privfed.learners.neural.checkpoints.file import (
    PARAMETERS,
    CheckpointError,
    Kept,
    SavedRun,
    Value,
    checkpoints_in,
    described,
    load_checkpoint,
    plain_row,
    run_name,
)
from privfed.learners.neural.checkpoints.stored_memory import StoredMemory
from privfed.learners.neural.state import Callback, TrainingState, Verdict
from privfed.query import FloatArray
from privfed_accounting import CorruptLedger, check_extension

__all__ = ["Checkpoint", "CheckpointError", "SavedRun", "load_checkpoint", "resume"]

NOTE: Final = "checkpoint of a training run"


@runtime_checkable
class Keeper(Protocol):
    """A callback that has something to save, such as `EarlyStopping`."""

    def saved(self) -> tuple[dict[str, FloatArray], dict[str, Value]]:
        """Return arrays and figures."""
        ...

    def restore(self, arrays: Mapping[str, FloatArray], figures: Mapping[str, Any]) -> None:
        """Take them up."""
        ...


class Checkpoint(Callback):
    """Saves the state of a run as it goes. Put it last among the callbacks: it then saves the figures of the others.

    Args:
        directory: of this run alone; made if missing. What is in it is public: no row, no secret.
        every: rounds from one checkpoint to the next. A run that ends, by an error as well, saves its last round too.
        keep: checkpoints to keep, the last ones.
        also: callbacks with something to save, such as `EarlyStopping`.
        memories: `StoredMemory` of clients in this process: marked with every checkpoint, so that they can go back to
            it together with the model. Nothing of them is in the checkpoint.
        on_step: called with a name between any two steps of a save, for tests.

    Guarantees:
        A checkpoint is there whole or not at all, after a crash as well. `resume` accepts it only with the ledger that
        holds the charges of its rounds.

    Under a budget the federation's ledger has to be one that stays, a file or a database: no run goes on without it.

    Raises:
        UsageError: at the start of a fit, see `check`; when a save is due, if the state cannot be written.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        every: int = 1,
        keep: int = 2,
        also: Iterable[Keeper] | Keeper = (),
        memories: Iterable[StoredMemory] | Mapping[str, StoredMemory] = (),
        on_step: Callable[[str], None] = no_step,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self._every = checked_integer("every", every, least=1)
        self._keep = checked_integer("keep", keep, least=1)
        self.also = (also,) if isinstance(also, Keeper) else tuple(also)
        for one in self.also:
            if not isinstance(one, Keeper):
                raise UsageError(f"also holds a {type(one).__name__}, expected callbacks with saved() and restore()")
        self.memories = tuple(memories.values() if isinstance(memories, Mapping) else memories)
        self._on_step = on_step
        self._unsaved: TrainingState | None = None

    def check(self, state: TrainingState) -> None:
        """Refuse, before anything is spent, checkpoints that could not be written, or that nobody could resume from.

        Raises:
            UsageError: safetensors is missing, the state names no federation, its budget is spent in a ledger that goes
                with this process, the directory cannot be made, or it holds checkpoints of another run.
        """
        require_safetensors()
        federation = state.federation
        if federation is None:
            raise UsageError("the state names no federation, whose ledger the checkpoint needs")
        if federation.budget is not None and federation.ledger.location is None:
            raise UsageError(
                "the federation's ledger is in memory and goes with this process, and no run under a budget goes on"
                ' without it: open the federation with a ledger that stays, such as ledger="run.db"'
            )
        there = next(path for path in (self.directory, *self.directory.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(
                f"checkpoints cannot be written to {self.directory}: {there} is no directory that can be written to;"
                " give Checkpoint a directory of this run alone"
            )
        found = checkpoints_in(self.directory)
        if found and load_checkpoint(found[-1]).run != run_name(state):
            raise UsageError(
                f"{self.directory} holds checkpoints of another run: go on with it by resume(...), or give this run a"
                " directory of its own"
            )

    def on_train_begin(self, state: TrainingState) -> None:
        """Make the directory.

        Raises:
            UsageError: see `check`.
        """
        self.check(state)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"checkpoints cannot be written to {self.directory}: {error}") from error
        self._unsaved = None

    def on_round_end(self, state: TrainingState) -> Verdict | None:
        """Save the state if it is time."""
        self._unsaved = state
        if state.round % self._every == 0 or state.round == state.rounds:
            self.save(state)
        return None

    def on_train_end(self, state: TrainingState) -> Verdict | None:
        """Save the last round if it is not saved yet; what other callbacks chose instead of it is no state of a run."""
        if self._unsaved is not None:
            self.save(self._unsaved)
        return None

    def save(self, state: TrainingState) -> Path:
        """Write a checkpoint and return the path of its JSON file."""
        if state.federation is None:
            raise UsageError("the state names no federation, whose ledger the checkpoint needs")
        path = self.directory / f"round-{state.round:06d}.json"
        for memory in self.memories:
            memory.mark(run_name(state), state.round)
        self._on_step("marked")
        kept = [one.saved() for one in self.also]
        arrays = {PARAMETERS: state.parameters} | {f"state:{name}": value for name, value in state.arrays.items()}
        for index, (own, _) in enumerate(kept):
            arrays |= {f"callback{index}:{name}": value for name, value in own.items()}
        encoded = encoded_arrays({name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()})
        named = zip(self.also, kept, strict=True)
        callbacks = [Kept(type(one).__name__, plain_row(figures)) for one, (_, figures) in named]
        file = described(state, arrays, encoded, callbacks, marked=bool(self.memories))
        self._on_step("described")
        write_whole(path.with_suffix(".safetensors"), encoded, self._on_step)
        facts: dict[str, float | str] = {"digest": file.digest, "round": float(state.round), "run": run_name(state)}
        state.federation.ledger.note(NOTE, facts)
        self._on_step("noted")
        write_whole(path, msgspec.json.format(msgspec.json.encode(file, order="deterministic")), self._on_step)
        self._unsaved = None
        for old in checkpoints_in(self.directory)[: -self._keep]:
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)
        self._on_step("saved")
        return path


_Learner = TypeVar("_Learner")


def resume(path: str | Path, learner: _Learner, federation: Federation) -> _Learner:
    """Go on with a run from its checkpoint, and return the fitted learner.

    The learner is made as for the first time, its callbacks included: a `Checkpoint` among them goes on saving, the
    callbacks in its `also` take up what they had, its memories go back to where they were.

    Args:
        path: a checkpoint's JSON file, or a directory for the last one in it.
        learner: with the settings, model and data that the run began with.
        federation: on the ledger that the run began with.

    Guarantees:
        No round that is in the checkpoint is asked for or charged again. A round that was charged later, and lost with
        the process, stays charged: it may have been seen. A warning says how many there are; with a checkpoint after
        every round it is one at most.

    Raises:
        CheckpointError: the checkpoint is damaged, of another ledger or budget, or not what the ledger says was
            written; nothing was asked of anybody.
        UsageError: the learner is not the one that the run began with, or cannot resume.
    """
    saved = load_checkpoint(path)
    check_ledger(saved, federation)
    fit: Any = getattr(learner, "fit", None)
    if fit is None or "resume_from" not in inspect.signature(fit).parameters:
        raise UsageError(f"a {type(learner).__name__} cannot resume: use a learner whose fit takes resume_from=")
    for callback in _checkpoints(learner):
        _restore(callback, saved)
    fit(federation, resume_from=saved.state)
    return learner


def check_ledger(saved: SavedRun, federation: Federation) -> None:
    """Refuse a federation whose ledger did not pay for the checkpoint's rounds.

    Without a budget nothing is spent, and any ledger will do.

    Raises:
        CheckpointError: with what was found.
    """
    ledger, budget = federation.ledger, federation.budget
    if (None if budget is None else budget.as_dict()) != saved.budget:
        raise CheckpointError(f"the federation has budget {budget or 'none'}, the run had {saved.budget or 'none'}")
    if budget is None and ledger.identifier != saved.ledger.ledger:
        return
    ledger.refresh()
    try:
        if ledger.identifier != saved.ledger.ledger:
            raise CorruptLedger(f"it is ledger {ledger.identifier}")
        check_extension(saved.ledger, ledger.texts(after=saved.ledger.seq), ledger.point)
    except CorruptLedger as error:
        raise CheckpointError(
            f"the federation's ledger did not pay for this run, which was on ledger {saved.ledger.ledger} ({error}):"
            " open the federation with ledger= of the run"
        ) from error
    noted = [note.facts.get("digest") for note in ledger.notes() if note.text == NOTE]
    if saved.digest not in noted:
        raise CheckpointError("the ledger knows no such checkpoint: somebody else wrote it, or changed it")
    later = [one for one in ledger.rounds() if one.entry > saved.ledger.seq and one.status != "void"]
    if later and budget is not None:
        warn_caller(
            f"{len(later)} release(s) were charged after the checkpoint, by entries"
            f" {', '.join(str(one.entry) for one in later)}: they stay charged, and are not in the model"
        )


def _restore(callback: Checkpoint, saved: SavedRun) -> None:
    kinds = [type(one).__name__ for one in callback.also]
    if kinds != [kind for kind, _, _ in saved.callbacks]:
        raise UsageError(
            f"the checkpoint has what {[kind for kind, _, _ in saved.callbacks]} saved, this Checkpoint has"
            f" also={kinds}: give it the same callbacks"
        )
    if saved.marked and callback.memories:
        for memory in callback.memories:
            memory.rewind(saved.run, saved.state.round)
    elif saved.marked:
        warn_caller("the run marked its clients' memories, this Checkpoint knows none: they may be a round ahead")
    for one, (_, arrays, figures) in zip(callback.also, saved.callbacks, strict=True):
        one.restore(arrays, figures)


def _checkpoints(learner: object) -> list[Checkpoint]:
    callbacks = getattr(learner, "callbacks", None)
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return [one for one in given if isinstance(one, Checkpoint)]
