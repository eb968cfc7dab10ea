"""Where a training run stands after a round, and what may look on: callbacks.

Both learners of networks, `FederatedAveraging` and `FederatedSGD`, go through the same steps: ask each callback what
part of the budget it wants for itself, train a round, show the state, stop if somebody says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.learners.neural.program import TorchProgram
from privfed.query import FloatArray, frozen_array

if TYPE_CHECKING:
    import torch

__all__ = ["Callback", "Callbacks", "HistoryRow", "TrainingState", "Verdict"]

HistoryRow = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class TrainingState:
    """A run after `round` rounds: all that is needed to go on with it, and all of it public.

    Attributes:
        learner: name of the learner's class.
        settings: what a run that goes on must have in common with this one, by name: numbers, strings, None.
        program: name of the model that is trained, see `privfed.statistics.programs`.
        seed: from which every public random choice of every round follows.
        round: rounds done, 0 before the first.
        rounds: rounds planned in all.
        parameters: the model's trainable parameters, float64 of shape `(n_parameters,)`, read-only.
        arrays: what the server keeps beside them by name (moments, control variate, clip norm as an array without
            axes), float64, read-only.
        history: one row per round, earlier runs' rows first where a run goes on.
        releases: of this run only; they are not kept from one run to the next.
        model: the program itself; its parameters may be anything, `network()` has those of the state.
        federation: whose clients train; ask it for evaluations. It is left out where a state is copied.
    """

    learner: str
    settings: HistoryRow
    program: str
    seed: int
    round: int
    rounds: int
    parameters: FloatArray = field(repr=False)
    arrays: Mapping[str, FloatArray] = field(default_factory=dict, repr=False)
    history: tuple[HistoryRow, ...] = field(default=(), repr=False)
    releases: tuple[Release, ...] = field(default=(), repr=False)
    model: TorchProgram | None = field(default=None, repr=False, compare=False)
    federation: Federation | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", _read_only(self.parameters))
        arrays = {name: _read_only(value) for name, value in self.arrays.items()}
        object.__setattr__(self, "arrays", MappingProxyType(arrays))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "arrays": dict(self.arrays), "federation": None}

    def __setstate__(self, saved: Mapping[str, Any]) -> None:
        for name, value in saved.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def network(self) -> torch.nn.Module:
        """Return a copy of the model with the parameters of this state, in evaluation mode.

        Raises:
            UsageError: the state names no model, as one of a checkpoint does not.
        """
        if self.model is None:
            raise UsageError("the state names no model: load its parameters into the one that the run began with")
        return self.model.to_model(self.parameters)

    def with_metrics(self, metrics: Mapping[str, float | int | str | None]) -> TrainingState:
        """Return the state with more entries in the last row of its history.

        Raises:
            UsageError: there is no row yet, or it has such an entry already.
        """
        if not metrics:
            return self
        if not self.history:
            raise UsageError("there is no round yet to add figures to")
        taken = sorted(set(metrics) & set(self.history[-1]))
        if taken:
            raise UsageError(f"the round has figures named {', '.join(taken)} already: choose other names")
        return replace(self, history=(*self.history[:-1], {**self.history[-1], **metrics}))


@dataclass(frozen=True)
class Verdict:
    """What a callback has to say.

    Attributes:
        stop: whether the run should end here.
        reason: why, for `stop_reason_`.
        metrics: figures to add to the round's row of the history; they must be public: from releases alone.
        parameters: the model's parameters from here on, such as the best so far; None leaves them.
    """

    stop: bool = False
    reason: str = ""
    metrics: Mapping[str, float | int | str | None] = field(default_factory=dict)
    parameters: FloatArray | None = field(default=None, repr=False)


@runtime_checkable
class _OnRoundEnd(Protocol):
    def on_round_end(self, state: TrainingState) -> Verdict | bool | None: ...


class Callback:
    """What may look on while a run goes; override what you need. A callback sees public numbers only.

    An object that has `on_round_end` alone will do as well, and so will a function of the state.
    """

    @property
    def name(self) -> str:
        """What `stop_reason_` says where a verdict gives no reason."""
        return type(self).__name__

    def budget_share(self, rounds: int) -> float:
        """Return the part of the WHOLE budget that this callback's own releases will cost over `rounds` rounds."""
        return 0.0

    def check(self, state: TrainingState) -> None:
        """Refuse by a `UsageError` what cannot work, before anything is spent; change nothing."""

    def on_train_begin(self, state: TrainingState) -> None:
        """Look at the state before the first round of this run."""

    def on_round_end(self, state: TrainingState) -> Verdict | bool | None:
        """Look at the state after a round; True stops the run, a `Verdict` says more."""
        return None

    def on_train_end(self, state: TrainingState) -> Verdict | None:
        """Look at the state after the last round; a verdict's parameters replace the model's.

        Called however the run ended, by an error as well; what it returns then is of no use.
        """
        return None


class _Function(Callback):
    def __init__(self, function: Any) -> None:
        self._function = function

    @property
    def name(self) -> str:
        return str(getattr(self._function, "__name__", type(self._function).__name__))

    def on_round_end(self, state: TrainingState) -> Verdict | bool | None:
        found: Verdict | bool | None = self._function(state)
        return found


class _Partial(Callback):
    """Somebody's own object: what it has is called, what it lacks is not missed."""

    def __init__(self, inner: _OnRoundEnd) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        return type(self._inner).__name__

    def budget_share(self, rounds: int) -> float:
        asked = getattr(self._inner, "budget_share", None)
        return 0.0 if asked is None else float(asked(rounds))

    def check(self, state: TrainingState) -> None:
        checked = getattr(self._inner, "check", None)
        if checked is not None:
            checked(state)

    def on_train_begin(self, state: TrainingState) -> None:
        begin = getattr(self._inner, "on_train_begin", None)
        if begin is not None:
            begin(state)

    def on_round_end(self, state: TrainingState) -> Verdict | bool | None:
        return self._inner.on_round_end(state)

    def on_train_end(self, state: TrainingState) -> Verdict | None:
        end = getattr(self._inner, "on_train_end", None)
        found: Verdict | None = None if end is None else end(state)
        return found


class Callbacks:
    """Several callbacks as one; each sees the figures of those before it.

    Raises:
        UsageError: one of them is none.
    """

    def __init__(self, callbacks: Iterable[object] | object | None) -> None:
        if callbacks is None:
            given: Sequence[object] = ()
        elif isinstance(callbacks, Iterable) and not isinstance(callbacks, str | bytes):
            given = tuple(callbacks)
        else:
            given = (callbacks,)
        self._callbacks = [_as_callback(one) for one in given]

    def budget_share(self, rounds: int) -> float:
        """Return the part of the whole budget that all of them want.

        Raises:
            UsageError: more than there is, or less than nothing.
        """
        shares = [one.budget_share(rounds) for one in self._callbacks]
        if not all(0.0 <= share < 1.0 for share in shares) or sum(shares) >= 1.0:
            raise UsageError(f"the callbacks want shares {shares} of the budget, expected to leave some for training")
        return sum(shares)

    def check(self, state: TrainingState) -> None:
        """Let each of them refuse what cannot work; nothing is spent yet, and nothing changes."""
        for one in self._callbacks:
            one.check(state)

    def begin(self, state: TrainingState) -> None:
        """Tell all of them that a run begins."""
        for one in self._callbacks:
            one.on_train_begin(state)

    def round_end(self, state: TrainingState) -> tuple[TrainingState, Verdict]:
        """Show all of them the state; return it with their figures, and whether one of them stops the run."""
        stops: list[str] = []
        for one in self._callbacks:
            said = _as_verdict(one.on_round_end(state), one.name)
            state = _heeded(state, said)
            if said.stop:
                stops.append(said.reason or one.name)
        return state, Verdict(stop=bool(stops), reason="; ".join(stops))

    def end(self, state: TrainingState) -> TrainingState:
        """Tell all of them that the run has ended; return the state with whatever parameters they chose."""
        for one in self._callbacks:
            state = _heeded(state, _as_verdict(one.on_train_end(state), one.name))
        return state


def _heeded(state: TrainingState, said: Verdict) -> TrainingState:
    state = state.with_metrics(said.metrics)
    if said.parameters is None:
        return state
    try:
        parameters = np.asarray(said.parameters, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"a callback chose a {type(said.parameters).__name__}, expected a vector of numbers") from None
    if parameters.shape != state.parameters.shape:
        raise UsageError(
            f"a callback chose parameters of shape {parameters.shape}, the model's have {state.parameters.shape}"
        )
    return replace(state, parameters=parameters)


def _as_verdict(said: object, name: str) -> Verdict:
    """Return what a callback said; no number or array is taken for a yes.

    Raises:
        UsageError: it is none of what a callback may say.
    """
    if isinstance(said, Verdict):
        return said
    if said is None or isinstance(said, bool | np.bool_):
        return Verdict(stop=bool(said))
    raise UsageError(
        f"callback {name} returned a {type(said).__name__}: expected None, True to stop here, or a Verdict, such as"
        ' Verdict(metrics={"my_figure": 0.5}) for a figure in the history'
    )


def _as_callback(one: object) -> Callback:
    if isinstance(one, Callback):
        return one
    if isinstance(one, _OnRoundEnd) and not isinstance(one, type):
        return _Partial(one)
    if callable(one) and not isinstance(one, type):
        return _Function(one)
    raise UsageError(f"{one!r} is no callback: expected an object with on_round_end(state), or a function of the state")


def _read_only(values: FloatArray) -> FloatArray:
    """Return `values` as they are if nobody can write to them, else a read-only copy."""
    if values.dtype == "float64" and not values.flags.writeable:
        return values
    return frozen_array(values)
